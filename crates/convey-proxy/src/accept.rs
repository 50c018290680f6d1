//! The accept loop of one listener on one worker.
//!
//! A refused client is accepted and closed at once: it sees a FIN, or the kernel's RST when it has already
//! sent something. TCP_DEFER_ACCEPT is not used: it would hold back clients whose server speaks first.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use convey_core::{Event, Reason, WaitsFor};
use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::arrive::{self, Arrived};
use crate::choice;
use crate::connect::{self, CutWithoutServer};
use crate::connections::Listed;
use crate::events::Subject;
use crate::limits::{self, ClientPlace};
use crate::listener::ListenGroup;
use crate::log::Entry;
use crate::published::Published;
use crate::shortage::{BACKOFF, Kept, Spare, is_shortage};
use crate::waiting::Waits;
use crate::worker::{Worker, panic_message};

/// Connections taken in a row before others on this thread get their turn.
const MOST_IN_A_ROW: usize = 64;
/// How long a listener that closes waits for descriptors for those in its queue.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// What an error of accept(2) says.
enum Trouble {
    /// Nobody waits.
    Empty,
    /// The peer was gone before it was accepted, or its network error is passed on; the next one may be fine.
    Peer,
    /// This host is short of something.
    Shortage,
    /// The socket does not listen any more: closed from outside (`ss -K`).
    Closed,
    /// Nothing that accept(2) knows.
    Unknown,
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            _ if is_shortage(error) => Self::Shortage,
            Some(Errno::AGAIN) => Self::Empty,
            Some(Errno::INVAL) => Self::Closed,
            Some(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM,
            ) => Self::Peer,
            _ => Self::Unknown,
        }
    }
}

/// Accepts until told to stop, then takes what still waits in the queue.
pub(crate) async fn run(
    worker: Arc<Worker>,
    group: Arc<ListenGroup>,
    mut listener: TcpListener,
    stop: Arc<Notify>,
) {
    let mut stop = pin!(stop.notified());
    let mut batch = 0;
    let most = worker.shared.file_limit.batch(worker.shared.workers(), MOST_IN_A_ROW);
    // Whether the limit on open files is near.
    let mut near = false;
    loop {
        let mut spare = None;
        if near {
            match worker.shared.file_limit.keep_one(&listener) {
                Kept::NotNeeded => near = false,
                Kept::Spare(kept) => spare = Some(kept),
                Kept::None => {
                    report_shortage(&worker, &group, worker.shared.file_limit.told());
                    if paused(&worker, stop.as_mut()).await {
                        break;
                    }
                    continue;
                }
            }
        }
        let accepted = poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            listener.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => break,
            Some(Ok((client, peer))) => {
                near |= worker.shared.file_limit.is_near(&client);
                admit(&worker, &group, client, peer, spare);
                batch += 1;
            }
            Some(Err(error)) => match Trouble::of(&error) {
                Trouble::Empty => batch += 1,
                Trouble::Peer => {
                    failed(&worker, &group);
                    batch += 1;
                }
                Trouble::Shortage => {
                    near = true;
                    report_shortage(&worker, &group, error.to_string());
                }
                Trouble::Closed => {
                    failed(&worker, &group);
                    if let Some(revived) = revive(&worker, &group) {
                        listener = revived;
                    }
                }
                Trouble::Unknown => {
                    failed(&worker, &group);
                    warn(&worker, &group, &format!("accept: {error}; it tries again"));
                    worker.fds_short.pause();
                }
            },
        }
        if paused(&worker, stop.as_mut()).await {
            break;
        }
        if batch >= most {
            batch = 0;
            tokio::task::yield_now().await;
        }
    }
    drop(listener);
    drain(&worker, &group).await;
}

/// Waits while accepting is to pause; tells whether it is to stop.
async fn paused(worker: &Worker, mut stop: Pin<&mut Notified<'_>>) -> bool {
    while let Some(left) = worker.fds_short.paused_for() {
        let mut over = pin!(tokio::time::sleep(left));
        let stopped = poll_fn(|cx| match stop.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => over.as_mut().poll(cx).map(|()| false),
        });
        if stopped.await {
            return true;
        }
    }
    false
}

