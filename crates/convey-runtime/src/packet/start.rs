//! The start of a packet mode: privileges, the host, what killed balancers left, the engine, and who follows changes.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use convey_afpacket::{AfPacketEngine, monotonic};
use convey_core::{Event, EventSink, Mode, Snapshot};
use convey_engine::{
    EngineError, EngineKind, EngineSetup, FilterSink, InterfaceSink, Keep, PacketEngine, PacketOptions,
    PacketSnapshot,
};
use convey_xdp::GuardRules;
use convey_xdp::KernelEngine;
use convey_xdp::af_xdp::AfXdpEngine;
use convey_xdp::kernel::Hook;

use super::network::{local_addresses, look, reachability, with_local_addresses};
use super::plan::{Asked, Plan};
use super::shared_host::{SharedHost, host_spec};
use super::{Installed, PacketPath, lock, probes};
use crate::RuntimeError;
use crate::host::{Host, VERIFIER_LOG, check_privileges, state_dir};
use crate::ladder::{EngineChoice, Ladder, LinkFacts};
use crate::periodic_task::PeriodicTask;

impl PacketPath {
    /// Starts the first engine of the ladder that lets itself be started.
    ///
    /// # Errors
    /// [`RuntimeError`]; the host is as before.
    pub(crate) fn start(
        choice: EngineChoice,
        snapshot: Arc<Snapshot>,
        options: PacketOptions,
        events: EventSink,
    ) -> Result<Arc<Self>, RuntimeError> {
        let options = PacketOptions {
            seed: RandomState::new().build_hasher().finish(),
            ..with_local_addresses(options)?
        };
        let packet = PacketSnapshot::build_at(&snapshot, &options, None, monotonic())?;
        check_privileges(snapshot.mode)?;
        let reach = reachability(&packet)?;
        let warnings = reach.warnings();
        if let Some(error) = reach.refused {
            return Err(error.into());
        }
        let links = LinkFacts::of(&look(&packet)?.interfaces);
        let host = Host::install(&host_spec(GuardRules::of(&packet), Vec::new()))?;
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
        let asked = Asked { snapshot, options, packet: Arc::new(packet) };
        let started = Ladder::new(choice, &links).climb(|kind| {
            let plan = match kind {
                EngineKind::Tc | EngineKind::Xdp => asked.in_kernel(&host),
                EngineKind::AfPacket | EngineKind::AfXdp => asked.in_user_space(&host, kind),
            };
            let setup = EngineSetup {
                on_addresses: Some(on_addresses.clone()),
                ..EngineSetup::new(plan.packet.clone(), host.events.clone())
            };
            let engine = start_engine(kind, setup, &plan, &host)?;
            Ok((engine, plan))
        });
        let ((engine, plan), refused) = match started {
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
            if let Err(error) = host.engine_stands() {
                host.add_note(format!("what a killed balancer left in the kernel is still there: {error}"));
            }
            if let Err(error) = host.forget_flows_left() {
                host.add_note(format!("what a killed balancer left of its flows is still there: {error}"));
            }
        }
        state.started = true;
        drop(state);
        let Plan { snapshot, packet, options, rules, .. } = plan;
        let installed = Installed { snapshot, packet, options, rules, accepting: true };
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
    plan: &Plan,
    host: &Arc<SharedHost>,
) -> Result<Box<dyn PacketEngine>, RuntimeError> {
    let prepare: InterfaceSink = {
        let host = host.clone();
        Arc::new(move |interfaces| host.prepare_interfaces(interfaces, kind.needs_guard()))
    };
    let on_filter: FilterSink = {
        let host = host.clone();
        Arc::new(move |ifindex| host.prepare_filter(ifindex))
    };
    let setup = EngineSetup { on_interfaces: Some(prepare), on_filter: Some(on_filter), ..setup };
    let in_kernel = |hook, setup| {
        let engine = KernelEngine::start(hook, setup, plan.pins.clone(), &plan.saved);
        engine.map(|engine| Box::new(engine) as Box<dyn PacketEngine>)
    };
    let started: Result<Box<dyn PacketEngine>, EngineError> = match kind {
        EngineKind::AfPacket => {
            let memory = host.memory(&setup.snapshot);
            AfPacketEngine::start(setup, memory, &plan.saved).map(|engine| Box::new(engine) as _)
        }
        EngineKind::AfXdp => {
            let memory = host.memory(&setup.snapshot);
            AfXdpEngine::start(setup, memory, &plan.saved).map(|engine| Box::new(engine) as _)
        }
        EngineKind::Tc => in_kernel(Hook::Tc, setup),
        EngineKind::Xdp => in_kernel(Hook::Xdp, setup),
    };
    let failed = lock(&host.state).failed.take();
    match (started, failed) {
        (Ok(engine), None) => Ok(engine),
        (Ok(engine), Some(error)) => {
            // What it has gone on with goes on.
            let is_heir = plan.pins.as_ref().is_some_and(|pins| pins.adopted.is_some());
            engine.close(if is_heir { Keep::Forwarding } else { Keep::Nothing });
            host.give_up_pins();
            Err(error.into())
        }
        (Err(error), failed) => {
            host.give_up_pins();
            Err(failed.map_or_else(|| keep_log(error, &state_dir()).into(), RuntimeError::from))
        }
    }
}

/// What fits no line goes to a file, which the error then names.
fn keep_log(mut error: EngineError, folder: &Path) -> EngineError {
    let Some(log) = &error.log else { return error };
    let path = folder.join(VERIFIER_LOG);
    let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let kept = match open().and_then(|mut file| file.write_all(log.as_bytes())) {
        Ok(()) => format!("all that the verifier said is in {}", path.display()),
        Err(failed) => {
            format!("all that the verifier said could not be written to {}: {failed}", path.display())
        }
    };
    error.cause = format!("{} ({kept})", error.cause);
    error
}

#[cfg(test)]
mod tests {
    use convey_engine::EngineErrorKind;

    use super::*;

    #[test]
    fn the_verifiers_log_is_kept_in_the_state_folder_and_the_error_says_where() {
        let folder = std::env::temp_dir().join(format!("convey-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let plain = EngineError::new(EngineErrorKind::Unsupported, "refused", "do this");
        assert_eq!(keep_log(plain, &folder).to_string(), "refused; do this");
        let mut with_log = EngineError::new(EngineErrorKind::Unsupported, "refused", "do this");
        with_log.log = Some("0: r0 = 0\n1: exit".to_owned());
        let path = folder.join("verifier.log");
        let told = keep_log(with_log, &folder).to_string();
        assert_eq!(told, format!("refused (all that the verifier said is in {}); do this", path.display()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0: r0 = 0\n1: exit");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
