//! The part of one UDP frontend that one worker serves: datagrams from its socket to the servers, and back.
//!
//! One task, one epoll instance with the frontend's socket and the sockets of all sessions in it. A turn reads as much
//! as a [`Batch`] holds from each socket that is ready and never waits: what does not go out at once is dropped and
//! counted, as a router would.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use convey_core::{Event, Frontend, Protocol, Reason, ReasonCounters, Snapshot};
use rustix::io::Errno;
use tokio::time::{Sleep, sleep_until};

use super::batch::{self, Batch, SLOTS};
use super::epoll::{Epoll, Event as Readiness, EventFlags};
use super::exchange::Numbers;
use super::group::{Group, Service};
use super::session::Session;
use super::table::{Id, Key, Queue, Table};
use crate::descriptors;
use crate::events::Subject;
use crate::log::Fate;
use crate::published::Published;
use crate::worker::Worker;

/// Sockets looked at in one turn.
const EVENTS: usize = 64;
/// Names the frontend's socket; no session has this name, since places are fewer.
const CLIENTS: u64 = u64::MAX;
/// A session moves in its queue, and ends, with a precision of this part of the idle timeout.
const PACE: u32 = 16;
/// Pause after an error of the frontend's socket that says nothing of a datagram.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Servers tried for one client's datagrams when sending itself fails.
const MOST_FAILURES: u32 = 3;
/// How often sessions are looked at where there is a maximum duration.
const SWEEP: Duration = Duration::from_millis(500);

thread_local! {
    /// A turn waits for nothing, so all frontends of a worker use the same memory.
    static ROOM: RefCell<Room> = RefCell::new(Room {
        requests: Batch::new(),
        answers: Batch::new(),
        waiting: Vec::with_capacity(SLOTS),
        events: Vec::with_capacity(EVENTS),
    });
}

struct Room {
    requests: Batch,
    answers: Batch,
    /// Whose answer each slot of `answers` holds; `None`: nobody's.
    waiting: Vec<Option<Id>>,
    events: Vec<Readiness>,
}

/// What the frontend says of its sessions.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub numbers: Numbers,
    pub idle_timeout: Duration,
    max_duration: Duration,
    pub reasons: Arc<ReasonCounters>,
}

pub(crate) struct Relay {
    pub(super) worker: Arc<Worker>,
    pub(super) group: Arc<Group>,
    epoll: Arc<Epoll>,
    pub(super) table: Table<Session>,
    pub(super) options: Options,
    /// The snapshot that `options` are of.
    seen: u64,
    /// Datagrams that found no room in the socket, as far as the kernel has told.
    lost: u32,
    /// Descriptors from this number on are not for sessions.
    pub(super) most_descriptors: u64,
    swept: Instant,
    pause: bool,
}

impl Relay {
    /// Serves `group` on `worker`, in whose runtime it must be called.
    ///
    /// # Errors
    /// Descriptors ran out, or the group's frontend is not known to anybody.
    pub fn new(worker: Arc<Worker>, group: Arc<Group>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(group.socket(worker.number), CLIENTS)?;
        let published = worker.shared.published.load_full();
        let (routed, index) = route(&published, &group).ok_or(io::ErrorKind::NotFound)?;
        let options = options(&routed.snapshot, index);
        let relay = Self {
            epoll: Arc::new(epoll),
            table: Table::new(),
            options,
            seen: published.snapshot.version,
            lost: 0,
            most_descriptors: descriptors::for_sessions(),
            swept: Instant::now(),
            pause: false,
            worker,
            group,
        };
        relay.put_together();
        Ok(relay)
    }

