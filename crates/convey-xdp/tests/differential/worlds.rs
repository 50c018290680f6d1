//! The configurations and networks that frames go through, and how they change.

use convey_testkit::few;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convey_core::selection::{Balance, SLOW_START_STEPS};
use convey_core::{
    AccessList, BackendSpec, FrontendSpec, Limits, Mode, Prefix, Protocol, ServerSpec, SnapshotSpec,
};
use convey_engine::{DsrMethod, Link, NextHops, PacketOptions, PortRange, Refusal, Route};
use convey_xdp::kernel::Hook;

use super::pair::Setup;
use super::random::Random;

/// Clients whose next hop the program does not know, and a server that is its own client.
pub const STRANGERS: [&str; 3] = ["198.51.100.200", "2001:db8:99::200", "10.0.0.11"];

/// Every kind of forwarding at both hooks, with a table for many flows and one for few.
pub fn all() -> Vec<Setup> {
    let mut setups = Vec::new();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        for (name, mode, dsr) in [
            ("passthrough", Mode::Passthrough, DsrMethod::Rewrite),
            ("dsr", Mode::Dsr, DsrMethod::Rewrite),
            ("dsr by MAC", Mode::Dsr, DsrMethod::L2),
        ] {
            for small in [false, true] {
                let options = PacketOptions {
                    nat_ports: PortRange { first: 20_000, last: if small { 20_006 } else { 20_063 } },
                    dsr,
                    refusal: if small { Refusal::Drop } else { Refusal::Reset },
                    seed: 0x5eed ^ u64::from(small),
                    ..PacketOptions::default()
                };
                let size = if small { "small tables" } else { "room" };
                setups.push(Setup {
                    name: format!("{name} at {hook:?}, {size}"),
                    hook,
                    spec: spec(mode, small),
                    options,
                    next_hops: Arc::new(next_hops()),
                    sets: if small { 32 } else { 64 },
                    clients: clients(),
                    checksum_complete: hook == Hook::Tc && !small,
                });
            }
        }
    }
    setups
}

fn clients() -> Vec<IpAddr> {
    let v4 = (1..6).map(|i| format!("198.51.100.{i}"));
    let v6 = (1..6).map(|i| format!("2001:db8:99::{i}"));
    v4.chain(v6).map(|text| text.parse().unwrap()).collect()
}

pub fn is_passthrough(setup: &Setup) -> bool {
    setup.spec.mode == Mode::Passthrough
}

