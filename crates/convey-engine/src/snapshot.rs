//! Everything the packet path goes by at one moment, built off the packet path.
//!
//! Frontends and servers lie in slots that keep their number from one snapshot to the next, so that flows can
//! name them in 16 bits. A frontend or server that leaves the configuration stays in its slot, out of selection,
//! until its last flow has ended and every worker has seen it leave; only then is the slot used anew. Until then the
//! address of a frontend that left stays ours as well: its flows go on, new ones are refused there.

mod build;
mod check;
mod left;
mod moved_slots;
mod tables;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use convey_core::conntrack::{FlowKey, Lifetimes};
use convey_core::selection::{Balance, MaglevTable, Member};
use convey_core::{AccessList, ConnCounters, Mode, ReasonCounters, SpecError};
use convey_packet::Addr;

use crate::hash::MixBuild;
use crate::meta::Nanos;
use crate::options::{ConnectionTracking, PacketOptions};
use crate::slot_table::SlotTable;
use tables::PacketTable;

/// Why a snapshot cannot be forwarded by packets: path of the offending key and what is wrong with it.
pub type PacketSpecError = SpecError;

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Both addresses and ports are translated; the server answers the balancer.
    Nat,
    /// The destination address becomes the server's; the server answers the client.
    Rewrite,
    /// Only the MAC addresses change; the server answers the client.
    L2,
}

/// What may be sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// New flows, by its weight.
    Up,
    /// The flows it has: it is being drained, or its weight is 0.
    Draining,
    /// Its health checks fail. TCP connections it has may go on; datagrams and SYNs go elsewhere.
    Down,
    /// It has left the configuration. As `Down`.
    Removed,
}

impl Standing {
    /// Whether whatever can leave it does.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Down | Self::Removed)
    }
}

/// A frontend in its slot.
#[derive(Debug, Clone)]
pub struct PacketFrontend {
    /// Its name.
    pub name: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// The VIP.
    pub address: Addr,
    /// Its port; 0: every port that no other frontend has (DSR).
    pub port: u16,
    /// Source addresses towards servers (passthrough); at least one.
    pub nat_sources: Arc<[Addr]>,
    /// Connections open at once; 0: no limit.
    pub max_connections: u64,
    /// Which clients may begin flows; `None`: everybody.
    pub access: Option<Arc<AccessList>>,
    /// Connections and bytes.
    pub counters: Arc<ConnCounters>,
    /// Refusals.
    pub reasons: Arc<ReasonCounters>,
    /// What its clients are looked up by in the table.
    pub balance: Balance,
    pub(crate) backend: usize,
    /// Where its flows' slots are looked up.
    pub(crate) table: usize,
    pub(crate) slot_use: SlotUse,
}

impl PacketFrontend {
    /// Whether it has left the configuration: it has flows, and begins none.
    pub fn has_left(&self) -> bool {
        self.slot_use.retired.is_some()
    }
}

/// A server in its slot.
#[derive(Debug, Clone)]
pub struct PacketServer {
    /// Name of its backend.
    pub backend: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: Addr,
    /// Its port.
    pub port: u16,
    /// How it is reached.
    pub method: Method,
    /// Connections open at once; 0: no limit.
    pub max_connections: u64,
    /// Connections and bytes.
    pub counters: Arc<ConnCounters>,
    /// Connections and bytes of its backend.
    pub backend_counters: Arc<ConnCounters>,
    /// What may be sent to it while it is in the configuration.
    pub(crate) configured: Standing,
    pub(crate) slot_use: SlotUse,
}

impl PacketServer {
    /// What may be sent to it.
    pub fn standing(&self) -> Standing {
        if self.has_left() { Standing::Removed } else { self.configured }
    }

    /// Whether it has left the configuration.
    pub fn has_left(&self) -> bool {
        self.slot_use.retired.is_some()
    }
}

/// How long a slot is in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotUse {
    /// Flows that name the slot, over all workers.
    pub(crate) flows: Arc<AtomicU64>,
    /// Generation in which it left the configuration.
    pub(crate) retired: Option<u64>,
}

impl SlotUse {
    /// The same, of what is in the configuration.
    fn in_service(&self) -> Self {
        Self { flows: self.flows.clone(), retired: None }
    }

