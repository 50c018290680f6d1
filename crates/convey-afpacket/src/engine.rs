//! The engine: its sockets, its threads, what they share, and their end.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use convey_core::{Event, EventSink};
use convey_engine::{
    EngineStats, Heir, IoCounters, Loss, Nanos, NextHops, PacketSnapshot, SavedFlows, TakenOver, Worker,
    WorkerCounters, WorkerMemory,
};
use convey_links::{LinkSink, NextHopKeeper, Wake, Wanted, channel};
use rustix::time::{ClockId, clock_gettime};

use crate::filter;
use crate::frames::KernelFrames;
use crate::intake::Intake;
use crate::questions::Questions;
use crate::scope::Scope;
use crate::supervise::supervise;
use crate::sys::PacketSocket;
use crate::worker::Runner;

/// How long a start waits for servers and gateways to tell their link-layer addresses.
const FIRST_RESOLUTION: Duration = Duration::from_millis(300);

/// The part of the receive buffer that is a ring of small frames.
const RING_SHARE: usize = 4;

/// Is given the indices of the interfaces that are to be listened on, at the start and whenever they change, and
/// returns those on which the kernel is kept from answering; the engine listens there and nowhere else.
pub type InterfaceSink = Arc<dyn Fn(&[u32]) -> Vec<u32> + Send + Sync>;

/// Is given the host's addresses, in rising order. Called from the thread that keeps next hops; it must not close
/// the engine.
pub type AddressSink = Arc<dyn Fn(&[IpAddr]) + Send + Sync>;

/// Settings fixed while the engine runs.
#[derive(Clone)]
pub struct EngineConfig {
    /// Receive buffer of each worker in bytes: a quarter at once for small frames, the rest as long ones come.
    pub receive_buffer_bytes: usize,
    /// Whatever keeps the kernel from answering where the engine listens; `None`: something else does.
    pub on_interfaces: Option<InterfaceSink>,
    /// Who wants to know the host's addresses, at the start and whenever they change.
    pub on_addresses: Option<AddressSink>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { receive_buffer_bytes: 64 << 20, on_interfaces: None, on_addresses: None }
    }
}

/// What an engine has of those before it, and leaves to those after it.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// What each worker keeps its flows in, by worker; memory of this process where there is none.
    pub memory: Vec<WorkerMemory>,
    /// Flows of balancers that were killed.
    pub saved: Vec<SavedFlows>,
}

