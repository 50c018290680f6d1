//! What the threads of an engine share: the tables they go by, the sockets, the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use convey_core::{Event, EventSink, Watches};
use convey_engine::{
    AddressSink, EngineSetup, EngineStats, FlowView, Fragments, InterfaceSink, IoCounters, LiveDecision,
    Loss, Nanos, NextHops, Note, PacketSnapshot, Worker, WorkerCounters, WorkerMemory,
};
use convey_links::{LinkSink, Wanted};

use crate::clock::monotonic;
use crate::requests::Requests;
use crate::scope::Scope;

/// Where the frames of an engine's workers come from: sockets, or programs in the kernel.
pub trait Intake: Send + Sync {
    /// Takes frames that concern `scope` from these interfaces from now on.
    ///
    /// # Errors
    /// What the kernel answers; frames come as before.
    fn listen(&self, scope: &Scope, interfaces: &[u32]) -> io::Result<()>;

    /// Frames that a worker's queue had no room for since this was asked last.
    fn take_drops(&self, _worker: usize) -> u64 {
        0
    }

    /// Packets are sent by these from now on.
    fn next_hops(&self, _next_hops: &Arc<NextHops>) {}
}

/// What all threads of an engine share.
pub struct Shared {
    pub(crate) snapshot: ArcSwap<PacketSnapshot>,
    pub(crate) next_hops: ArcSwap<NextHops>,
    pub(crate) intake: Arc<dyn Intake>,
    pub(crate) io: Vec<Arc<IoCounters>>,
    pub(crate) requests: Vec<Requests>,
    pub(crate) watches: Arc<Watches<LiveDecision>>,
    pub(crate) fragments: Arc<Fragments>,
    pub(crate) events: EventSink,
    counters: Mutex<Vec<(usize, Arc<WorkerCounters>)>>,
    /// By worker.
    views: Mutex<BTreeMap<usize, Arc<FlowView>>>,
    listening: Mutex<Listening>,
    /// Held while interfaces or scope change. Before the locks of whoever `on_interfaces` calls.
    changing: Mutex<()>,
    on_interfaces: Option<InterfaceSink>,
    on_addresses: Option<AddressSink>,
    stop: AtomicBool,
    keeps_flows: AtomicBool,
    started: Instant,
    /// The monotonic clock when `started` was taken.
    epoch: Nanos,
}

#[derive(Clone, Default)]
struct Listening {
    scope: Arc<Scope>,
    interfaces: Vec<u32>,
}

impl Shared {
    /// For `workers` workers whose frames come from `intake`.
    pub(crate) fn new(setup: EngineSetup, workers: usize, intake: Arc<dyn Intake>, scope: Scope) -> Self {
        let EngineSetup { snapshot, events, on_interfaces, on_addresses, on_filter: _, tcx: _ } = setup;
        let seed = snapshot.options().seed;
        Self {
            snapshot: ArcSwap::new(snapshot),
            next_hops: ArcSwap::default(),
            io: (0..workers).map(|_| Arc::default()).collect(),
            requests: (0..workers).map(|_| Requests::default()).collect(),
            watches: Arc::default(),
            fragments: Arc::new(Fragments::new(seed)),
            intake,
            events,
            counters: Mutex::default(),
            views: Mutex::default(),
            listening: Mutex::new(Listening { scope: Arc::new(scope), interfaces: Vec::new() }),
            changing: Mutex::default(),
            on_interfaces,
            on_addresses,
            stop: AtomicBool::new(false),
            keeps_flows: AtomicBool::new(false),
            started: Instant::now(),
            epoch: monotonic(),
        }
    }

    /// Has every thread end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Flows go on when the workers end: whoever begins them stays.
    pub fn keep_flows(&self) {
        self.keeps_flows.store(true, Relaxed);
    }

    pub(crate) fn keeps_flows(&self) -> bool {
        self.keeps_flows.load(Relaxed)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// What packets are decided by now.
    pub fn snapshot(&self) -> Arc<PacketSnapshot> {
        self.snapshot.load_full()
    }

    /// The clock that flows are dated by.
    pub fn now(&self) -> Nanos {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.epoch.0.saturating_add(elapsed))
    }