    /// Left the configuration in `generation`, if it had not before.
    fn retire(&mut self, generation: u64) {
        self.retired.get_or_insert(generation);
    }
}

/// A backend: who is in the table.
#[derive(Debug, Clone)]
pub(crate) struct PacketBackend {
    pub(crate) name: Arc<str>,
    pub(crate) members: Vec<Member>,
    /// `None` when nobody can be selected.
    pub(crate) table: Option<Arc<MaglevTable>>,
}

/// What the table says of a flow (DSR with `connection_tracking = "minimal"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) slot: usize,
    /// Who gets new flows; `None`: nobody can be selected.
    pub(crate) server: Option<u16>,
    /// Where flows go that are not in the flow table. `None`: the slot has settled, and the flow table is not asked.
    pub(crate) previous: Option<u16>,
}

/// What a reply's NAT port is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NatPath {
    /// The NAT address; see [`Addr::bits`].
    pub nat: u128,
    /// The server's.
    pub server: u128,
    /// Its port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Vip {
    pub(crate) address: u128,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
}

/// Frontends by address, Maglev tables, servers in slots that survive reloads. Immutable but for counters.
#[derive(Debug)]
pub struct PacketSnapshot {
    version: u64,
    /// Grows by one with every build; `version` may stay when only health has changed.
    generation: u64,
    mode: Mode,
    options: PacketOptions,
    lifetimes: Lifetimes,
    max_connections: u64,
    slots: SlotTable,
    /// By slot.
    frontends: Vec<Option<PacketFrontend>>,
    /// By slot.
    servers: Vec<Option<PacketServer>>,
    backends: Vec<PacketBackend>,
    /// In full tracking one for each backend, in their order.
    tables: Vec<PacketTable>,
    /// Slots of servers that flows may be at which nobody remembers.
    unremembered: HashSet<u16>,
    /// When it was built.
    built: Nanos,
    vips: HashMap<Vip, u16, MixBuild>,
    /// Frontends that left and have flows, by where they listened.
    former_vips: HashMap<Vip, Vec<u16>, MixBuild>,
    has_any_port: bool,
    nat_paths: HashSet<NatPath, MixBuild>,
    totals: Arc<ConnCounters>,
    reasons: Arc<ReasonCounters>,
    /// By worker: the generation it works with.
    adopted: Arc<[AtomicU64]>,
}

impl PacketSnapshot {
    /// Version of the [`convey_core::Snapshot`] it was built from.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Passthrough or DSR.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The settings it was built with.
    pub fn options(&self) -> &PacketOptions {
        &self.options
    }

    /// The frontend in `slot`, in service or with flows left.
    #[inline]
    pub fn frontend(&self, slot: u16) -> Option<&PacketFrontend> {
        self.frontends.get(usize::from(slot))?.as_ref()
    }

    /// The server in `slot`, in service or with flows left.
    #[inline]
    pub fn server(&self, slot: u16) -> Option<&PacketServer> {
        self.servers.get(usize::from(slot))?.as_ref()
    }

    /// Frontends in service or with flows left, and their slots.
    pub fn frontends(&self) -> impl Iterator<Item = (u16, &PacketFrontend)> {
        (0..=u16::MAX).zip(&self.frontends).filter_map(|(slot, frontend)| Some((slot, frontend.as_ref()?)))
    }

    /// Servers in service or with flows left, and their slots.
    pub fn servers(&self) -> impl Iterator<Item = (u16, &PacketServer)> {
        (0..=u16::MAX).zip(&self.servers).filter_map(|(slot, server)| Some((slot, server.as_ref()?)))
    }

    /// By backend, in minimal tracking by backend and protocol: who is selected at each place of the Maglev table;
    /// `None`: nobody.
    pub fn tables(&self) -> impl Iterator<Item = Option<&Arc<MaglevTable>>> {
        self.tables.iter().map(|table| table.table.as_ref())
    }

    /// The same in minimal tracking, of each place server and previous server; [`u16::MAX`]: none, or it has settled.
    pub fn places(&self) -> impl Iterator<Item = Option<Vec<u16>>> {
        self.tables.iter().map(PacketTable::places)
    }