/// The monotonic clock of this boot, by which flows are dated.
pub fn monotonic() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    Nanos((now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64))
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum AfPacketError {
    /// CAP_NET_RAW is missing.
    #[error(
        "Cannot open a packet socket: this process lacks CAP_NET_RAW; run as root or grant the capability (systemd: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN)"
    )]
    Permission(#[source] io::Error),
    /// A packet socket could not be set up.
    #[error("Cannot set up a packet socket ({what}): {source}; this engine needs Linux 4.20 or later")]
    Socket {
        /// The step that failed.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Links and routes could not be read.
    #[error("Cannot read links, routes and neighbours from the kernel, or listen on the links: {0}")]
    Netlink(#[source] io::Error),
    /// No interface to listen on.
    #[error("No interface to forward packets on: {why}; bring one up, or name others with \"interfaces\"")]
    NoInterface {
        /// What was looked for.
        why: String,
    },
    /// A thread could not be started.
    #[error("Cannot start thread {name}: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// What the system answered.
        source: io::Error,
    },
}

impl AfPacketError {
    /// Of a configuration that names these interfaces, or none.
    pub fn no_interface(named: &[String]) -> Self {
        let why = match named {
            [] => "there is no Ethernet interface that is up".to_owned(),
            names => format!("none of {} is an Ethernet interface that is up", names.join(", ")),
        };
        Self::NoInterface { why }
    }
}

/// What all threads of an engine share.
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<PacketSnapshot>,
    pub(crate) next_hops: ArcSwap<NextHops>,
    pub(crate) sockets: Vec<PacketSocket>,
    pub(crate) io: Vec<Arc<IoCounters>>,
    pub(crate) questions: Vec<Questions>,
    pub(crate) events: EventSink,
    counters: Mutex<Vec<(usize, Arc<WorkerCounters>)>>,
    listening: Mutex<Listening>,
    /// Held while interfaces or scope change. Before the locks of whoever `on_interfaces` calls.
    changing: Mutex<()>,
    on_interfaces: Option<InterfaceSink>,
    on_addresses: Option<AddressSink>,
    kernel_drops: Vec<AtomicU64>,
    stop: AtomicBool,
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
    /// With a socket for each worker; in tests there may be none.
    pub(crate) fn new(
        snapshot: Arc<PacketSnapshot>,
        sockets: Vec<PacketSocket>,
        scope: Scope,
        config: EngineConfig,
        events: EventSink,
    ) -> Self {
        let workers = snapshot.options().workers.max(1);
        Self {
            snapshot: ArcSwap::new(snapshot),
            next_hops: ArcSwap::default(),
            io: (0..workers).map(|_| Arc::default()).collect(),
            questions: (0..workers).map(|_| Questions::default()).collect(),
            kernel_drops: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            sockets,
            events,
            counters: Mutex::default(),
            listening: Mutex::new(Listening { scope: Arc::new(scope), interfaces: Vec::new() }),
            changing: Mutex::default(),
            on_interfaces: config.on_interfaces,
            on_addresses: config.on_addresses,
            stop: AtomicBool::new(false),
            started: Instant::now(),
            epoch: monotonic(),
        }
    }

    /// Has every thread end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn now(&self) -> Nanos {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.epoch.0.saturating_add(elapsed))
    }

    /// Worker `index`, with its flows in `memory`.
    pub(crate) fn new_worker(&self, index: usize, memory: WorkerMemory) -> Worker {
        let worker = Worker::in_memory(index, &self.snapshot.load(), memory);
        lock(&self.counters).push((index, worker.counters()));
        worker
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

    fn set_scope(&self, scope: Scope) -> io::Result<()> {
        let _changing = lock(&self.changing);
        let mut listening = lock(&self.listening).clone();
        if *listening.scope == scope {
            return Ok(());
        }
        listening.scope = Arc::new(scope);
        self.listen(listening)
    }

    /// Sets the filters of all sockets, or leaves them as they were.
    fn listen(&self, next: Listening) -> io::Result<()> {
        let set = |socket: &PacketSocket, to: &Listening| {
            let programs = filter::interest(&to.scope.interest(&to.interfaces));
            filter::attach(&programs, |program| socket.filter(program))
        };
        for (at, socket) in self.sockets.iter().enumerate() {
            if let Err(error) = set(socket, &next) {
                let former = lock(&self.listening).clone();
                for socket in &self.sockets[..at] {
                    // There was room for it a moment ago.
                    let _ = set(socket, &former);
                }
                return Err(error);
            }
        }
        *lock(&self.listening) = next;
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        for (index, socket) in self.sockets.iter().enumerate() {
            let drops = socket.take_kernel_drops();
            self.kernel_drops[index].fetch_add(drops, Relaxed);
            self.io[index].lost(Loss::RxQueueFull, drops);
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
        lock(&self.listening).scope.wanted()
    }

    fn listen_on(&self, interfaces: &[u32]) -> io::Result<bool> {
        self.listen_where_guarded(interfaces)
    }

    fn publish(&self, next_hops: Arc<NextHops>) {
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

/// The portable packet engine at work. Dropping it closes it.
pub struct AfPacketEngine {
    shared: Arc<Shared>,
    wake: Wake,
    threads: Mutex<Vec<JoinHandle<()>>>,
    taken_over: TakenOver,
}

impl std::fmt::Debug for AfPacketEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfPacketEngine").field("interfaces", &self.interfaces()).finish_non_exhaustive()
    }
}

impl AfPacketEngine {
    /// Opens the sockets in the calling thread's network namespace and starts forwarding by `snapshot`, with
    /// as many workers as its options say.
    ///
    /// # Errors
    /// [`AfPacketError`]; nothing is left running.
    pub fn start(
        config: EngineConfig,
        snapshot: Arc<PacketSnapshot>,
        events: EventSink,
    ) -> Result<Self, AfPacketError> {
        Self::start_with(config, snapshot, events, Inheritance::default())
    }

    /// As [`AfPacketEngine::start`], and goes on with flows of other balancers before it takes the first frame.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        config: EngineConfig,
        snapshot: Arc<PacketSnapshot>,
        events: EventSink,
        inheritance: Inheritance,
    ) -> Result<Self, AfPacketError> {
        let workers = snapshot.options().workers.max(1);
        let scope = Scope::of(&snapshot);
        let (sockets, intakes) = open_sockets(workers, config.receive_buffer_bytes, &scope)?;
        let (wake, inbox) = channel().map_err(|source| AfPacketError::Socket { what: "wake-up", source })?;
        let shared = Arc::new(Shared::new(snapshot, sockets, scope, config, events));
        let mut keeper = NextHopKeeper::start(shared.clone(), inbox).map_err(AfPacketError::Netlink)?;
        let mut engine = Self { shared, wake, threads: Mutex::default(), taken_over: TakenOver::default() };
        if engine.interfaces().is_empty() {
            return Err(AfPacketError::no_interface(&engine.snapshot().options().interfaces));
        }
        keeper.resolve_first(FIRST_RESOLUTION);
        engine.spawn("convey-nexthops".to_owned(), move |_| keeper.run())?;
        let mut memory = inheritance.memory.into_iter();
        let mut runners: Vec<Runner<KernelFrames>> = Vec::with_capacity(workers);
        for (index, intake) in intakes.into_iter().enumerate() {
            let memory = memory.next().unwrap_or_else(|| WorkerMemory::own(engine.snapshot().options()));
            let frames = KernelFrames::new(intake, engine.shared.clone(), index);
            runners.push(Runner::new(index, frames, engine.shared.clone(), engine.wake.clone(), memory));
        }
        engine.take_over(&inheritance.saved, &mut runners);
        for (index, mut runner) in runners.into_iter().enumerate() {
            engine.spawn(format!("convey-packet-{index}"), move |panics| runner.run(panics))?;
        }
        Ok(engine)
    }

    fn take_over(&mut self, saved: &[SavedFlows], runners: &mut [Runner<KernelFrames>]) {
        let snapshot = self.snapshot();
        for flows in saved {
            let heirs: Vec<Vec<Heir>> = flows.divide(&snapshot, self.shared.now(), &mut self.taken_over);
            for (runner, heirs) in runners.iter_mut().zip(heirs) {
                runner.take_over(&heirs, &snapshot, &mut self.taken_over);
            }
        }
    }

    /// What became of the flows that were to be taken over.
    pub fn taken_over(&self) -> TakenOver {
        self.taken_over
    }

    /// Forwards by `snapshot` from the next batch on.
    ///
    /// # Errors
    /// [`AfPacketError::Socket`] when the kernel does not take the filter for its frontends; the former snapshot
    /// stays.
    pub fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), AfPacketError> {
        let scope = Scope::of(&snapshot);
        self.shared.set_scope(scope).map_err(|source| AfPacketError::Socket { what: "filter", source })?;
        self.shared.snapshot.store(snapshot);
        self.wake.look();
        Ok(())
    }

    /// Packets since the start; cheap, and no worker stops for it.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Indices of the interfaces listened on.
    pub fn interfaces(&self) -> Vec<u32> {
        lock(&self.shared.listening).interfaces.clone()
    }

    /// Links, routes and neighbours as the workers see them now.
    pub fn next_hops(&self) -> Arc<NextHops> {
        self.shared.next_hops.load_full()
    }

    pub(crate) fn snapshot(&self) -> Arc<PacketSnapshot> {
        self.shared.snapshot.load_full()
    }

    pub(crate) fn questions(&self, worker: usize) -> Option<&Questions> {
        self.shared.questions.get(worker)
    }

    /// Has a neighbour resolved ahead of the first packet to it.
    pub fn resolve(&self, ifindex: u32, address: IpAddr) {
        self.wake.resolve(ifindex, address);
    }

    /// Stops forwarding and joins every thread. Idempotent.
    pub fn close(&self) {
        self.shared.end();
        self.wake.look();
        for thread in lock(&self.threads).drain(..) {
            // A panic was caught and reported inside the thread.
            let _ = thread.join();
        }
    }

    fn spawn(&self, name: String, work: impl FnMut(u32) + Send + 'static) -> Result<(), AfPacketError> {
        let events = self.shared.events.clone();
        let thread_name = name.clone();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || supervise(&thread_name, &events, work))
            .map_err(|source| AfPacketError::Thread { name, source })?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl Drop for AfPacketEngine {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_sockets(
    workers: usize,
    receive_buffer_bytes: usize,
    scope: &Scope,
) -> Result<(Vec<PacketSocket>, Vec<Intake>), AfPacketError> {
    let failed = |what| move |source| AfPacketError::Socket { what, source };
    let mut sockets: Vec<PacketSocket> = Vec::with_capacity(workers);
    let mut intakes = Vec::with_capacity(workers);
    let mut group = None;
    for _ in 0..workers {
        let socket = PacketSocket::open(receive_buffer_bytes).map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                AfPacketError::Permission(source)
            } else {
                AfPacketError::Socket { what: "options", source }
            }
        })?;
        // Until the interfaces are known, and the group is whole, nothing may be received.
        socket.filter(&filter::nothing()).map_err(failed("filter"))?;
        let ring = socket.ring(receive_buffer_bytes / RING_SHARE).map_err(failed("ring"))?;
        socket.bind_all().map_err(failed("bind"))?;
        if workers > 1 {
            match group {
                None => group = Some(socket.start_fanout().map_err(failed("fan-out"))?),
                Some(id) => socket.join_fanout(id).map_err(failed("fan-out"))?,
            }
        }
        sockets.push(socket);
        intakes.push(Intake::new(ring));
    }
    if let [first, _, ..] = sockets.as_slice() {
        let program = filter::steering(scope.nat_ports, workers);
        first.steer(&program).map_err(failed("fan-out program"))?;
    }
    Ok((sockets, intakes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these protect is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
