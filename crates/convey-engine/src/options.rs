//! Settings of the packet modes beside the [`convey_core::Snapshot`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// How a DSR packet gets to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DsrMethod {
    /// The destination address becomes the server's; the port stays; TTL is decremented.
    #[default]
    Rewrite,
    /// Only the MAC addresses change; the server holds the VIP on its loopback.
    L2,
}

/// Which flows DSR keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectionTracking {
    /// All of them.
    #[default]
    Full,
    /// Those alone that the Maglev table would send elsewhere than where they began. Connections are not counted.
    Minimal,
}

/// How XDP programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// By the driver, before a packet is anything but bytes.
    #[default]
    Native,
    /// By the kernel, behind the driver: slower than tc, on every interface.
    Generic,
}

/// What a client gets that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refusal {
    /// TCP: a reset, so that it fails at once. UDP: nothing.
    #[default]
    Reset,
    /// Nothing.
    Drop,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` lies within.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// How long a flow lives after its last packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP handshake not finished.
    pub syn: Duration,
    /// TCP established (RFC 5382 asks for 2 h 4 min at least).
    pub established: Duration,
    /// One side has sent its FIN.
    pub fin: Duration,
    /// Both have, or a valid reset was seen. The flow stays to answer stragglers; its port is reused early when
    /// no other is free.
    pub closed: Duration,
    /// DSR, where the server's side is not seen: the client has sent its FIN and nothing since.
    pub dsr_fin: Duration,
    /// UDP, no conversation seen yet.
    pub udp: Duration,
    /// UDP with traffic both ways and on.
    pub udp_stream: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            syn: s(30),
            established: s(7440),
            fin: s(120),
            closed: s(60),
            dsr_fin: s(10),
            udp: s(30),
            udp_stream: s(300),
        }
    }
}

/// Settings of the packet modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketOptions {
    /// Workers the flows and NAT ports are divided among; fixed while running.
    pub workers: usize,
    /// Flows kept at once by all workers together, divided evenly: 66 bytes each of IPv4,
    /// 132 of IPv6, none before they are used unless the memory is shared.
    pub capacity: usize,
    /// Source ports towards servers (passthrough).
    pub nat_ports: PortRange,
    /// Source addresses towards servers (passthrough), each with the ports of `nat_ports`; fixed while running.
    /// A frontend of whose family there is none uses its own address.
    pub nat_addresses: Vec<IpAddr>,
    /// Addresses of this host, for which a frontend on 0.0.0.0 or [::] stands; others' families are passed over.
    pub local_addresses: Vec<IpAddr>,
    /// Names of the interfaces to listen on; empty: every Ethernet link that is up.
    pub interfaces: Vec<String>,
    /// DSR method of backends not named in `backend_dsr`.
    pub dsr: DsrMethod,
    /// DSR method by backend name.
    pub backend_dsr: HashMap<String, DsrMethod>,
    /// How XDP programs are attached; fixed while running.
    pub xdp_mode: XdpMode,
    /// Which flows are kept (DSR); fixed while running.
    pub connection_tracking: ConnectionTracking,
    /// What a client gets that cannot be served.
    pub refusal: Refusal,
    /// Lifetimes of flows.
    pub timeouts: Timeouts,
    /// ICMP errors of our own a second and worker.
    pub icmp_per_second: u32,
    /// A secret of this process, so that nobody can aim flows at one set of the flow table or guess ports.
    pub seed: u64,
}

impl Default for PacketOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            capacity: 1 << 20,
            nat_ports: PortRange { first: 33768, last: 61000 },
            nat_addresses: Vec::new(),
            local_addresses: Vec::new(),
            interfaces: Vec::new(),
            dsr: DsrMethod::default(),
            backend_dsr: HashMap::new(),
            xdp_mode: XdpMode::default(),
            connection_tracking: ConnectionTracking::default(),
            refusal: Refusal::default(),
            timeouts: Timeouts::default(),
            icmp_per_second: 1000,
            seed: 0,
        }
    }
}
