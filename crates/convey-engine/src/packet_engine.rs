//! What the runtime asks of whatever moves packets: sockets in user space or programs in the kernel.
//!
//! An engine is started by a function of its own crate, from an [`EngineSetup`], and forwards when that returns.
//! Everything after goes through [`PacketEngine`]. All calls may come from any thread; [`PacketEngine::install`] is
//! never called twice at once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convey_core::{EventSink, FlowCursor, FlowFilter, FlowPage, Protocol, Watches, Watching};

use crate::engine_error::EngineError;
use crate::explanation::Explanation;
use crate::live::LiveDecision;
use crate::next_hop::NextHops;
use crate::snapshot::PacketSnapshot;
use crate::stats::EngineStats;
use crate::takeover::TakenOver;

/// The engines there are, whether or not this version or this host has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// A kernel program at tc/TCX ingress.
    Tc,
    /// A kernel program at native XDP.
    Xdp,
    /// AF_XDP sockets; decisions in user space.
    AfXdp,
    /// AF_PACKET sockets; decisions in user space.
    AfPacket,
}

impl EngineKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tc, Self::Xdp, Self::AfXdp, Self::AfPacket];

    /// Its name, as in the configuration and in `/stats`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::AfXdp => "af_xdp",
            Self::AfPacket => "af_packet",
        }
    }

    /// Whether the kernel gets to see what this engine forwards, and must be kept from answering it.
    pub const fn needs_guard(self) -> bool {
        match self {
            Self::AfPacket => true,
            // Before its program is attached, and when it was killed.
            Self::AfXdp => true,
            // The packet itself goes to the engine, or ends there.
            Self::Tc | Self::Xdp => false,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Is given the indices of the interfaces that an engine wants to take packets from, at the start and whenever they
/// change; prepares them (see [`EngineKind::needs_guard`]) and returns those that are ready. The engine takes packets
/// from these and no others.
pub type InterfaceSink = Arc<dyn Fn(&[u32]) -> Vec<u32> + Send + Sync>;

/// Is given the host's addresses, in rising order, at the start and whenever they change. Called from a thread of the
/// engine's; it must not close the engine.
pub type AddressSink = Arc<dyn Fn(&[IpAddr]) + Send + Sync>;

/// Prepares an interface, by its index, for a clsact filter that outlives this process, and notes it down to be taken back.
/// Gives the filter's handle, or why there can be none.
pub type FilterSink = Arc<dyn Fn(u32) -> Result<u32, String> + Send + Sync>;

/// What an engine is started with, whichever it is.
#[derive(Clone)]
pub struct EngineSetup {
    /// What it forwards by first; how many workers and flows it has, for good.
    pub snapshot: Arc<PacketSnapshot>,
    /// Where it reports.
    pub events: EventSink,
    /// Who prepares interfaces; `None`: every one is ready.
    pub on_interfaces: Option<InterfaceSink>,
    /// Who wants to know the host's addresses.
    pub on_addresses: Option<AddressSink>,
    /// Who notes filters down that are left when this process is killed; `None`: there are to be none.
    pub on_filter: Option<FilterSink>,
    /// Whether the kernel may have TCX (Linux 6.6); without, programs for tc hang on clsact filters.
    pub tcx: bool,
}

impl EngineSetup {
    /// A setup in which nobody prepares interfaces or follows addresses.
    pub fn new(snapshot: Arc<PacketSnapshot>, events: EventSink) -> Self {
        Self { snapshot, events, on_interfaces: None, on_addresses: None, on_filter: None, tcx: true }
    }
}

impl fmt::Debug for EngineSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineSetup").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// What stays when an engine closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the host is as before.
    Nothing,
    /// Programs in the kernel go on forwarding until the next start adopts them. An engine that has none closes as
    /// with [`Keep::Nothing`].
    Forwarding,
}

/// The workers of an engine in user space, and what they go by: the same in every engine.
pub trait UserSide {
    /// What would become of the next packet from `source` to `destination`; nothing is changed. `None` when no
    /// answer was to be had within `timeout`.
    fn explain(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        timeout: Duration,
    ) -> Option<Explanation>;

    /// The way to servers as it is now, for health checks that send packets of their own.
    fn next_hops(&self) -> Arc<NextHops>;

    /// Has a neighbour resolved that is missing in [`UserSide::next_hops`].
    fn resolve(&self, ifindex: u32, address: IpAddr);

    /// A page of at most `limit` of the flows that `filter` takes, from `cursor` on. Flows that live throughout the
    /// listing are told once; others may be. No packet waits for it.
    fn flows(&self, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage;

    /// Ends the flows that `filter` takes as if their time was over, and tells how many. `None` when a worker does not
    /// answer within `timeout`; some may have ended then.
    fn end_flows(&self, filter: &FlowFilter, timeout: Duration) -> Option<u64>;

    /// Where decisions of the workers are watched.
    fn watches(&self) -> &Arc<Watches<LiveDecision>>;

    /// Indices of the interfaces packets are taken from, in rising order.
    fn interfaces(&self) -> Vec<u32>;
}

/// A packet engine at work. Dropping it closes it with [`Keep::Nothing`].
pub trait PacketEngine: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn kind(&self) -> EngineKind;

    /// Forwards by `snapshot` from now on. A packet is decided by the former snapshot or by this one, never by parts of
    /// both.
    ///
    /// # Errors
    /// [`EngineError`]; the former snapshot stays in force.
    fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError>;

    /// Brings the connection counters of the snapshot up to date, for engines that count elsewhere. Called before they
    /// are read, and about twice a second.
    fn collect(&self) {}

    /// Packets since the start; cheap, and no packet waits for it.
    fn stats(&self) -> EngineStats;

    /// Watches the decisions on packets that `filter` takes, until there were `count` of them. `None`: as many watch as
    /// may.
    fn watch(&self, filter: FlowFilter, count: u64) -> Option<Watching<LiveDecision>> {
        self.user_side().watches().begin(filter, count)
    }

    /// Its workers in user space, which decide about all packets or about some.
    fn user_side(&self) -> &dyn UserSide;

    /// What became of flows of killed balancers, if there were any to go on with.
    fn taken_over(&self) -> Option<TakenOver>;

    /// Whether forwarding goes on when the process is killed, and with [`Keep::Forwarding`].
    fn outlives_process(&self) -> bool {
        false
    }

    /// Stops forwarding and joins every thread. Idempotent. Returns what could not be taken back and why, in words.
    fn close(&self, keep: Keep) -> Vec<String>;
}
