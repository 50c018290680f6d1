//! A thin epoll: readiness by a 64-bit key.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::Failure;

pub use rustix::event::epoll::EventFlags as Ready;

/// An epoll instance and its event buffer.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// A new instance.
    ///
    /// # Errors
    /// The kernel refuses another descriptor.
    pub fn new() -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|e| Failure::io("create an epoll instance")(e.into()))?;
        Ok(Self { epoll, events: Vec::with_capacity(512) })
    }

    /// Watches `source`; closing it ends that.
    ///
    /// # Errors
    /// As epoll_ctl.
    pub fn add(&self, source: impl AsFd, key: u64, interest: Ready) -> std::io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(key), interest)?)
    }

    /// Changes what is watched for.
    ///
    /// # Errors
    /// As epoll_ctl.
    pub fn modify(&self, source: impl AsFd, key: u64, interest: Ready) -> std::io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(key), interest)?)
    }

    /// Waits for events, at most `timeout`, and appends them to `ready`, which is cleared first.
    ///
    /// # Errors
    /// As epoll_wait; an interruption is no error.
    pub fn wait(&mut self, ready: &mut Vec<(u64, Ready)>, timeout: Option<Duration>) -> Result<(), Failure> {
        ready.clear();
        self.events.clear();
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Failure::io("wait for events")(e.into())),
        }
        // Copied out because an epoll event is packed and borrowing it would be unaligned.
        ready.extend(self.events.iter().map(|event| {
            let data = event.data;
            (data.u64(), event.flags)
        }));
        Ok(())
    }
}
