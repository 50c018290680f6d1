//! One running balancer: the published snapshot, the engine that serves it, and their life cycle.
//!
//! Invariants: a spec that is refused, or that the engine cannot install, changes nothing; installs are
//! serialised; after `close` every call answers [`RuntimeError::Closed`].
// The one exception is host/sys.rs.
#![deny(unsafe_code)]

pub mod abstract_socket;
mod explain;
pub mod host;
mod ladder;
mod live;
mod packet;
mod periodic_task;
mod reachability;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::explain::{Hello, Question};
pub use convey_afpacket::probe::{Method as ProbeMethod, Probe};
use convey_core::{EventSink, FlowCursor, FlowFilter, FlowPage, Mode, Snapshot, SnapshotSpec, SpecError};
use convey_engine::{EngineError, EngineErrorKind, PacketOptions};
pub use convey_engine::{Explanation, Keep, LiveDecision};
pub use convey_proxy::{LogSpec, Logged, inherited, source_socket};
use convey_proxy::{Proxy, ProxyError, descriptors_problem};

pub use crate::host::state_dir;
use crate::host::{HostError, MissingPrivilege};
pub use crate::ladder::{EngineChoice, RefusedEngine};
pub use crate::live::LiveWatch;
use crate::packet::PacketPath;
pub use crate::packet::{HostReport, LinkReport, PacketStats, ProbeOutcome, ProbeReport};
pub use crate::reachability::Problem;

/// Why the runtime could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The specification breaks an invariant.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The proxy engine failed.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The packet engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host could not be prepared.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A privilege is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// As many watch as may.
    #[error("{} watch decisions already; wait until one of them has ended", convey_core::watch::MAX_WATCHES)]
    TooManyWatches,
    /// A worker did not answer in time.
    #[error("a worker does not answer")]
    NoAnswer,
    /// The balancer was closed.
    #[error("the balancer is closed")]
    Closed,
}

/// The kind of a [`RuntimeError`], stable across versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The configuration breaks an invariant.
    Config,
    /// An address cannot be bound.
    Bind,
    /// A privilege is missing.
    Permission,
    /// No engine serves the mode here.
    Unsupported,
    /// The balancer was closed.
    Closed,
    /// Anything else.
    Internal,
}

impl RuntimeError {
    /// The kind, for callers that decide by it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(_) => ErrorKind::Config,
            Self::Proxy(error) if error.is_shortage() => ErrorKind::Internal,
            Self::Proxy(ProxyError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ErrorKind::Permission
            }
            Self::Proxy(ProxyError::Bind { .. } | ProxyError::Source { .. }) => ErrorKind::Bind,
            Self::Proxy(ProxyError::Transparent { .. }) => ErrorKind::Permission,
            Self::Proxy(ProxyError::Worker { .. } | ProxyError::Descriptors(_)) => ErrorKind::Internal,
            Self::Proxy(ProxyError::Log(_)) => ErrorKind::Config,
            Self::Engine(error) => match error.kind {
                EngineErrorKind::Permission => ErrorKind::Permission,
                EngineErrorKind::NoInterface => ErrorKind::Bind,
                EngineErrorKind::Unsupported => ErrorKind::Unsupported,
                EngineErrorKind::Failed => ErrorKind::Internal,
            },
            Self::Host(error) => host_error_kind(error),
            Self::Privilege(_) => ErrorKind::Permission,
            Self::NoAnswer | Self::TooManyWatches => ErrorKind::Internal,
            Self::Closed => ErrorKind::Closed,
        }
    }
}

fn host_error_kind(error: &HostError) -> ErrorKind {
    let by_cause = |source: &std::io::Error| match source.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Internal,
    };
    match error {
        HostError::SecondInstance { .. } | HostError::NatPortsTaken { .. } => ErrorKind::Bind,
        HostError::NoPortsLeft { .. }
        | HostError::NoInterface(_)
        | HostError::NotOurAddress(_)
        | HostError::Contradiction(_) => ErrorKind::Config,
        HostError::Sysctl { source, .. }
        | HostError::State { source, .. }
        | HostError::Pins { source, .. }
        | HostError::Offload { source, .. }
        | HostError::Routes(source)
        | HostError::Socket { source, .. } => by_cause(source),
        HostError::StateNotOurs { .. } => ErrorKind::Permission,
        HostError::Xdp(_) | HostError::FlowMemory { .. } => ErrorKind::Internal,
    }
}

/// Everything a balancer is told.
#[derive(Debug, Clone)]
pub struct RuntimeSpec {
    /// Frontends, backends and limits.
    pub snapshot: SnapshotSpec,
    /// Data-plane threads, at least 1; fixed while running.
    pub workers: usize,
    /// Which packet engine to use; fixed while running.
    pub engine: EngineChoice,
    /// Settings of the packet modes; capacity and NAT ports are fixed while running.
    pub packet: PacketOptions,
    /// What is logged of connections, in proxy mode; `None`: nothing.
    pub log: Option<LogSpec>,
}

