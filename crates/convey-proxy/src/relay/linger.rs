//! What is still owed to one side when the other has failed: everything that was accepted for it.
//!
//! A server that refuses an upload answers and closes while the client still sends: the next write to it
//! fails, and the answer lies unread in its socket. A server that has answered and is reset by the rest of
//! the upload leaves its answer in the kernel's queue towards a slow client. Closing the survivor at once
//! would throw both away, by a RST of our own or by the kernel's, which answers unread bytes with one.
//!
//! So what can still be read goes to the survivor; what it sends meanwhile is thrown away, so that one that
//! writes before it reads gets there; and nothing is closed before the kernel has all acknowledged. A stream
//! that was cut ends in a RST even then. One that was complete has had its FIN: a client gets time to notice.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::direction::{Direction, Failure};
use super::{copy, kernel};
use crate::meters::{Meters, Way};

/// What an upload that its client gave up waits at most for a server that takes nothing: it has to hear of
/// the reset too.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);
/// A client that has its whole answer and still sends: how long altogether, how long it may pause, and how
/// much is read at most. What comes later meets a RST.
const LONGEST_LINGER: Duration = Duration::from_secs(30);
const LINGER_PAUSE: Duration = Duration::from_secs(5);
const MOST_DISCARDED: usize = 64 * 1024 * 1024;
/// Discards in a row before others on this thread get their turn.
const TURNS: usize = 8;
/// The kernel does not tell when a queue is empty, so it is asked, less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(250);

/// How the survivor's socket is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a RST: the stream was cut, nothing moves any more, or it goes on sending.
    Reset,
    /// With what the kernel makes of it; whatever is queued is still delivered.
    Close,
}

/// The side that is left, and the direction towards it.
pub(super) struct Survivor<'a> {
    direction: &'a mut Direction,
    way: Way,
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// How long nothing may move towards it; zero: for ever.
    idle_timeout: Duration,
    end_of_life: Option<Instant>,
    /// It has sent its FIN.
    closed: bool,
    discarded: usize,
    last_sent: Instant,
}

impl<'a> Survivor<'a> {
    /// A client that is left by its server.
    pub fn client(
        rx: &'a mut Direction,
        server: &'a TcpStream,
        client: &'a TcpStream,
        idle_timeout: Duration,
        end_of_life: Option<Instant>,
    ) -> Self {
        Self::new(rx, Way::Rx, server, client, idle_timeout, end_of_life)
    }

    /// A server that is left by its client.
    pub fn server(
        tx: &'a mut Direction,
        client: &'a TcpStream,
        server: &'a TcpStream,
        idle_timeout: Duration,
        end_of_life: Option<Instant>,
    ) -> Self {
        Self::new(tx, Way::Tx, client, server, idle_timeout, end_of_life)
    }

    fn new(
        direction: &'a mut Direction,
        way: Way,
        from: &'a TcpStream,
        to: &'a TcpStream,
        idle_timeout: Duration,
        end_of_life: Option<Instant>,
    ) -> Self {
        Self {
            direction,
            way,
            from,
            to,
            idle_timeout,
            end_of_life,
            closed: false,
            discarded: 0,
            last_sent: Instant::now(),
        }
    }

    pub fn socket(&self) -> &'a TcpStream {
        self.to
    }

    /// Delivers what is owed; returns how to close the socket then.
    pub async fn linger(mut self, meters: &Meters, mut timer: Pin<&mut Sleep>) -> Ending {
        let mut progress = None;
        let mut last_progress = Instant::now();
        let mut complete_since = None;
        let mut pause = FIRST_LOOK;
        poll_fn(|cx| {
            loop {
                if let Some(ending) = self.exchange(cx, meters) {
                    return Poll::Ready(ending);
                }
                let now = Instant::now();
                let Some(look) = kernel::look(self.to).filter(|look| !look.is_closed()) else {
                    return Poll::Ready(Ending::Close);
                };
                if progress.replace(look.progress.acked()) != Some(look.progress.acked()) {
                    last_progress = now;
                }
                if self.direction.finished() && self.closed {
                    return Poll::Ready(Ending::Close);
                }
                if self.direction.ended() && !look.queued {
                    let since = *complete_since.get_or_insert(now);
                    if !self.direction.finished() || self.way == Way::Tx || self.has_had_time(now, since) {
                        return Poll::Ready(Ending::Reset);
                    }
                } else if self.patience().is_some_and(|patience| now >= last_progress + patience) {
                    return Poll::Ready(Ending::Reset);
                }
                if self.end_of_life.is_some_and(|end| end <= now) {
                    return Poll::Ready(Ending::Reset);
                }
                timer.as_mut().reset(self.end_of_life.map_or(now + pause, |end| end.min(now + pause)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                pause = (pause * 2).min(LAST_LOOK);
            }
        })
        .await
    }

    /// Moves what can be moved and throws away what the survivor sends; an ending when it is gone too.
    fn exchange(&mut self, cx: &mut Context<'_>, meters: &Meters) -> Option<Ending> {
        let mut delivered = 0;
        let outcome = self.direction.poll(cx, self.from, self.to, false, &mut delivered);
        if delivered > 0 {
            meters.delivered(self.way, delivered);
        }
        if let Err(Failure::To(_)) = outcome {
            return Some(Ending::Reset);
        }
        for _ in 0..TURNS {
            if self.closed || self.discarded >= MOST_DISCARDED || self.to.poll_read_ready(cx).is_pending() {
                return None;
            }
            match copy::discard(self.to) {
                Ok(0) => self.closed = true,
                Ok(bytes) => {
                    self.discarded += bytes;
                    self.last_sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Some(Ending::Reset),
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Whether a client that was sent everything by `since` had its chance to notice.
    fn has_had_time(&self, now: Instant, since: Instant) -> bool {
        let pause = self.idle().map_or(LINGER_PAUSE, |idle| idle.min(LINGER_PAUSE));
        now >= since + LONGEST_LINGER
            || now >= since.max(self.last_sent) + pause
            || self.discarded >= MOST_DISCARDED
    }

    /// How long nothing may move towards the survivor.
    fn patience(&self) -> Option<Duration> {
        if self.way == Way::Tx && self.direction.is_cut() {
            return Some(self.idle().map_or(ABORT_PATIENCE, |idle| idle.min(ABORT_PATIENCE)));
        }
        self.idle()
    }

    fn idle(&self) -> Option<Duration> {
        Some(self.idle_timeout).filter(|timeout| !timeout.is_zero())
    }
}