    /// Worker `index`, with its flows in `memory`.
    pub(crate) fn new_worker(&self, index: usize, memory: WorkerMemory) -> Worker {
        self.know(index, Worker::in_memory(index, &self.snapshot.load(), memory))
    }

    /// Worker `index` is this one, which works with the others from now on.
    pub(crate) fn know(&self, index: usize, mut worker: Worker) -> Worker {
        worker.share_fragments(self.fragments.clone());
        lock(&self.counters).push((index, worker.counters()));
        lock(&self.views).insert(index, Arc::new(worker.flow_view()));
        worker
    }

    /// The flows of each worker.
    pub(crate) fn views(&self) -> Vec<Arc<FlowView>> {
        lock(&self.views).values().cloned().collect()
    }

    /// How often any worker has noted this.
    pub(crate) fn noted(&self, note: Note) -> u64 {
        lock(&self.counters).iter().map(|(_, counters)| counters.noted(note)).sum()
    }

    /// Listens from now on on these of the interfaces on which the kernel is kept from answering. Tells whether
    /// that is all of them. What is new is guarded before it is listened on, what is gone as long as it is.
    ///
    /// # Errors
    /// The kernel did not take the sockets' filter; the former interfaces are listened on.
    fn listen_where_guarded(&self, interfaces: &[u32]) -> io::Result<bool> {
        let _changing = lock(&self.changing);
        let mut listening = lock(&self.listening).clone();
        if listening.interfaces == interfaces {
            return Ok(true);
        }
        let both: BTreeSet<u32> = listening.interfaces.iter().chain(interfaces).copied().collect();
        let both: Vec<u32> = both.into_iter().collect();
        let guarded = self.guard(&both);
        listening.interfaces = interfaces.iter().filter(|i| guarded.contains(i)).copied().collect();
        self.listen(listening.clone())?;
        if both != listening.interfaces {
            self.guard(&listening.interfaces);
        }
        Ok(listening.interfaces == interfaces)
    }

    fn guard(&self, interfaces: &[u32]) -> Vec<u32> {
        self.on_interfaces.as_ref().map_or_else(|| interfaces.to_vec(), |guard| guard(interfaces))
    }

    /// Indices of the interfaces listened on.
    pub(crate) fn interfaces(&self) -> Vec<u32> {
        lock(&self.listening).interfaces.clone()
    }

    /// Goes by another configuration's addresses and ports.
    ///
    /// # Errors
    /// The kernel did not take the sockets' filter; the former one stays.
    pub(crate) fn set_scope(&self, scope: Scope) -> io::Result<()> {
        let _changing = lock(&self.changing);
        let mut listening = lock(&self.listening).clone();
        if *listening.scope == scope {
            return Ok(());
        }
        listening.scope = Arc::new(scope);
        self.listen(listening)
    }

    fn listen(&self, next: Listening) -> io::Result<()> {
        self.intake.listen(&next.scope, &next.interfaces)?;
        *lock(&self.listening) = next;
        Ok(())
    }

    pub(crate) fn stats(&self) -> EngineStats {
        for (index, io) in self.io.iter().enumerate() {
            io.lost(Loss::RxQueueFull, self.intake.take_drops(index));
        }
        let counters = lock(&self.counters);
        let idle = IoCounters::default();
        // A worker that began anew has several packet counters but one set of I/O counters.
        let mut seen = vec![false; self.io.len()];
        EngineStats::sum(counters.iter().map(|(index, counters)| {
            let io = if std::mem::replace(&mut seen[*index], true) { &idle } else { &*self.io[*index] };
            (&**counters, io)
        }))
    }
}

impl LinkSink for Shared {
    fn is_closing(&self) -> bool {
        self.stopping()
    }

    fn wanted(&self) -> Wanted {
        lock(&self.listening).scope.wanted.clone()
    }

    fn listen_on(&self, interfaces: &[u32]) -> io::Result<bool> {
        self.listen_where_guarded(interfaces)
    }

    fn publish(&self, next_hops: Arc<NextHops>) {
        self.intake.next_hops(&next_hops);
        self.next_hops.store(next_hops);
    }

    fn addresses(&self, addresses: &[IpAddr]) {
        if let Some(sink) = &self.on_addresses {
            sink(addresses);
        }
    }

    fn warn(&self, message: String) {
        (self.events)(Event::Warning { message });
    }
}

/// What a mutex protects, also after a holder panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these protect is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
