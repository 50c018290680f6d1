//! One client's session with a server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use convey_core::{ReasonCounters, Snapshot};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::batch;
use super::exchange::Exchange;
use super::group::Counted;
use crate::connections::Listed;
use crate::limits::ClientPlace;
use crate::meters::{Meters, Way};

/// The server a session goes to.
#[derive(Debug)]
pub(super) struct Peer {
    pub backend: Arc<str>,
    pub name: Arc<str>,
    pub addr: SocketAddr,
}

impl Peer {
    /// Whether `snapshot` lets sessions go on to it: it is there at the same address, and up. One that is drained, or
    /// has no weight, keeps those it has.
    fn serves(&self, snapshot: &Snapshot) -> bool {
        let backend = snapshot.backends.iter().find(|b| b.name == self.backend);
        let server = backend.and_then(|b| b.servers.iter().find(|s| s.name == self.name));
        server.is_some_and(|server| server.up && server.addr.ip() == Some(self.addr))
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub socket: OwnedFd,
    pub peer: Peer,
    pub exchange: Exchange,
    /// The client's place among all.
    pub client: ClientPlace,
    /// Places at server and backend, and what is counted.
    pub meters: Meters,
    pub server_reasons: Arc<ReasonCounters>,
    pub began: Instant,
    /// When it ends however busy it is.
    pub ends: Option<Instant>,
    /// Servers that refused this client's datagrams since one answered.
    pub refused: Vec<Arc<str>>,
    /// Its server refused the last one: the next datagram goes to another.
    pub is_refused: bool,
    /// The snapshot by which the server was looked at last.
    pub seen: u64,
    pub _listed: Listed,
    pub _counted: Counted,
}

impl Session {
    /// Whether the next datagram of the client goes to another server.
    pub fn has_to_move(&mut self, snapshot: &Snapshot) -> bool {
        if self.seen != snapshot.version {
            self.seen = snapshot.version;
            self.is_refused |= !self.peer.serves(snapshot);
        }
        self.is_refused
    }

    /// `datagrams` of the client, `bytes` in all, went to the server.
    pub fn asked(&mut self, datagrams: u64, bytes: u64, now: Instant, timeout: Duration) {
        self.exchange.asked(datagrams);
        self.meters.delivered(Way::Tx, bytes);
        self.tell(now, timeout);
    }

    /// `datagrams` of the server, `bytes` in all, went to the client.
    pub fn answered(&mut self, datagrams: u64, bytes: u64, now: Instant, timeout: Duration) {
        self.exchange.answered(datagrams);
        self.refused.clear();
        self.meters.delivered(Way::Rx, bytes);
        self.tell(now, timeout);
    }

    fn tell(&self, now: Instant, timeout: Duration) {
        if let Some(datagrams) = self.meters.connection.datagrams() {
            datagrams.went(&self.exchange, now.saturating_duration_since(self.began), timeout);
        }
    }

    /// What the server's host has answered, if anything.
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.socket).take_error().ok().flatten()
    }
}

/// A socket to `addr`, and the address it sends from. `most`: descriptors from this number on are left to others; the
/// kernel gives the lowest, so the number tells how many are open.
///
/// # Errors
/// `EMFILE` also when `most` is reached; `EAGAIN`: no free port; as connect(2).
pub(super) fn connect(addr: SocketAddr, most: u64) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    if u64::try_from(socket.as_fd().as_raw_fd()).is_ok_and(|number| number >= most) {
        return Err(Errno::MFILE.into());
    }
    socket.connect(&addr.into())?;
    // Old kernels do not know it; it saves time, nothing more.
    let _ = batch::put_together(socket.as_fd(), true);
    let source = socket.local_addr().ok().and_then(|source| source.as_socket());
    Ok((socket.into(), source))
}
