//! The packet modes: the engine, what is done to the host for it, and the snapshot both go by.
//!
//! Invariants: addresses are locked before anything is opened; the guard stands on an interface before the
//! engine reads from it, and covers a new frontend before the engine forwards to it; what is no longer forwarded
//! is given back to the kernel last; closing takes everything back, in reverse order. What the slots of flows stand
//! for is written down before the engine goes by it.

mod takeover;

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use convey_afpacket::{AfPacketEngine, Inheritance, arriving};
use convey_core::{Event, EventSink, Mode, Protocol, Snapshot, SpecError};
use convey_engine::{
    EngineError, EngineKind, EngineSetup, EngineStats, Explanation, Keep, PacketEngine, PacketOptions,
    PacketSnapshot, SlotIdentities,
};
use convey_links::{Look, Wanted};
use convey_xdp::{Endpoint, GuardDrops, GuardMethod, GuardRules, NatRange, netlink, protocol_number};

use crate::RuntimeError;
use crate::host::{self, DEFAULT_STATE_DIR, Host, HostError, HostSpec, check_privileges};
use crate::reach::{self, Reach};
use crate::upkeep::Upkeep;

/// How long a worker may take to answer a question; an idle one takes a tenth of a second.
const ANSWER: Duration = Duration::from_secs(2);

/// A packet engine at work.
#[derive(Debug)]
pub(crate) struct PacketPath {
    engine: Box<dyn PacketEngine>,
    watch: Arc<Watch>,
    installed: Mutex<Installed>,
    /// What the host stands in the way of, as of the last configuration.
    warnings: Mutex<Vec<String>>,
    /// Gives back what left the configuration once its last flow is over. `None` before the start and after the end.
    upkeep: Mutex<Option<Upkeep>>,
}

#[derive(Debug)]
struct Installed {
    snapshot: Arc<Snapshot>,
    packet: Arc<PacketSnapshot>,
    options: PacketOptions,
    rules: GuardRules,
    accepting: bool,
}

/// The prepared host. The engine's thread brings interfaces, ours brings rules.
struct Watch {
    state: Mutex<Watched>,
    events: EventSink,
}

