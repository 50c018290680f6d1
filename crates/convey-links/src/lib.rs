//! Interfaces, routes, neighbours and next hops as the kernel has them.
//!
//! [`NextHopKeeper`] runs on a thread of the engine's, reads the tables, follows the news about them by rtnetlink,
//! keeps the neighbours fresh that packets need, and hands all of it to the engine through a [`LinkSink`]. Engines
//! wake it through a [`Wake`], which never blocks. [`view`] is the same for those who want to know before they
//! start an engine.
//!
//! Everything acts in the network namespace of the thread that opens it.
#![forbid(unsafe_code)]

pub mod client;
mod interfaces;
mod kernel_tables;
mod link_tables;
mod neighbours;
mod netlink;
mod network_view;
mod next_hop_objects;
mod next_hops;
mod route_follower;
mod rules;
mod wake;
mod wanted;

pub use interfaces::Interfaces;
pub use network_view::{NetworkView, uplinks, view};
pub use next_hops::{LinkSink, NextHopKeeper, Wanted};
pub use wake::{Inbox, Wake, channel};
