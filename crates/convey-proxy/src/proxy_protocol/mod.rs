//! The PROXY protocol (haproxy.org, proxy-protocol.txt, revision 2.2 of the text): what a proxy in front says of a
//! client, read by [`parse`] and written by [`write`].
//!
//! Both are functions of bytes. [`parse`] takes what has come so far, in however many segments, and either knows that
//! more is needed, or where the header ends, or what is wrong with it; it is stricter than most receivers: what the text
//! of the protocol says must not be sent is refused.

mod crc32c;
mod parse;
mod tlv;
mod v1;
mod v2;
mod write;

use std::net::SocketAddr;

pub use parse::{Invalid, Parsed, parse};
pub use v2::LONGEST as LONGEST_HEADER;
pub use write::write;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Who speaks.
    pub origin: Origin,
    /// TLVs of version 2 that a next header may repeat, as they came.
    pub tlvs: Box<[u8]>,
    /// Whether it had a checksum, so that a next header gets one too.
    pub has_checksum: bool,
}

/// On whose behalf a connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A client's.
    Client {
        /// Its address.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// A client's on a Unix socket: both paths as version 2 writes them.
    Unix {
        /// Family and transport, as in the header.
        family: u8,
        /// 108 bytes each of source and destination.
        paths: Box<[u8; 216]>,
    },
    /// A client's whose address is not told.
    Unknown,
    /// The sender's own, such as a health check.
    Local,
}

impl Header {
    /// A header of a client at `source` that has connected to `destination`.
    pub fn of_client(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { origin: Origin::Client { source, destination }, tlvs: Box::default(), has_checksum: false }
    }

    /// The client's address, where it has one that can be told.
    pub fn client(&self) -> Option<SocketAddr> {
        match self.origin {
            Origin::Client { source, .. } => Some(source),
            _ => None,
        }
    }
}
