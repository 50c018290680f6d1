//! Two connected sockets, and everything between them until both have ended.
//!
//! How a connection ends: both FINs passed on; a reset from one side, passed on to the other as a reset; the
//! idle timeout or the maximum duration, with a FIN, or with a RST where bytes are lost by it; the proxy's
//! close, with a RST to both.

mod clock;
mod copy;
mod direction;
mod pipe_pool;
mod splice;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use convey_core::{Backend, Reason};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::meters::{Meters, Way};
use clock::Clock;
use direction::{Direction, Failure};

/// How long a connection may be idle and last; zero: for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    idle_timeout: Duration,
    max_duration: Duration,
}

impl Limits {
    pub fn of(backend: &Backend) -> Self {
        Self { idle_timeout: backend.idle_timeout, max_duration: backend.max_duration }
    }
}

/// Both sockets. Dropped before the end was reached (the proxy closes), both peers get a RST: a FIN would make
/// what they have look complete.
struct Pair<'a> {
    client: TcpStream,
    server: TcpStream,
    meters: &'a Meters,
    ended: bool,
}

impl Pair<'_> {
    fn end(&mut self, reason: Option<Reason>) {
        self.ended = true;
        if let Some(reason) = reason {
            self.meters.ended(reason);
        }
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if !self.ended {
            reset(&self.client);
            reset(&self.server);
            if self.meters.shared.is_closing() {
                self.meters.ended(Reason::DrainDeadline);
            }
        }
    }
}

/// Makes closing `socket` send a RST.
fn reset(socket: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = socket.set_zero_linger();
}

/// Notices an error on a socket that nobody reads from. Most connections never need it, so it is allocated
/// when it is first asked.
struct ErrorWatch<'a> {
    socket: &'a TcpStream,
    ready: Option<Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + 'a>>>,
}

impl<'a> ErrorWatch<'a> {
    fn new(socket: &'a TcpStream) -> Self {
        Self { socket, ready: None }
    }

    /// Not to be asked again once it has fired.
    fn fired(&mut self, cx: &mut Context<'_>) -> bool {
        let socket = self.socket;
        let ready = self.ready.get_or_insert_with(|| Box::pin(socket.ready(Interest::ERROR)));
        ready.as_mut().poll(cx).is_ready()
    }
}

/// Relays until both directions have ended. `timer` stands at the connect deadline.
pub(crate) async fn run(
    client: TcpStream,
    server: TcpStream,
    meters: &Meters,
    limits: Limits,
    mut timer: Pin<&mut Sleep>,
) {
    let mut pair = Pair { client, server, meters, ended: false };
    let reason = relay(&pair.client, &pair.server, meters, Clock::begin(limits, timer.as_mut()), timer).await;
    pair.end(reason);
}

async fn relay(
    client: &TcpStream,
    server: &TcpStream,
    meters: &Meters,
    mut clock: Clock,
    mut timer: Pin<&mut Sleep>,
) -> Option<Reason> {
    let mut tx = Direction::new(false);
    // Accepted sockets inherit TCP_NODELAY from their listener.
    let mut rx = Direction::new(true);
    let (mut client_error, mut server_error) = (ErrorWatch::new(client), ErrorWatch::new(server));
    poll_fn(|cx| {
        let (mut sent, mut received) = (0, 0);
        let tx_failure = tx.poll(cx, client, server, rx.finished(), &mut sent).err();
        let rx_failure = rx.poll(cx, server, client, tx.finished(), &mut received).err();
        if sent > 0 {
            meters.delivered(Way::Tx, sent);
        }
        if received > 0 {
            meters.delivered(Way::Rx, received);
        }
        if sent + received > 0 {
            clock.moved();
        }
        let gone = match (tx_failure, rx_failure) {
            (Some(Failure::From), _) | (_, Some(Failure::To)) => Some(Reason::ClientReset),
            (Some(Failure::To), _) | (_, Some(Failure::From)) => Some(Reason::ServerReset),
            (None, None) if tx.finished() && rx.finished() => return Poll::Ready(None),
            // A socket that is not being read from would not tell of a reset otherwise.
            _ if !tx.reading && client_error.fired(cx) => Some(Reason::ClientReset),
            _ if !rx.reading && server_error.fired(cx) => Some(Reason::ServerReset),
            _ => None,
        };
        if let Some(reason) = gone {
            reset(if reason == Reason::ClientReset { server } else { client });
            return Poll::Ready(Some(reason));
        }
        let Some(reason) = clock.poll(cx, timer.as_mut(), server) else { return Poll::Pending };
        if tx.holds_bytes() {
            reset(server);
        }
        if rx.holds_bytes() {
            reset(client);
        }
        Poll::Ready(Some(reason))
    })
    .await
}
