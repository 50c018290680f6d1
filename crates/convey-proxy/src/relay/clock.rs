//! Idle timeout and maximum duration on one timer that is set again only when it fires: moving bytes costs
//! a look at the clock, never a timer operation.
//!
//! Idle is when the kernel moved nothing either: a slow reader lives on what was delivered to its socket long
//! ago, and while this process was stopped (SIGSTOP, a paused container) data came that it has not seen yet.
//! So the timer fires a few times within the timeout, and a connection is idle only when the kernel's
//! counters stood still from one firing to the next.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use convey_core::Reason;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::kernel::{self, Progress};
use crate::listener::keepalive;

/// Looks at the kernel's counters within one idle timeout: the last movement may be taken for later than it
/// was by the time between two.
const LOOKS: u32 = 4;

#[derive(Debug)]
pub(super) struct Clock {
    limits: Limits,
    began: Instant,
    /// When bytes were moved last, by us or as far as is known by the kernel.
    last_moved: Instant,
    /// What the kernel had moved on both sockets at the last firing.
    seen: Option<[Progress; 2]>,
    /// The timer has this task's waker.
    armed: bool,
    /// The first firing is past.
    settled: bool,
    /// No timer is needed any more.
    idle: bool,
    /// One side has sent its FIN, and the half-close timeout is the shorter one.
    half_closed: bool,
}

impl Clock {
    /// A clock for a connection that begins now. `timer` still stands at the connect deadline; a connection
    /// that lives to see it is long enough to deserve keepalive.
    pub fn begin(limits: Limits, mut timer: Pin<&mut Sleep>) -> Self {
        let now = Instant::now();
        let clock = Self {
            limits,
            began: now,
            last_moved: now,
            seen: None,
            armed: false,
            settled: false,
            idle: false,
            half_closed: false,
        };
        if let Some(next) = clock.next(now)
            && next < timer.deadline()
        {
            timer.as_mut().reset(next);
        }
        clock
    }

    /// Bytes were delivered.
    pub fn moved(&mut self) {
        self.last_moved = Instant::now();
    }

    /// One side's FIN was passed on: from now on the half-close timeout is the idle timeout, where that is not shorter.
    pub fn half_closed(&mut self, mut timer: Pin<&mut Sleep>) {
        let Limits { idle_timeout, half_close_timeout, .. } = self.limits;
        if self.half_closed || half_close_timeout.is_zero() {
            return;
        }
        if idle_timeout.is_zero() || half_close_timeout < idle_timeout {
            self.half_closed = true;
            self.limits.idle_timeout = half_close_timeout;
            self.limits.half_close_timeout = Duration::ZERO;
            let now = Instant::now();
            self.last_moved = now;
            self.idle = false;
            self.armed = false;
            if let Some(next) = self.next(now) {
                timer.as_mut().reset(next);
            }
        }
    }

    /// Why the connection has to end, if it has.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        client: &TcpStream,
        server: &TcpStream,
    ) -> Option<Reason> {
        while !self.idle {
            if self.armed {
                if !timer.is_elapsed() {
                    return None;
                }
            } else if timer.as_mut().poll(cx) == Poll::Pending {
                self.armed = true;
                return None;
            }
            if !self.settled {
                self.settled = true;
                // Without it a dead server is found by the idle timeout; nothing else depends on it.
                let _ = SockRef::from(server).set_tcp_keepalive(&keepalive());
            }
            let now = Instant::now();
            if self.end_of_life().is_some_and(|end| end <= now) {
                return Some(Reason::MaxDuration);
            }
            if self.is_idle(now, client, server) {
                return Some(if self.half_closed { Reason::HalfCloseTimeout } else { Reason::IdleTimeout });
            }
            match self.next(now) {
                Some(next) => {
                    timer.as_mut().reset(next);
                    self.armed = false;
                }
                None => self.idle = true,
            }
        }
        None
    }

    /// Looks at the kernel's counters and judges. What moved since the last look, however long ago, gets
    /// another firing before it may be judged: if it waits to be read, its turn comes before that.
    fn is_idle(&mut self, now: Instant, client: &TcpStream, server: &TcpStream) -> bool {
        if self.limits.idle_timeout.is_zero() {
            return false;
        }
        // A socket that cannot be asked is judged by what went through here.
        if let (Some(client), Some(server)) = (kernel::look(client), kernel::look(server)) {
            let seen = [client.progress, server.progress];
            if self.seen.replace(seen) != Some(seen) {
                let heard = now.checked_sub(client.silent_for.min(server.silent_for)).unwrap_or(self.began);
                self.last_moved = self.last_moved.max(heard);
                return false;
            }
        }
        self.silent_until().is_none_or(|end| end <= now)
    }

    /// When the timer has to fire next.
    fn next(&self, now: Instant) -> Option<Instant> {
        let look = if self.limits.idle_timeout.is_zero() {
            None
        } else {
            let look = now.checked_add(self.limits.idle_timeout / LOOKS);
            match self.silent_until() {
                Some(end) if end > now => look.map(|look| look.min(end)),
                _ => look,
            }
        };
        [look, self.end_of_life()].into_iter().flatten().min()
    }

    fn silent_until(&self) -> Option<Instant> {
        self.last_moved.checked_add(self.limits.idle_timeout)
    }

    /// When the maximum duration is reached.
    pub fn end_of_life(&self) -> Option<Instant> {
        let Limits { max_duration, .. } = self.limits;
        self.began.checked_add(max_duration).filter(|_| !max_duration.is_zero())
    }
}
