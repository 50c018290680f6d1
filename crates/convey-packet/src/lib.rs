//! Views over frames and rewriting in place, with RFC 1624 checksum arithmetic.
//!
//! Read a frame with [`Ip::parse`], then [`Ports::parse`] or [`IcmpError::parse`]; change it with
//! [`rewrite`] or replace it by an answer with [`reply`]. Lengths are checked once, while parsing; the
//! offsets in a view are within the frame it was parsed from.
//!
//! Invariants: no I/O, no clock, no allocation, no panic on any bytes.
#![forbid(unsafe_code)]

pub mod addr;
pub mod bytes;
pub mod checksum;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod reply;
pub mod rewrite;
pub mod transport;

pub use addr::Addr;
pub use checksum::Delta;
pub use fragment::Part;
pub use icmp::{IcmpError, Quoted};
pub use ip::{Fragment, Ip, IpError, MAX_EXTENSION_HEADERS};
pub use rewrite::{Deltas, Tuple};
pub use transport::{Ports, Tcp, TransportError, tcp_flags};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