    /// What others have noted of packets that went elsewhere than to their slot's server (minimal tracking): by slot of
    /// the frontend and of its table, 16 bits of the time in 2^32 ns.
    pub fn take_slot_uses(&self, now: Nanos, last_use: impl Fn(u16, usize) -> u16) {
        for (slot, frontend) in self.frontends() {
            if let Some(moved) = self.tables.get(frontend.table).and_then(|t| t.moved.as_ref()) {
                moved.take_uses(now, |at| last_use(slot, at));
            }
        }
    }

    /// The place of the frontend's table in [`PacketSnapshot::tables`].
    pub fn backend_of(&self, frontend: &PacketFrontend) -> usize {
        frontend.table
    }

    /// The ways along which servers may answer (passthrough).
    pub fn nat_paths(&self) -> impl Iterator<Item = &NatPath> {
        self.nat_paths.iter()
    }

    /// What its slots stand for: frontends and servers that left count while they have flows.
    pub fn slot_table(&self) -> &SlotTable {
        &self.slots
    }

    /// Frontends in service, and those that left and have flows: protocol number, address, port; each once. For
    /// the program that keeps the kernel out.
    pub fn vips(&self) -> impl Iterator<Item = (u8, std::net::IpAddr, u16)> + '_ {
        let former = self.former_vips.keys().filter(|v| !self.vips.contains_key(v));
        self.vips.keys().chain(former).map(|v| (v.protocol, Addr::from_bits(v.address).into(), v.port))
    }

    /// Whether a frontend or server that left has no flows any more, so that the next build will free its slot.
    pub fn has_ended_slots(&self) -> bool {
        let frontends = self.frontends.iter().flatten().filter(|f| !self.may_have_unremembered(f));
        let servers = (0..=u16::MAX).zip(&self.servers).filter(|(slot, _)| !self.unremembered.contains(slot));
        let servers = servers.filter_map(|(_, server)| Some(&server.as_ref()?.slot_use));
        frontends.map(|f| &f.slot_use).chain(servers).any(|t| t.retired.is_some() && self.is_gone(t))
    }

    /// Whether a frontend that left may have flows that nobody remembers.
    fn may_have_unremembered(&self, frontend: &PacketFrontend) -> bool {
        frontend.has_left() && self.tables.get(frontend.table).is_some_and(PacketTable::has_moved)
    }

    /// Whether slots that moved have settled by `now`, so that the next build will forget where they were.
    pub fn has_settled_slots(&self, now: Nanos) -> bool {
        self.tables.iter().any(|table| table.is_due(&self.options.timeouts, self.built, now))
    }

    /// Whether DSR remembers those flows alone that the table would send elsewhere.
    pub fn is_minimal(&self) -> bool {
        self.mode == Mode::Dsr && self.options.connection_tracking == ConnectionTracking::Minimal
    }

    /// Whether nobody can name the slot: it left the configuration, every worker knows, and no flow is left.
    fn is_gone(&self, slot_use: &SlotUse) -> bool {
        let oldest_in_use = self.adopted.iter().map(|g| g.load(Acquire)).min().unwrap_or(0);
        slot_use.retired.is_some_and(|retired| retired <= oldest_in_use) && slot_use.flows.load(Acquire) == 0
    }

    /// Servers in service.
    pub fn servers_in_service(&self) -> impl Iterator<Item = &PacketServer> + '_ {
        self.servers.iter().flatten().filter(|server| server.slot_use.retired.is_none())
    }

    /// Every frontend in service with every server of its backend.
    pub fn pairs_in_service(&self) -> impl Iterator<Item = (&PacketFrontend, &PacketServer)> + '_ {
        let in_service =
            self.frontends.iter().flatten().filter(|frontend| frontend.slot_use.retired.is_none());
        in_service.flat_map(move |frontend| {
            let members =
                self.backends.get(frontend.backend).map(|b| b.members.as_slice()).unwrap_or_default();
            members.iter().filter_map(move |member| Some((frontend, self.server(member.value)?)))
        })
    }

    /// Addresses that NAT ports belong to: where servers send their answers (passthrough).
    pub fn nat_sources(&self) -> HashSet<std::net::IpAddr> {
        self.nat_paths.iter().map(|p| Addr::from_bits(p.nat).into()).collect()
    }

    /// Whether a frontend listens on an IPv6 address, or did and has flows.
    pub fn has_v6(&self) -> bool {
        self.frontends.iter().flatten().any(|frontend| !frontend.address.is_v4())
    }

    /// The slot of the frontend that listens there.
    #[inline]
    pub(crate) fn match_vip(&self, protocol: u8, address: Addr, port: u16) -> Option<u16> {
        let vip = |port| Vip { address: address.bits(), port, protocol };
        if let Some(slot) = self.vips.get(&vip(port)) {
            return Some(*slot);
        }
        if self.has_any_port
            && let Some(slot) = self.vips.get(&vip(0))
        {
            return Some(*slot);
        }
        self.former_vips(protocol, address, port).next()
    }

    /// The slots of frontends that left and listened there, while they have flows.
    #[inline]
    pub(crate) fn former_vips(
        &self,
        protocol: u8,
        address: Addr,
        port: u16,
    ) -> impl Iterator<Item = u16> + '_ {
        let find = move |port| match self.former_vips.is_empty() {
            true => None,
            false => self.former_vips.get(&Vip { address: address.bits(), port, protocol }),
        };
        find(port).into_iter().chain(find(0).filter(|_| port != 0)).flatten().copied()
    }

    /// Whether a server of ours may answer along this path, flow or not.
    pub(crate) fn is_nat_path(&self, path: &NatPath) -> bool {
        self.nat_paths.contains(path)
    }

    /// The table slot and server that a client of `frontend` gets by its hash.
    pub(crate) fn select(
        &self,
        frontend: &PacketFrontend,
        client: Addr,
        client_port: u16,
        port: u16,
    ) -> Option<(usize, u16)> {
        if frontend.has_left() {
            return None;
        }
        let table = self.tables.get(frontend.table)?.table.as_ref()?;
        let slot = slot_of(frontend, client, client_port, port);
        Some((slot, table.get(slot)?))
    }

    /// What the table says of a client's flow, in minimal tracking.
    #[inline]
    pub(crate) fn place(&self, frontend: &PacketFrontend, key: &FlowKey) -> Placement {
        let slot = slot_of(frontend, Addr::from_bits(key.client), key.client_port, key.port);
        let table = self.tables.get(frontend.table);
        Placement {
            slot,
            server: table.and_then(|t| t.table.as_ref()?.get(slot)),
            previous: table.and_then(|t| t.moved.as_ref()?.previous(slot)),
        }
    }

    /// A packet in this slot went elsewhere than to its server: the slot has not settled.
    #[inline]
    pub(crate) fn went_elsewhere(&self, frontend: &PacketFrontend, slot: usize, now: Nanos) {
        if let Some(moved) = self.tables.get(frontend.table).and_then(|t| t.moved.as_ref()) {
            moved.used(slot, now);
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How long flows live after their last packet, by state.
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// Connections open at once; 0: no limit.
    pub fn max_connections(&self) -> u64 {
        self.max_connections
    }

    /// Whoever forwards goes by this generation or a later one.
    pub(crate) fn adopt_all(&self, generation: u64) {
        for adopted in self.adopted.iter() {
            adopted.store(generation, Release);
        }
    }

    /// Connections and bytes of all frontends.
    pub fn totals(&self) -> &Arc<ConnCounters> {
        &self.totals
    }

    /// Refusals of all frontends.
    pub fn reasons(&self) -> &ReasonCounters {
        &self.reasons
    }

    /// Whether the mode is passthrough.
    pub fn is_passthrough(&self) -> bool {
        self.mode == Mode::Passthrough
    }

    /// Worker `index` goes by this snapshot from now on.
    pub(crate) fn adopt(&self, index: usize) {
        if let Some(adopted) = self.adopted.get(index) {
            // What the worker has counted in `SlotUse::flows` before is seen by who sees this.
            adopted.store(self.generation, Release);
        }
    }
}

/// The slot of a client's flow in the table of its frontend.
#[inline]
fn slot_of(frontend: &PacketFrontend, client: Addr, client_port: u16, port: u16) -> usize {
    let (client, vip) = (client.bits(), frontend.address.bits());
    MaglevTable::slot(frontend.balance.hash(client, client_port, vip, port, frontend.protocol))
}
