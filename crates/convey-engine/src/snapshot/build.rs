//! From a [`Snapshot`] to the tables of the packet path.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use convey_core::conntrack::{FlowState, Lifetimes, Ticks};
use convey_core::selection::{MaglevTable, Member};
use convey_core::{Backend, ConnCounters, Frontend, Mode, Protocol, Server, Snapshot};
use convey_packet::{Addr, TCP, UDP};

use super::check::{can_listen, check, invalid};
use super::left;
use super::{
    Method, NatPath, PacketBackend, PacketFrontend, PacketServer, PacketSnapshot, PacketSpecError, SlotUse,
    Standing, Vip, tables,
};
use crate::meta::Nanos;
use crate::options::{ConnectionTracking, DsrMethod, PacketOptions, Timeouts};
use crate::slot_table::{
    Assignment, FrontendIdentity, Identity, MAX_SLOTS, Placed, ServerIdentity, SlotTable, Slots,
};

/// What another process left.
#[derive(Clone, Copy)]
struct Saved<'a> {
    slots: &'a SlotTable,
    /// Its table of flows is gone on with as it lies; with the paths its flows may use.
    kept: Option<&'a [NatPath]>,
}

impl Saved<'_> {
    fn none() -> Self {
        static NONE: SlotTable = SlotTable::EMPTY;
        Self { slots: &NONE, kept: None }
    }
}

impl PacketSnapshot {
    /// Builds the tables for `snapshot`. Give the snapshot now in service as `previous`, so that flows keep
    /// their servers; `None` at the start. A backend whose servers and weights are as before keeps its table.
    ///
    /// # Errors
    /// A mode, address or port that cannot be forwarded by packets, with its key path.
    pub fn build(
        snapshot: &Snapshot,
        options: &PacketOptions,
        previous: Option<&PacketSnapshot>,
    ) -> Result<Self, PacketSpecError> {
        let now = previous.map_or(Nanos(0), |p| p.built);
        Self::build_after(snapshot, options, previous, Saved::none(), now)
    }

    /// As [`PacketSnapshot::build`], at this moment of the workers' time: minimal tracking knows for how long slots
    /// of the Maglev table have been where they are. [`PacketSnapshot::build`] is as if no time had passed.
    ///
    /// # Errors
    /// As [`PacketSnapshot::build`].
    pub fn build_at(
        snapshot: &Snapshot,
        options: &PacketOptions,
        previous: Option<&PacketSnapshot>,
        now: Nanos,
    ) -> Result<Self, PacketSpecError> {
        Self::build_after(snapshot, options, previous, Saved::none(), now)
    }

    /// Builds the first tables of a process that goes on with the flows of another: what both have keeps the slot
    /// it has in `saved`, and what is new gets one that no flow of the other can name.
    ///
    /// # Errors
    /// As [`PacketSnapshot::build`].
    pub fn build_adopting(
        snapshot: &Snapshot,
        options: &PacketOptions,
        saved: &SlotTable,
        now: Nanos,
    ) -> Result<Self, PacketSpecError> {
        Self::build_after(snapshot, options, None, Saved { slots: saved, kept: None }, now)
    }

    /// As [`PacketSnapshot::build_adopting`], for one that goes on with the very table of flows: what is no more in the
    /// configuration stays in its slot as if it had just left it, `paths` being where its answers come along.
    ///
    /// # Errors
    /// As [`PacketSnapshot::build`].
    pub fn build_keeping(
        snapshot: &Snapshot,
        options: &PacketOptions,
        saved: &SlotTable,
        paths: &[NatPath],
        now: Nanos,
    ) -> Result<Self, PacketSpecError> {
        Self::build_after(snapshot, options, None, Saved { slots: saved, kept: Some(paths) }, now)
    }

