//! The engine: its start, its threads, and their end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use convey_core::{Mode, Protocol};
use convey_engine::steering::worker_for;
use convey_engine::{
    EngineError, EngineKind, EngineSetup, EngineStats, Explanation, Heir, Keep, NextHops, PacketEngine,
    PacketSnapshot, PortRange, SavedFlows, TakenOver, WorkerMemory, explain_arrival,
};
use convey_links::{NextHopKeeper, Wake, channel};

use crate::error;
use crate::explain_queue::ExplainRequest;
use crate::filter;
use crate::frames::KernelFrames;
use crate::rx_batch::RxBatch;
use crate::scope::Scope;
use crate::shared::{Shared, lock};
use crate::supervise::supervise;
use crate::sys::PacketSocket;
use crate::worker::Runner;

/// How long a start waits for servers and gateways to tell their link-layer addresses.
const FIRST_RESOLUTION: Duration = Duration::from_millis(300);

/// Receive buffer of each worker.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// The part of it that is a ring of small frames, taken at once; the rest is taken as long ones come.
const RING_SHARE: usize = 4;

/// No port lies within: answers of servers do not come by here.
const NO_PORTS: PortRange = PortRange { first: 1, last: 0 };

/// The portable packet engine at work. Dropping it closes it.
pub struct AfPacketEngine {
    shared: Arc<Shared>,
    wake: Wake,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// `None`: there was nothing to take over.
    taken_over: Option<TakenOver>,
}

impl std::fmt::Debug for AfPacketEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfPacketEngine").field("interfaces", &self.interfaces()).finish_non_exhaustive()
    }
}

impl AfPacketEngine {
    /// Opens the sockets in the calling thread's network namespace and starts forwarding by the setup's snapshot, with
    /// as many workers as its options say. Workers keep their flows in `memory`, by worker, or in that of this process
    /// where there is none. They go on with the flows that killed balancers `saved` before they take the first frame.
    ///
    /// # Errors
    /// [`EngineError`]; nothing is left running.
    pub fn start(
        setup: EngineSetup,
        memory: Vec<WorkerMemory>,
        saved: &[SavedFlows],
    ) -> Result<Self, EngineError> {
        let snapshot = setup.snapshot.clone();
        let workers = snapshot.options().workers.max(1);
        let scope = Scope::of(&snapshot);
        let (sockets, rx_batches) = open_sockets(workers, &scope)?;
        let (wake, inbox) = channel().map_err(|source| error::socket("wake-up", source))?;
        let shared = Arc::new(Shared::new(setup, sockets, scope));
        let mut keeper = NextHopKeeper::start(shared.clone(), inbox).map_err(EngineError::links)?;
        let mut engine = Self { shared, wake, threads: Mutex::default(), taken_over: None };
        if engine.interfaces().is_empty() {
            return Err(EngineError::no_interface(&snapshot.options().interfaces));
        }
        keeper.resolve_first(FIRST_RESOLUTION);
        engine.spawn("convey-nexthops".to_owned(), move |_| keeper.run())?;
        let mut memory = memory.into_iter();
        let mut runners: Vec<Runner<KernelFrames>> = Vec::with_capacity(workers);
        for (index, rx) in rx_batches.into_iter().enumerate() {
            let memory = memory.next().unwrap_or_else(|| WorkerMemory::own(snapshot.options()));
            let frames = KernelFrames::new(rx, engine.shared.clone(), index);
            runners.push(Runner::new(index, frames, engine.shared.clone(), engine.wake.clone(), memory));
        }
        engine.take_over(saved, &mut runners);
        for (index, mut runner) in runners.into_iter().enumerate() {
            engine.spawn(format!("convey-packet-{index}"), move |panics| runner.run(panics))?;
        }
        Ok(engine)
    }

    fn take_over(&mut self, saved: &[SavedFlows], runners: &mut [Runner<KernelFrames>]) {
        let snapshot = self.shared.snapshot.load_full();
        for flows in saved {
            let report = self.taken_over.get_or_insert_default();
            let heirs: Vec<Vec<Heir>> = flows.divide(&snapshot, self.shared.now(), report);
            for (runner, heirs) in runners.iter_mut().zip(heirs) {
                runner.take_over(&heirs, &snapshot, report);
            }
        }
    }

