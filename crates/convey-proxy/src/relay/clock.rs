//! Idle timeout and maximum duration on one timer that is set again only when it fires: moving bytes costs
//! a look at the clock, never a timer operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use convey_core::Reason;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Limits;
use crate::listener::keepalive;

#[derive(Debug)]
pub(super) struct Clock {
    limits: Limits,
    began: Instant,
    last_moved: Instant,
    /// The timer has this task's waker.
    armed: bool,
    /// The first firing is past.
    settled: bool,
    /// No timer is needed any more.
    idle: bool,
}

impl Clock {
    /// A clock for a connection that begins now. `timer` still stands at the connect deadline; a connection
    /// that lives to see it is long enough to deserve keepalive.
    pub fn begin(limits: Limits, mut timer: Pin<&mut Sleep>) -> Self {
        let now = Instant::now();
        let clock = Self { limits, began: now, last_moved: now, armed: false, settled: false, idle: false };
        if let Some(due) = clock.due()
            && due < timer.deadline()
        {
            timer.as_mut().reset(due);
        }
        clock
    }

    /// Bytes were delivered.
    pub fn moved(&mut self) {
        self.last_moved = Instant::now();
    }

    /// Why the connection has to end, if it has.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
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
            match self.due() {
                Some(due) if due <= now => return Some(Reason::IdleTimeout),
                Some(due) => {
                    timer.as_mut().reset(due);
                    self.armed = false;
                }
                None => self.idle = true,
            }
        }
        None
    }

    fn due(&self) -> Option<Instant> {
        let Limits { idle_timeout, .. } = self.limits;
        let silent = self.last_moved.checked_add(idle_timeout).filter(|_| !idle_timeout.is_zero());
        [silent, self.end_of_life()].into_iter().flatten().min()
    }

    fn end_of_life(&self) -> Option<Instant> {
        let Limits { max_duration, .. } = self.limits;
        self.began.checked_add(max_duration).filter(|_| !max_duration.is_zero())
    }
}
