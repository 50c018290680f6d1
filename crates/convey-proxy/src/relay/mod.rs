//! Two connected sockets, and everything between them until both have ended.
//!
//! How a connection ends: both FINs passed on; a reset from one side, passed on to the other as a reset once
//! that one has what was accepted for it; the idle timeout or the maximum duration, with a FIN, or with a RST
//! where bytes are lost by it; the proxy's close, with a RST to whoever was not sent a FIN.

mod clock;
mod copy;
mod direction;
mod kernel;
mod linger;
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

use crate::connect::Reached;
use crate::connections::Connection;
use crate::log::{self, Fate};
use crate::meters::{Meters, Way};
use clock::Clock;
use direction::{Break, Direction, Failure};
use linger::{Ending, Survivor};

/// How long a connection may be idle and last; zero: for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    idle_timeout: Duration,
    max_duration: Duration,
    /// How long one side may be silent after the other's FIN.
    half_close_timeout: Duration,
}

impl Limits {
    pub fn of(backend: &Backend) -> Self {
        Self {
            idle_timeout: backend.idle_timeout,
            max_duration: backend.max_duration,
            half_close_timeout: backend.ends.half_close_timeout,
        }
    }
}

/// Both sockets and both directions. Dropped before the end was reached (the proxy closes), a peer whose
/// direction has not finished gets a RST: a FIN would make what it has look complete. One that was sent its
/// FIN keeps what the kernel still holds for it.
struct Pair<'a> {
    client: TcpStream,
    server: TcpStream,
    tx: Direction,
    rx: Direction,
    meters: &'a Meters,
    ended: bool,
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if !self.ended {
            if !self.rx.finished() {
                reset(&self.client);
            }
            if !self.tx.finished() {
                reset(&self.server);
            }
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

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// How relaying ended.
enum Outcome {
    /// Nothing is owed to anybody.
    Over(Option<Reason>),
    /// One side failed; the other may still be owed something.
    Lost(Side),
}

/// Relays until both directions have ended. `timer` stands at the connect deadline.
pub(crate) async fn run(client: TcpStream, reached: Reached, mut timer: Pin<&mut Sleep>) {
    let Reached { server, holds_ack, ref meters, limits } = reached;
    let (tx, rx) = (Direction::to_server(holds_ack), Direction::to_client());
    let mut pair = Pair { client, server, tx, rx, meters, ended: false };
    let mut clock = Clock::begin(limits, timer.as_mut());
    let reason = match relay(&mut pair, &mut clock, timer.as_mut()).await {
        Outcome::Over(None) => {
            if let Some(witness) = &meters.witness {
                witness.ended_well();
            }
            meters.connection.story().ends(Fate::Closed);
            None
        }
        Outcome::Over(reason) => reason,
        // Boxed, so that connections which end otherwise do not carry room for it.
        Outcome::Lost(Side::Client) => {
            Box::pin(linger(&mut pair, Side::Server, limits, &clock, timer)).await;
            Some(Reason::ClientReset)
        }
        Outcome::Lost(Side::Server) => {
            // The client may stay for long; the server can take another.
            meters.server.leave();
            // A write that failed had something to write.
            let spoken = meters.connection.has_sent() || (pair.tx.ended() && !pair.tx.finished());
            let owed = spoken && !pair.tx.finished();
            Box::pin(linger(&mut pair, Side::Client, limits, &clock, timer)).await;
            // Only now is it known that no byte was on its way.
            if let Some(witness) = &meters.witness {
                witness.left_by_server(owed);
            }
            Some(Reason::ServerReset)
        }
    };
    pair.ended = true;
    if let Some(reason) = reason {
        meters.ended(reason);
    }
}

async fn relay(pair: &mut Pair<'_>, clock: &mut Clock, mut timer: Pin<&mut Sleep>) -> Outcome {
    let Pair { client, server, tx, rx, meters, .. } = pair;
    let (client, server) = (&*client, &*server);
    let (mut client_error, mut server_error) = (ErrorWatch::new(client), ErrorWatch::new(server));
    poll_fn(|cx| {
        let (mut sent, mut received) = (0, 0);
        let tx_failure = tx.poll(cx, client, server, rx.finished(), &mut sent).err();
        if let Some(Failure::To(Break::Midway)) = tx_failure {
            rx.source_broken = true;
        }
        let rx_failure = rx.poll(cx, server, client, tx.finished(), &mut received).err();
        if let Some(Failure::To(Break::Midway)) = rx_failure {
            tx.source_broken = true;
        }
        if sent > 0 {
            meters.delivered(Way::Tx, sent);
        }
        if received > 0 {
            meters.delivered(Way::Rx, received);
        }
        if sent + received > 0 {
            clock.moved();
        }
        if meters.connection.is_logged() {
            note_close(&meters.connection, tx, rx);
        }
        match (tx_failure, rx_failure) {
            (None, None) if tx.finished() && rx.finished() => return Poll::Ready(Outcome::Over(None)),
            (None, None) => {}
            // Both sides are gone.
            (Some(Failure::From), Some(Failure::From)) | (Some(Failure::To(_)), Some(Failure::To(_))) => {
                return Poll::Ready(Outcome::Over(Some(Reason::ClientReset)));
            }
            (Some(Failure::From), _) | (_, Some(Failure::To(_))) => {
                return Poll::Ready(Outcome::Lost(Side::Client));
            }
            (Some(Failure::To(_)), _) | (_, Some(Failure::From)) => {
                return Poll::Ready(Outcome::Lost(Side::Server));
            }
        }
        // A socket that is not being read from would not tell of a reset otherwise.
        if !tx.reading && client_error.fired(cx) {
            tx.source_broken = waiting_error(client) == Break::Midway;
            return Poll::Ready(Outcome::Lost(Side::Client));
        }
        if !rx.reading && server_error.fired(cx) {
            rx.source_broken = waiting_error(server) == Break::Midway;
            return Poll::Ready(Outcome::Lost(Side::Server));
        }
        if tx.finished() != rx.finished() {
            clock.half_closed(timer.as_mut());
            if let (Some(witness), true) = (&meters.witness, rx.finished()) {
                witness.left_by_server(meters.connection.has_sent());
            }
        }
        let Some(reason) = clock.poll(cx, timer.as_mut(), client, server) else { return Poll::Pending };
        if tx.holds_bytes() {
            reset(server);
        }
        if rx.holds_bytes() {
            reset(client);
        }
        Poll::Ready(Outcome::Over(Some(reason)))
    })
    .await
}

/// Tells the log who closed first.
fn note_close(connection: &Connection, tx: &Direction, rx: &Direction) {
    if tx.source_closed() {
        connection.story().closes(log::Side::Client);
    }
    if rx.source_closed() {
        connection.story().closes(log::Side::Server);
    }
}

/// Takes the error that waits on `socket`.
fn waiting_error(socket: &TcpStream) -> Break {
    match socket.take_error() {
        Ok(Some(error)) => Break::of(&error),
        _ => Break::Midway,
    }
}

/// Gives `survivor` what is still owed to it, then ends it.
async fn linger(pair: &mut Pair<'_>, survivor: Side, limits: Limits, clock: &Clock, timer: Pin<&mut Sleep>) {
    let Pair { client, server, tx, rx, meters, .. } = pair;
    let (client, server) = (&*client, &*server);
    let end_of_life = clock.end_of_life();
    let survivor = match survivor {
        Side::Client => Survivor::client(rx, server, client, limits.idle_timeout, end_of_life),
        Side::Server => Survivor::server(tx, client, server, limits.idle_timeout, end_of_life),
    };
    let socket = survivor.socket();
    match survivor.linger(meters, timer).await {
        Ending::Reset => reset(socket),
        Ending::Close => {}
    }
}