/// A change of one server's part in selection.
#[derive(Debug, Clone)]
pub struct ServerUpdate {
    /// Backend name.
    pub backend: String,
    /// Server name.
    pub server: String,
    /// Whether health checks hold it for up.
    pub up: bool,
    /// Whether it takes no new connections.
    pub draining: bool,
    /// Share of new connections.
    pub weight: u16,
    /// How much of its weight counts, in [`convey_core::selection::SLOW_START_STEPS`]ths.
    pub share: u8,
}

/// A running balancer. Dropping it closes it.
#[derive(Debug)]
pub struct Runtime {
    engine: Engine,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Engine {
    Proxy(Proxy),
    Packet(Arc<PacketPath>),
}

#[derive(Debug)]
struct State {
    snapshot: Arc<Snapshot>,
    closed: bool,
}

impl Runtime {
    /// Checks `spec` and starts the engine of its mode.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is left running.
    pub fn start(spec: RuntimeSpec, events: EventSink) -> Result<Self, RuntimeError> {
        let workers = spec.workers.max(1);
        let mut snapshot = Arc::new(Snapshot::first(spec.snapshot, workers)?);
        let engine = match snapshot.mode {
            Mode::Proxy => {
                packet::reclaim_leftovers(&events);
                let proxy = Proxy::start(snapshot.clone(), workers, events)?;
                proxy.log_connections(spec.log.as_ref()).map_err(ProxyError::from)?;
                Engine::Proxy(proxy)
            }
            Mode::Passthrough | Mode::Dsr => {
                let path = PacketPath::start(spec.engine, snapshot, spec.packet, events)?;
                snapshot = path.snapshot();
                Engine::Packet(path)
            }
        };
        Ok(Self { engine, state: Mutex::new(State { snapshot, closed: false }) })
    }

    /// Replaces the whole configuration; on an error the old one serves on. Returns the new version. What leaves
    /// service closes in the background, see [`Runtime::settle`].
    ///
    /// # Errors
    /// [`RuntimeError`] names the offending field or address.
    pub fn install(&self, spec: RuntimeSpec) -> Result<u64, RuntimeError> {
        let mut state = self.open_state()?;
        let Engine::Proxy(proxy) = &self.engine else {
            return self.publish(&mut state, spec.snapshot, Some(&spec.packet));
        };
        let before = proxy.logged();
        proxy.log_connections(spec.log.as_ref()).map_err(ProxyError::from)?;
        let outcome = self.publish(&mut state, spec.snapshot, Some(&spec.packet));
        if outcome.is_err() {
            // Should its file be gone by now, the one of the refused configuration goes on: nothing is lost by that.
            let _ = proxy.log_connections(before.as_ref());
        }
        outcome
    }

    /// Opens the file that connections are logged to anew; false where there is none.
    ///
    /// # Errors
    /// [`RuntimeError::Proxy`]; the one that was open goes on.
    pub fn reopen_log(&self) -> Result<bool, RuntimeError> {
        let Engine::Proxy(proxy) = &self.engine else { return Ok(false) };
        let reopened = proxy.reopen_log().transpose().map_err(ProxyError::from)?;
        Ok(reopened.is_some())
    }

    /// Lines of connections that were lost because they could not be written in time.
    pub fn lost_log_lines(&self) -> u64 {
        match &self.engine {
            Engine::Proxy(proxy) => proxy.lost_log_lines(),
            Engine::Packet(_) => 0,
        }
    }

    /// Changes health, drain state and weight of servers. Names that are not there (any more) are passed over.
    ///
    /// # Errors
    /// [`RuntimeError::Closed`].
    pub fn set_servers(&self, updates: &[ServerUpdate]) -> Result<u64, RuntimeError> {
        let mut state = self.open_state()?;
        let mut spec = state.snapshot.spec().clone();
        for update in updates {
            let server = spec
                .backends
                .iter_mut()
                .filter(|b| b.name == update.backend)
                .flat_map(|b| &mut b.servers)
                .find(|s| s.name == update.server);
            if let Some(server) = server {
                server.up = update.up;
                server.draining = update.draining;
                server.weight = update.weight;
                server.share = update.share;
            }
        }
        self.publish(&mut state, spec, None)
    }

    fn publish(
        &self,
        state: &mut State,
        spec: SnapshotSpec,
        settings: Option<&PacketOptions>,
    ) -> Result<u64, RuntimeError> {
        let next = Arc::new(state.snapshot.next(spec)?);
        match &self.engine {
            Engine::Proxy(proxy) => proxy.install(next.clone())?,
            Engine::Packet(packet) => packet.install(next.clone(), settings)?,
        }
        state.snapshot = next;
        Ok(state.snapshot.version)
    }