    /// Runs until the group is closed or has nothing left to do.
    pub async fn run(mut self) {
        let epoll = self.epoll.clone();
        let mailbox = self.group.mailbox(self.worker.number).clone();
        let mut told = pin!(mailbox.wake.notified());
        let mut timer = pin!(sleep_until(tokio::time::Instant::now()));
        let mut armed = None;
        loop {
            // Before the first wait, too: whoever was woken for that may have been the relay before this one.
            match self.group.service() {
                Service::Open => {}
                Service::Leaving if self.group.has_sessions() => {}
                Service::Leaving => return,
                Service::Closed => return self.end_all(Reason::Leaving),
            }
            self.rearm(&mut armed, timer.as_mut());
            let ready = poll_fn(|cx| {
                if told.as_mut().poll(cx).is_ready() {
                    told.set(mailbox.wake.notified());
                    return Poll::Ready(None);
                }
                if armed.is_some() && timer.as_mut().poll(cx).is_ready() {
                    armed = None;
                    return Poll::Ready(None);
                }
                epoll.poll(cx).map(Result::ok)
            })
            .await;
            for id in mailbox.take_ending() {
                drop(self.table.remove(Id::of_u64(id)));
            }
            let more = ready.is_some() && self.turn();
            if let Some(mut ready) = ready
                && !more
            {
                // Whatever comes from now on is told again: all that was ready has been read to its end.
                ready.clear_ready();
            }
            self.expire(Instant::now());
            if std::mem::take(&mut self.pause) {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Serves what is ready once; tells whether there may be more.
    fn turn(&mut self) -> bool {
        ROOM.with_borrow_mut(|room| {
            let published = self.worker.shared.published.load_full();
            self.follow(&published);
            if let Err(error) = self.epoll.ready(&mut room.events) {
                return error.kind() == io::ErrorKind::Interrupted;
            }
            let now = Instant::now();
            let mut more = room.events.len() == EVENTS;
            for at in 0..room.events.len() {
                let event = room.events[at];
                match event.data.u64() {
                    CLIENTS => {
                        // Answers that wait are of sessions that may end by what comes now.
                        self.flush(room, now);
                        more |= self.requests(&mut room.requests, &published, now);
                    }
                    id => more |= self.answers(Id::of_u64(id), event.flags, room, now),
                }
            }
            self.flush(room, now);
            more
        })
    }

    /// Takes over what a new snapshot says of the frontend; one that is gone goes on as it was.
    fn follow(&mut self, published: &Arc<Published>) {
        if published.snapshot.version != self.seen {
            self.seen = published.snapshot.version;
            if let Some((routed, index)) = route(published, &self.group) {
                self.options = options(&routed.snapshot, index);
                self.put_together();
            }
        }
    }

    /// Has clients' datagrams that come in a row be put together, unless they are to be counted one by one.
    fn put_together(&self) {
        // Old kernels do not know it; it saves time, nothing more.
        let socket = self.group.socket(self.worker.number);
        let _ = batch::put_together(socket, self.options.numbers.requests == 0);
    }

    /// Takes what clients sent.
    fn requests(&mut self, batch: &mut Batch, published: &Arc<Published>, now: Instant) -> bool {
        let came = match batch.receive_from(self.group.socket(self.worker.number)) {
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.pause = error.kind() != io::ErrorKind::Interrupted;
                self.count(Reason::AcceptFailed, u64::from(self.pause));
                return true;
            }
        };
        let mut slot = 0;
        while slot < came {
            let arrival = batch.arrival(slot);
            if let Some(lost) = arrival.lost {
                self.count(Reason::ReceiveBufferFull, lost.wrapping_sub(self.lost).into());
                self.lost = lost;
            }
            let first = slot;
            slot += 1;
            let Some(client) = arrival.peer else { continue };
            if arrival.truncated {
                self.count(Reason::DatagramTooLong, 1);
                continue;
            }
            let same = |slot| {
                let next = batch.arrival(slot);
                next.peer == arrival.peer && next.local == arrival.local && !next.truncated
            };
            while slot < came && same(slot) {
                slot += 1;
            }
            self.forward(Key { client, local: arrival.local }, first..slot, batch, published, now);
        }
        came == SLOTS
    }

    /// Sends a client's datagrams to its server.
    fn forward(
        &mut self,
        key: Key,
        mut slots: Range<usize>,
        batch: &mut Batch,
        published: &Arc<Published>,
        now: Instant,
    ) {
        let mut failures = 0;
        while !slots.is_empty() {
            let id = match self.session(key, published, now) {
                Ok(id) => id,
                Err(reason) => {
                    self.count(reason, slots.map(|slot| batch.datagrams(slot)).sum());
                    return;
                }
            };
            let Some(session) = self.table.get_mut(id) else { return };
            let most = usize::try_from(session.exchange.room(self.options.numbers)).unwrap_or(usize::MAX);
            let some = slots.start..slots.end.min(slots.start.saturating_add(most));
            some.clone().for_each(|slot| batch.unaddressed(slot));
            match batch.send(session.socket.as_fd(), some.clone()) {
                Ok(went) => {
                    let sent = slots.start..slots.start + went;
                    let bytes = sent.clone().map(|slot| batch.len(slot) as u64).sum();
                    let datagrams = sent.map(|slot| batch.datagrams(slot)).sum();
                    slots.start += went;
                    self.asked(id, datagrams, bytes, now);
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                        self.count(
                            Reason::SendBufferFull,
                            some.clone().map(|slot| batch.datagrams(slot)).sum(),
                        );
                        slots.start = some.end;
                    }
                    Some(Errno::MSGSIZE | Errno::INVAL | Errno::IO) if batch.is_several(slots.start) => {
                        let datagrams = batch.datagrams(slots.start);
                        let (sent, rest) = batch.send_apart(session.socket.as_fd(), slots.start);
                        let bytes = batch.len(slots.start) as u64 * sent / datagrams;
                        self.asked(id, sent, bytes, now);
                        if let Err(error) = rest {
                            self.count(unsent(&error), datagrams - sent);
                        }
                        slots.start += 1;
                    }
                    Some(Errno::MSGSIZE) => {
                        self.count(Reason::DatagramTooLong, 1);
                        slots.start += 1;
                    }
                    _ => {
                        self.failed(id, &error);
                        failures += 1;
                        if failures > MOST_FAILURES {
                            self.count(
                                Reason::RetriesExhausted,
                                slots.map(|slot| batch.datagrams(slot)).sum(),
                            );
                            return;
                        }
                    }
                },
            }
        }
    }

    /// Takes what a server sent.
    fn answers(&mut self, id: Id, flags: EventFlags, room: &mut Room, now: Instant) -> bool {
        if flags.contains(EventFlags::ERR) {
            let error = self.table.get(id).and_then(Session::take_error);
            if let Some(error) = error {
                self.failed(id, &error);
            }
        }
        if room.waiting.len() == SLOTS {
            self.flush(room, now);
        }
        // It may have ended in this turn.
        let (Some(session), Some(key)) = (self.table.get(id), self.table.key(id)) else { return false };
        let first = room.waiting.len();
        match room.answers.receive_connected(session.socket.as_fd(), first) {
            Ok(came) => {
                for slot in first..first + came {
                    let is_whole = !room.answers.is_truncated(slot);
                    if is_whole {
                        room.answers.address(slot, key.client, key.local);
                    } else {
                        self.count(Reason::DatagramTooLong, 1);
                    }
                    room.waiting.push(is_whole.then_some(id));
                }
                first + came == SLOTS
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                self.failed(id, &error);
                true
            }
        }
    }

    /// Sends the answers that wait.
    fn flush(&mut self, room: &mut Room, now: Instant) {
        let mut at = 0;
        while at < room.waiting.len() {
            let rest = &room.waiting[at..];
            let many = rest.iter().position(Option::is_none).unwrap_or(rest.len());
            if many == 0 {
                at += 1;
                continue;
            }
            match room.answers.send(self.group.socket(self.worker.number), at..at + many) {
                Ok(went) => {
                    for slot in at..at + went {
                        if let Some(id) = room.waiting[slot] {
                            let datagrams = room.answers.datagrams(slot);
                            self.answered(id, datagrams, room.answers.len(slot) as u64, now);
                        }
                    }
                    at += went;
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                        let datagrams = (at..at + many).map(|slot| room.answers.datagrams(slot)).sum();
                        self.count(Reason::SendBufferFull, datagrams);
                        at += many;
                    }
                    Some(Errno::MSGSIZE | Errno::INVAL | Errno::IO) if room.answers.is_several(at) => {
                        let datagrams = room.answers.datagrams(at);
                        let (sent, rest) = room.answers.send_apart(self.group.socket(self.worker.number), at);
                        let bytes = room.answers.len(at) as u64 * sent / datagrams;
                        if let Some(id) = room.waiting[at] {
                            self.answered(id, sent, bytes, now);
                        }
                        if let Err(error) = rest {
                            self.count(unsent(&error), datagrams - sent);
                        }
                        at += 1;
                    }
                    _ => {
                        self.count(unsent(&error), 1);
                        at += 1;
                    }
                },
            }
        }
        room.waiting.clear();
    }