    fn spawn(&self, name: String, work: impl FnMut(u32) + Send + 'static) -> Result<(), EngineError> {
        let events = self.shared.events.clone();
        let thread_name = name.clone();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || supervise(&thread_name, &events, work))
            .map_err(|source| error::thread(&name, source))?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl PacketEngine for AfPacketEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::AfPacket
    }

    fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError> {
        let scope = Scope::of(&snapshot);
        self.shared.set_scope(scope).map_err(|source| error::socket("filter", source))?;
        self.shared.snapshot.store(snapshot);
        self.wake.refresh();
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// The worker that the packet is steered to answers, an idle one within a tenth of a second.
    fn explain(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        timeout: Duration,
    ) -> Option<Explanation> {
        let snapshot = self.shared.snapshot.load_full();
        let options = snapshot.options();
        let nat_ports = if snapshot.mode() == Mode::Passthrough { options.nat_ports } else { NO_PORTS };
        let index =
            worker_for(source.ip(), source.port(), destination.port(), nat_ports, options.workers.max(1));
        let (answer, answered) = sync_channel(1);
        let request = ExplainRequest { protocol, source, destination, answer };
        if !self.shared.explain_queues.get(index)?.push(request) {
            return None;
        }
        let explanation = answered.recv_timeout(timeout).ok()?;
        Some(explain_arrival(explanation, source, &self.shared.next_hops.load(), &self.interfaces()))
    }

    fn next_hops(&self) -> Option<Arc<NextHops>> {
        Some(self.shared.next_hops.load_full())
    }

    fn resolve(&self, ifindex: u32, address: IpAddr) {
        self.wake.resolve(ifindex, address);
    }

    fn interfaces(&self) -> Vec<u32> {
        self.shared.interfaces()
    }

    fn taken_over(&self) -> Option<TakenOver> {
        self.taken_over
    }

    /// Forwards nothing without its process, so that there is nothing to keep.
    fn close(&self, _keep: Keep) -> Vec<String> {
        self.shared.end();
        self.wake.refresh();
        for thread in lock(&self.threads).drain(..) {
            // A panic was caught and reported inside the thread.
            let _ = thread.join();
        }
        Vec::new()
    }
}

impl Drop for AfPacketEngine {
    fn drop(&mut self) {
        self.close(Keep::Nothing);
    }
}

fn open_sockets(workers: usize, scope: &Scope) -> Result<(Vec<PacketSocket>, Vec<RxBatch>), EngineError> {
    let failed = |what| move |source| error::socket(what, source);
    let mut sockets: Vec<PacketSocket> = Vec::with_capacity(workers);
    let mut rx_batches = Vec::with_capacity(workers);
    let mut group = None;
    for _ in 0..workers {
        let socket = PacketSocket::open(RECEIVE_BUFFER_BYTES).map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                error::permission(source)
            } else {
                error::socket("options", source)
            }
        })?;
        // Until the interfaces are known, and the group is whole, nothing may be received.
        socket.filter(&filter::nothing()).map_err(failed("filter"))?;
        let ring = socket.ring(RECEIVE_BUFFER_BYTES / RING_SHARE).map_err(failed("ring"))?;
        socket.bind_all().map_err(failed("bind"))?;
        if workers > 1 {
            match group {
                None => group = Some(socket.start_fanout().map_err(failed("fan-out"))?),
                Some(id) => socket.join_fanout(id).map_err(failed("fan-out"))?,
            }
        }
        sockets.push(socket);
        rx_batches.push(RxBatch::new(ring));
    }
    if let [first, _, ..] = sockets.as_slice() {
        let program = filter::steering(scope.nat_ports, workers);
        first.steer(&program).map_err(failed("fan-out program"))?;
    }
    Ok((sockets, rx_batches))
}
