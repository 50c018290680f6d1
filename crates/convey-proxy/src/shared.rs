//! What all workers see: the published snapshot, the listeners they are to serve, the counters and the
//! table of client addresses.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use convey_core::{ConnCounters, ReasonCounters, Watches};
use tokio::sync::Notify;

use crate::choice::Choice;
use crate::connections::Connections;
use crate::events::Events;
use crate::limits::Admission;
use crate::listener::ListenGroup;
use crate::log::Log;
use crate::published::Published;
use crate::shortage::FileLimit;
use crate::udp;

/// How long a caller waits for workers to take over a change before it goes on without them.
const APPLY_WAIT: Duration = Duration::from_secs(2);

/// The listeners to be served, and which workers do so already.
#[derive(Debug, Default)]
struct Listening {
    version: u64,
    groups: Vec<Arc<ListenGroup>>,
    udp: Vec<Arc<udp::Group>>,
    applied: Vec<u64>,
}

pub(crate) struct Shared {
    pub published: ArcSwap<Published>,
    pub totals: Arc<ConnCounters>,
    pub reasons: Arc<ReasonCounters>,
    pub admission: Arc<Admission>,
    pub connections: Arc<Connections>,
    pub watches: Arc<Watches<Choice>>,
    pub events: Events,
    pub log: Log,
    pub file_limit: FileLimit,
    listening: Mutex<Listening>,
    applied: Condvar,
    wake: Vec<Notify>,
    closing: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(published: Published, workers: usize, events: Events) -> Self {
        Self {
            totals: published.snapshot.totals.clone(),
            reasons: published.snapshot.reasons.clone(),
            admission: Arc::new(Admission::new(published.snapshot.totals.clone())),
            connections: Arc::new(Connections::new(workers)),
            watches: Arc::default(),
            published: ArcSwap::from_pointee(published),
            events,
            log: Log::new(workers),
            file_limit: FileLimit::read(),
            listening: Mutex::new(Listening { applied: vec![0; workers], ..Listening::default() }),
            applied: Condvar::new(),
            wake: (0..workers).map(|_| Notify::new()).collect(),
            closing: AtomicBool::new(false),
        }
    }

    /// New connections go by `published` from now on, and those that wait for a place, which there may be now.
    pub fn publish(&self, published: Published) {
        let published = Arc::new(published);
        self.published.store(published.clone());
        for backend in &published.snapshot.backends {
            backend.queue.place_is_free();
        }
    }

    /// The listeners `worker` is to serve, and their version.
    pub fn groups(&self) -> (u64, Vec<Arc<ListenGroup>>) {
        let listening = self.listening();
        (listening.version, listening.groups.clone())
    }

    /// The UDP groups to be served.
    pub fn udp_groups(&self) -> Vec<Arc<udp::Group>> {
        self.listening().udp.clone()
    }

    /// Tells every worker to serve `groups` of UDP from the next [`Shared::set_groups`] on, which is needed if any has
    /// come or gone.
    pub fn set_udp_groups(&self, groups: Vec<Arc<udp::Group>>) -> bool {
        let mut listening = self.listening();
        let is_news = !listening.udp.iter().map(|g| g.id).eq(groups.iter().map(|g| g.id));
        listening.udp = groups;
        is_news
    }

    /// Tells every worker to serve `groups`; returns the version to wait for.
    pub fn set_groups(&self, groups: Vec<Arc<ListenGroup>>) -> u64 {
        let version = {
            let mut listening = self.listening();
            listening.version += 1;
            listening.groups = groups;
            listening.version
        };
        self.wake_all();
        version
    }

    /// Waits until every worker serves the listeners of `version` (a while at most, or until the end).
    pub fn wait_applied(&self, version: u64) {
        let deadline = Instant::now() + APPLY_WAIT;
        let mut listening = self.listening();
        while listening.applied.iter().any(|v| *v < version) && !self.is_closing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            listening = self.applied.wait_timeout(listening, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// `worker` serves the listeners of `version`.
    pub fn report_applied(&self, worker: usize, version: u64) {
        self.listening().applied[worker] = version;
        self.applied.notify_all();
    }

    /// Waits for [`Shared::set_groups`] or [`Shared::close`].
    pub async fn changed(&self, worker: usize) {
        self.wake[worker].notified().await;
    }

    pub fn close(&self) {
        self.closing.store(true, SeqCst);
        self.wake_all();
        self.applied.notify_all();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// How many worker threads there are.
    pub fn workers(&self) -> usize {
        self.wake.len()
    }

    fn wake_all(&self) {
        self.wake.iter().for_each(Notify::notify_one);
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