    fn build_after(
        snapshot: &Snapshot,
        options: &PacketOptions,
        previous: Option<&PacketSnapshot>,
        saved: Saved<'_>,
        now: Nanos,
    ) -> Result<Self, PacketSpecError> {
        check(snapshot, options, previous)?;
        let generation = previous.map_or(1, |p| p.generation + 1);
        let before = previous.map_or(saved.slots, |p| &p.slots);
        let keeps = previous.is_some() || saved.kept.is_some();
        let is_held = |slot_use: Option<&SlotUse>| match (previous, slot_use) {
            (Some(p), Some(slot_use)) => !p.is_gone(slot_use),
            (Some(_), None) => false,
            (None, _) => true,
        };

        let old_server = |slot| previous.and_then(|p| p.server(slot));
        let mut assignment = Assignment::after(&before.servers, |slot| {
            is_held(old_server(slot).map(|s| &s.slot_use))
                || previous.is_some_and(|p| p.unremembered.contains(&slot))
        });
        let mut servers = Vec::new();
        let old_backends: HashMap<&str, &PacketBackend> =
            previous.into_iter().flat_map(|p| &p.backends).map(|b| (&*b.name, b)).collect();
        let mut backends = Vec::with_capacity(snapshot.backends.len());
        for backend in &snapshot.backends {
            let method = method(snapshot.mode, backend, options);
            // Every one has an address: `check` says so, and the slots are by a server's place.
            let mut slots = Vec::with_capacity(backend.servers.len());
            for (server, addr) in with_addresses(&backend.servers) {
                let identity = ServerIdentity {
                    backend: backend.name.to_string(),
                    address: addr.ip(),
                    port: addr.port(),
                    l2: method == Method::L2,
                    name: server.name.to_string(),
                };
                // One that left and came back counts anew.
                let is_same =
                    |slot| old_server(slot).is_none_or(|old| Arc::ptr_eq(&old.counters, &server.counters));
                let placed = assignment.place(identity, is_same);
                let Placed { slot, is_known } = placed.ok_or_else(|| too_many("backends", "servers"))?;
                let old = old_server(slot).filter(|_| is_known);
                servers.push((slot, packet_server(backend, (server, addr), method, old)));
                slots.push(slot);
            }
            let members = backend.selector.members(|i| slots[i]);
            backends.push(packet_backend(backend, members, old_backends.get(&*backend.name).copied()));
        }
        let server_slots = finish(assignment, keeps);
        let servers = lay_out(&server_slots, servers, |slot| {
            let mut left = match old_server(slot) {
                Some(old) => old.clone(),
                None => left::server(server_slots.get(slot)?, snapshot),
            };
            left.slot_use.retire(generation);
            Some(left)
        });

        let old_frontend = |slot| previous.and_then(|p| p.frontend(slot));
        let mut assignment = Assignment::after(&before.frontends, |slot| {
            let old = old_frontend(slot);
            is_held(old.map(|f| &f.slot_use))
                || old.zip(previous).is_some_and(|(f, p)| p.may_have_unremembered(f))
        });
        let mut frontends = Vec::new();
        let mut vips = HashMap::default();
        let mut nat_paths = HashSet::default();
        // Those on one address first: they keep it where another stands for every address.
        let listens = snapshot.frontends.iter().flat_map(|f| f.listen.iter().map(move |at| (f, *at)));
        let (wildcard, exact): (Vec<_>, Vec<_>) = listens.partition(|(_, at)| at.ip().is_unspecified());
        for (frontend, listen) in exact.into_iter().chain(wildcard) {
            let protocol = protocol_number(frontend.protocol);
            let port = listen.port();
            for address in addresses(listen, options) {
                let vip = Vip { address: address.bits(), port, protocol };
                if vips.contains_key(&vip) {
                    continue;
                }
                let identity = FrontendIdentity {
                    protocol,
                    address: address.into(),
                    port,
                    name: frontend.name.to_string(),
                };
                let is_same = |slot| {
                    old_frontend(slot).is_none_or(|old| Arc::ptr_eq(&old.counters, &frontend.counters))
                };
                let placed = assignment.place(identity, is_same);
                let Placed { slot, is_known } = placed.ok_or_else(|| too_many("frontends", "frontends"))?;
                let old = old_frontend(slot).filter(|_| is_known);
                let made = packet_frontend(frontend, snapshot, (address, port), options, old);
                frontends.push((slot, made));
                vips.insert(vip, slot);
                if snapshot.mode == Mode::Passthrough {
                    for nat in &*nat_sources(address, options) {
                        let servers = &snapshot.backends[frontend.backend].servers;
                        nat_paths.extend(with_addresses(servers).map(|(_, addr)| NatPath {
                            nat: nat.bits(),
                            server: Addr::from(addr.ip()).bits(),
                            port: addr.port(),
                            protocol,
                        }));
                    }
                }
            }
        }

        let frontend_slots = finish(assignment, keeps);
        let mut frontends = lay_out(&frontend_slots, frontends, |slot| {
            let mut left = match old_frontend(slot) {
                Some(old) => old.clone(),
                None => left::frontend(frontend_slots.get(slot)?, snapshot, options),
            };
            left.slot_use.retire(generation);
            Some(left)
        });
        let former_paths = previous.map(|p| p.nat_paths.iter()).into_iter().flatten();
        let former_paths = former_paths.chain(saved.kept.unwrap_or_default());
        nat_paths.extend(paths_of_retired(former_paths, &frontends, &servers));
        let mut former_vips: HashMap<Vip, Vec<u16>, _> = HashMap::default();
        for (slot, frontend) in (0..=u16::MAX).zip(&frontends) {
            if let Some(f) = frontend.as_ref().filter(|f| f.has_left()) {
                let vip = Vip { address: f.address.bits(), port: f.port, protocol: f.protocol };
                former_vips.entry(vip).or_default().push(slot);
            }
        }
        let tables =
            match snapshot.mode == Mode::Dsr && options.connection_tracking == ConnectionTracking::Minimal {
                false => tables::of_backends(&backends),
                true => tables::Changes {
                    backends: &backends,
                    servers: &servers,
                    timeouts: &options.timeouts,
                    previous,
                    adopts: previous.is_none() && *saved.slots != SlotTable::default(),
                    now,
                }
                .tables(&mut frontends),
            };
        let no_workers = || (0..options.workers.max(1)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            version: snapshot.version,
            generation,
            mode: snapshot.mode,
            options: options.clone(),
            lifetimes: lifetimes(&options.timeouts, snapshot.mode),
            max_connections: snapshot.limits.max_connections,
            slots: SlotTable { frontends: frontend_slots, servers: server_slots },
            frontends,
            servers,
            backends,
            unremembered: tables::unremembered(&tables),
            tables,
            built: now,
            has_any_port: vips.keys().any(|v: &Vip| v.port == 0),
            vips,
            former_vips,
            nat_paths,
            totals: snapshot.totals.clone(),
            reasons: snapshot.reasons.clone(),
            adopted: previous.map_or_else(no_workers, |p| p.adopted.clone()),
        })
    }
}