    fn asked(&mut self, id: Id, datagrams: u64, bytes: u64, now: Instant) {
        let Options { numbers, idle_timeout, .. } = self.options;
        let Some(session) = self.table.get_mut(id) else { return };
        session.asked(datagrams, bytes, now, idle_timeout);
        let exchange = session.exchange;
        if exchange.is_over(numbers) {
            return self.end(id, None);
        }
        if exchange.room(numbers) == 0 {
            self.table.unbind(id);
        }
        self.table.touch(id, now, idle_timeout / PACE);
        if exchange.is_conversation {
            self.table.confirm(id, now);
        }
    }

    fn answered(&mut self, id: Id, datagrams: u64, bytes: u64, now: Instant) {
        let Options { numbers, idle_timeout, .. } = self.options;
        let Some(session) = self.table.get_mut(id) else { return };
        session.answered(datagrams, bytes, now, idle_timeout);
        if session.exchange.is_over(numbers) {
            self.end(id, None);
        } else {
            self.table.touch(id, now, idle_timeout / PACE);
        }
    }

    /// The server of a session could not be reached: the client's next datagram goes to another.
    fn failed(&mut self, id: Id, error: &io::Error) {
        let Some(session) = self.table.get_mut(id) else { return };
        if session.is_refused {
            return;
        }
        session.is_refused = true;
        session.refused.push(session.peer.name.clone());
        // The server has nothing of it any more.
        session.meters.server.leave();
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            _ => Reason::ConnectFailed,
        };
        let (backend, server, addr) =
            (session.peer.backend.clone(), session.peer.name.clone(), session.peer.addr);
        session.server_reasons.count(reason);
        let is_over = !self.table.is_bound(id);
        self.count(reason, 1);
        let subject = Subject("connect", backend.clone(), server.clone());
        self.worker.shared.events.send_thinned(subject, || {
            let cause = format!("a datagram to {addr}: {error}");
            Event::ServerConnectFailed { backend, server, cause }
        });
        if is_over {
            self.end(id, None);
        }
    }

    /// Ends sessions whose time has come.
    fn expire(&mut self, now: Instant) {
        let patience = patience(self.options.idle_timeout);
        for queue in [Queue::New, Queue::Conversations] {
            while let Some((id, touched)) = self.table.longest_silent(queue)
                && now.saturating_duration_since(touched) >= patience
            {
                let numbers = self.options.numbers;
                let unanswered = self.table.get(id).filter(|s| !s.exchange.has_its_answers(numbers));
                let reason = unanswered.map(|session| {
                    session.server_reasons.count(Reason::NoAnswer);
                    Reason::NoAnswer
                });
                self.end(id, reason);
            }
        }
        if !self.options.max_duration.is_zero() && now.saturating_duration_since(self.swept) >= SWEEP / 2 {
            self.swept = now;
            for id in self.table.ids() {
                if self.table.get(id).and_then(|session| session.ends).is_some_and(|ends| ends <= now) {
                    self.end(id, Some(Reason::MaxDuration));
                }
            }
        }
    }

    /// Sets `timer` for the first session that may end, unless it fires before that anyhow.
    fn rearm(&self, armed: &mut Option<Instant>, mut timer: Pin<&mut Sleep>) {
        let silent = [Queue::New, Queue::Conversations].into_iter().filter_map(|queue| {
            self.table.longest_silent(queue)?.1.checked_add(patience(self.options.idle_timeout))
        });
        let sweeps = !self.options.max_duration.is_zero() && !self.table.is_empty();
        let due = silent.chain(sweeps.then(|| self.swept + SWEEP)).min();
        if let Some(due) = due
            && armed.is_none_or(|armed| due < armed)
        {
            timer.as_mut().reset(due.into());
            *armed = Some(due);
        }
    }

    /// Ends a session, if it has not ended.
    pub(super) fn end(&mut self, id: Id, reason: Option<Reason>) {
        if let Some(session) = self.table.remove(id) {
            match reason {
                Some(reason) => session.meters.ended(reason),
                None => session.meters.connection.story().ends(Fate::Closed),
            }
        }
    }

    fn end_all(&mut self, reason: Reason) {
        for id in self.table.ids() {
            self.end(id, Some(reason));
        }
    }

    pub(super) fn count(&self, reason: Reason, times: u64) {
        if times > 0 {
            self.worker.shared.reasons.add(reason, times);
            self.options.reasons.add(reason, times);
        }
    }

    pub(super) fn watch(&self, socket: &OwnedFd, id: Id) -> io::Result<()> {
        self.epoll.add(socket, id.to_u64())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.worker.shared.is_closing() {
            self.end_all(Reason::DrainDeadline);
        }
    }
}