    /// The snapshot in service, with its live counters.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// Whether connections are counted. Where they are not, those of [`Runtime::snapshot`] are all 0.
    pub fn counts_connections(&self) -> bool {
        match &self.engine {
            Engine::Proxy(_) => true,
            Engine::Packet(packet) => packet.counts_connections(),
        }
    }

    /// Where each frontend listens, by name.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        match &self.engine {
            Engine::Proxy(proxy) => proxy.addresses(),
            Engine::Packet(packet) => packet.addresses(),
        }
    }

    /// What the packet engine did so far; `None` in proxy mode.
    pub fn packet_stats(&self) -> Option<PacketStats> {
        match &self.engine {
            Engine::Proxy(_) => None,
            Engine::Packet(packet) => Some(packet.stats()),
        }
    }

    /// What would become of the next packet of a flow (proxy mode: of a connection). Waits for the worker that
    /// has the flow, a tenth of a second when it is idle. `None` when it does not answer, or after `close`.
    pub fn explain(&self, question: &Question) -> Option<Explanation> {
        match &self.engine {
            Engine::Proxy(proxy) => Some(
                explain::session(proxy, question)
                    .unwrap_or_else(|| explain::proxied(&self.snapshot(), &proxy.addresses(), question)),
            ),
            Engine::Packet(packet) => {
                let Question { protocol, source, destination, .. } = *question;
                packet.explain(protocol, source, destination).map(explain::with_interface_names)
            }
        }
    }

    /// A page of at most `limit` of the flows that `filter` takes (proxy mode: of the open connections), from `cursor`
    /// on. Milliseconds; no packet waits for it. A page may have fewer rows than there are, even none, and a cursor.
    ///
    /// # Errors
    /// [`RuntimeError::Closed`].
    pub fn flows(
        &self,
        filter: &FlowFilter,
        cursor: FlowCursor,
        limit: usize,
    ) -> Result<FlowPage, RuntimeError> {
        drop(self.open_state()?);
        Ok(match &self.engine {
            Engine::Proxy(proxy) => proxy.connections(filter, cursor, limit),
            Engine::Packet(packet) => packet.flows(filter, cursor, limit),
        })
    }

    /// Ends the flows that `filter` takes as if their time was over (proxy mode: cuts the connections), and tells how
    /// many. Flows that begin meanwhile may live.
    ///
    /// # Errors
    /// [`RuntimeError::Closed`]; [`RuntimeError::NoAnswer`] when a worker is busy for seconds, some may have ended then.
    pub fn end_flows(&self, filter: &FlowFilter) -> Result<u64, RuntimeError> {
        drop(self.open_state()?);
        match &self.engine {
            Engine::Proxy(proxy) => Ok(proxy.end_connections(filter)),
            Engine::Packet(packet) => packet.end_flows(filter).ok_or(RuntimeError::NoAnswer),
        }
    }

    /// Watches the decisions on packets that `filter` takes, in proxy mode on connections, from now on and until there
    /// were `count` of them. Most that wait to be taken: [`convey_core::watch::RING`].
    ///
    /// # Errors
    /// [`RuntimeError::Closed`]; [`RuntimeError::TooManyWatches`].
    pub fn watch(&self, filter: FlowFilter, count: u64) -> Result<LiveWatch, RuntimeError> {
        drop(self.open_state()?);
        let kind = match &self.engine {
            Engine::Proxy(proxy) => proxy.watches().begin(filter, count).map(live::Kind::Proxy),
            Engine::Packet(packet) => packet.watch(filter, count).map(live::Kind::Packet),
        };
        kind.map(LiveWatch).ok_or(RuntimeError::TooManyWatches)
    }

    /// Asks a server for the addresses of frontends, in dsr mode. `done` is called once, from any thread, by the
    /// probe's timeout at the latest; once the balancer closes it may not be called.
    pub fn probe(&self, probe: Probe, done: impl FnOnce(ProbeReport) + Send + 'static) {
        match &self.engine {
            Engine::Proxy(_) => done(ProbeReport::unavailable("proxy mode has no packet sockets".to_owned())),
            Engine::Packet(packet) => packet.probe(probe, done),
        }
    }

    /// Takes no new connections from now on; open ones go on.
    ///
    /// # Errors
    /// [`RuntimeError`] if the packet engine cannot be told; it goes on as before.
    pub fn stop_accepting(&self) -> Result<(), RuntimeError> {
        match &self.engine {
            Engine::Proxy(proxy) => proxy.stop_accepting(),
            Engine::Packet(packet) => packet.stop_accepting()?,
        }
        Ok(())
    }

    /// Waits until what [`Runtime::install`] and [`Runtime::stop_accepting`] took out of service is closed: its
    /// addresses are free then, and everybody who was connected to it is counted as open.
    pub fn settle(&self) {
        match &self.engine {
            Engine::Proxy(proxy) => proxy.settle(),
            Engine::Packet(_) => {}
        }
    }

    /// Cuts what is still open, joins every thread, takes back what was done to the host. Idempotent. Returns
    /// what was taken back, and what was not and why, in words.
    pub fn close(&self) -> Vec<String> {
        self.close_keeping(Keep::Nothing)
    }

    /// Whether forwarding goes on when the process is killed, and with [`Keep::Forwarding`].
    pub fn outlives_process(&self) -> bool {
        match &self.engine {
            Engine::Proxy(_) => false,
            Engine::Packet(packet) => packet.outlives_process(),
        }
    }

    /// As [`Runtime::close`], but with [`Keep::Forwarding`] an engine whose programs forward in the kernel leaves them,
    /// for the next start to go on with.
    pub fn close_keeping(&self, keep: Keep) -> Vec<String> {
        self.lock().closed = true;
        match &self.engine {
            Engine::Proxy(proxy) => {
                proxy.close();
                Vec::new()
            }
            Engine::Packet(packet) => packet.close(keep),
        }
    }

    /// Whether [`Runtime::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let state = self.lock();
        if state.closed { Err(RuntimeError::Closed) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // State is replaced whole, so it is valid even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.close();
    }
}