/// The paths of flows whose frontend or server has left: answers along them still belong to the packet path, not to
/// the kernel, until the slot is free.
fn paths_of_retired<'a>(
    former: impl Iterator<Item = &'a NatPath>,
    frontends: &[Option<PacketFrontend>],
    servers: &[Option<PacketServer>],
) -> Vec<NatPath> {
    let left_servers: HashSet<(u128, u16)> = servers
        .iter()
        .flatten()
        .filter(|s| s.slot_use.retired.is_some())
        .map(|s| (s.address.bits(), s.port))
        .collect();
    let left_sources: HashSet<u128> = frontends
        .iter()
        .flatten()
        .filter(|f| f.slot_use.retired.is_some())
        .flat_map(|f| f.nat_sources.iter().map(|a| a.bits()))
        .collect();
    let is_left = |p: &&NatPath| left_servers.contains(&(p.server, p.port)) || left_sources.contains(&p.nat);
    former.filter(is_left).copied().collect()
}

/// What left keeps its slot while flows name it; what a saved table has and nobody wants is free.
fn finish<I: Identity>(assignment: Assignment<I>, keeps: bool) -> Slots<I> {
    if keeps { assignment.keep_rest() } else { assignment.free_rest() }
}

/// What was placed and what `left`, by slot.
fn lay_out<I, T>(slots: &Slots<I>, placed: Vec<(u16, T)>, left: impl Fn(u16) -> Option<T>) -> Vec<Option<T>> {
    let mut all: Vec<Option<T>> = std::iter::repeat_with(|| None).take(slots.len()).collect();
    for (slot, item) in placed {
        all[usize::from(slot)] = Some(item);
    }
    for (slot, _) in slots.iter() {
        let item = &mut all[usize::from(slot)];
        if item.is_none() {
            *item = left(slot);
        }
    }
    all
}

