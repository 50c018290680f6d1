//! Between one attempt to reach a server and the next: the queue for a place, and pauses before servers are tried again.
//!
//! Rules: at a limit of the backend or of all its servers, and where no server is up, a connection waits in the backend's
//! queue, if it has one; nobody tries while others wait, but the first of them. A connection whose connect failed pauses
//! before it tries again or stands at the end of the queue, so that it neither hammers a server nor holds up those
//! behind it. Waiting ones go by the configuration in service: their backend of that name, or as it was last when
//! that is gone. A drain changes nothing for them until its deadline, when they are cut.
//!
//! A client is gone when it resets, or when it sends its FIN before any byte: with bytes before it, it may have
//! said what it wants and wait for the answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use convey_core::{Backend, Frontend, Reason, Ticket, WaitsFor};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::connect::{Attempt, Reached};
use crate::connections::Connection;
use crate::published::Published;
use crate::shortage::Spare;
use crate::worker::Worker;

/// Before servers that failed are tried again; doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a connection takes from one attempt to the next.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Its place in the queue, until it has one at a server.
    pub ticket: Option<Ticket>,
    /// A connect has failed in this attempt.
    pub failed: bool,
    /// What its first connect takes the place of.
    pub spare: Option<Spare>,
}

impl Standing {
    /// Whether it may look for a place: nobody tries while others wait, but the first of them.
    fn may_try(&self, backend: &Backend) -> bool {
        self.ticket.is_some() || !backend.queue.is_waited_in()
    }
}

/// Tries to reach a server of a backend, given by its index, as long as may be waited for one. No `async fn`, which would keep its
/// arguments twice.
pub(crate) fn reach<'a>(
    worker: &'a Arc<Worker>,
    published: &'a Published,
    (frontend, backend, connection): (&'a Frontend, usize, &'a Arc<Connection>),
    (client, spare): (&'a TcpStream, Option<Spare>),
    mut timer: Pin<&'a mut Sleep>,
) -> impl Future<Output = Result<Reached, Reason>> + 'a {
    let backend = &published.snapshot.backends[backend];
    let mut standing = Standing { spare, ..Standing::default() };
    async move {
        let mut reason = Reason::LimitBackend;
        if standing.may_try(backend) {
            let mut attempt = Attempt::new(worker, frontend, backend, (client, connection), &mut standing);
            match attempt.run(timer.as_mut()).await {
                Ok(reached) => return Ok(reached),
                Err(met) => reason = met,
            }
        }
        let whom = (frontend, backend, connection);
        // Boxed, so that connections which need not wait do not carry room for it.
        Box::pin(Patience::new(standing).reach(worker, whom, reason, client, timer)).await
    }
}

/// The backend of that name in the configuration in service.
fn newest(worker: &Worker, backend: &Backend) -> Option<(Arc<Published>, usize)> {
    let published = worker.shared.published.load_full();
    let index = published.snapshot.backends.iter().position(|b| b.name == backend.name)?;
    Some((published, index))
}

/// What a connection waits for, and until when.
#[derive(Debug, Default)]
struct Patience {
    standing: Standing,
    queue_until: Option<Instant>,
    retry_until: Option<Instant>,
    pause: Duration,
}

/// How waiting ended.
enum Waited {
    Turn,
    TimeOver,
    ClientGone,
}

impl Patience {
    fn new(standing: Standing) -> Self {
        Self { standing, ..Self::default() }
    }

