//! The kernel engines: a program at tc ingress or XDP forwards, and a worker in user space answers, translates ICMP
//! errors, follows fragments and finds next hops, in the same tables.
//!
//! Maps are memory of both. What the program cannot decide it hands up by a ring, untouched and uncounted: the worker
//! decides about it as about any frame. So a packet is decided by one of the two, and by the same state. Whoever watches
//! is told by the one that decided: of what programs do by records in the same ring (`watched`).

mod attach;
mod counts;
mod intake;
mod partial;
mod pins;
mod ring;
mod sizes;
mod slot_uses;
mod watched;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use convey_afpacket::monotonic;
use convey_afpacket::workers::{PacketSocket, Runner, UserPath, lock};
use convey_core::{FlowFilter, Watching};
use convey_engine::{
    EngineError, EngineErrorKind, EngineKind, EngineSetup, EngineStats, InterfaceSink, Keep, LiveDecision,
    PacketEngine, PacketSnapshot, SavedFlows, TakenOver, UserSide, Worker,
};

use self::intake::Programs;
pub use self::pins::Pins;
use self::ring::RingFrames;
use self::watched::Watched;
use crate::kernel::Hook;

/// Room for frames that are sent from user space.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// A program in the kernel, and the worker beside it. Dropping it closes it.
pub struct KernelEngine {
    kind: EngineKind,
    path: UserPath,
    programs: Arc<Programs>,
    watched: Arc<Watched>,
    /// Of killed balancers that other engines served.
    taken_over: Option<TakenOver>,
    /// What it began with was another's, which may go on if this one does not come to stand.
    is_heir: bool,
    stands: AtomicBool,
    is_closed: Mutex<bool>,
}

impl std::fmt::Debug for KernelEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelEngine").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl KernelEngine {
    /// Loads the program of `hook` and puts it on the interfaces of the calling thread's network namespace. With `pins` it
    /// outlives this process. `saved` are flows of killed balancers that another engine served.
    ///
    /// # Errors
    /// [`EngineError`]; nothing is left but what is pinned, and what was to be gone on with goes on.
    pub fn start(
        hook: Hook,
        setup: EngineSetup,
        pins: Option<Pins>,
        saved: &[SavedFlows],
    ) -> Result<Self, EngineError> {
        let kind = match hook {
            Hook::Tc => EngineKind::Tc,
            Hook::Xdp => EngineKind::Xdp,
        };
        let snapshot = setup.snapshot.clone();
        let failed = |what: &str, error: &dyn std::error::Error| {
            let cause = format!("The worker beside the kernel program cannot start ({what}): {error}");
            EngineError::new(EngineErrorKind::Failed, cause, "")
        };
        let is_heir = pins.as_ref().is_some_and(|pins| pins.adopted.is_some());
        let programs = Programs::load(hook, &setup, pins)?;
        let memory = programs.memory().map_err(|e| failed("its tables", &e))?;
        let watched = programs.watched().map_err(|e| failed("what is watched", &e))?;
        let watched = Arc::new(watched);
        let ring = programs.ring().map_err(|e| failed("its ring", &e))?;
        let socket = PacketSocket::open(SEND_BUFFER_BYTES).map_err(|e| failed("a packet socket", &e))?;
        let prepare = setup.on_interfaces.clone();
        let on_interfaces: InterfaceSink = {
            let programs = programs.clone();
            Arc::new(move |interfaces| {
                let ready =
                    prepare.as_ref().map_or_else(|| interfaces.to_vec(), |prepare| prepare(interfaces));
                programs.attach(&ready)
            })
        };
        let setup = EngineSetup { on_interfaces: Some(on_interfaces), ..setup };
        let path = UserPath::new(setup, 1, programs.clone())?;
        let mut engine = Self {
            kind,
            path,
            programs,
            watched,
            taken_over: None,
            is_heir,
            stands: AtomicBool::new(false),
            is_closed: Mutex::new(false),
        };
        let worker = Worker::in_kernel(&snapshot, memory);
        let mut worker = worker.ok_or_else(|| {
            EngineError::new(EngineErrorKind::Failed, "The kernel program's tables have another size", "")
        })?;
        if is_heir {
            engine.taken_over = Some(worker.count_taken_over(&snapshot, monotonic()));
        } else if !saved.is_empty() {
            engine.taken_over = Some(take_over(&mut worker, saved, &snapshot));
        }
        let followed = engine.path.follow_network();
        // Why an interface was refused says more than that there is none.
        if let Some(refused) = engine.programs.started() {
            return Err(refused);
        }
        followed?;
        let watches = (engine.watched.clone(), engine.path.watches().clone());
        let programs = &engine.programs;
        let frames =
            RingFrames::new(ring, socket, programs.client_hops(), programs.open_checksums(), watches);
        engine.programs.begin()?;
        engine.path.run(Runner::of_worker(0, frames, &engine.path, worker))?;
        engine.stands.store(true, Relaxed);
        Ok(engine)
    }
}

fn take_over(worker: &mut Worker, saved: &[SavedFlows], snapshot: &PacketSnapshot) -> TakenOver {
    let (mut report, now) = (TakenOver::default(), monotonic());
    for saved in saved {
        for heirs in saved.divide(snapshot, now, &mut report) {
            worker.take_over(&heirs, snapshot, now, &mut report);
        }
    }
    report
}

impl PacketEngine for KernelEngine {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError> {
        self.programs.install(snapshot.clone())?;
        self.path.install(snapshot).map_err(EngineError::links)
    }

    fn collect(&self) {
        self.programs.collect();
    }

    fn stats(&self) -> EngineStats {
        let mut stats = self.path.stats();
        self.programs.add_to(&mut stats);
        stats
    }

    /// What the programs decide is told from the return on.
    fn watch(&self, filter: FlowFilter, count: u64) -> Option<Watching<LiveDecision>> {
        let watches = self.path.watches();
        let watching = watches.begin(filter, count)?;
        self.watched.follow(watches);
        Some(watching)
    }

    fn user_side(&self) -> &dyn UserSide {
        &self.path
    }

    fn taken_over(&self) -> Option<TakenOver> {
        self.taken_over
    }

    fn outlives_process(&self) -> bool {
        self.programs.are_pinned()
    }

    fn close(&self, keep: Keep) -> Vec<String> {
        let mut is_closed = lock(&self.is_closed);
        if std::mem::replace(&mut *is_closed, true) {
            return Vec::new();
        }
        if keep == Keep::Forwarding && self.outlives_process() {
            self.path.shared().keep_flows();
            self.path.close();
            self.watched.end();
            return Vec::new();
        }
        // The program first: what arrives from now on is the kernel's.
        self.programs.attach(&[]);
        self.path.close();
        self.programs.collect();
        Vec::new()
    }
}

impl Drop for KernelEngine {
    fn drop(&mut self) {
        let has_failed = self.is_heir && !self.stands.load(Relaxed);
        self.close(if has_failed { Keep::Forwarding } else { Keep::Nothing });
    }
}
