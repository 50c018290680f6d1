//! The user-space packet path of the passthrough and DSR modes, as a function of its inputs:
//! `process(frame, meta, &snapshot, &next_hops, &mut worker, now) -> Verdict`.
//!
//! What an I/O engine does around it:
//! 1. Builds a [`PacketSnapshot`] off the packet path with [`PacketSnapshot::build`] whenever the
//!    configuration, a weight or a server's health changes, giving the previous one so that flows stay
//!    where they are, and publishes it with one store. Likewise [`NextHops`] when links, routes or
//!    neighbours change.
//! 2. Owns one [`Worker`] a thread; both directions of a flow must meet the same worker, see [`steering`].
//! 3. Hands each received frame to [`process`], in a buffer with [`REPLY_HEADROOM`] spare bytes behind it,
//!    and does what the [`Verdict`] says. Frames of type PACKET_OUTGOING or PACKET_OTHERHOST stay out.
//! 4. Calls [`Worker::tick`] between batches, idle or not, at least some times a second.
//!
//! Nothing here does I/O, reads a clock or panics on any bytes, and a lock is taken for fragments alone
//! ([`fragments`]).
#![forbid(unsafe_code)]

mod accounts;
pub mod arrival;
pub mod counters;
pub mod decided;
pub mod engine_error;
pub mod explain;
pub mod explanation;
pub mod flows;
mod follow;
pub mod fragments;
mod hash;
mod hop_cache;
mod icmp;
mod links;
pub mod live;
pub mod memory;
pub mod meta;
pub mod next_hop;
pub mod options;
mod packet;
pub mod packet_engine;
pub mod path_numbers;
mod prefixes;
pub mod process;
mod route_table;
pub mod routes;
mod selection;
pub mod slot_table;
pub mod snapshot;
pub mod stats;
pub mod steering;
pub mod takeover;
mod transport;
pub mod verdict;
pub mod worker;

pub use arrival::explain_arrival;
pub use convey_packet::MAX_EXTENSION_HEADERS;
pub use counters::WorkerCounters;
pub use decided::{Decided, Fate, Forwarded};
pub use engine_error::{EngineError, EngineErrorKind};
pub use explain::explain;
pub use explanation::{Explanation, Interface, Outcome, Step};
pub use flows::{FlowView, Seen};
pub use fragments::Fragments;
pub use links::{Link, Links, MacAddr, Objects, Vrf};
pub use live::{LiveDecision, Looked};
pub use memory::{Layout, Untaken, WorkerMemory};
pub use meta::{Checksum, FrameMeta, Gso, Nanos};
pub use next_hop::{Missing, Neighbours, NextHop, NextHops, Topology};
pub use options::{ConnectionTracking, DsrMethod, PacketOptions, PortRange, Refusal, Timeouts, XdpMode};
pub use packet_engine::{
    AddressSink, EngineKind, EngineSetup, FilterSink, InterfaceSink, Keep, PacketEngine, UserSide,
};
pub use path_numbers::PathNumbers;
pub use process::{REPLY_HEADROOM, process};
pub use routes::{Hop, Path, Place, Reject, Route, RouteTable, Routes, Rule};
pub use slot_table::{FrontendIdentity, ServerIdentity, SlotTable, Slots};
pub use snapshot::{
    Method, NatPath, PacketFrontend, PacketServer, PacketSnapshot, PacketSpecError, Standing,
};
pub use stats::{EngineStats, IoCounters, Loss};
pub use takeover::{Former, Heir, NotKept, SavedFlows, TakenOver};
pub use verdict::{DropReason, Forward, Headers, Note, PassReason, Reply, ReplyKind, Verdict};
pub use worker::{KernelGauges, KernelMemory, PoolMemory, Worker};
