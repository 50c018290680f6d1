//! A connection that has ended, as its line is written from.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use convey_core::{Endpoint, Reason};

use super::story::{Fate, Story};

/// The server a connection got.
#[derive(Debug)]
pub(crate) struct Got<'a> {
    pub name: &'a str,
    pub addr: &'a Endpoint,
    pub source: Option<SocketAddr>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// When it ended.
    pub at: SystemTime,
    pub client: SocketAddr,
    pub listen: SocketAddr,
    pub frontend: &'a str,
    pub backend: &'a str,
    pub server: Option<Got<'a>>,
    pub total: Duration,
    /// To the server, to the client.
    pub bytes: [u64; 2],
    pub fate: Fate,
    /// By an operator.
    pub killed: bool,
    /// Absent for one that was refused at once.
    pub story: Option<&'a Story>,
}

impl<'a> Entry<'a> {
    /// Of one that was closed at once.
    pub fn refused(
        (client, listen): (SocketAddr, SocketAddr),
        (frontend, backend): (&'a str, &'a str),
        reason: Reason,
    ) -> Self {
        Self {
            at: SystemTime::now(),
            client,
            listen,
            frontend,
            backend,
            server: None,
            total: Duration::ZERO,
            bytes: [0; 2],
            fate: Fate::Ended(reason),
            killed: false,
            story: None,
        }
    }
}
