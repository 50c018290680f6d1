//! Which server a session gets. Where a limit is met it gets none: a datagram does not wait in the backend's queue.

use std::net::SocketAddr;

use convey_core::selection::{Asker, Candidates};
use convey_core::{Backend, Reason};

use crate::limits::{Full, ServerPlace};

/// As IP numbers it.
const UDP: u8 = 17;

/// The servers of a backend as one client sees them.
struct View<'a> {
    backend: &'a Backend,
    passed_over: &'a [usize],
    /// Filled up between being picked and being entered, or no UDP server: on a Unix socket.
    full: Vec<usize>,
}

impl Candidates for View<'_> {
    fn open(&self, server: usize) -> u64 {
        self.backend.servers[server].counters.open()
    }

    fn limit(&self, server: usize) -> u64 {
        self.backend.servers[server].max_connections
    }

    fn is_passed_over(&self, server: usize) -> bool {
        self.passed_over.contains(&server) || self.full.contains(&server)
    }

    fn passes_over(&self) -> bool {
        !(self.passed_over.is_empty() && self.full.is_empty())
    }
}

/// The next server of `backend` for a client that asks `listen`, not among `passed_over` and with room, with its address
/// and a place at it.
pub(super) fn select(
    backend: &Backend,
    (client, listen): (SocketAddr, SocketAddr),
    passed_over: &[usize],
) -> Result<(usize, SocketAddr, ServerPlace), Reason> {
    let limit = backend.waiting.max_connections;
    if limit != 0 && backend.counters.open() >= limit {
        return Err(Reason::LimitBackend);
    }
    let asker = Asker { client, listen, protocol: UDP };
    let on_unix_sockets = (0..backend.servers.len()).filter(|&i| backend.servers[i].addr.ip().is_none());
    let mut view = View { backend, passed_over, full: on_unix_sockets.collect() };
    loop {
        let picked = backend.selector.pick(&asker, &view);
        let Some(index) = picked else { return Err(why_none(backend, passed_over)) };
        let server = &backend.servers[index];
        let Some(addr) = server.addr.ip() else { return Err(Reason::NoServer) };
        match ServerPlace::try_take(backend, server) {
            Ok(place) => return Ok((index, addr, place)),
            Err(Full::Server) => view.full.push(index),
            Err(Full::Backend) => return Err(Reason::LimitBackend),
        }
    }
}

fn why_none(backend: &Backend, passed_over: &[usize]) -> Reason {
    if !passed_over.is_empty() {
        Reason::RetriesExhausted
    } else if backend.servers.iter().any(|s| s.effective_weight() > 0 && s.addr.ip().is_some()) {
        Reason::LimitServer
    } else {
        Reason::NoServer
    }
}
