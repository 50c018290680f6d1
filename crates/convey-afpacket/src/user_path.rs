//! What every engine has that decides about packets in user space, about all of them or about some: workers, the thread
//! that follows the network, and what they share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use convey_core::{FlowCursor, FlowFilter, FlowPage, Mode, Protocol, Watches};
use convey_engine::steering::worker_for;
use convey_engine::{
    EngineError, EngineSetup, EngineStats, Explanation, LiveDecision, NextHops, PacketSnapshot, PortRange,
    UserSide, explain_arrival,
};
use convey_links::{Inbox, NextHopKeeper, Wake, channel};

use crate::error;
use crate::flow_list;
use crate::frames::FrameIo;
use crate::requests::Request;
use crate::scope::Scope;
use crate::shared::{Intake, Shared, lock};
use crate::supervise::supervise;
use crate::worker::Runner;

/// How long a start waits for servers and gateways to tell their link-layer addresses.
const FIRST_RESOLUTION: Duration = Duration::from_millis(300);

/// No port lies within: answers of servers do not come by here.
const NO_PORTS: PortRange = PortRange { first: 1, last: 0 };

/// Workers and what they go by. Dropping it does not end its threads: [`UserPath::close`] does.
pub struct UserPath {
    shared: Arc<Shared>,
    wake: Wake,
    threads: Mutex<Vec<JoinHandle<()>>>,
    inbox: Mutex<Option<Inbox>>,
}

impl std::fmt::Debug for UserPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserPath").field("interfaces", &self.interfaces()).finish_non_exhaustive()
    }
}

impl UserPath {
    /// For `workers` workers whose frames come from `intake`; nothing runs yet.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(setup: EngineSetup, workers: usize, intake: Arc<dyn Intake>) -> Result<Self, EngineError> {
        let scope = Scope::of(&setup.snapshot);
        let (wake, inbox) = channel().map_err(|source| error::socket("wake-up", source))?;
        let shared = Arc::new(Shared::new(setup, workers, intake, scope));
        Ok(Self { shared, wake, threads: Mutex::default(), inbox: Mutex::new(Some(inbox)) })
    }

    /// Chooses the interfaces, begins to follow the network, and waits a moment for neighbours to tell their addresses.
    ///
    /// # Errors
    /// [`EngineError`]; to be closed then.
    pub fn follow_network(&self) -> Result<(), EngineError> {
        let Some(inbox) = lock(&self.inbox).take() else { return Ok(()) };
        let mut keeper = NextHopKeeper::start(self.shared.clone(), inbox).map_err(EngineError::links)?;
        if self.interfaces().is_empty() {
            return Err(EngineError::no_interface(&self.shared.snapshot.load().options().interfaces));
        }
        keeper.resolve_first(FIRST_RESOLUTION);
        self.spawn("convey-nexthops".to_owned(), move |_| keeper.run())
    }

    /// What its workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Wakes the thread that follows the network.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Starts a worker's thread.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn run<F: FrameIo + Send + 'static>(&self, mut runner: Runner<F>) -> Result<(), EngineError> {
        let name = format!("convey-packet-{}", runner.index());
        self.spawn(name, move |panics| runner.run(panics))
    }

    /// Starts a thread whose work is begun again after a panic.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn spawn(&self, name: String, work: impl FnMut(u32) + Send + 'static) -> Result<(), EngineError> {
        let events = self.shared.events.clone();
        let thread_name = name.clone();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || supervise(&thread_name, &events, work))
            .map_err(|source| error::thread(&name, source))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Goes by another snapshot.
    ///
    /// # Errors
    /// What the kernel answers; the former one stays in force.
    pub fn install(&self, snapshot: Arc<PacketSnapshot>) -> io::Result<()> {
        self.shared.set_scope(Scope::of(&snapshot))?;
        self.shared.snapshot.store(snapshot);
        self.wake.refresh();
        Ok(())
    }

    /// What its workers did so far.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// The worker that packets from `source` to `destination` are steered to.
    fn worker_for(&self, source: SocketAddr, destination: SocketAddr) -> usize {
        let snapshot = self.shared.snapshot();
        let is_passthrough = snapshot.mode() == Mode::Passthrough;
        let nat_ports = if is_passthrough { snapshot.options().nat_ports } else { NO_PORTS };
        let workers = self.shared.requests.len();
        worker_for(source.ip(), source.port(), destination.port(), nat_ports, workers)
    }

    /// Ends every thread and waits for it. Idempotent.
    pub fn close(&self) {
        self.shared.end();
        self.wake.refresh();
        for thread in lock(&self.threads).drain(..) {
            // A panic was caught and reported inside the thread.
            let _ = thread.join();
        }
    }
}

impl UserSide for UserPath {
    /// The worker that the packet is steered to answers, an idle one within a tenth of a second.
    fn explain(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        timeout: Duration,
    ) -> Option<Explanation> {
        let worker = self.worker_for(source, destination);
        let (answer, answered) = sync_channel(1);
        let request = Request::Explain { protocol, source, destination, answer };
        self.shared.requests.get(worker)?.push(request).ok()?;
        let explanation = answered.recv_timeout(timeout).ok()?;
        Some(explain_arrival(explanation, source, &self.next_hops(), &self.interfaces()))
    }

    fn next_hops(&self) -> Arc<NextHops> {
        self.shared.next_hops.load_full()
    }

    fn resolve(&self, ifindex: u32, address: IpAddr) {
        self.wake.resolve(ifindex, address);
    }

    fn flows(&self, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage {
        flow_list::list(&self.shared, filter, cursor, limit)
    }

    fn end_flows(&self, filter: &FlowFilter, timeout: Duration) -> Option<u64> {
        flow_list::end(&self.shared, filter, timeout)
    }

    fn watches(&self) -> &Arc<Watches<LiveDecision>> {
        &self.shared.watches
    }

    fn interfaces(&self) -> Vec<u32> {
        self.shared.interfaces()
    }
}
