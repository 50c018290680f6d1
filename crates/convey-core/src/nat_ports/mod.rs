//! Source ports towards one server: who holds which, and which has been free longest.
//!
//! A [`PortPool`] belongs to one path: NAT address, server address and port, protocol. Every port is one 64-bit word:
//! its owner, what it is held for, and since when. Beside the words stand two bits a port, whether it is held and
//! whether by a connection, so that one look tells of 32 ports which may be had. All of it is plain atomics in memory
//! that may be private, shared with another process, or a map of a kernel program; there are no lists to be kept in
//! step. Who wins the compare-and-swap of a word has the port.
//!
//! A port is taken from a random place on, so that it is hard to guess (RFC 6056). Of the free ones met there, up to 24,
//! it is the first that has rested for a minute, else the one that has rested longest. No port is refused while one is
//! free. When none is, one is taken from another flow, in this order of those met:
//! 1. the flow that closed first (TIME_WAIT);
//! 2. the unconfirmed one unused longest (a flood), when that is a second or more;
//! 3. the UDP conversation idle longest, when that is more than is usual between two datagrams: two seconds after
//!    a brief exchange, thirty after a longer one;
//! 4. any unconfirmed one, the one unused longest first;
//! 5. one whose time is over and that no sweep has met yet.
//!
//! Never from an open TCP connection or a busy UDP conversation.

mod numbers;
mod partition;
mod pool;
mod port_use;
mod victim;
mod word;

pub use numbers::numbers;
pub use partition::Partition;
pub use pool::{PortPool, Taken};
pub use port_use::PortUse;
pub use victim::Victim;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
