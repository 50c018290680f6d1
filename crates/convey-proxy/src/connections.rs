//! The connections that are open, sessions of UDP among them, for an operator to look at and to end.
//!
//! A connection writes what is known of it once and its bytes as they are delivered; whoever lists reads that beside
//! it. The lock of a worker's table is held for a moment when a connection comes or goes, and for a few hundred places
//! at a time by a list.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use convey_core::{Endpoint, FlowCursor, FlowFilter, FlowPage, FlowRow, FlowStage, Protocol, WaitsFor};
use tokio::task::AbortHandle;

use crate::arrive::Arrived;
use crate::log::{Entry, Fate, Got, Story, Ticket};
use crate::meters::Way;
use crate::proxy_protocol::Header;
use crate::udp::Datagrams;

/// Places looked at under one lock.
const PLACES: usize = 512;

/// What is known of one open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    client: SocketAddr,
    /// What a proxy in front has told of it.
    told: Option<Box<Header>>,
    frontend: Arc<str>,
    /// Where its frontend listens.
    listen: SocketAddr,
    /// Of its frontend.
    backend: Arc<str>,
    /// Where its hello has led it elsewhere.
    routed: OnceLock<Arc<str>>,
    since: Instant,
    server: OnceLock<Connected>,
    /// The number of a [`WaitsFor`], or 0.
    waits_for: AtomicU8,
    /// To the server, to the client. One task writes.
    bytes: [AtomicU64; 2],
    task: OnceLock<AbortHandle>,
    /// Of a session of UDP.
    datagrams: Option<Box<Datagrams>>,
    ended: AtomicBool,
    is_logged: bool,
    story: Story,
}

/// The server a connection got.
#[derive(Debug)]
pub(crate) struct Connected {
    pub name: Arc<str>,
    pub addr: Endpoint,
    /// Of the proxy's end.
    pub source: Option<SocketAddr>,
}

