//! What the guard keeps from the kernel.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use convey_core::{Mode, Protocol};
use convey_engine::PacketSnapshot;

use crate::XdpError;

/// An address and port of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// IP address and port.
    pub addr: SocketAddr,
}

/// Local ports from which connections to servers are made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NatRange {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The local address.
    pub addr: IpAddr,
    /// The ports, both ends included.
    pub ports: RangeInclusive<u16>,
}

/// Everything the engine handles, and therefore the kernel must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardRules {
    /// Where clients connect; port 0 is every port.
    pub vips: Vec<Endpoint>,
    /// Where connections to servers are made from; empty without NAT.
    pub nat: Vec<NatRange>,
    /// Servers whose packets to a `nat` address and port are handled; empty without NAT.
    pub servers: Vec<Endpoint>,
}

impl GuardRules {
    /// What the engine handles by `packet`: servers that left count for as long as their flows may go on.
    pub fn of(packet: &PacketSnapshot) -> Self {
        let protocol =
            |number| if number == protocol_number(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
        let mut vips: Vec<Endpoint> = packet
            .vips()
            .map(|(number, ip, port)| Endpoint {
                protocol: protocol(number),
                addr: SocketAddr::new(ip, port),
            })
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
        Self { vips, nat, servers }
    }
}

/// The IP protocol number.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// "tcp" or "udp".
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

impl Endpoint {
    pub(crate) fn key(self) -> [u8; 20] {
        convey_bpf::endpoint_key(self.addr, protocol_number(self.protocol))
    }
}

/// The rules as map entries.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub vips: HashSet<[u8; 20]>,
    pub servers: HashSet<[u8; 20]>,
    pub nat: HashMap<[u8; 20], [u8; 16]>,
}

impl Entries {
    pub fn of(rules: &GuardRules) -> Result<Self, XdpError> {
        let mut ranges: HashMap<[u8; 20], Vec<RangeInclusive<u16>>> = HashMap::new();
        for range in &rules.nat {
            let of_address =
                ranges.entry(convey_bpf::nat_key(range.addr, protocol_number(range.protocol))).or_default();
            if !of_address.contains(&range.ports) {
                of_address.push(range.ports.clone());
            }
            if of_address.len() > convey_bpf::NAT_RANGES {
                return Err(XdpError::Rules(format!(
                    "{} has more than {} ranges of NAT ports; give it fewer, wider ones",
                    range.addr,
                    convey_bpf::NAT_RANGES
                )));
            }
        }
        Ok(Self {
            vips: rules.vips.iter().map(|e| e.key()).collect(),
            servers: rules.servers.iter().map(|e| e.key()).collect(),
            nat: ranges.iter().filter_map(|(k, r)| Some((*k, convey_bpf::nat_ports(r)?))).collect(),
        })
    }
}
