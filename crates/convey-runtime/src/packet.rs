//! The packet modes: the engine, the guard that keeps the kernel from answering what it forwards, and the
//! snapshot both go by.
//!
//! Invariants: the guard stands on an interface before the engine reads from it, and covers a new frontend
//! before the engine forwards to it; what is no longer forwarded is given back to the kernel last.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convey_afpacket::{AfPacketEngine, EngineConfig, EngineStats, Interfaces};
use convey_core::{Event, EventSink, Mode, Snapshot};
use convey_engine::{PacketOptions, PacketSnapshot};
use convey_xdp::{Endpoint, Guard, GuardMethod, GuardRules, NatRange, XdpError};

use crate::RuntimeError;

/// A packet engine at work.
#[derive(Debug)]
pub(crate) struct PacketPath {
    engine: AfPacketEngine,
    watch: Arc<Watch>,
    options: PacketOptions,
    installed: Mutex<Installed>,
}

#[derive(Debug)]
struct Installed {
    snapshot: Arc<Snapshot>,
    packet: Arc<PacketSnapshot>,
    accepting: bool,
}

/// The guard and what it goes by. The engine's thread brings interfaces, ours brings rules.
struct Watch {
    state: Mutex<Guarded>,
    events: EventSink,
}

#[derive(Debug, Default)]
struct Guarded {
    interfaces: Vec<u32>,
    rules: GuardRules,
    guard: Option<Guard>,
    failed: Option<XdpError>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("state", &self.state).finish_non_exhaustive()
    }
}

impl PacketPath {
    pub(crate) fn start(
        snapshot: Arc<Snapshot>,
        options: PacketOptions,
        events: EventSink,
    ) -> Result<Self, RuntimeError> {
        let packet = Arc::new(PacketSnapshot::build(&snapshot, &options, None)?);
        let watch = Arc::new(Watch { state: Mutex::default(), events: events.clone() });
        lock(&watch.state).rules = rules(&snapshot, &options);
        let on_interfaces = {
            let watch = watch.clone();
            Arc::new(move |interfaces: &[u32]| watch.guard_interfaces(interfaces))
        };
        let config = EngineConfig {
            interfaces: Interfaces::Auto,
            on_interfaces: Some(on_interfaces),
            ..EngineConfig::default()
        };
        let engine = AfPacketEngine::start(config, packet.clone(), events)?;
        if let Some(error) = lock(&watch.state).failed.take() {
            return Err(error.into());
        }
        let installed = Mutex::new(Installed { snapshot, packet, accepting: true });
        Ok(Self { engine, watch, options, installed })
    }

    /// Forwards by `snapshot` from now on; per-backend settings may change with it, capacity and ports do not.
    pub(crate) fn install(
        &self,
        snapshot: Arc<Snapshot>,
        settings: Option<&PacketOptions>,
    ) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        let options = match settings {
            Some(new) => {
                PacketOptions { dsr: new.dsr, backend_dsr: new.backend_dsr.clone(), ..self.options.clone() }
            }
            None => self.options.clone(),
        };
        let packet = PacketSnapshot::build(&snapshot, &options, Some(&installed.packet))?;
        let wanted = rules(&snapshot, &options);
        self.watch.guard_rules(&union(&rules(&installed.snapshot, &self.options), &wanted))?;
        let packet = Arc::new(packet);
        self.engine.install(packet.clone());
        *installed = Installed { snapshot, packet, accepting: installed.accepting };
        self.watch.guard_rules(&wanted)
    }

    pub(crate) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let installed = lock(&self.installed);
        if !installed.accepting {
            return Vec::new();
        }
        installed.snapshot.frontends.iter().map(|f| (f.name.clone(), f.listen)).collect()
    }

    pub(crate) fn stats(&self) -> PacketStats {
        let state = lock(&self.watch.state);
        PacketStats {
            engine: "af_packet",
            guard: state.guard.as_ref().map(|g| match g.method() {
                GuardMethod::Bpf => "tcx",
                GuardMethod::Nft => "nft",
            }),
            guard_refused: state.guard.as_ref().and_then(|g| g.bpf_refused()).map(str::to_owned),
            flow_capacity: self.options.capacity as u64,
            packets: self.engine.stats(),
        }
    }

    /// Refuses new flows, as with every server draining; known flows go on.
    pub(crate) fn stop_accepting(&self) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        let mut spec = installed.snapshot.spec().clone();
        spec.backends.iter_mut().flat_map(|b| &mut b.servers).for_each(|s| s.draining = true);
        let draining = installed.snapshot.next(spec)?;
        let packet = Arc::new(PacketSnapshot::build(&draining, &self.options, Some(&installed.packet))?);
        self.engine.install(packet.clone());
        installed.packet = packet;
        installed.accepting = false;
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.engine.close();
        lock(&self.watch.state).guard = None;
    }
}

