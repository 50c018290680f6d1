//! The accept loop of one listener on one worker.
//!
//! A refused client is accepted and closed at once: it sees a FIN, or the kernel's RST when it has already
//! sent something. TCP_DEFER_ACCEPT is not used: it would hold back clients whose server speaks first.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use convey_core::{Event, Reason};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::connect;
use crate::limits::ClientPlace;
use crate::listener::ListenGroup;
use crate::shared::Published;
use crate::worker::{Worker, panic_message};

/// Connections taken in a row before others on this thread get their turn.
const BATCH: usize = 64;
/// How long accepting pauses when a resource has run out.
pub(crate) const BACKOFF: Duration = Duration::from_millis(100);
/// A shortage not seen for this long is over.
const EPISODE_GAP: Duration = Duration::from_secs(5);

/// Whether file descriptors or memory are short on this worker. One episode is one event and one count,
/// however often it shows before it is over.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    pause: AtomicBool,
    last_seen: Mutex<Option<Instant>>,
}

impl Shortage {
    /// Notes that something ran out, so that accepting pauses; true when an episode begins.
    pub fn note(&self) -> bool {
        self.pause.store(true, Relaxed);
        let mut last_seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        last_seen.replace(Instant::now()).is_none_or(|at| at.elapsed() > EPISODE_GAP)
    }

    fn take_pause(&self) -> bool {
        self.pause.load(Relaxed) && self.pause.swap(false, Relaxed)
    }
}

/// Whether `error` says that this host is short of something, not that anything is wrong with the peer.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Accepts until told to stop, then takes what still waits in the queue.
pub(crate) async fn run(
    worker: Arc<Worker>,
    group: Arc<ListenGroup>,
    listener: TcpListener,
    stop: Arc<Notify>,
) {
    let mut stop = pin!(stop.notified());
    let mut batch = 0;
    loop {
        let accepted = poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            listener.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => break,
            Some(Ok((client, peer))) => {
                admit(&worker, &group, client, peer);
                batch += 1;
            }
            Some(Err(error)) if is_shortage(&error) => report_shortage(&worker, &group, &error),
            // The peer was gone before it was accepted, or a network error that accept passes on (accept(2)).
            Some(Err(_)) => batch += 1,
        }
        if worker.fds_short.take_pause() {
            tokio::time::sleep(BACKOFF).await;
        }
        if batch >= BATCH {
            batch = 0;
            tokio::task::yield_now().await;
        }
    }
    drain(&worker, &group, listener);
}

/// The reactor may not have heard yet of connections that wait, so the socket itself is asked.
fn drain(worker: &Arc<Worker>, group: &ListenGroup, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((client, peer)) = listener.accept() {
        if client.set_nonblocking(true).is_ok()
            && let Ok(client) = TcpStream::from_std(client)
        {
            admit(worker, group, client, peer);
        }
    }
}

fn report_shortage(worker: &Worker, group: &ListenGroup, error: &io::Error) {
    let published = worker.shared.published.load_full();
    if worker.fds_short.note() {
        worker.shared.reasons.count(Reason::FdsExhausted);
        let mut frontend = group.frontend.clone();
        if let Some(f) = published.frontend_of(group.id).map(|f| &published.snapshot.frontends[f]) {
            f.reasons.count(Reason::FdsExhausted);
            frontend = f.name.clone();
        }
        worker.shared.events.send(Event::AcceptBackoff { frontend, cause: error.to_string() });
    }
}

fn admit(worker: &Arc<Worker>, group: &ListenGroup, client: TcpStream, peer: SocketAddr) {
    let Some((published, index)) = route(worker, group) else { return };
    let frontend = &published.snapshot.frontends[index];
    match ClientPlace::take(&worker.shared, published.snapshot.limits, frontend, peer.ip()) {
        Ok(place) => {
            tokio::spawn(serve(worker.clone(), published, index, client, place));
        }
        Err(reason) => {
            worker.shared.reasons.count(reason);
            frontend.reasons.count(reason);
        }
    }
}

/// The configuration a new connection goes by: today's, or the last one that knew this listener.
fn route(worker: &Worker, group: &ListenGroup) -> Option<(Arc<Published>, usize)> {
    let published = worker.shared.published.load_full();
    if let Some(index) = published.frontend_of(group.id) {
        return Some((published, index));
    }
    let last = group.retired.get()?.clone();
    let index = last.frontend_of(group.id)?;
    Some((last, index))
}

/// Runs one connection; a panic in it ends it alone and is reported.
async fn serve(
    worker: Arc<Worker>,
    published: Arc<Published>,
    frontend: usize,
    client: TcpStream,
    place: ClientPlace,
) {
    // Made here and not by the caller: a future that is passed in is kept twice, as argument and pinned.
    let mut connection = pin!(connect::serve(worker.clone(), published, frontend, client, place));
    let panic = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(None),
        Err(panic) => Poll::Ready(Some(panic)),
    })
    .await;
    if let Some(panic) = panic {
        let message = format!("a connection was dropped: its task panicked: {}", panic_message(&*panic));
        worker.shared.events.send_guarded(Event::Warning { message });
    }
}
