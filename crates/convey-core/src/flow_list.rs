//! Flows as an operator sees them: which ones are asked for, and what is told of each.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::conntrack::FlowState;
use crate::endpoint::Endpoint;
use crate::snapshot::Protocol;

/// Where a flow stands, of either protocol and in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowStage {
    /// Nothing was heard of the server yet; in proxy mode it is being connected.
    New,
    /// The server has answered, the client has not gone on.
    HalfOpen,
    /// Both sides talk.
    Established,
    /// One side has ended its half.
    Closing,
    /// It is over, and kept for packets that are late.
    Closed,
}

impl FlowStage {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::New, Self::HalfOpen, Self::Established, Self::Closing, Self::Closed];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    /// The stage of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// That of a flow in this state.
    pub const fn of(state: FlowState) -> Self {
        match state {
            FlowState::SynSent | FlowState::UdpNew => Self::New,
            FlowState::SynReceived | FlowState::UdpReplied => Self::HalfOpen,
            FlowState::Established | FlowState::UdpStream => Self::Established,
            FlowState::Closing => Self::Closing,
            FlowState::Closed | FlowState::Free => Self::Closed,
        }
    }
}

/// Addresses that have their first bits in common. IPv4 and IPv6 ones are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// One of them.
    pub address: IpAddr,
    /// How many bits.
    pub bits: u8,
}

impl Net {
    /// Whether it is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |differs: u128, width: u32| {
            let rest = width.saturating_sub(u32::from(self.bits));
            differs.checked_shr(rest).unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => same(u128::from(net.to_bits() ^ ip.to_bits()), 32),
            (IpAddr::V6(net), IpAddr::V6(ip)) => same(net.to_bits() ^ ip.to_bits(), 128),
            _ => false,
        }
    }
}

/// Which flows; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Their protocol.
    pub protocol: Option<Protocol>,
    /// Where the client is.
    pub client: Option<Net>,
    /// Its port.
    pub client_port: Option<u16>,
    /// The address the client talks to.
    pub vip: Option<IpAddr>,
    /// The port it talks to.
    pub vip_port: Option<u16>,
    /// Name of the frontend.
    pub frontend: Option<String>,
    /// Name of the backend.
    pub backend: Option<String>,
    /// Name of the server.
    pub server: Option<String>,
    /// Where they stand.
    pub stage: Option<FlowStage>,
}

impl FlowFilter {
    /// Whether flows of this client are among them.
    pub fn takes_client(&self, client: SocketAddr) -> bool {
        self.client.is_none_or(|net| net.contains(client.ip()))
            && self.client_port.is_none_or(|port| port == client.port())
    }

    /// Whether flows of this frontend may be among them.
    pub fn takes_frontend(&self, protocol: Protocol, name: &str) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.frontend.as_ref().is_none_or(|wanted| wanted == name)
    }

    /// Whether flows to this address are. One that stands for all addresses of the host may be any of them.
    pub fn takes_vip(&self, vip: SocketAddr) -> bool {
        self.vip.is_none_or(|ip| ip == vip.ip() || vip.ip().is_unspecified())
            && self.vip_port.is_none_or(|port| port == vip.port())
    }

    /// Whether flows of this server are.
    pub fn takes_server(&self, backend: &str, name: &str) -> bool {
        self.backend.as_ref().is_none_or(|wanted| wanted == backend)
            && self.server.as_ref().is_none_or(|wanted| wanted == name)
    }

    /// Whether flows that have no server yet are.
    pub const fn takes_no_server(&self) -> bool {
        self.server.is_none()
    }

    /// Whether flows that stand there are.
    pub fn takes_stage(&self, stage: FlowStage) -> bool {
        self.stage.is_none_or(|wanted| wanted == stage)
    }
}

/// One flow, or one connection of proxy mode; `None` for what is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who talks.
    pub client: SocketAddr,
    /// The frontend.
    pub frontend: Arc<str>,
    /// What the client talks to.
    pub vip: SocketAddr,
    /// Backend, name and address of the server.
    pub server: Option<(Arc<str>, Arc<str>, Endpoint)>,
    /// Where it stands.
    pub stage: FlowStage,
    /// What it waits for, if it is new and known to wait.
    pub waits_for: Option<WaitsFor>,
    /// Since it began.
    pub age: Option<Duration>,
    /// Since its last packet.
    pub idle: Option<Duration>,
    /// Until it is forgotten if no packet comes.
    pub expires_in: Option<Duration>,
    /// Where its packets to the server come from.
    pub nat: Option<SocketAddr>,
    /// Datagrams seen (UDP).
    pub packets: Option<u64>,
    /// Bytes to the server, to the client.
    pub bytes: Option<[u64; 2]>,
}

/// What a connection that has no server waits for (proxy mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WaitsFor {
    /// The PROXY header that it begins with.
    ProxyHeader = 1,
    /// Its TLS ClientHello.
    ClientHello = 2,
    /// A server: in the queue of its backend, or before it tries again.
    Server = 3,
}

impl WaitsFor {
    const ALL: [Self; 3] = [Self::ProxyHeader, Self::ClientHello, Self::Server];

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::ClientHello => "client_hello",
            Self::Server => "server",
        }
    }

    /// By its number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| *one as u8 == number)
    }
}

/// Where a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCursor {
    /// The table: one of each worker.
    pub table: u32,
    /// The place in it.
    pub at: u64,
}

/// Why a list is not of all flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// Only flows of slots that moved are remembered.
    MinimalTracking,
    /// Flows of one family lie where nobody but their worker reads them: there was no room elsewhere.
    NoMemory,
}

impl Partial {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinimalTracking => "minimal_tracking",
            Self::NoMemory => "no_memory",
        }
    }
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowPage {
    /// The flows found; there may be more though there are none.
    pub rows: Vec<FlowRow>,
    /// Where the list goes on; `None`: it has ended.
    pub next: Option<FlowCursor>,
    /// Why there are flows that are not listed, if there are.
    pub partial: Option<Partial>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_has_the_addresses_with_its_first_bits_and_of_its_own_family() {
        let net = |address: &str, bits| Net { address: address.parse().unwrap(), bits };
        let has = |net: Net, ip: &str| net.contains(ip.parse().unwrap());
        assert!(has(net("10.1.2.3", 8), "10.200.0.1") && !has(net("10.1.2.3", 8), "11.0.0.1"));
        assert!(has(net("10.1.2.3", 32), "10.1.2.3") && !has(net("10.1.2.3", 32), "10.1.2.2"));
        assert!(has(net("0.0.0.0", 0), "255.255.255.255") && !has(net("0.0.0.0", 0), "::"));
        assert!(has(net("2001:db8::", 32), "2001:db8:ffff::1") && !has(net("2001:db8::", 32), "2001:db9::1"));
        assert!(has(net("::", 0), "ffff::") && !has(net("::", 0), "1.2.3.4"));
        assert!(has(net("2001:db8::1", 128), "2001:db8::1") && !has(net("2001:db8::1", 128), "2001:db8::"));
    }

    #[test]
    fn every_stage_is_known_by_its_name() {
        for stage in FlowStage::ALL {
            assert_eq!(FlowStage::of_name(stage.name()), Some(stage));
        }
        assert_eq!(FlowStage::of_name("open"), None);
    }
}