    /// Tries again, as long as may be waited, after an attempt that has met `reason`.
    async fn reach(
        mut self,
        worker: &Arc<Worker>,
        (frontend, first, connection): (&Frontend, &Backend, &Arc<Connection>),
        mut reason: Reason,
        client: &TcpStream,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<Reached, Reason> {
        let mut newer: Option<(Arc<Published>, usize)> = None;
        loop {
            let backend = newer.as_ref().map_or(first, |(published, at)| &published.snapshot.backends[*at]);
            self.wait((worker, frontend, connection), backend, reason, client, timer.as_mut()).await?;
            newer = newest(worker, backend).or(newer);
            let backend = newer.as_ref().map_or(first, |(published, at)| &published.snapshot.backends[*at]);
            reason = Reason::LimitBackend;
            if self.standing.may_try(backend) {
                let mut attempt =
                    Attempt::new(worker, frontend, backend, (client, connection), &mut self.standing);
                match attempt.run(timer.as_mut()).await {
                    Ok(reached) => return Ok(reached),
                    Err(met) => reason = met,
                }
            }
        }
    }

    /// Waits until another attempt makes sense, or says why the connection is refused: for `reason`, which the last
    /// attempt met, or since it waited in vain.
    async fn wait(
        &mut self,
        (worker, frontend, connection): (&Worker, &Frontend, &Connection),
        backend: &Backend,
        reason: Reason,
        client: &TcpStream,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), Reason> {
        let now = Instant::now();
        let rules = backend.waiting;
        let failed = std::mem::take(&mut self.standing.failed);
        let at_limit = matches!(reason, Reason::LimitServer | Reason::LimitBackend);
        let no_server = reason == Reason::NoServer;
        if !(at_limit || no_server || reason == Reason::RetriesExhausted) {
            return Err(reason);
        }
        if !rules.retry_timeout.is_zero() && (failed || no_server) {
            self.retry_until.get_or_insert(now + rules.retry_timeout);
        }
        let queues = self.standing.ticket.is_some() || ((at_limit || no_server) && rules.queue != 0);
        if queues {
            self.queue_until.get_or_insert(now + rules.queue_timeout);
        }
        let until = if queues { self.queue_until.max(self.retry_until) } else { self.retry_until };
        let Some(until) = until.filter(|until| now < *until) else {
            return Err(if queues { timed_out(backend) } else { reason });
        };
        let waits = Waits::begins(worker, frontend, connection, WaitsFor::Server);
        if failed || !queues {
            self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
            timer.as_mut().reset(until.min(now + self.pause));
            if let Waited::ClientGone = waited(None, client, timer.as_mut()).await {
                return waits.over(Err(Reason::QueueAbandoned));
            }
            if !queues {
                return waits.over(Ok(()));
            }
        }
        if self.standing.ticket.is_none() {
            self.standing.ticket = backend.queue.enter(rules.queue);
        }
        let Some(ticket) = &self.standing.ticket else {
            return waits.over(Err(if rules.queue == 0 { reason } else { Reason::QueueFull }));
        };
        timer.as_mut().reset(until);
        let waited = waited(Some(ticket), client, timer).await;
        waits.over(match waited {
            Waited::Turn => Ok(()),
            Waited::TimeOver => Err(timed_out(backend)),
            Waited::ClientGone => Err(Reason::QueueAbandoned),
        })
    }
}

/// Why a connection is refused whose time in the queue is over.
fn timed_out(backend: &Backend) -> Reason {
    backend.queue.count_timed_out();
    Reason::QueueTimeout
}

/// A connection that waits for a server or for what says which; when the proxy closes meanwhile, it is cut by the drain deadline.
pub(crate) struct Waits<'a> {
    worker: &'a Worker,
    frontend: &'a Frontend,
    connection: &'a Connection,
    waiting: bool,
}

impl<'a> Waits<'a> {
    pub fn begins(
        worker: &'a Worker,
        frontend: &'a Frontend,
        connection: &'a Connection,
        what: WaitsFor,
    ) -> Self {
        connection.waits_for(Some(what));
        Self { worker, frontend, connection, waiting: true }
    }

    pub fn over<T>(mut self, outcome: T) -> T {
        self.waiting = false;
        self.connection.waits_for(None);
        outcome
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let shared = &self.worker.shared;
        if self.waiting && shared.is_closing() {
            shared.reasons.count(Reason::DrainDeadline);
            self.frontend.reasons.count(Reason::DrainDeadline);
        }
    }
}

/// Waits for the turn of `ticket`, or until `timer` fires.
async fn waited(ticket: Option<&Ticket>, client: &TcpStream, mut timer: Pin<&mut Sleep>) -> Waited {
    let mut spoke = false;
    poll_fn(|cx| {
        if ticket.is_some_and(|ticket| ticket.poll_turn(cx).is_ready()) {
            return Poll::Ready(Waited::Turn);
        }
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Waited::TimeOver);
        }
        if !spoke {
            match poll_first_byte(client, cx) {
                Poll::Ready(true) => spoke = true,
                Poll::Ready(false) => return Poll::Ready(Waited::ClientGone),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the client has sent a byte (or a reset, which is noticed elsewhere) rather than its FIN alone.
fn poll_first_byte(client: &TcpStream, cx: &mut Context<'_>) -> Poll<bool> {
    let mut byte = [0];
    client.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map(|peeked| !matches!(peeked, Ok(0)))
}
