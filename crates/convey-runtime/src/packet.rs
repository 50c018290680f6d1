//! The packet modes: the engine, what is done to the host for it, and the snapshot both go by.
//!
//! Invariants: addresses are locked before anything is opened; the guard stands on an interface before the
//! engine reads from it, and covers a new frontend before the engine forwards to it; what is no longer forwarded
//! is given back to the kernel last; closing takes everything back, in reverse order. What the slots of flows stand
//! for is written down before the engine goes by it.

mod network;
mod plan;
mod probes;
mod report;
mod rules;
mod shared_host;
mod start;
mod takeover;
mod unstarted;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use convey_afpacket::monotonic;
use convey_afpacket::probe::Prober;
use convey_core::{Event, FlowCursor, FlowFilter, FlowPage, Protocol, Snapshot, SpecError, Watching};
use convey_engine::{
    EngineError, EngineKind, EngineStats, Explanation, Keep, LiveDecision, PacketEngine, PacketOptions,
    PacketSnapshot,
};
use convey_xdp::{GuardDrops, GuardMethod, GuardRules};

pub use self::probes::{ProbeOutcome, ProbeReport};
pub use self::report::{HostReport, LinkReport};
use crate::RuntimeError;
use crate::host::Host;
use crate::ladder::RefusedEngine;
use crate::periodic_task::PeriodicTask;
use network::{look, names, reachability, with_local_addresses};
pub(crate) use report::host_report;
use rules::union;
use shared_host::SharedHost;
pub(crate) use shared_host::reclaim_leftovers;
pub(crate) use unstarted::{dry_run, explain_unstarted, host_problems};

/// How long a worker may take to answer a question; an idle one takes a tenth of a second.
const ANSWER: Duration = Duration::from_secs(2);

/// A packet engine at work.
#[derive(Debug)]
pub(crate) struct PacketPath {
    engine: Box<dyn PacketEngine>,
    /// Engines that were tried or thought of before it.
    refused: Arc<[RefusedEngine]>,
    host: Arc<SharedHost>,
    installed: Mutex<Installed>,
    /// What the host stands in the way of, as of the last configuration.
    warnings: Mutex<Vec<String>>,
    /// Gives back what left the configuration once its last flow is over. `None` before the start and after the end.
    periodic_task: Mutex<Option<PeriodicTask>>,
    /// Asks servers for frontends' addresses, in dsr mode. `None` after the end.
    prober: Mutex<Option<Prober>>,
}

#[derive(Debug)]
struct Installed {
    snapshot: Arc<Snapshot>,
    packet: Arc<PacketSnapshot>,
    options: PacketOptions,
    rules: GuardRules,
    accepting: bool,
}