/// Every change of the host that [`Runtime::start`] would make, as lines one could type, with comments. Nothing is
/// changed, and no privilege needed.
///
/// # Errors
/// [`RuntimeError`], as far as they show without starting.
pub fn dry_run(spec: RuntimeSpec) -> Result<Vec<String>, RuntimeError> {
    let snapshot = Snapshot::first(spec.snapshot, 1)?;
    if snapshot.mode == Mode::Proxy {
        return Ok(vec!["# proxy mode changes nothing on the host".to_owned()]);
    }
    packet::dry_run(spec.engine, &snapshot, spec.packet)
}

/// What this host would say to a start with `spec`, beside what is wrong with the configuration itself: why it would be
/// refused, and what stands in the way. In words. Nothing is changed, and no privilege needed.
///
/// # Errors
/// [`RuntimeError`].
pub fn host_problems(spec: RuntimeSpec) -> Result<Vec<String>, RuntimeError> {
    let snapshot = Snapshot::first(spec.snapshot, 1)?;
    if snapshot.mode == Mode::Proxy {
        return Ok(Vec::new());
    }
    packet::host_problems(&snapshot, spec.packet)
}

/// What this host would say to a start with `spec`, as data. In proxy mode there is nothing but the problems. Nothing is
/// changed, and no privilege needed.
///
/// # Errors
/// [`RuntimeError`].
pub fn host_report(spec: RuntimeSpec) -> Result<HostReport, RuntimeError> {
    let snapshot = Snapshot::first(spec.snapshot, 1)?;
    if snapshot.mode == Mode::Proxy {
        return Ok(HostReport { problems: descriptors(&snapshot, spec.workers), ..HostReport::default() });
    }
    packet::host_report(spec.engine, &snapshot, spec.packet)
}

fn descriptors(snapshot: &Snapshot, workers: usize) -> Vec<Problem> {
    let listeners = snapshot.frontends.iter().map(|f| f.listen.len()).sum();
    let of = descriptors_problem(workers.max(1), listeners, snapshot.limits.max_connections);
    let problem = |(is_refused, fact)| {
        let (kind, consequence) = if is_refused {
            ("no_descriptors", "The start is refused.")
        } else {
            ("few_descriptors", "Beyond that, clients wait until others have ended.")
        };
        Problem { kind, fact, consequence: consequence.to_owned(), remedy: String::new() }
    };
    of.into_iter().map(problem).collect()
}

/// What would become of the first packet of a flow if a balancer started now with `spec`,
/// every server as it says. Nothing is changed, and no privilege needed.
///
/// # Errors
/// [`RuntimeError`].
pub fn explain(spec: RuntimeSpec, question: &Question) -> Result<Explanation, RuntimeError> {
    let snapshot = Snapshot::first(spec.snapshot, 1)?;
    if snapshot.mode == Mode::Proxy {
        return Ok(explain::proxied(&snapshot, &explain::configured(&snapshot), question));
    }
    let Question { protocol, source, destination, .. } = *question;
    packet::explain_unstarted(&snapshot, spec.packet, [source, destination], protocol)
        .map(explain::with_interface_names)
}

/// Takes back what killed processes left on this host. Returns what was done, in words.
///
/// # Errors
/// [`RuntimeError`]; what failed is tried again next time.
pub fn cleanup() -> Result<Vec<String>, RuntimeError> {
    Ok(host::cleanup(&state_dir())?)
}
