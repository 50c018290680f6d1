//! Whose address a connection comes from and goes out with: what a frontend takes from a PROXY header, what a server is
//! told in one, and the addresses that connections to servers start from.

use std::net::IpAddr;
use std::time::Duration;

use crate::admission::Prefix;

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// A frontend whose clients are told by PROXY headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptProxy {
    /// Whose headers are believed; nobody else may connect. Empty: everybody's.
    pub trusted: Vec<Prefix>,
    /// How long a header may take from the accept on.
    pub timeout: Duration,
}

impl AcceptProxy {
    /// Whether `peer` may say who its client is.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusted.iter().any(|prefix| prefix.contains(peer))
    }
}

/// Where connections to the servers of a backend start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// The address and port that the kernel chooses.
    #[default]
    Kernel,
    /// The client's address.
    Client,
    /// These addresses in turn; for a server of whose family there is none the kernel chooses.
    Pool(Vec<IpAddr>),
}