/// What is counted for an answer that the kernel did not take.
fn unsent(error: &io::Error) -> Reason {
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Reason::SendBufferFull,
        Some(Errno::MSGSIZE) => Reason::DatagramTooLong,
        _ => Reason::DatagramUnsent,
    }
}

/// How long a session may have been where it is in its queue: it was heard of up to a pace later.
fn patience(idle_timeout: Duration) -> Duration {
    idle_timeout.saturating_add(idle_timeout / PACE)
}

/// The frontend that `group` serves now, or the last one that it did.
pub(super) fn route(published: &Arc<Published>, group: &Group) -> Option<(Arc<Published>, usize)> {
    if let Some(index) = published.frontend_of(group.id) {
        return Some((published.clone(), index));
    }
    let last = group.retired()?;
    // Where all of them leave, at the end, it is known under its name still, with the state its servers are in.
    let is_it = |f: &Frontend| f.protocol == Protocol::Udp && f.name == group.frontend;
    if let Some(index) = published.snapshot.frontends.iter().position(is_it) {
        return Some((published.clone(), index));
    }
    let index = last.frontend_of(group.id)?;
    Some((last, index))
}

fn options(snapshot: &Snapshot, frontend: usize) -> Options {
    let Frontend { udp, reasons, backend, .. } = &snapshot.frontends[frontend];
    Options {
        numbers: Numbers { responses: udp.responses, requests: udp.requests },
        idle_timeout: udp.idle_timeout,
        max_duration: snapshot.backends[*backend].max_duration,
        reasons: reasons.clone(),
    }
}