#[derive(Debug, Default)]
struct Watched {
    host: Option<Host>,
    failed: Option<HostError>,
    /// Why the guard does not stand on some interface, as last told.
    refused: Option<String>,
    /// What slots stand for, as it was written down.
    slots: SlotIdentities,
    /// From now on notes of the host are events; those of the start are read with the statistics.
    started: bool,
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
    ) -> Result<Arc<Self>, RuntimeError> {
        let mut options =
            PacketOptions { seed: RandomState::new().build_hasher().finish(), ..here(options)? };
        let mut packet = PacketSnapshot::build(&snapshot, &options, None)?;
        check_privileges(snapshot.mode)?;
        let Reach { refused, warnings } = reach(&packet)?;
        if let Some(error) = refused {
            return Err(error.into());
        }
        let mut wanted = rules(&packet);
        let mut host = Host::install(&host_spec(wanted.clone(), Vec::new()))?;
        let saved = takeover::read(&mut host, snapshot.mode);
        if let Some(suited) = takeover::suited(&saved, &options)
            && let Ok(built) = PacketSnapshot::build(&snapshot, &suited, None)
        {
            host.add_note(takeover::other_workers(&options, &suited));
            (options, packet) = (suited, built);
        }
        if let Some(extended) = takeover::with_former(&snapshot, &options, &saved, &packet) {
            let rules = rules(&extended);
            match host.set_rules(&rules) {
                Ok(()) => (wanted, packet) = (rules, extended),
                Err(error) => host.add_note(format!(
                    "connections of frontends and servers that left the configuration cannot go on: {error}"
                )),
            }
        }
        let memory = takeover::memory(&mut host, &packet);
        let packet = Arc::new(packet);
        let watched = Watched { host: Some(host), ..Watched::default() };
        let watch = Arc::new(Watch { state: Mutex::new(watched), events: events.clone() });
        let on_interfaces = {
            let watch = watch.clone();
            Arc::new(move |interfaces: &[u32]| watch.guard_interfaces(interfaces))
        };
        let path: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let on_addresses = {
            let path = path.clone();
            Arc::new(move |addresses: &[IpAddr]| {
                if let Some(path) = path.get().and_then(Weak::upgrade) {
                    path.follow_addresses(addresses);
                }
            })
        };
        let setup = EngineSetup {
            on_addresses: Some(on_addresses),
            on_interfaces: Some(on_interfaces),
            ..EngineSetup::new(packet.clone(), events)
        };
        let started = AfPacketEngine::start(setup, Inheritance { memory, saved });
        let failed = lock(&watch.state).failed.take();
        let engine: Box<dyn PacketEngine> = match (started, failed) {
            (Ok(engine), None) => Box::new(engine),
            (started, failed) => {
                let error = match started {
                    Ok(engine) => {
                        engine.close(Keep::Nothing);
                        None
                    }
                    Err(error) => Some(error.into()),
                };
                watch.close();
                return Err(failed.map_or(error, |f| Some(f.into())).unwrap_or(RuntimeError::Closed));
            }
        };
        let mut state = lock(&watch.state);
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
        let this = Arc::new(Self { engine, watch, installed, warnings, upkeep: Mutex::default() });
        let _ = path.set(Arc::downgrade(&this));
        let told = Mutex::new(String::new());
        let upkeep = Upkeep::start(move || {
            let Some(path) = path.get().and_then(Weak::upgrade) else { return false };
            path.engine.collect();
            let failed = path.release_ended().map_or_else(|error| error.to_string(), |()| String::new());
            // What fails each time is said once.
            if !failed.is_empty() && *lock(&told) != failed {
                let message = format!("An address that a reload removed is not given back yet: {failed}");
                (path.watch.events)(Event::Warning { message });
            }
            *lock(&told) = failed;
            true
        });
        match upkeep {
            Ok(upkeep) => *lock(&this.upkeep) = Some(upkeep),
            Err(error) => {
                let message = format!(
                    "Addresses of frontends that a reload removes stay taken until the next one: no thread could be \
                     made: {error}"
                );
                (this.watch.events)(Event::Warning { message });
            }
        }
        // What changed before there was anybody to follow it.
        this.follow_addresses(&local_addresses()?);
        Ok(this)
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
            Some(new) => here(PacketOptions {
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
        let is_wildcard = installed.snapshot.frontends.iter().any(|f| f.listen.ip().is_unspecified());
        if !installed.accepting || !is_wildcard || installed.options.local_addresses == addresses {
            return;
        }
        let options = PacketOptions { local_addresses: addresses.to_vec(), ..installed.options.clone() };
        let snapshot = installed.snapshot.clone();
        if let Err(error) = self.replace(&mut installed, snapshot, options, false) {
            let message = format!("The host's addresses changed, and frontends do not follow: {error}");
            (self.watch.events)(Event::Warning { message });
        }
    }

    /// What left the configuration goes back to the kernel once its last flow is over, without waiting for a reload.
    fn release_ended(&self) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        if !installed.packet.has_ended_slots() {
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
        let packet = Arc::new(PacketSnapshot::build(&forwarded, &options, Some(&installed.packet))?);
        if is_reload {
            self.check(&packet, options.interfaces != installed.options.interfaces)?;
        }
        let wanted = rules(&packet);
        let changes = wanted != installed.rules;
        if changes {
            self.watch.guard_rules(&union(&installed.rules, &wanted))?;
        }
        self.watch.write_slots(&packet);
        if let Err(error) = self.engine.install(packet.clone()) {
            if changes {
                // The former configuration serves on; what the new one needed is given back.
                self.watch.guard_rules(&installed.rules)?;
            }
            return Err(error.into());
        }
        *installed =
            Installed { snapshot, packet, options, rules: wanted.clone(), accepting: installed.accepting };
        if changes && let Err(error) = self.watch.guard_rules(&wanted) {
            // The new configuration serves; what the old one needed is only not given back yet.
            let message =
                format!("What the former configuration needed is still kept from the kernel: {error}");
            (self.watch.events)(Event::Warning { message });
            installed.rules = GuardRules::default();
        }
        Ok(())
    }

    /// Refuses what this host cannot serve, and tells what stands newly in the way.
    fn check(&self, packet: &PacketSnapshot, interfaces_changed: bool) -> Result<(), RuntimeError> {
        if interfaces_changed && look(packet)?.interfaces.is_empty() {
            return Err(EngineError::no_interface(&packet.options().interfaces).into());
        }
        let Reach { refused, warnings } = reach(packet)?;
        if let Some(error) = refused {
            return Err(error.into());
        }
        let mut known = lock(&self.warnings);
        for message in warnings.iter().filter(|w| !known.contains(w)) {
            (self.watch.events)(Event::Warning { message: message.clone() });
        }
        *known = warnings;
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let installed = lock(&self.installed);
        if !installed.accepting {
            return Vec::new();
        }
        installed.snapshot.frontends.iter().map(|f| (f.name.clone(), f.listen)).collect()
    }

    pub(crate) fn stats(&self) -> PacketStats {
        // Before the host's lock, as everywhere.
        let flow_capacity = lock(&self.installed).options.capacity as u64;
        self.engine.collect();
        let state = lock(&self.watch.state);
        let guard = state.host.as_ref().and_then(Host::guard_method);
        PacketStats {
            engine: self.engine.kind(),
            interfaces: names(&self.engine.interfaces()),
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
        self.engine.explain(protocol, source, destination, ANSWER)
    }

    /// Refuses new flows, as with every server draining; known flows go on.
    pub(crate) fn stop_accepting(&self) -> Result<(), RuntimeError> {
        let mut installed = lock(&self.installed);
        let refusing = refusing_new_flows(&installed.snapshot)?;
        let packet = Arc::new(PacketSnapshot::build(&refusing, &installed.options, Some(&installed.packet))?);
        self.watch.write_slots(&packet);
        self.engine.install(packet.clone())?;
        installed.packet = packet;
        installed.accepting = false;
        Ok(())
    }

    /// Returns what was taken back, and what was not and why, in words.
    pub(crate) fn close(&self) -> Vec<String> {
        let upkeep = lock(&self.upkeep).take();
        drop(upkeep);
        let mut left = self.engine.close(Keep::Nothing);
        left.extend(self.watch.close());
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

impl Watch {
    /// Guards these interfaces; returns those on which the guard stands.
    fn guard_interfaces(&self, interfaces: &[u32]) -> Vec<u32> {
        let mut state = lock(&self.state);
        let Watched { host: Some(host), started, .. } = &mut *state else { return Vec::new() };
        let known = host.notes().len();
        let done = host.set_interfaces(interfaces);
        let guarded = host.interfaces();
        if *started {
            for message in host.notes().iter().skip(known) {
                (self.events)(Event::Warning { message: message.clone() });
            }
            // The engine tries again every second; once is enough to say.
            let refused = done.err().map(|e| format!("{e}; packets that arrive there are not forwarded"));
            if let Some(message) = &refused
                && state.refused != refused
            {
                (self.events)(Event::Warning { message: message.clone() });
            }
            state.refused = refused;
        } else if let Err(error) = done {
            state.failed = Some(error);
        }
        guarded
    }

    fn guard_rules(&self, wanted: &GuardRules) -> Result<(), HostError> {
        match &mut lock(&self.state).host {
            Some(host) => host.set_rules(wanted),
            None => Ok(()),
        }
    }

    /// What slots stand for is on disk before a flow names them.
    fn write_slots(&self, packet: &PacketSnapshot) {
        let mut state = lock(&self.state);
        let Watched { host: Some(host), slots, .. } = &mut *state else { return };
        let identities = SlotIdentities::of(packet);
        if identities == *slots {
            return;
        }
        match host.write_slots(&identities) {
            Ok(()) => *slots = identities,
            Err(error) => {
                *slots = SlotIdentities::default();
                let message =
                    format!("Flows of this balancer would not outlive it if it were killed: {error}");
                (self.events)(Event::Warning { message });
            }
        }
    }

    fn close(&self) -> Vec<String> {
        let host = lock(&self.state).host.take();
        host.map_or_else(Vec::new, |host| {
            host.close().unwrap_or_else(|error| {
                vec![format!(
                    "could not take everything back: {error}; `convey cleanup` or the next start tries again"
                )]
            })
        })
    }
}

/// What a start would change, as lines one could type; nothing is changed and no privilege needed.
pub(crate) fn dry_run(snapshot: &Snapshot, options: PacketOptions) -> Result<Vec<String>, RuntimeError> {
    let packet = PacketSnapshot::build(snapshot, &here(options)?, None)?;
    let found = look(&packet)?;
    let interfaces = names(&found.interfaces);
    if interfaces.is_empty() {
        return Err(EngineError::no_interface(&packet.options().interfaces).into());
    }
    let Reach { refused, warnings } = reach(&packet)?;
    if let Some(error) = refused {
        return Err(error.into());
    }
    let mut vips: Vec<String> =
        packet.vips().map(|(_, address, port)| SocketAddr::new(address, port).to_string()).collect();
    vips.sort();
    vips.dedup();
    let mut lines = vec![format!(
        "# engine {} forwards {} on {}",
        EngineKind::AfPacket,
        vips.join(", "),
        interfaces.join(", ")
    )];
    lines.extend(found.warnings.iter().chain(&warnings).map(|warning| format!("# warning: {warning}")));
    lines.extend(host::dry_run(&host_spec(rules(&packet), interfaces))?);
    Ok(lines)
}

/// What would become of the first packet of a flow if a balancer started now, every server as configured.
pub(crate) fn explain_unstarted(
    snapshot: &Snapshot,
    options: PacketOptions,
    [source, destination]: [SocketAddr; 2],
    protocol: Protocol,
) -> Result<Explanation, RuntimeError> {
    // An empty flow table serves whatever its size.
    let options = PacketOptions { workers: 1, capacity: 1024, ..here(options)? };
    let packet = PacketSnapshot::build(snapshot, &options, None)?;
    let found = look(&packet)?;
    let worker = convey_engine::Worker::new(0, &packet);
    let explanation =
        convey_engine::explain(protocol, source, destination, &packet, &found.next_hops, &worker);
    Ok(arriving(explanation, source, &found.next_hops, &found.interfaces))
}

/// What stands in the way of a configuration on this host. An error is why it cannot be served here.
pub(crate) fn host_problems(
    snapshot: &Snapshot,
    options: PacketOptions,
) -> Result<Vec<String>, RuntimeError> {
    let options = PacketOptions { workers: 1, capacity: 1024, ..here(options)? };
    let packet = PacketSnapshot::build(snapshot, &options, None)?;
    let found = look(&packet)?;
    if found.interfaces.is_empty() {
        return Err(EngineError::no_interface(&packet.options().interfaces).into());
    }
    let Reach { refused, warnings } = reach(&packet)?;
    match refused {
        Some(error) => Err(error.into()),
        None => Ok(found.warnings.into_iter().chain(warnings).collect()),
    }
}

/// The network as an engine that starts now would find it.
fn look(packet: &PacketSnapshot) -> Result<Look, EngineError> {
    convey_links::look(&Wanted::of(packet)).map_err(EngineError::links)
}

fn reach(packet: &PacketSnapshot) -> Result<Reach, RuntimeError> {
    let next_hops = look(packet)?.next_hops;
    Ok(reach::check(packet, &next_hops, &netlink::addresses().map_err(HostError::from)?))
}

/// The options with the addresses this host has now.
fn here(options: PacketOptions) -> Result<PacketOptions, RuntimeError> {
    Ok(PacketOptions { local_addresses: local_addresses()?, ..options })
}

/// The host's addresses, in rising order.
fn local_addresses() -> Result<Vec<IpAddr>, RuntimeError> {
    let addresses: BTreeSet<IpAddr> =
        netlink::addresses().map_err(HostError::from)?.into_iter().map(|a| a.address).collect();
    Ok(addresses.into_iter().collect())
}

fn host_spec(rules: GuardRules, interfaces: Vec<String>) -> HostSpec {
    HostSpec { interfaces, rules, guard: None, state_dir: state_dir() }
}

/// In proxy mode the kernel has to answer again where a killed balancer of a packet mode had kept it silent.
pub(crate) fn reclaim_leftovers(events: &EventSink) {
    if !rustix::process::geteuid().is_root() {
        // It could not have left anything, and could not take it back.
        return;
    }
    let lines = host::cleanup(&state_dir()).unwrap_or_else(|error| {
        vec![format!("what a killed balancer left on this host could not be taken back: {error}")]
    });
    for message in lines {
        (events)(Event::Warning { message });
    }
}

/// Where journals are kept; `CONVEY_STATE_DIR` names another place.
pub(crate) fn state_dir() -> PathBuf {
    std::env::var_os("CONVEY_STATE_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), PathBuf::from)
}

fn names(interfaces: &[u32]) -> Vec<String> {
    interfaces.iter().map(|i| netlink::interface_name(*i).unwrap_or_else(|_| i.to_string())).collect()
}

/// What the engine handles by `packet`: servers that left count for as long as their flows may go on.
fn rules(packet: &PacketSnapshot) -> GuardRules {
    let protocol =
        |number| if number == protocol_number(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
    let mut vips: Vec<Endpoint> = packet
        .vips()
        .map(|(number, ip, port)| Endpoint { protocol: protocol(number), addr: SocketAddr::new(ip, port) })
        .collect();
    let protocols: HashSet<Protocol> = vips.iter().map(|v| v.protocol).collect();
    let (mut nat, mut servers) = (Vec::new(), Vec::new());
    if packet.mode() == Mode::Passthrough {
        let ports = packet.options().nat_ports;
        for &protocol in &protocols {
            nat.extend(packet.nat_sources().into_iter().map(|addr| NatRange {
                protocol,
                addr,
                ports: ports.first..=ports.last,
            }));
            servers.extend(
                (0..=u16::MAX)
                    .filter_map(|slot| packet.server(slot))
                    .map(|s| Endpoint { protocol, addr: SocketAddr::new(s.address.into(), s.port) }),
            );
        }
    }
    let order = |e: &Endpoint| (protocol_number(e.protocol), e.addr);
    vips.sort_by_key(order);
    servers.sort_by_key(order);
    servers.dedup();
    nat.sort_by_key(|r| (protocol_number(r.protocol), r.addr));
    GuardRules { vips, nat, servers }
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