/// Servers with their addresses: in the packet modes all have one.
fn with_addresses(servers: &[Server]) -> impl Iterator<Item = (&Server, SocketAddr)> {
    servers.iter().filter_map(|server| Some((server, server.addr.ip()?)))
}

fn packet_server(
    backend: &Backend,
    (server, addr): (&Server, SocketAddr),
    method: Method,
    old: Option<&PacketServer>,
) -> PacketServer {
    PacketServer {
        backend: backend.name.clone(),
        name: server.name.clone(),
        address: addr.ip().into(),
        port: addr.port(),
        method,
        max_connections: server.max_connections,
        counters: server.counters.clone(),
        backend_counters: Arc::<ConnCounters>::clone(&backend.counters),
        configured: match server.effective_weight() {
            _ if !server.up => Standing::Down,
            0 => Standing::Draining,
            _ => Standing::Up,
        },
        slot_use: old.map(|o| o.slot_use.in_service()).unwrap_or_default(),
    }
}

fn packet_frontend(
    f: &Frontend,
    snapshot: &Snapshot,
    (address, port): (Addr, u16),
    options: &PacketOptions,
    old: Option<&PacketFrontend>,
) -> PacketFrontend {
    PacketFrontend {
        name: f.name.clone(),
        protocol: protocol_number(f.protocol),
        address,
        port,
        nat_sources: nat_sources(address, options),
        max_connections: f.max_connections,
        access: f.admission.access.clone(),
        counters: f.counters.clone(),
        reasons: f.reasons.clone(),
        balance: snapshot.backends[f.backend].selector.balance(),
        backend: f.backend,
        table: f.backend,
        slot_use: old.map(|o| o.slot_use.in_service()).unwrap_or_default(),
    }
}

/// The addresses `listen` stands for: its own, or every one of its family that packets can have.
pub(super) fn addresses(listen: SocketAddr, options: &PacketOptions) -> Vec<Addr> {
    let listen = listen.ip();
    if !listen.is_unspecified() {
        return vec![listen.into()];
    }
    let fits = |ip: &&IpAddr| ip.is_ipv4() == listen.is_ipv4() && can_listen(**ip);
    options.local_addresses.iter().filter(fits).map(|ip| Addr::from(*ip)).collect()
}

fn packet_backend(backend: &Backend, members: Vec<Member>, old: Option<&PacketBackend>) -> PacketBackend {
    let table = match old.filter(|b| b.members == members) {
        Some(b) => b.table.clone(),
        None => MaglevTable::build(&members).map(Arc::new),
    };
    PacketBackend { name: backend.name.clone(), members, table }
}

pub(super) fn method(mode: Mode, backend: &Backend, options: &PacketOptions) -> Method {
    if mode == Mode::Passthrough {
        return Method::Nat;
    }
    match options.backend_dsr.get(&*backend.name).copied().unwrap_or(options.dsr) {
        DsrMethod::Rewrite => Method::Rewrite,
        DsrMethod::L2 => Method::L2,
    }
}

pub(super) fn nat_sources(vip: Addr, options: &PacketOptions) -> Arc<[Addr]> {
    let all: BTreeSet<&IpAddr> = options.nat_addresses.iter().collect();
    let fit: Vec<Addr> =
        all.into_iter().map(|ip| Addr::from(*ip)).filter(|a| a.is_v4() == vip.is_v4()).collect();
    if fit.is_empty() { Arc::from([vip]) } else { fit.into() }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

fn lifetimes(t: &Timeouts, mode: Mode) -> Lifetimes {
    let mut lifetimes = Lifetimes([0; FlowState::COUNT]);
    let closing = if mode == Mode::Dsr { t.dsr_fin } else { t.fin };
    for (state, span) in [
        (FlowState::SynSent, t.syn),
        (FlowState::SynReceived, t.syn),
        (FlowState::Established, t.established),
        (FlowState::Closing, closing),
        (FlowState::Closed, t.closed),
        (FlowState::UdpNew, t.udp),
        (FlowState::UdpReplied, t.udp),
        (FlowState::UdpStream, t.udp_stream),
    ] {
        lifetimes.0[state as usize] = Ticks::span(span);
    }
    lifetimes
}

fn too_many(field: &str, what: &str) -> PacketSpecError {
    invalid(field, format!("more than {MAX_SLOTS} {what}, those with connections left included"))
}
