//! The engine: its start and its end.

use std::sync::{Arc, Mutex};

use convey_afpacket::own_flows;
use convey_afpacket::workers::{PacketSocket, Runner, UserPath, lock};
use convey_engine::{
    EngineError, EngineErrorKind, EngineKind, EngineSetup, EngineStats, Keep, PacketEngine, PacketSnapshot,
    SavedFlows, TakenOver, UserSide, WorkerMemory,
};

use super::frames::Frames;
use super::give_back::GiveBack;
use super::intake::{Ports, no_way_back};
use super::refusal;
use crate::GuardRules;

/// The send buffer of the socket for interfaces that are not listened on.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// The AF_XDP engine at work. Dropping it closes it.
pub struct AfXdpEngine {
    path: UserPath,
    ports: Arc<Ports>,
    /// What the program hands over.
    rules: Mutex<GuardRules>,
    taken_over: Option<TakenOver>,
}

impl std::fmt::Debug for AfXdpEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfXdpEngine").field("interfaces", &self.path.interfaces()).finish_non_exhaustive()
    }
}

impl AfXdpEngine {
    /// Opens sockets and attaches the program in the calling thread's network namespace, and starts forwarding by the
    /// setup's snapshot, which must be made for one worker. It keeps its flows in `memory`, or in that of this process
    /// where there is none, and goes on with the flows that killed balancers `saved` before it takes the first frame.
    ///
    /// # Errors
    /// [`EngineError`]; nothing is left running or attached.
    pub fn start(
        mut setup: EngineSetup,
        memory: Vec<WorkerMemory>,
        saved: &[SavedFlows],
    ) -> Result<Self, EngineError> {
        let snapshot = setup.snapshot.clone();
        let rules = GuardRules::of(&snapshot);
        let ports = Arc::new(Ports::new(&rules, snapshot.options(), setup.events.clone())?);
        let give_back = GiveBack::load().map_err(|error| no_way_back(&error))?;
        let packet_socket = PacketSocket::open(SEND_BUFFER_BYTES).map_err(|source| {
            EngineError::new(
                EngineErrorKind::Failed,
                format!("Cannot open a packet socket to send by: {source}"),
                "it takes CAP_NET_RAW",
            )
            .caused_by(source)
        })?;
        setup.on_interfaces = Some(ports.sink(setup.on_interfaces.take()));
        let path = UserPath::new(setup, 1, ports.clone())?;
        let frames = Frames::new(ports.handover().clone(), give_back, packet_socket);
        let mut engine = Self { path, ports, rules: Mutex::new(rules), taken_over: None };
        let followed = engine.path.follow_network();
        // Why an interface was refused says more than that there is none.
        if let Some(refused) = engine.ports.started() {
            return Err(refused);
        }
        followed?;
        let memory = memory.into_iter().next().unwrap_or_else(|| own_flows(snapshot.options()));
        let mut runner = Runner::new(0, frames, &engine.path, memory);
        let now = engine.path.shared().now();
        for flows in saved {
            let report = engine.taken_over.get_or_insert_default();
            for heirs in flows.divide(&snapshot, now, report) {
                runner.take_over(&heirs, &snapshot, report);
            }
        }
        engine.path.run(runner)?;
        Ok(engine)
    }
}

impl PacketEngine for AfXdpEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::AfXdp
    }

    fn install(&self, snapshot: Arc<PacketSnapshot>) -> Result<(), EngineError> {
        let rules = GuardRules::of(&snapshot);
        let mut former = lock(&self.rules);
        let installed = self
            .ports
            .add_rules(&rules)
            .map_err(|error| refusal::program(&error))
            .and_then(|()| self.path.install(snapshot).map_err(EngineError::links));
        if installed.is_ok() {
            *former = rules;
        }
        let removed = self.ports.remove_stale_rules(&former).map_err(|error| refusal::program(&error));
        installed.and(removed)
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
        self.ports.close();
        self.path.close();
        Vec::new()
    }
}

impl Drop for AfXdpEngine {
    fn drop(&mut self) {
        self.close(Keep::Nothing);
    }
}