impl Connection {
    /// The client, and where its frontend listens.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.client, self.listen)
    }

    /// What a proxy in front has told of the client.
    pub fn told(&self) -> Option<&Header> {
        self.told.as_deref()
    }

    /// It is served by this task.
    pub fn runs_as(&self, task: AbortHandle) {
        let _ = self.task.set(task);
    }

    /// Its backend is not its frontend's own.
    pub fn is_routed(&self, backend: &Arc<str>) {
        let _ = self.routed.set(backend.clone());
    }

    /// The backend that it goes to.
    pub fn backend(&self) -> &Arc<str> {
        self.routed.get().unwrap_or(&self.backend)
    }

    /// It waits for this from now on, or no longer.
    pub fn waits_for(&self, what: Option<WaitsFor>) {
        self.waits_for.store(what.map_or(0, |what| what as u8), Relaxed);
    }

    /// A server is tried.
    pub fn tries(&self) {
        if self.is_logged {
            self.story.tries(|| self.since.elapsed());
        }
    }

    /// It got a server.
    pub fn connected(&self, server: Connected) {
        let _ = self.server.set(server);
        if self.is_logged {
            self.story.connected(self.since.elapsed());
        }
    }

    /// What its line in the log is made of.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Whether it may get a line in the log.
    pub fn is_logged(&self) -> bool {
        self.is_logged
    }

    pub fn delivered(&self, way: Way, bytes: u64) {
        let sum = &self.bytes[match way {
            Way::Tx => 0,
            Way::Rx => 1,
        }];
        sum.store(sum.load(Relaxed) + bytes, Relaxed);
        if self.is_logged {
            self.story.moved(way, || self.since.elapsed());
        }
    }

    /// Whether the client has sent anything that its server took.
    pub fn has_sent(&self) -> bool {
        self.bytes[0].load(Relaxed) > 0
    }

    /// Of a session of UDP.
    pub fn datagrams(&self) -> Option<&Datagrams> {
        self.datagrams.as_deref()
    }

    fn protocol(&self) -> Protocol {
        if self.datagrams.is_some() { Protocol::Udp } else { Protocol::Tcp }
    }

    fn stage(&self) -> FlowStage {
        if let Some(datagrams) = &self.datagrams {
            return datagrams.stage();
        }
        if self.server.get().is_some() { FlowStage::Established } else { FlowStage::New }
    }

    fn is_taken_by(&self, filter: &FlowFilter) -> bool {
        let takes_server = match self.server.get() {
            Some(server) => filter.takes_server(self.backend(), &server.name),
            None => filter.takes_no_server() && filter.takes_server(self.backend(), ""),
        };
        takes_server
            && !self.ended.load(Relaxed)
            && filter.takes_client(self.client)
            && filter.takes_frontend(self.protocol(), &self.frontend)
            && filter.takes_vip(self.listen)
            && filter.takes_stage(self.stage())
    }

    fn row(&self) -> FlowRow {
        let server = self.server.get();
        let datagrams = self.datagrams.as_deref();
        let idle = datagrams.map(|datagrams| datagrams.idle(self.since));
        FlowRow {
            protocol: self.protocol(),
            client: self.client,
            frontend: self.frontend.clone(),
            vip: self.listen,
            server: server.map(|s| (self.backend().clone(), s.name.clone(), s.addr.clone())),
            stage: self.stage(),
            waits_for: WaitsFor::of_number(self.waits_for.load(Relaxed)).filter(|_| server.is_none()),
            age: Some(self.since.elapsed()),
            idle,
            expires_in: datagrams.zip(idle).map(|(datagrams, idle)| datagrams.timeout().saturating_sub(idle)),
            nat: server.and_then(|s| s.source),
            packets: datagrams.map(Datagrams::count),
            bytes: Some([self.bytes[0].load(Relaxed), self.bytes[1].load(Relaxed)]),
        }
    }

    /// Cuts it; tells whether nobody did before. Its task drops what it holds, and its peers get resets.
    fn end(&self) -> bool {
        if self.task.get().is_none() && self.datagrams.is_none() {
            return false;
        }
        // Before it is cut: where it ends, this tells why.
        let is_first = !self.ended.swap(true, Relaxed);
        match (self.task.get(), &self.datagrams) {
            (Some(task), _) => task.abort(),
            (None, Some(datagrams)) => datagrams.end(),
            (None, None) => {}
        }
        is_first
    }
}

/// The open connections of all workers.
#[derive(Debug)]
pub(crate) struct Connections(Box<[Mutex<Places>]>);

#[derive(Debug, Default)]
struct Places {
    taken: Vec<Option<Arc<Connection>>>,
    free: Vec<u32>,
}

/// A connection's place in the list. Dropping it takes the connection out.
#[derive(Debug)]
pub(crate) struct Listed {
    all: Arc<Connections>,
    worker: usize,
    place: u32,
    pub connection: Arc<Connection>,
    ticket: Option<Ticket>,
}

impl Connections {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// A connection has come to `worker`.
    pub fn add(
        self: &Arc<Self>,
        worker: usize,
        arrived: Arrived,
        names: (&Arc<str>, SocketAddr, &Arc<str>),
        ticket: Option<Ticket>,
    ) -> Listed {
        self.enlist(worker, arrived, names, ticket, None)
    }

    /// A session of UDP has begun on `worker`.
    pub fn add_session(
        self: &Arc<Self>,
        worker: usize,
        client: SocketAddr,
        names: (&Arc<str>, SocketAddr, &Arc<str>),
        ticket: Option<Ticket>,
        datagrams: Datagrams,
    ) -> Listed {
        self.enlist(worker, Arrived::directly(client), names, ticket, Some(Box::new(datagrams)))
    }