fn spec(mode: Mode, small: bool) -> SnapshotSpec {
    let frontend = |name: &str, listen: &str, protocol, backend: &str| FrontendSpec {
        listen_key: Default::default(),
        name: name.into(),
        listen: vec![listen.parse().unwrap()],
        protocol,
        backend: backend.into(),
        accept_proxy: None,
        max_connections: if small { 12 } else { 0 },
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let mut frontends = vec![
        frontend("web", "192.0.2.10:80", tcp, "v4"),
        frontend("dns", "192.0.2.10:53", udp, "v4"),
        frontend("web6", "[2001:db8:1::10]:80", tcp, "v6"),
        frontend("dns6", "[2001:db8:1::10]:53", udp, "v6"),
    ];
    if mode == Mode::Dsr {
        // It cannot change the port, which is the servers' one.
        frontends.retain(|f| f.listen[0].port() == 80);
        frontends.push(frontend("any6", "[2001:db8:1::11]:0", udp, "v6"));
        frontends.push(frontend("any", "192.0.2.11:0", udp, "v4"));
        frontends.push(frontend("any-tcp", "192.0.2.11:0", tcp, "v4"));
    } else {
        // On a port that would be a NAT port otherwise.
        frontends.push(frontend("odd", "192.0.2.10:20003", tcp, "v4"));
    }
    let port = if mode == Mode::Dsr { 80 } else { 8080 };
    let server = |i: u16, ip: String| ServerSpec {
        name: format!("s{i}"),
        addr: SocketAddr::new(ip.parse().unwrap(), port).into(),
        weight: 1 + i % 2,
        max_connections: if small && i == 1 { 5 } else { 0 },
        up: true,
        draining: false,
        backup: false,
        share: SLOW_START_STEPS,
        send_proxy: None,
    };
    let backend = |name: &str, servers| BackendSpec {
        name: name.into(),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        // By flow and, in the other half of the setups, by source, where each pair of IPv6 addresses is one.
        balance: if small { Balance::SourceHash { ipv6_prefix: 127 } } else { Balance::Maglev },
        source: Default::default(),
        eject_after: 0,
        servers,
    };
    SnapshotSpec {
        mode,
        limits: Limits { max_connections: if small { 30 } else { 0 }, ..Limits::default() },
        frontends,
        backends: vec![
            backend("v4", (1..4).map(|i| server(i, format!("10.0.0.{}", 10 + i))).collect()),
            backend("v6", (1..4).map(|i| server(i, format!("2001:db8:2::1{i}"))).collect()),
        ],
    }
}

/// Clients behind a gateway on interface 1, servers on interface 2, the third of which is not known there.
fn next_hops() -> NextHops {
    let mac = |last: u8| [2, 0, 0, 0, 2, last];
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let links = [(1, [2, 0, 0, 0, 1, 1], 1500), (2, mac(1), 1400)];
    let routes = [
        ("192.0.2.0", 24, 1, None),
        ("10.0.0.0", 24, 2, None),
        ("0.0.0.0", 0, 1, Some("192.0.2.254")),
        ("2001:db8:1::", 64, 1, None),
        ("2001:db8:2::", 64, 2, None),
        ("::", 0, 1, Some("2001:db8:1::fe")),
    ];
    let neighbours = [
        (1, "192.0.2.254", 0xfe),
        (1, "2001:db8:1::fe", 0xfe),
        (2, "10.0.0.11", 0x11),
        (2, "10.0.0.12", 0x12),
        (2, "2001:db8:2::11", 0x11),
        (2, "2001:db8:2::12", 0x12),
    ];
    NextHops::new(
        links.map(|(ifindex, mac, mtu)| Link { ifindex, mac, mtu }),
        routes.map(|(network, len, ifindex, gateway)| Route::by(ip(network), len, ifindex, gateway.map(ip))),
        neighbours.map(|(ifindex, address, last)| ((ifindex, ip(address)), mac(last))),
    )
}

/// Where frontends listen, and whether by TCP.
pub fn listening(spec: &SnapshotSpec) -> Vec<(String, bool)> {
    spec.frontends.iter().map(|f| (f.listen[0].to_string(), f.protocol == Protocol::Tcp)).collect()
}

/// A server goes down, is drained, leaves or comes back, or a frontend does, or a limit moves, or a frontend's lists of
/// networks become others, some of these `clients` among them.
pub fn change(spec: &mut SnapshotSpec, first: &SnapshotSpec, clients: &[String], random: &mut Random) {
    let backend = random.below(spec.backends.len());
    let servers = &mut spec.backends[backend].servers;
    let at = random.below(servers.len());
    match random.below(16) {
        0 => servers[at].up = !servers[at].up,
        1 => servers[at].draining = !servers[at].draining,
        2 => servers[at].weight = random.of(&[0, 1, 2]),
        3 if servers.len() > 1 => {
            servers.remove(at);
        }
        4 => spec.backends[backend] = first.backends[backend].clone(),
        5 if spec.frontends.len() > 1 => {
            spec.frontends.remove(random.below(spec.frontends.len()));
        }
        6 => spec.frontends = first.frontends.clone(),
        7 => spec.limits.max_connections = random.of(&[0, 3, 10]),
        8 => servers[at].max_connections = random.of(&[0, 1, 4]),
        9 => servers[at].backup = !servers[at].backup,
        10..=14 => {
            let at = random.below(spec.frontends.len());
            spec.frontends[at].admission.access = lists(clients, random);
        }
        _ => servers.iter_mut().for_each(|server| server.up = true),
    }
}

/// Every frontend has lists.
pub fn deny_some(spec: &mut SnapshotSpec, clients: &[String], random: &mut Random) {
    spec.frontends.iter_mut().for_each(|f| f.admission.access = lists(clients, random));
}

/// Networks around some of the clients, allowed or denied.
fn lists(clients: &[String], random: &mut Random) -> Option<Arc<AccessList>> {
    let mut networks = [Vec::new(), Vec::new()];
    for _ in 0..random.below(8) {
        let ip: IpAddr = clients[random.below(clients.len())].parse().unwrap();
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = random.of(&[0, 1, width / 2, width - 4, width - 1, width, width]);
        networks[random.below(2)].push(Prefix::new(ip, bits).unwrap());
    }
    let [allow, mut deny] = networks;
    deny.retain(|network| !allow.contains(network));
    AccessList::new(&allow, &deny).unwrap().map(Arc::new)
}

/// In a line.
pub fn described(spec: &SnapshotSpec) -> String {
    let server = |s: &ServerSpec| {
        let (up, draining) = (if s.up { "" } else { " down" }, if s.draining { " draining" } else { "" });
        format!("{} weight {}{up}{draining} limit {}", s.addr, s.weight, s.max_connections)
    };
    let servers: Vec<String> = spec.backends.iter().flat_map(|b| b.servers.iter().map(server)).collect();
    let frontends: Vec<String> = spec
        .frontends
        .iter()
        .map(|f| {
            let table = f.admission.access.as_ref().map(|list| list.table().collect::<Vec<_>>());
            format!("{:?} {:?} limit {} lists {table:?}", f.listen, f.protocol, f.max_connections)
        })
        .collect();
    let limit = spec.limits.max_connections;
    format!("frontends {}; servers {}; limit {limit}", frontends.join(", "), servers.join(", "))
}
