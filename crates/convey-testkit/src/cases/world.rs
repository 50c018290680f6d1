//! The surroundings of all cases: clients behind a gateway on interface 1, servers on interface 2.

use std::collections::BTreeMap;

use crate::build::hex;
use crate::fixture::{World, WorldFrontend, WorldLink, WorldNeighbour, WorldRoute, WorldServer};

pub(crate) const LB1: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const LB2: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub(crate) const GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];
pub(crate) const S1: [u8; 6] = [2, 0, 0, 0, 2, 0x11];
pub(crate) const S2: [u8; 6] = [2, 0, 0, 0, 2, 0x12];

pub(crate) const CLIENT: &str = "198.51.100.7:40001";
pub(crate) const CLIENT6: &str = "[2001:db8:99::7]:40001";
pub(crate) const VIP: &str = "192.0.2.10:80";
pub(crate) const VIP_UDP: &str = "192.0.2.10:53";
pub(crate) const VIP6: &str = "[2001:db8:1::10]:80";
pub(crate) const VIP6_UDP: &str = "[2001:db8:1::10]:53";
/// The only NAT port of the passthrough worlds.
pub(crate) const NAT: &str = "192.0.2.10:40000";
pub(crate) const NAT6: &str = "[2001:db8:1::10]:40000";
pub(crate) const SERVER: &str = "10.0.0.11:8080";
pub(crate) const SERVER6: &str = "[2001:db8:2::11]:8080";

pub(crate) fn all() -> BTreeMap<String, World> {
    let passthrough = world("passthrough", "rewrite", &[(SERVER, 1, true), (SERVER6, 1, true)]);
    let dsr_servers: &[(&str, u16, bool)] = &[("10.0.0.11:80", 1, true), ("[2001:db8:2::11]:80", 1, true)];
    let mut dsr = world("dsr", "rewrite", dsr_servers);
    dsr.frontends.retain(|f| f.protocol == "tcp");
    dsr.frontends.push(frontend("any", "udp", "192.0.2.11:0"));
    dsr.frontends.push(frontend("any-tcp", "tcp", "192.0.2.11:0"));
    let mut l2 = dsr.clone();
    l2.dsr_method = "l2".into();
    let mut drop = passthrough.clone();
    drop.refusal = "drop".into();
    let mut narrow = passthrough.clone();
    narrow.links[1].mtu = 1280;
    let mut narrow_client = passthrough.clone();
    narrow_client.links[0].mtu = 1280;
    let mut unresolved = passthrough.clone();
    unresolved.neighbours.retain(|n| n.ifindex != 2);
    let mut dsr_narrow = dsr.clone();
    dsr_narrow.links[1].mtu = 1280;
    [
        ("passthrough", passthrough),
        ("passthrough, refusals dropped", drop),
        ("passthrough, servers behind MTU 1280", narrow),
        ("passthrough, clients behind MTU 1280", narrow_client),
        ("passthrough, servers' MACs unknown", unresolved),
        (
            "passthrough, nobody up",
            world("passthrough", "rewrite", &[(SERVER, 1, false), (SERVER6, 0, true)]),
        ),
        (
            "passthrough, first server weighs nothing",
            world("passthrough", "rewrite", &[(SERVER, 0, true), ("10.0.0.12:8080", 1, true)]),
        ),
        ("dsr", dsr),
        ("dsr, servers behind MTU 1280", dsr_narrow),
        ("dsr by MAC", l2),
    ]
    .map(|(name, world)| (name.to_owned(), world))
    .into()
}

fn frontend(name: &str, protocol: &str, listen: &str) -> WorldFrontend {
    WorldFrontend { name: name.into(), protocol: protocol.into(), listen: listen.into() }
}

fn world(mode: &str, dsr_method: &str, servers: &[(&str, u16, bool)]) -> World {
    let route = |network: &str, prefix_len, ifindex, gateway: Option<&str>| WorldRoute {
        network: network.into(),
        prefix_len,
        ifindex,
        gateway: gateway.map(Into::into),
    };
    let neighbour =
        |ifindex, ip: &str, mac: [u8; 6]| WorldNeighbour { ifindex, ip: ip.into(), mac: hex(&mac) };
    World {
        mode: mode.into(),
        dsr_method: dsr_method.into(),
        refusal: "reset".into(),
        nat_ports: (40000, 40000),
        frontends: vec![
            frontend("web", "tcp", VIP),
            frontend("dns", "udp", VIP_UDP),
            frontend("web6", "tcp", VIP6),
            frontend("dns6", "udp", VIP6_UDP),
        ],
        servers: servers
            .iter()
            .enumerate()
            .map(|(i, &(addr, weight, up))| WorldServer {
                name: format!("s{}", i + 1),
                addr: addr.into(),
                weight,
                up,
            })
            .collect(),
        links: vec![
            WorldLink { ifindex: 1, mac: hex(&LB1), mtu: 1500 },
            WorldLink { ifindex: 2, mac: hex(&LB2), mtu: 1500 },
        ],
        routes: vec![
            route("192.0.2.0", 24, 1, None),
            route("10.0.0.0", 24, 2, None),
            route("0.0.0.0", 0, 1, Some("192.0.2.254")),
            route("2001:db8:1::", 64, 1, None),
            route("2001:db8:2::", 64, 2, None),
            route("::", 0, 1, Some("2001:db8:1::fe")),
        ],
        neighbours: vec![
            neighbour(1, "192.0.2.254", GATEWAY),
            neighbour(1, "2001:db8:1::fe", GATEWAY),
            neighbour(2, "10.0.0.11", S1),
            neighbour(2, "10.0.0.12", S2),
            neighbour(2, "2001:db8:2::11", S1),
        ],
    }
}