    fn enlist(
        self: &Arc<Self>,
        worker: usize,
        arrived: Arrived,
        (frontend, listen, backend): (&Arc<str>, SocketAddr, &Arc<str>),
        ticket: Option<Ticket>,
        datagrams: Option<Box<Datagrams>>,
    ) -> Listed {
        let connection = Arc::new(Connection {
            client: arrived.client,
            told: arrived.told,
            frontend: frontend.clone(),
            listen,
            backend: backend.clone(),
            routed: OnceLock::new(),
            since: Instant::now(),
            server: OnceLock::new(),
            waits_for: AtomicU8::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            task: OnceLock::new(),
            datagrams,
            ended: AtomicBool::new(false),
            is_logged: ticket.is_some(),
            story: Story::default(),
        });
        let mut places = self.places(worker);
        let place = match places.free.pop() {
            Some(place) => {
                places.taken[place as usize] = Some(connection.clone());
                place
            }
            None => {
                places.taken.push(Some(connection.clone()));
                (places.taken.len() - 1) as u32
            }
        };
        drop(places);
        Listed { all: self.clone(), worker, place, connection, ticket }
    }

    /// A page of at most `limit` of the connections that `filter` takes, from `cursor` on.
    pub fn list(&self, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage {
        let mut rows = Vec::new();
        let next = self.walk(cursor, |connection| {
            if connection.is_taken_by(filter) {
                rows.push(connection.row());
            }
            rows.len() < limit
        });
        FlowPage { rows, next, partial: None }
    }

    /// Cuts the connections that `filter` takes, and tells how many.
    pub fn end(&self, filter: &FlowFilter) -> u64 {
        let mut ended = 0;
        self.walk(FlowCursor::default(), |connection| {
            ended += u64::from(connection.is_taken_by(filter) && connection.end());
            true
        });
        ended
    }

    /// Shows `each` the connections until it has had enough. Gives where it goes on.
    fn walk(&self, from: FlowCursor, mut each: impl FnMut(&Connection) -> bool) -> Option<FlowCursor> {
        let mut at = usize::try_from(from.at).unwrap_or(usize::MAX);
        for table in from.table..self.0.len() as u32 {
            while let Some(some) = self.some_from(table as usize, at) {
                for connection in some {
                    at += 1;
                    if !connection.is_none_or(|connection| each(&connection)) {
                        return Some(FlowCursor { table, at: at as u64 });
                    }
                }
            }
            at = 0;
        }
        None
    }

    /// What lies at some places from `at` on; `None` at the end.
    fn some_from(&self, worker: usize, at: usize) -> Option<Vec<Option<Arc<Connection>>>> {
        let places = self.places(worker);
        let end = places.taken.len().min(at.saturating_add(PLACES));
        places.taken.get(at..end).filter(|some| !some.is_empty()).map(<[_]>::to_vec)
    }

    fn places(&self, worker: usize) -> MutexGuard<'_, Places> {
        self.0[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    /// Takes the connection out without a line in the log: it goes on by another name.
    pub fn leave(mut self) {
        self.ticket = None;
    }

    fn entry(&self) -> Entry<'_> {
        let connection = &self.connection;
        let server = connection.server.get();
        Entry {
            at: SystemTime::now(),
            client: connection.client,
            listen: connection.listen,
            frontend: &connection.frontend,
            backend: connection.backend(),
            server: server.map(|s| Got { name: &s.name, addr: &s.addr, source: s.source }),
            total: connection.since.elapsed(),
            bytes: [connection.bytes[0].load(Relaxed), connection.bytes[1].load(Relaxed)],
            fate: connection.story.fate(),
            killed: connection.ended.load(Relaxed),
            story: Some(&connection.story),
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut places = self.all.places(self.worker);
        places.taken[self.place as usize] = None;
        places.free.push(self.place);
        drop(places);
        if let Some(ticket) = &self.ticket {
            ticket.tell(self.worker, self.connection.story.fate() == Fate::Closed, || self.entry());
        }
    }
}