impl PacketPath {
    /// What it forwards by. At the start its counters may be for other workers than asked for.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        lock(&self.installed).snapshot.clone()
    }

    /// Forwards by `snapshot` from now on; per-backend settings and lifetimes of flows may change with it, capacity and
    /// ports do not. Without `settings` only servers changed.
    pub(crate) fn install(
        &self,
        snapshot: Arc<Snapshot>,
        settings: Option<&PacketOptions>,
    ) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        let options = match settings {
            Some(new) => with_local_addresses(PacketOptions {
                dsr: new.dsr,
                interfaces: new.interfaces.clone(),
                backend_dsr: new.backend_dsr.clone(),
                timeouts: new.timeouts,
                ..installed.options.clone()
            })?,
            None => installed.options.clone(),
        };
        self.replace(&mut installed, snapshot, options, settings.is_some())
    }

    /// Frontends on every address follow the addresses that come and go.
    fn follow_addresses(&self, addresses: &[IpAddr]) {
        let mut installed = lock(&self.installed);
        let is_wildcard =
            installed.snapshot.frontends.iter().flat_map(|f| &f.listen).any(|at| at.ip().is_unspecified());
        if !installed.accepting || !is_wildcard || installed.options.local_addresses == addresses {
            return;
        }
        let options = PacketOptions { local_addresses: addresses.to_vec(), ..installed.options.clone() };
        let snapshot = installed.snapshot.clone();
        if let Err(error) = self.replace(&mut installed, snapshot, options, false) {
            let message = format!("The host's addresses changed, and frontends do not follow: {error}");
            (self.host.events)(Event::Warning { message });
        }
    }

    /// What left the configuration goes back to the kernel once its last flow is over, and slots that moved settle,
    /// without waiting for a reload.
    fn release_ended(&self) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        if !installed.packet.has_ended_slots() && !installed.packet.has_settled_slots(monotonic()) {
            return Ok(());
        }
        let (snapshot, options) = (installed.snapshot.clone(), installed.options.clone());
        self.replace(&mut installed, snapshot, options, false)
    }

    /// With `is_reload` what the host stands in the way of is looked at again.
    fn replace(
        &self,
        installed: &mut Installed,
        snapshot: Arc<Snapshot>,
        options: PacketOptions,
        is_reload: bool,
    ) -> Result<(), RuntimeError> {
        // Once new flows are refused no change may admit them again.
        let forwarded = if installed.accepting { snapshot.clone() } else { refusing_new_flows(&snapshot)? };
        let before = Some(&*installed.packet);
        let packet = Arc::new(PacketSnapshot::build_at(&forwarded, &options, before, monotonic())?);
        if is_reload {
            self.check(&packet, options.interfaces != installed.options.interfaces)?;
        }
        let wanted = GuardRules::of(&packet);
        let changes = wanted != installed.rules;
        if changes {
            self.host.guard_rules(&union(&installed.rules, &wanted))?;
        }
        self.host.write_slots(&packet);
        if let Err(error) = self.engine.install(packet.clone()) {
            if changes {
                // The former configuration serves on; what the new one needed is given back.
                self.host.guard_rules(&installed.rules)?;
            }
            return Err(error.into());
        }
        *installed =
            Installed { snapshot, packet, options, rules: wanted.clone(), accepting: installed.accepting };
        if changes && let Err(error) = self.host.guard_rules(&wanted) {
            // The new configuration serves; what the old one needed is only not given back yet.
            let message =
                format!("What the former configuration needed is still kept from the kernel: {error}");
            (self.host.events)(Event::Warning { message });
            installed.rules = GuardRules::default();
        }
        Ok(())
    }

    /// Refuses what this host cannot serve, and tells what stands newly in the way.
    fn check(&self, packet: &PacketSnapshot, interfaces_changed: bool) -> Result<(), RuntimeError> {
        if interfaces_changed && look(packet)?.interfaces.is_empty() {
            return Err(EngineError::no_interface(&packet.options().interfaces).into());
        }
        let reach = reachability(packet)?;
        let warnings = reach.warnings();
        if let Some(error) = reach.refused {
            return Err(error.into());
        }
        let mut known = lock(&self.warnings);
        for message in warnings.iter().filter(|w| !known.contains(w)) {
            (self.host.events)(Event::Warning { message: message.clone() });
        }
        *known = warnings;
        Ok(())
    }

    /// Whether every connection is counted: not where few flows are remembered.
    pub(crate) fn counts_connections(&self) -> bool {
        !lock(&self.installed).packet.is_minimal()
    }

    pub(crate) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let installed = lock(&self.installed);
        if !installed.accepting {
            return Vec::new();
        }
        let frontends = installed.snapshot.frontends.iter();
        frontends.flat_map(|f| f.listen.iter().map(|listen| (f.name.clone(), *listen))).collect()
    }

    pub(crate) fn stats(&self) -> PacketStats {
        // Before the host's lock, as everywhere.
        let flow_capacity = lock(&self.installed).options.capacity as u64;
        self.engine.collect();
        let state = lock(&self.host.state);
        let guard = state.host.as_ref().and_then(Host::guard_method);
        PacketStats {
            engine: self.engine.kind(),
            refused: self.refused.clone(),
            interfaces: names(&self.engine.user_side().interfaces()),
            guard: guard.map(|method| match method {
                GuardMethod::Bpf => "tcx",
                GuardMethod::Nft => "nft",
            }),
            notes: state
                .host
                .iter()
                .flat_map(|h| h.notes())
                .chain(lock(&self.warnings).iter())
                .cloned()
                .collect(),
            flow_capacity,
            packets: self.engine.stats(),
            guard_drops: state.host.as_ref().and_then(Host::guard_drops),
        }
    }

    /// What the worker that has the flow would do with its next packet; `None` when it did not answer.
    pub(crate) fn explain(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Explanation> {
        self.engine.user_side().explain(protocol, source, destination, ANSWER)
    }

    pub(crate) fn flows(&self, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage {
        self.engine.user_side().flows(filter, cursor, limit)
    }

    /// `None` when a worker did not answer.
    pub(crate) fn end_flows(&self, filter: &FlowFilter) -> Option<u64> {
        self.engine.user_side().end_flows(filter, ANSWER)
    }

    /// `None`: as many watch as may.
    pub(crate) fn watch(&self, filter: FlowFilter, count: u64) -> Option<Watching<LiveDecision>> {
        self.engine.watch(filter, count)
    }

    /// Refuses new flows, as with every server draining; known flows go on.
    pub(crate) fn stop_accepting(&self) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        let refusing = refusing_new_flows(&installed.snapshot)?;
        let before = Some(&*installed.packet);
        let packet = Arc::new(PacketSnapshot::build_at(&refusing, &installed.options, before, monotonic())?);
        self.host.write_slots(&packet);
        self.engine.install(packet.clone())?;
        installed.packet = packet;
        installed.accepting = false;
        Ok(())
    }

    pub(crate) fn outlives_process(&self) -> bool {
        self.engine.outlives_process()
    }

    /// Returns what was taken back, and what was not and why, in words.
    pub(crate) fn close(&self, keep: Keep) -> Vec<String> {
        let (task, prober) = (lock(&self.periodic_task).take(), lock(&self.prober).take());
        drop((task, prober));
        let mut left = self.engine.close(keep);
        if keep == Keep::Forwarding && self.engine.outlives_process() {
            left.extend(self.host.leave());
        } else {
            left.extend(self.host.close());
        }
        left
    }
}

/// The snapshot with every server draining: flows go on, none begins.
fn refusing_new_flows(snapshot: &Snapshot) -> Result<Arc<Snapshot>, SpecError> {
    let mut spec = snapshot.spec().clone();
    spec.backends.iter_mut().flat_map(|b| &mut b.servers).for_each(|s| s.draining = true);
    Ok(Arc::new(snapshot.next(spec)?))
}

/// What a packet engine did so far.
#[derive(Debug, Clone)]
pub struct PacketStats {
    /// Which one.
    pub engine: EngineKind,
    /// Those that "auto" would have preferred, and why they were not taken.
    pub refused: Arc<[RefusedEngine]>,
    /// The interfaces it listens on, by name.
    pub interfaces: Vec<String>,
    /// How the kernel is kept out: "tcx" or "nft".
    pub guard: Option<&'static str>,
    /// What an operator should know about the host: why nft stands in, leftovers reclaimed, ports that are scarce.
    pub notes: Vec<String>,
    /// Flows that can be kept at once.
    pub flow_capacity: u64,
    /// Packets by verdict and reason.
    pub packets: EngineStats,
    /// Packets kept from the kernel; `None` with nft, which counts in its own rules.
    pub guard_drops: Option<GuardDrops>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Everything behind these locks is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