/// What a packet engine did so far.
#[derive(Debug, Clone)]
pub struct PacketStats {
    /// Its name, as in the configuration.
    pub engine: &'static str,
    /// How the kernel is kept out: "tcx" or "nft".
    pub guard: Option<&'static str>,
    /// Why the kernel program was refused where nft stands in for it.
    pub guard_refused: Option<String>,
    /// Flows that can be kept at once.
    pub flow_capacity: u64,
    /// Packets by verdict and reason.
    pub packets: EngineStats,
}

impl Watch {
    fn guard_interfaces(&self, interfaces: &[u32]) {
        let mut state = lock(&self.state);
        state.interfaces = interfaces.to_vec();
        let Guarded { rules, guard, .. } = &mut *state;
        let done = match guard {
            Some(guard) => guard.update(interfaces, rules),
            None if interfaces.is_empty() => Ok(()),
            None => Guard::install(&std::process::id().to_string(), interfaces, rules, None).map(|new| {
                *guard = Some(new);
            }),
        };
        if let Err(error) = done {
            (self.events)(Event::Warning { message: error.to_string() });
            state.failed = Some(error);
        }
    }

    fn guard_rules(&self, wanted: &GuardRules) -> Result<(), RuntimeError> {
        let mut state = lock(&self.state);
        let Guarded { interfaces, rules, guard, .. } = &mut *state;
        if *rules == *wanted {
            return Ok(());
        }
        if let Some(guard) = guard {
            guard.update(interfaces, wanted)?;
        }
        rules.clone_from(wanted);
        Ok(())
    }
}

fn rules(snapshot: &Snapshot, options: &PacketOptions) -> GuardRules {
    let vips: Vec<Endpoint> =
        snapshot.frontends.iter().map(|f| Endpoint { protocol: f.protocol, addr: f.listen }).collect();
    if snapshot.mode != Mode::Passthrough {
        return GuardRules { vips, ..GuardRules::default() };
    }
    let ports = options.nat_ports.first..=options.nat_ports.last;
    let mut nat = HashSet::new();
    let mut servers = HashSet::new();
    for frontend in &snapshot.frontends {
        let protocol = frontend.protocol;
        for server in &snapshot.backends[frontend.backend].servers {
            servers.insert(Endpoint { protocol, addr: server.addr });
            let configured = match server.addr {
                SocketAddr::V4(_) => options.nat_source_v4.map(IpAddr::V4),
                SocketAddr::V6(_) => options.nat_source_v6.map(IpAddr::V6),
            };
            let addr = configured.unwrap_or(frontend.listen.ip());
            nat.insert(NatRange { protocol, addr, ports: ports.clone() });
        }
    }
    GuardRules { vips, nat: nat.into_iter().collect(), servers: servers.into_iter().collect() }
}

fn union(a: &GuardRules, b: &GuardRules) -> GuardRules {
    fn both<T: Clone + Eq + std::hash::Hash>(a: &[T], b: &[T]) -> Vec<T> {
        let all: HashSet<T> = a.iter().chain(b).cloned().collect();
        all.into_iter().collect()
    }
    GuardRules {
        vips: both(&a.vips, &b.vips),
        nat: both(&a.nat, &b.nat),
        servers: both(&a.servers, &b.servers),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Everything behind these locks is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
