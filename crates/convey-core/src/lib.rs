//! What Convey knows and decides, without doing anything about it: frontends, backends and servers
//! (a [`Snapshot`]), which server a connection gets ([`selection`]), and the counters of both.
//!
//! Invariants: a published [`Snapshot`] never changes, except for its counters and scheduler state;
//! no function here does I/O or reads a clock.
#![forbid(unsafe_code)]

pub mod admission;
pub mod client_address;
pub mod conntrack;
pub mod counters;
pub mod endpoint;
pub mod event;
pub mod flow_list;
pub mod hello_routes;
pub mod nat_ports;
pub mod selection;
pub mod snapshot;
pub mod source_pool;
pub mod streak;
pub mod wait_queue;
pub mod watch;

pub use admission::{AccessList, Admission, AdmissionSpec, Prefix, Rate, client_of};
pub use client_address::{AcceptProxy, ProxyVersion, Source};
pub use counters::{Collected, ConnCounters, Reason, ReasonCounters};
pub use endpoint::Endpoint;
pub use event::{Event, EventSink};
pub use flow_list::{FlowCursor, FlowFilter, FlowPage, FlowRow, FlowStage, Net, Partial, WaitsFor};
pub use hello_routes::{HelloRoute, HelloRoutes, HelloRoutesSpec};
pub use snapshot::{
    Backend, BackendSpec, Ends, Frontend, FrontendSpec, Limits, ListenKey, Mode, Protocol, Server,
    ServerSpec, Snapshot, SnapshotSpec, SocketOptions, SpecError, UdpSessions, Waiting,
};
pub use source_pool::{SourceAddress, SourcePool, Sources};
pub use streak::FailureStreak;
pub use wait_queue::{QueueCounts, Ticket, WaitQueue};
pub use watch::{Taken, Watch, Watches, Watching};