/// The reactor may not have heard yet of connections that wait, so the socket itself is asked.
async fn drain(worker: &Arc<Worker>, group: &ListenGroup) {
    let give_up = Instant::now() + DRAIN_PATIENCE;
    while !worker.shared.is_closing() && Instant::now() < give_up {
        match group.accept(worker.number).and_then(|(client, peer)| Ok((TcpStream::from_std(client)?, peer)))
        {
            Ok((client, peer)) => admit(worker, group, client, peer, None),
            Err(error) => match Trouble::of(&error) {
                Trouble::Peer => failed(worker, group),
                Trouble::Shortage => {
                    report_shortage(worker, group, error.to_string());
                    tokio::time::sleep(BACKOFF).await;
                }
                Trouble::Empty => return,
                Trouble::Closed | Trouble::Unknown => return failed(worker, group),
            },
        }
    }
}

/// Listens anew in place of a socket that was closed from outside.
fn revive(worker: &Worker, group: &ListenGroup) -> Option<TcpListener> {
    let revived = group.revive(worker.number).and_then(TcpListener::from_std);
    let outcome = match &revived {
        Ok(_) => "it listens again".to_owned(),
        Err(error) => format!("it cannot listen again: {error}; it tries on"),
    };
    warn(worker, group, &format!("its socket was closed from outside; {outcome}"));
    worker.fds_short.pause();
    revived.ok()
}

fn failed(worker: &Worker, group: &ListenGroup) {
    worker.shared.reasons.count(Reason::AcceptFailed);
    if let Some((published, index)) = route(worker, group) {
        published.snapshot.frontends[index].reasons.count(Reason::AcceptFailed);
    }
}

fn warn(worker: &Worker, group: &ListenGroup, what: &str) {
    let subject = Subject("listener", group.frontend.clone(), group.local.to_string().into());
    worker.shared.events.send_thinned(subject, || Event::Warning {
        message: format!("listener {} of frontend {}: {what}", group.local, group.frontend),
    });
}

fn report_shortage(worker: &Worker, group: &ListenGroup, cause: String) {
    let published = worker.shared.published.load_full();
    if worker.fds_short.note() {
        let frontend = published.frontend_of(group.id).map(|f| published.snapshot.frontends[f].name.clone());
        let frontend = frontend.unwrap_or_else(|| group.frontend.clone());
        worker.shared.events.send(Event::AcceptBackoff { frontend, cause });
    }
}

fn admit(
    worker: &Arc<Worker>,
    group: &ListenGroup,
    client: TcpStream,
    peer: SocketAddr,
    spare: Option<Spare>,
) {
    let Some((published, index)) = route(worker, group) else { return };
    group.make_ordinary(&client);
    let frontend = &published.snapshot.frontends[index];
    if !frontend.sockets.tcp_user_timeout.is_zero() {
        // Without it the kernel gives up later.
        let _ = SockRef::from(&client).set_tcp_user_timeout(Some(frontend.sockets.tcp_user_timeout));
    }
    if let Some(accept) = &frontend.accept_proxy {
        let place = if accept.trusts(peer.ip()) {
            ClientPlace::reserve(&worker.shared.admission, published.snapshot.limits, frontend)
        } else {
            Err(Reason::ProxyUntrusted)
        };
        match place {
            Ok(place) => {
                let backend = &published.snapshot.backends[frontend.backend].name;
                let names = (&frontend.name, group.local, backend);
                let ticket = worker.shared.log.ticket();
                let arrived = Arrived::directly(peer);
                let listed = worker.shared.connections.add(worker.number, arrived, names, ticket);
                let connection = listed.connection.clone();
                let places = (place, listed, spare);
                let task = tokio::spawn(arrive(worker.clone(), published, index, client, places));
                connection.runs_as(task.abort_handle());
            }
            Err(reason) => refuse(worker, &published, index, (peer, group.local), reason),
        }
        return;
    }
    let place = limits::may_come(frontend, peer.ip()).and_then(|()| {
        ClientPlace::take(&worker.shared.admission, published.snapshot.limits, frontend, peer.ip())
    });
    match place {
        Ok(place) => {
            begin(worker, published, index, client, (Arrived::directly(peer), group.local), (place, spare))
        }
        Err(reason) => refuse(worker, &published, index, (peer, group.local), reason),
    }
}

