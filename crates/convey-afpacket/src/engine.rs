//! The engine: its start and its end.

use std::sync::Arc;

use convey_engine::{
    EngineError, EngineKind, EngineSetup, EngineStats, Heir, Keep, PacketEngine, PacketSnapshot, SavedFlows,
    TakenOver, UserSide, WorkerMemory,
};

use crate::error;
use crate::frames::KernelFrames;
use crate::scope::Scope;
use crate::shared_memory::own_flows;
use crate::sockets::Sockets;
use crate::user_path::UserPath;
use crate::worker::Runner;

/// The portable packet engine at work. Dropping it closes it.
pub struct AfPacketEngine {
    path: UserPath,
    /// `None`: there was nothing to take over.
    taken_over: Option<TakenOver>,
}

impl std::fmt::Debug for AfPacketEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfPacketEngine").field("interfaces", &self.path.interfaces()).finish_non_exhaustive()
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
        let (sockets, rx_batches) = Sockets::open(workers, &Scope::of(&snapshot))?;
        let path = UserPath::new(setup, workers, sockets.clone())?;
        let mut engine = Self { path, taken_over: None };
        engine.path.follow_network()?;
        let mut memory = memory.into_iter();
        let mut runners: Vec<Runner<KernelFrames>> = Vec::with_capacity(workers);
        for (index, rx) in rx_batches.into_iter().enumerate() {
            let memory = memory.next().unwrap_or_else(|| own_flows(snapshot.options()));
            runners.push(Runner::new(
                index,
                KernelFrames::new(rx, sockets.clone(), index),
                &engine.path,
                memory,
            ));
        }
        engine.take_over(saved, &mut runners);
        for runner in runners {
            engine.path.run(runner)?;
        }
        Ok(engine)
    }

    fn take_over(&mut self, saved: &[SavedFlows], runners: &mut [Runner<KernelFrames>]) {
        let snapshot = self.path.shared().snapshot.load_full();
        for flows in saved {
            let report = self.taken_over.get_or_insert_default();
            let heirs: Vec<Vec<Heir>> = flows.divide(&snapshot, self.path.shared().now(), report);
            for (runner, heirs) in runners.iter_mut().zip(heirs) {
                runner.take_over(&heirs, &snapshot, report);
            }
        }
    }
}

impl PacketEngine for AfPacketEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::AfPacket
    }

    fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError> {
        self.path.install(snapshot).map_err(|source| error::socket("filter", source))
    }

    fn stats(&self) -> EngineStats {
        self.path.stats()
    }

    fn user_side(&self) -> &dyn UserSide {
        &self.path
    }

    fn taken_over(&self) -> Option<TakenOver> {
        self.taken_over
    }

    /// Forwards nothing without its process, so that there is nothing to keep.
    fn close(&self, _keep: Keep) -> Vec<String> {
        self.path.close();
        Vec::new()
    }
}

impl Drop for AfPacketEngine {
    fn drop(&mut self) {
        self.close(Keep::Nothing);
    }
}
