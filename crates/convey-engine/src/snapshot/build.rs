//! From a [`Snapshot`] to the tables of the packet path.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use convey_core::conntrack::{FlowState, Lifetimes, Ticks};
use convey_core::selection::{MaglevTable, Member, member_seed};
use convey_core::{Backend, ConnCounters, Frontend, Mode, Protocol, Server, Snapshot};
use convey_packet::{Addr, TCP, UDP};

use super::check::{can_listen, check, invalid};
use super::{
    Method, NatPath, PacketBackend, PacketFrontend, PacketServer, PacketSnapshot, PacketSpecError, SlotUse,
    Standing, Vip,
};
use crate::options::{DsrMethod, PacketOptions, Timeouts};

/// Slots are 16 bits, of which the last stands for none.
const MAX_SLOTS: usize = 65_535;

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
        check(snapshot, options, previous)?;
        let generation = previous.map_or(1, |p| p.generation + 1);
        let is_gone = |t: &SlotUse| previous.is_some_and(|p| p.is_gone(t));

        let mut servers = Slots::after(previous.map(|p| &*p.servers), |s| is_gone(&s.slot_use));
        let mut backends = Vec::with_capacity(snapshot.backends.len());
        for backend in &snapshot.backends {
            let method = method(snapshot.mode, backend, options);
            let mut members = Vec::with_capacity(backend.servers.len());
            for server in &backend.servers {
                let slot = servers.place(
                    |old| {
                        *old.backend == *backend.name
                            && old.address == Addr::from(server.addr.ip())
                            && old.port == server.addr.port()
                            && Arc::ptr_eq(&old.counters, &server.counters)
                    },
                    |old| packet_server(backend, server, method, old.map(|o| o.slot_use.clone())),
                );
                let slot = slot.ok_or_else(|| too_many("backends", "servers"))?;
                members.push(Member {
                    seed: member_seed(server.addr.to_string().as_bytes()),
                    weight: server.effective_weight(),
                    value: slot,
                });
            }
            backends.push(packet_backend(backend, members, previous));
        }

        let mut frontends = Slots::after(previous.map(|p| &*p.frontends), |f| is_gone(&f.slot_use));
        let mut vips = HashMap::default();
        let mut nat_paths = HashSet::default();
        // Those on one address first: they keep it where another stands for every address.
        let (wildcard, exact): (Vec<_>, Vec<_>) =
            snapshot.frontends.iter().partition(|f| f.listen.ip().is_unspecified());
        for frontend in exact.into_iter().chain(wildcard) {
            let protocol = protocol_number(frontend.protocol);
            let port = frontend.listen.port();
            for address in addresses(frontend, options) {
                let vip = Vip { address: address.bits(), port, protocol };
                if vips.contains_key(&vip) {
                    continue;
                }
                let slot = frontends.place(
                    |old| {
                        old.name == frontend.name
                            && (old.protocol, old.address, old.port) == (protocol, address, port)
                            && Arc::ptr_eq(&old.counters, &frontend.counters)
                    },
                    |old| packet_frontend(frontend, address, options, old.map(|o| o.slot_use.clone())),
                );
                vips.insert(vip, slot.ok_or_else(|| too_many("frontends", "frontends"))?);
                if snapshot.mode == Mode::Passthrough {
                    for nat in &*nat_sources(address, options) {
                        nat_paths.extend(snapshot.backends[frontend.backend].servers.iter().map(|s| {
                            NatPath {
                                nat: nat.bits(),
                                server: Addr::from(s.addr.ip()).bits(),
                                port: s.addr.port(),
                                protocol,
                            }
                        }));
                    }
                }
            }
        }

        let frontends = frontends.finish(generation, |f| &mut f.slot_use);
        let servers = servers.finish(generation, |s| &mut s.slot_use);
        if let Some(previous) = previous {
            nat_paths.extend(paths_of_retired(previous, &frontends, &servers));
        }
        let mut former_vips: HashMap<Vip, Vec<u16>, _> = HashMap::default();
        for (slot, frontend) in (0u16..).zip(&frontends) {
            if let Some(f) = frontend.as_ref().filter(|f| f.has_left()) {
                let vip = Vip { address: f.address.bits(), port: f.port, protocol: f.protocol };
                former_vips.entry(vip).or_default().push(slot);
            }
        }
        let no_workers = || (0..options.workers.max(1)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            version: snapshot.version,
            generation,
            mode: snapshot.mode,
            options: options.clone(),
            lifetimes: lifetimes(&options.timeouts, snapshot.mode),
            max_connections: snapshot.limits.max_connections,
            frontends,
            servers,
            backends,
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
fn paths_of_retired(
    previous: &PacketSnapshot,
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
    previous.nat_paths.iter().filter(is_left).copied().collect()
}

/// Slots on their way from one snapshot to the next.
struct Slots<T> {
    slots: Vec<Option<T>>,
    placed: Vec<bool>,
}

impl<T: Clone> Slots<T> {
    fn after(previous: Option<&[Option<T>]>, is_gone: impl Fn(&T) -> bool) -> Self {
        let slots: Vec<Option<T>> = previous
            .unwrap_or_default()
            .iter()
            .map(|s| s.as_ref().filter(|s| !is_gone(s)).cloned())
            .collect();
        Self { placed: vec![false; slots.len()], slots }
    }

    /// Puts what `make` makes where its predecessor lies, else in a free slot. `None`: no slot is left.
    fn place(&mut self, is_same: impl Fn(&T) -> bool, make: impl FnOnce(Option<&T>) -> T) -> Option<u16> {
        let known = self.slots.iter().position(|s| s.as_ref().is_some_and(&is_same));
        let at = match known.or_else(|| self.slots.iter().position(Option::is_none)) {
            Some(at) => at,
            None if self.slots.len() < MAX_SLOTS => {
                self.slots.push(None);
                self.placed.push(false);
                self.slots.len() - 1
            }
            None => return None,
        };
        self.slots[at] = Some(make(self.slots[at].as_ref()));
        self.placed[at] = true;
        u16::try_from(at).ok()
    }

    /// All slots; those nothing was put in are retired as of `generation`.
    fn finish(mut self, generation: u64, slot_use: impl Fn(&mut T) -> &mut SlotUse) -> Vec<Option<T>> {
        for (slot, placed) in self.slots.iter_mut().zip(self.placed) {
            if let Some(slot) = slot {
                let slot_use = slot_use(slot);
                slot_use.retired = if placed { None } else { slot_use.retired.or(Some(generation)) };
            }
        }
        self.slots
    }
}

fn packet_server(
    backend: &Backend,
    server: &Server,
    method: Method,
    slot_use: Option<SlotUse>,
) -> PacketServer {
    PacketServer {
        backend: backend.name.clone(),
        name: server.name.clone(),
        address: server.addr.ip().into(),
        port: server.addr.port(),
        method,
        max_connections: server.max_connections,
        counters: server.counters.clone(),
        backend_counters: Arc::<ConnCounters>::clone(&backend.counters),
        configured: match server.effective_weight() {
            _ if !server.up => Standing::Down,
            0 => Standing::Draining,
            _ => Standing::Up,
        },
        slot_use: slot_use.unwrap_or_default(),
    }
}

fn packet_frontend(
    f: &Frontend,
    address: Addr,
    options: &PacketOptions,
    slot_use: Option<SlotUse>,
) -> PacketFrontend {
    PacketFrontend {
        name: f.name.clone(),
        protocol: protocol_number(f.protocol),
        address,
        port: f.listen.port(),
        nat_sources: nat_sources(address, options),
        max_connections: f.max_connections,
        counters: f.counters.clone(),
        reasons: f.reasons.clone(),
        backend: f.backend,
        slot_use: slot_use.unwrap_or_default(),
    }
}

/// The addresses a frontend has: its own, or every one of its family that packets can have.
pub(super) fn addresses(frontend: &Frontend, options: &PacketOptions) -> Vec<Addr> {
    let listen = frontend.listen.ip();
    if !listen.is_unspecified() {
        return vec![listen.into()];
    }
    let fits = |ip: &&IpAddr| ip.is_ipv4() == listen.is_ipv4() && can_listen(**ip);
    options.local_addresses.iter().filter(fits).map(|ip| Addr::from(*ip)).collect()
}

fn packet_backend(
    backend: &Backend,
    members: Vec<Member>,
    previous: Option<&PacketSnapshot>,
) -> PacketBackend {
    let same = previous
        .and_then(|p| p.backends.iter().find(|b| *b.name == *backend.name))
        .filter(|b| b.members == members);
    let table = match same {
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

fn nat_sources(vip: Addr, options: &PacketOptions) -> Arc<[Addr]> {
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