/// Has a client that is known and admitted served.
fn begin(
    worker: &Arc<Worker>,
    published: Arc<Published>,
    index: usize,
    client: TcpStream,
    (arrived, listen): (Arrived, SocketAddr),
    (place, spare): (ClientPlace, Option<Spare>),
) {
    let frontend = &published.snapshot.frontends[index];
    let backend = &published.snapshot.backends[frontend.backend].name;
    let names = (&frontend.name, listen, backend);
    let listed = worker.shared.connections.add(worker.number, arrived, names, worker.shared.log.ticket());
    let connection = listed.connection.clone();
    let task = tokio::spawn(serve(worker.clone(), published, index, client, (place, listed, spare)));
    connection.runs_as(task.abort_handle());
}

/// Closes a client and tells why.
fn refuse(
    worker: &Worker,
    published: &Published,
    index: usize,
    ends: (SocketAddr, SocketAddr),
    reason: Reason,
) {
    let frontend = &published.snapshot.frontends[index];
    let backend = &published.snapshot.backends[frontend.backend];
    choice::tell(&worker.shared.watches, ends, (frontend, backend), || Err(reason));
    worker.shared.reasons.count(reason);
    frontend.reasons.count(reason);
    if let Some(ticket) = worker.shared.log.ticket() {
        ticket.tell(worker.number, false, || Entry::refused(ends, (&frontend.name, &backend.name), reason));
    }
}

/// Waits for what `client` says of itself, then has it served. A task of its own, so that those who are known at once
/// carry no room for it.
async fn arrive(
    worker: Arc<Worker>,
    published: Arc<Published>,
    index: usize,
    client: TcpStream,
    (mut place, listed, spare): (ClientPlace, Listed, Option<Spare>),
) {
    let (peer, listen) = listed.connection.ends();
    let arrived = {
        let frontend = &published.snapshot.frontends[index];
        let Some(accept) = &frontend.accept_proxy else { return };
        let cut = CutWithoutServer::new(&worker, &listed.connection);
        let waits = Waits::begins(&worker, frontend, &listed.connection, WaitsFor::ProxyHeader);
        let mut header = pin!(arrive::read(&client, peer, accept));
        let arrived = waits.over(guarded(&worker, header.as_mut()).await);
        std::mem::forget(cut);
        arrived
    };
    // From here on it is listed, and logged, as whose it is.
    listed.leave();
    match arrived {
        Some(Ok(arrived)) => {
            let (frontend, who) = (&published.snapshot.frontends[index], arrived.client.ip());
            let admitted = limits::may_come(frontend, who)
                .and_then(|()| place.admit(published.snapshot.limits, frontend, who));
            match admitted {
                Ok(()) => begin(&worker, published, index, client, (arrived, listen), (place, spare)),
                Err(reason) => refuse(&worker, &published, index, (arrived.client, listen), reason),
            }
        }
        Some(Err(reason)) => refuse(&worker, &published, index, (peer, listen), reason),
        None => {}
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

/// Runs one connection.
async fn serve(
    worker: Arc<Worker>,
    published: Arc<Published>,
    frontend: usize,
    client: TcpStream,
    places: (ClientPlace, Listed, Option<Spare>),
) {
    // Made here and not by the caller: a future that is passed in is kept twice, as argument and pinned.
    let mut connection = pin!(connect::serve(worker.clone(), published, frontend, client, places));
    guarded(&worker, connection.as_mut()).await;
}

/// Runs what a connection needs; a panic in it ends that connection alone and is reported.
async fn guarded<F: Future>(worker: &Worker, mut connection: Pin<&mut F>) -> Option<F::Output> {
    let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await;
    match outcome {
        Ok(output) => Some(output),
        Err(panic) => {
            let message = format!("a connection was dropped: its task panicked: {}", panic_message(&*panic));
            worker.shared.events.send_guarded(Event::Warning { message });
            None
        }
    }
}
