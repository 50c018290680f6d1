//! The start of a packet mode: privileges, the host, what killed balancers left, the engine, and who follows changes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use convey_afpacket::{AfPacketEngine, monotonic};
use convey_core::{Event, EventSink, Mode, Snapshot};
use convey_engine::{
    EngineError, EngineKind, EngineSetup, InterfaceSink, PacketEngine, PacketOptions, PacketSnapshot,
    SavedFlows,
};
use convey_xdp::GuardRules;
use convey_xdp::KernelEngine;
use convey_xdp::af_xdp::AfXdpEngine;
use convey_xdp::kernel::Hook;

use super::network::{local_addresses, reachability, with_local_addresses};
use super::shared_host::{SharedHost, host_spec};
use super::{Installed, PacketPath, lock, probes, takeover};
use crate::RuntimeError;
use crate::host::{Host, check_privileges};
use crate::ladder::Ladder;
use crate::periodic_task::PeriodicTask;
use crate::reachability::Reachability;

impl PacketPath {
    /// Starts the first engine of `ladder` that lets itself be started.
    ///
    /// # Errors
    /// [`RuntimeError`]; the host is as before.
    pub(crate) fn start(
        ladder: Ladder,
        mut snapshot: Arc<Snapshot>,
        options: PacketOptions,
        events: EventSink,
    ) -> Result<Arc<Self>, RuntimeError> {
        let mut options = PacketOptions {
            seed: RandomState::new().build_hasher().finish(),
            ..with_local_addresses(options)?
        };
        if ladder.first() == EngineKind::AfXdp {
            // One worker serves all of its sockets.
            options.workers = 1;
        }
        let mut packet = PacketSnapshot::build_at(&snapshot, &options, None, monotonic())?;
        check_privileges(snapshot.mode)?;
        let Reachability { refused, warnings } = reachability(&packet)?;
        if let Some(error) = refused {
            return Err(error.into());
        }
        let mut wanted = GuardRules::of(&packet);
        let mut host = Host::install(&host_spec(wanted.clone(), Vec::new()))?;
        let saved = takeover::read(&mut host, snapshot.mode);
        let slots = takeover::slots(&saved);
        if let Some(suited) = takeover::suited(&saved, &options)
            && let Ok(with_counters) = takeover::with_counters_for(&snapshot, &suited)
            && let Ok(built) = PacketSnapshot::build_adopting(&with_counters, &suited, &slots, monotonic())
        {
            host.add_note(takeover::other_workers(&options, &suited));
            (options, packet, snapshot) = (suited, built, with_counters);
        } else if let Ok(built) = PacketSnapshot::build_adopting(&snapshot, &options, &slots, monotonic()) {
            packet = built;
        }
        if let Some(extended) = takeover::with_former(&snapshot, &options, &saved, &packet) {
            let rules = GuardRules::of(&extended);
            match host.set_rules(&rules) {
                Ok(()) => (wanted, packet) = (rules, extended),
                Err(error) => host.add_note(format!(
                    "connections of frontends and servers that left the configuration cannot go on: {error}"
                )),
            }
        }
        let packet = Arc::new(packet);
        let host = Arc::new(SharedHost::new(host, events.clone()));
        let path: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let on_addresses = {
            let path = path.clone();
            Arc::new(move |addresses: &[IpAddr]| {
                if let Some(path) = path.get().and_then(Weak::upgrade) {
                    path.follow_addresses(addresses);
                }
            })
        };
        let prober = if snapshot.mode == Mode::Dsr { probes::start(path.clone(), &events) } else { None };
        let setup =
            EngineSetup { on_addresses: Some(on_addresses), ..EngineSetup::new(packet.clone(), events) };
        let started = ladder.climb(|kind| start_engine(kind, setup.clone(), &saved, &host));
        let (engine, refused) = match started {
            Ok(started) => started,
            Err(error) => {
                host.close();
                return Err(error);
            }
        };
        let mut state = lock(&host.state);
        if let Some(host) = &mut state.host {
            if let Some(taken_over) = engine.taken_over() {
                host.add_note(taken_over.to_string());
            }
            if let Err(error) = host.forget_flows_left() {
                host.add_note(format!("what a killed balancer left of its flows is still there: {error}"));
            }
        }
        state.started = true;
        drop(state);
        let installed = Installed { snapshot, packet, options, rules: wanted, accepting: true };
        let warnings = Mutex::new(warnings);
        let installed = Mutex::new(installed);
        let this = Arc::new(Self {
            engine,
            refused: refused.into(),
            host,
            installed,
            warnings,
            periodic_task: Mutex::default(),
            prober: Mutex::new(prober),
        });
        let _ = path.set(Arc::downgrade(&this));
        let told = Mutex::new(String::new());
        let task = PeriodicTask::start(move || {
            let Some(path) = path.get().and_then(Weak::upgrade) else { return false };
            path.engine.collect();
            let failed = path.release_ended().map_or_else(|error| error.to_string(), |()| String::new());
            // What fails each time is said once.
            if !failed.is_empty() && *lock(&told) != failed {
                let message = format!("An address that a reload removed is not given back yet: {failed}");
                (path.host.events)(Event::Warning { message });
            }
            *lock(&told) = failed;
            true
        });
        match task {
            Ok(task) => *lock(&this.periodic_task) = Some(task),
            Err(error) => {
                let message = format!(
                    "Addresses of frontends that a reload removes stay taken until the next one: no thread could be \
                     made: {error}"
                );
                (this.host.events)(Event::Warning { message });
            }
        }
        // What changed before there was anybody to follow it.
        this.follow_addresses(&local_addresses()?);
        Ok(this)
    }
}

/// Starts one engine; if the host could not be prepared for it, that is the error.
fn start_engine(
    kind: EngineKind,
    setup: EngineSetup,
    saved: &[SavedFlows],
    host: &Arc<SharedHost>,
) -> Result<Box<dyn PacketEngine>, RuntimeError> {
    let prepare: InterfaceSink = {
        let host = host.clone();
        Arc::new(move |interfaces| host.prepare_interfaces(interfaces, kind.needs_guard()))
    };
    let setup = EngineSetup { on_interfaces: Some(prepare), ..setup };
    let started: Result<Box<dyn PacketEngine>, EngineError> = match kind {
        EngineKind::AfPacket => {
            let memory = host.memory(&setup.snapshot);
            AfPacketEngine::start(setup, memory, saved).map(|engine| Box::new(engine) as _)
        }
        EngineKind::AfXdp => {
            let memory = host.memory(&setup.snapshot);
            AfXdpEngine::start(setup, memory, saved).map(|engine| Box::new(engine) as _)
        }
        EngineKind::Tc => KernelEngine::start(Hook::Tc, setup).map(|engine| Box::new(engine) as _),
        EngineKind::Xdp => KernelEngine::start(Hook::Xdp, setup).map(|engine| Box::new(engine) as _),
    };
    match lock(&host.state).failed.take() {
        None => Ok(started?),
        Some(error) => Err(error.into()),
    }
}
