//! An epoll instance of our own inside the runtime's: a session costs it one entry, where the runtime would keep a task
//! and its own record for each.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

pub(super) use rustix::event::epoll::{Event, EventFlags};

#[derive(Debug)]
pub(super) struct Epoll(AsyncFd<OwnedFd>);

impl Epoll {
    /// Must be called in a runtime.
    ///
    /// # Errors
    /// As epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is an open descriptor until it is dropped, and nobody replaces it in there.
        let registered = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Tells of `socket` by `name` while it is readable or has an error, until it is closed.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, socket: impl AsFd, name: u64) -> io::Result<()> {
        Ok(epoll::add(self.0.get_ref(), socket, epoll::EventData::new_u64(name), EventFlags::IN)?)
    }

    /// What is ready now, as much as `events` has room for.
    ///
    /// # Errors
    /// As epoll_wait(2).
    pub fn ready(&self, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(self.0.get_ref(), spare_capacity(events), Some(&now))?;
        Ok(())
    }

    /// Ready when something became ready since the guard was cleared.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'_, OwnedFd>>> {
        self.0.poll_read_ready(cx)
    }
}
