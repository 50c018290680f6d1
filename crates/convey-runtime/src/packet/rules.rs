//! What of a configuration the kernel must leave alone.

use std::collections::HashSet;
use std::net::SocketAddr;

use convey_core::{Mode, Protocol};
use convey_engine::PacketSnapshot;
use convey_xdp::{Endpoint, GuardRules, NatRange, protocol_number};

/// What the engine handles by `packet`: servers that left count for as long as their flows may go on.
pub(super) fn rules(packet: &PacketSnapshot) -> GuardRules {
    let protocol =
        |number| if number == protocol_number(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
    let mut vips: Vec<Endpoint> = packet
        .vips()
        .map(|(number, ip, port)| Endpoint { protocol: protocol(number), addr: SocketAddr::new(ip, port) })
        .collect();
    let protocols: HashSet<Protocol> = vips.iter().map(|v| v.protocol).collect();
    let (mut nat, mut servers) = (Vec::new(), Vec::new());
    if packet.mode() == Mode::Passthrough {
        let ports = packet.options().nat_ports;
        for &protocol in &protocols {
            nat.extend(packet.nat_sources().into_iter().map(|addr| NatRange {
                protocol,
                addr,
                ports: ports.first..=ports.last,
            }));
            servers.extend(
                (0..=u16::MAX)
                    .filter_map(|slot| packet.server(slot))
                    .map(|s| Endpoint { protocol, addr: SocketAddr::new(s.address.into(), s.port) }),
            );
        }
    }
    let order = |e: &Endpoint| (protocol_number(e.protocol), e.addr);
    vips.sort_by_key(order);
    servers.sort_by_key(order);
    servers.dedup();
    nat.sort_by_key(|r| (protocol_number(r.protocol), r.addr));
    GuardRules { vips, nat, servers }
}

pub(super) fn union(a: &GuardRules, b: &GuardRules) -> GuardRules {
    fn both<T: Clone + Eq + std::hash::Hash>(a: &[T], b: &[T]) -> Vec<T> {
        let all: HashSet<T> = a.iter().chain(b).cloned().collect();
        all.into_iter().collect()
    }
    GuardRules {
        vips: both(&a.vips, &b.vips),
        nat: both(&a.nat, &b.nat),
        servers: both(&a.servers, &b.servers),
    }
}
