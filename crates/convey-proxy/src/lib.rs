//! Event-driven TCP and UDP proxy: one `current_thread` tokio runtime a worker thread, each with its own
//! SO_REUSEPORT listener for every frontend.
//!
//! A connection is accepted ([`accept`]), admitted against the limits ([`limits`]), given a server
//! ([`connect`]) and relayed ([`relay`]) on one thread from beginning to end. Workers share the published
//! snapshot, its counters, the table of client addresses and the list of open connections; nothing else.
//!
//! UDP has a part of its own ([`udp`]): a session for each client, with the same limits, servers and counters.
//!
//! Invariants: every gauge goes back when its guard is dropped, whatever ended the connection; a FIN is
//! passed on only when all bytes before it were delivered; a connection that is cut short ends in a RST
//! towards whoever would otherwise take it for complete.
#![deny(unsafe_code)]

mod accept;
mod arrive;
mod bind_no_port;
mod choice;
pub mod client_hello;
mod connect;
mod connections;
mod descriptors;
mod error;
mod events;
mod fast_open;
mod handshakes;
pub mod inherited;
mod introduce;
mod limits;
mod listener;
mod listeners;
mod log;
mod meters;
mod passive;
mod proxy;
pub mod proxy_protocol;
mod published;
mod relay;
mod shared;
mod shortage;
mod source;
mod thread;
mod udp;
mod unix;
mod waiting;
mod worker;

pub use choice::Choice;
pub use descriptors::{Descriptors, descriptors_problem};
pub use error::ProxyError;
pub use log::{LogError, LogSpec, Logged};
pub use proxy::Proxy;
pub use source::source_socket;
