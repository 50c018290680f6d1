//! What becomes of a packet, as data; whoever shows it puts it into words.

use std::net::{IpAddr, SocketAddr};

use convey_core::admission::Prefix;
use convey_core::conntrack::Direction;
use convey_core::{Endpoint, Reason};

use crate::next_hop::NextHop;
use crate::routes::Reject;
use crate::snapshot::Method;
use crate::verdict::{DropReason, PassReason};

/// The way of one packet through the balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// Name of the frontend it is for.
    pub frontend: Option<String>,
    /// State of its flow, where the flow table has one.
    pub flow: Option<&'static str>,
    /// Which way it goes.
    pub direction: Option<Direction>,
    /// The Maglev slot its hash names, where the table was asked.
    pub maglev_slot: Option<usize>,
    /// Backend, name and address of its server.
    pub server: Option<(String, String, Endpoint)>,
    /// How the server is reached.
    pub method: Option<Method>,
    /// Source and destination once rewritten; a source port of 0 is one still to be taken.
    pub rewritten: Option<(SocketAddr, SocketAddr)>,
    /// Where it is sent.
    pub next_hop: Option<NextHop>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// How that came about, in order.
    pub steps: Vec<Step>,
}

impl Explanation {
    /// Puts in the names of the interfaces it speaks of, as far as `name` knows them.
    #[must_use]
    pub fn with_interface_names(mut self, name: impl Fn(u32) -> Option<String>) -> Self {
        for step in &mut self.steps {
            match step {
                Step::Sent { interface, .. }
                | Step::NoNeighbour { interface, .. }
                | Step::NoLink { interface, .. }
                | Step::NotListenedOn { interface, .. }
                | Step::NoEthernet { interface, .. } => interface.name = name(interface.index),
                _ => (),
            }
        }
        self
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is sent on.
    Forward,
    /// Proxy mode: the balancer connects to a server.
    Connect,
    /// Proxy mode: it waits for a place or for a server.
    Wait,
    /// Proxy mode: the client is closed.
    Close(Reason),
    /// It is the kernel's.
    Pass(PassReason),
    /// It is the kernel's: nobody listens where it comes in.
    NotListenedOn,
    /// It is dropped.
    Drop(DropReason),
    /// It is refused: answered with a reset where that is possible.
    Refuse(DropReason),
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Pass(PassReason::NotVip)
    }
}

impl Outcome {
    /// The verdict's name.
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Connect => "connect",
            Self::Wait => "wait",
            Self::Pass(_) | Self::NotListenedOn => "pass",
            Self::Drop(_) => "drop",
            Self::Refuse(_) | Self::Close(_) => "refuse",
        }
    }

    /// The reason's name, as in statistics.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Forward | Self::Connect | Self::Wait => None,
            Self::Close(reason) => Some(reason.name()),
            Self::Pass(reason) => Some(reason.name()),
            Self::NotListenedOn => Some("not_listened_on"),
            Self::Drop(reason) | Self::Refuse(reason) => Some(reason.name()),
        }
    }
}

/// An interface by number, and by name once somebody has asked the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name, where known.
    pub name: Option<String>,
}

impl Interface {
    /// The interface with this index.
    pub const fn of(index: u32) -> Self {
        Self { index, name: None }
    }
}

/// One thing found out about a packet.
#[expect(missing_docs, reason = "fields are named for what they hold, and the variants tell the rest")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It comes from an address of this host, and passes no link.
    OwnAddress { source: IpAddr, destination: SocketAddr },
    /// It comes in by an interface that is not listened on.
    NotListenedOn { source: IpAddr, interface: Interface },
    /// It comes in by an interface that is no Ethernet link that is up.
    NoEthernet { source: IpAddr, interface: Interface },
    /// No frontend listens there (proxy mode).
    NoFrontend { destination: SocketAddr },
    /// No frontend listens there, and no flow answers to it.
    NotOurs { destination: SocketAddr },
    /// Its destination port is that of a flow in this state.
    FlowPort { port: u16, state: &'static str },
    /// It comes from a server, to a port that no flow holds.
    StrayPort { port: u16, server: SocketAddr },
    /// This frontend listens there.
    Listens { frontend: String },
    /// This frontend listens there and accepts the connection (proxy mode).
    Accepts { frontend: String },
    /// This frontend listened there and has flows left.
    ListensNoLonger { frontend: String },
    /// The flow table knows it, in this state.
    KnownFlow { state: &'static str },
    /// The flow table does not know it.
    NewFlow,
    /// Flows are not kept: the Maglev table alone decides (minimal tracking).
    NotTracked,
    /// Its slot has moved lately, and the flow table does not know it (minimal tracking).
    NotRemembered,
    /// A connection from before its slot moved goes on at this server (minimal tracking).
    SlotMoved { backend: String, name: String, addr: SocketAddr },
    /// Its hash, or that of the client's address alone, names this slot of the Maglev table.
    MaglevSlot { slot: usize, by_source: bool },
    /// Its client is denied: by this network, or because it is in none of those that are allowed.
    Denied { client: IpAddr, network: Option<Prefix> },
    /// It is refused.
    Refused { reason: DropReason },
    /// It gets this server.
    Server { backend: String, name: String, addr: Endpoint },
    /// Its addresses become these; a source port of 0 is one still to be taken.
    Rewritten { source: SocketAddr, destination: SocketAddr },
    /// Only its MAC addresses change.
    MacsOnly,
    /// The server is its own client, and would take the packet for a forged one.
    ServerIsClient,
    /// The address is behind a router, and by MAC address there is no way there.
    BehindRouter { address: IpAddr },
    /// It is sent on this interface, which takes IP packets of up to `mtu` bytes.
    Sent { interface: Interface, mtu: u32 },
    /// The MAC address of this neighbour is not known yet.
    NoNeighbour { address: IpAddr, interface: Interface },
    /// No route leads there.
    NoRoute { address: IpAddr },
    /// The route there is over an interface that is no Ethernet link that is up.
    NoLink { address: IpAddr, interface: Interface },
    /// The route there is of a type that refuses it.
    RouteRejected { address: IpAddr, reject: Reject },
    /// How the backend chooses its servers (proxy mode).
    Balanced { backend: String, balance: &'static str },
    /// A server's part in that: `weight` of `total`, in [`convey_core::selection::SLOW_START_STEPS`]ths. Backups are told
    /// of only while no ordinary server takes connections.
    Share { name: String, addr: Endpoint, weight: u32, total: u64, backup: bool },
    /// The backend has no server that is up with a weight above 0.
    NoServer { backend: String },
    /// The backend, or each of its servers that are up, has as many connections as it may have (proxy mode).
    AtLimit { backend: String },
    /// It waits in the backend's queue, in which `waiting` of `queue` wait already (proxy mode).
    Waits { backend: String, waiting: u64, queue: u64 },
    /// It waits for a server this long (proxy mode).
    TriesAgain { backend: String, timeout_ms: u64 },
    /// Its ClientHello may lead it to other backends, and is not known; without a route it is this one (proxy mode).
    ByClientHello { backend: String },
    /// Its ClientHello meets the route under `key` of the frontend's table, "sni" or "alpn" (proxy mode).
    HelloRoute { table: &'static str, key: String, backend: String },
    /// Its ClientHello meets no route, which is the way of this backend (proxy mode).
    NoHelloRoute { backend: String },
    /// The connection to the server is one of the balancer's own (proxy mode).
    OwnConnection,
}
