//! A UDP frontend's sockets: one a worker, all on one address.
//!
//! With SO_REUSEPORT the kernel sends all datagrams of one client and address to the same socket as long as the sockets
//! stay the same, which they do for the life of the group: they are made at once, outlive a worker that panics, and the
//! number of workers never changes.
//!
//! The address is claimed by a bind without SO_REUSEPORT, at which the kernel admits a single winner; further sockets
//! join afterwards. Another program of the same user that sets SO_REUSEPORT itself could join later; another Convey
//! never does, since it begins with the exclusive step.
//!
//! A group that goes keeps its sockets for the sessions it has (they are how clients reach them and where answers come
//! from) and takes no new ones. It is taken back when its frontend returns meanwhile. An address that overlaps with one
//! of ours that goes (127.0.0.1:53 and 0.0.0.0:53) is bound beside it with SO_REUSEADDR, and the old group ends at once:
//! it would go on taking the clients of its address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Notify;

use super::batch;
use crate::listener::next_id;
use crate::published::Published;

/// Asked for; the kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Asked for; the kernel caps it at net.core.wmem_max.
const SEND_BUFFER: usize = 4 << 20;

/// Whether a group takes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Service {
    /// All that come.
    Open,
    /// Only those it has sessions with.
    Leaving,
    /// None any more.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub id: u64,
    /// The frontend it was bound for.
    pub frontend: Arc<str>,
    /// As configured; the port may be 0.
    pub configured: SocketAddr,
    /// As bound.
    pub local: SocketAddr,
    sockets: Vec<Socket>,
    mailboxes: Vec<Arc<Mailbox>>,
    service: AtomicU8,
    /// Of all workers.
    sessions: AtomicUsize,
    /// What routed its clients when it was removed.
    retired: Mutex<Option<Arc<Published>>>,
}

/// What one worker's part of a group is told from outside.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Sessions to be ended.
    ending: Mutex<Vec<u64>>,
    pub wake: Notify,
}

impl Mailbox {
    /// Has session `id` end.
    pub fn end(&self, id: u64) {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.wake.notify_one();
    }

    pub fn take_ending(&self) -> Vec<u64> {
        std::mem::take(&mut *self.ending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Group {
    /// Claims `configured` with a socket for each of `workers`, beside `old`: groups of ours that overlap with it and
    /// are about to go.
    ///
    /// # Errors
    /// `AddrInUse` when anything but `old` has the address; `old` is as before.
    pub fn bind(
        frontend: Arc<str>,
        configured: SocketAddr,
        workers: usize,
        old: &[Arc<Self>],
    ) -> io::Result<Self> {
        let share = |on| {
            old.iter().flat_map(|group| &group.sockets).try_for_each(|socket| socket.set_reuse_address(on))
        };
        let claim = || {
            share(!old.is_empty())?;
            let first = open(configured)?;
            first.set_reuse_address(!old.is_empty())?;
            first.bind(&configured.into())?;
            let local = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
            first.set_reuse_port(workers > 1)?;
            let mut sockets = vec![first];
            for _ in 1..workers {
                let socket = open(local)?;
                socket.set_reuse_address(!old.is_empty())?;
                socket.set_reuse_port(true)?;
                socket.bind(&local.into())?;
                sockets.push(socket);
            }
            sockets.iter().try_for_each(|socket| socket.set_reuse_address(false))?;
            Ok((sockets, local))
        };
        let claimed: io::Result<_> = claim();
        // It only makes the kernel stricter, which it does not refuse.
        let _ = share(false);
        let (sockets, local) = claimed?;
        Ok(Self {
            id: next_id(),
            frontend,
            configured,
            local,
            sockets,
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            service: AtomicU8::new(Service::Open as u8),
            sessions: AtomicUsize::new(0),
            retired: Mutex::new(None),
        })
    }

    pub fn socket(&self, worker: usize) -> BorrowedFd<'_> {
        self.sockets[worker].as_fd()
    }

    pub fn mailbox(&self, worker: usize) -> &Arc<Mailbox> {
        &self.mailboxes[worker]
    }

    pub fn service(&self) -> Service {
        match self.service.load(Relaxed) {
            0 => Service::Open,
            1 => Service::Leaving,
            _ => Service::Closed,
        }
    }

    /// Takes clients again, or none any more, or only those it knows; `last`: what routed them so far.
    pub fn serve(&self, service: Service, last: Option<Arc<Published>>) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = last;
        self.service.store(service as u8, Relaxed);
        self.wake_all();
    }

    /// Whether any worker has a session.
    pub fn has_sessions(&self) -> bool {
        self.sessions.load(Relaxed) > 0
    }

    fn wake_all(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.wake.notify_one());
    }

    /// What routed its clients when it was removed.
    pub fn retired(&self) -> Option<Arc<Published>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a frontend called `name` that is to listen on `listen` can take this group over.
    pub fn serves(&self, name: &str, listen: SocketAddr) -> bool {
        self.local == listen || self.configured == listen && *self.frontend == *name
    }

    /// Whether the kernel sees the sockets of both addresses in each other's way.
    pub fn overlaps(&self, other: SocketAddr) -> bool {
        let (a, b) = (self.local.ip(), other.ip());
        self.local.port() == other.port()
            && a.is_ipv4() == b.is_ipv4()
            && (a == b || a.is_unspecified() || b.is_unspecified())
    }
}

/// Counts a session of the group. Workers serve a group that leaves until the last is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Group>);

impl Counted {
    pub fn new(group: &Arc<Group>) -> Self {
        group.sessions.fetch_add(1, Relaxed);
        Self(group.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.sessions.fetch_sub(1, Relaxed) == 1 && self.0.service() != Service::Open {
            self.0.wake_all();
        }
    }
}

fn open(local: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(local), kind, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        // So that 0.0.0.0 and [::] can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    // Smaller ones hold less of a burst; nothing else depends on them.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    if local.ip().is_unspecified() {
        batch::ask_where_to(socket.as_fd(), local.is_ipv4())?;
    }
    batch::ask_for_losses(socket.as_fd())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(addr: &str, workers: usize, old: &[Arc<Group>]) -> io::Result<Group> {
        Group::bind("dns".into(), addr.parse().unwrap(), workers, old)
    }

    #[test]
    fn an_address_is_claimed_once_however_many_workers_share_it() {
        for workers in [1, 3] {
            for addr in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
                let first = group(addr, workers, &[]).unwrap();
                let again = group(&first.local.to_string(), workers, &[]).unwrap_err();
                assert_eq!(again.kind(), io::ErrorKind::AddrInUse, "{addr} {workers}");
            }
        }
    }

    #[test]
    fn an_overlapping_address_is_bound_beside_a_group_that_goes_and_is_shut_again() {
        for workers in [1, 2] {
            let old = Arc::new(group("127.0.0.1:0", workers, &[]).unwrap());
            let wildcard = format!("0.0.0.0:{}", old.local.port());
            assert_eq!(group(&wildcard, workers, &[]).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let new = group(&wildcard, workers, std::slice::from_ref(&old)).unwrap();
            assert!(new.overlaps(old.local) && group(&wildcard, workers, &[]).is_err());
            let intruder = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            intruder.set_reuse_address(true).unwrap();
            assert!(intruder.bind(&old.local.into()).is_err(), "SO_REUSEADDR is on no more");
        }
    }
}
