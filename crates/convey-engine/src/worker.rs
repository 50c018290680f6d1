//! The state one thread owns: flows, NAT ports, counters.

mod census;
mod held;
mod kernel;
mod ports;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use convey_core::conntrack::tcp::{self, Change};
use convey_core::conntrack::udp;
use convey_core::conntrack::{
    Direction, Flow, FlowId, FlowKey, FlowState, FlowTable, Found, LaterSyns, Memory, Overflow, Place, Ticks,
    flags,
};
use convey_core::nat_ports::PortUse;

use crate::counters::WorkerCounters;
use crate::flows::{FlowView, Seen};
use crate::fragments::Fragments;
use crate::hop_cache::HopCache;
use crate::memory::{Untaken, WorkerMemory};
use crate::meta::Nanos;
use crate::snapshot::{NatPath, PacketSnapshot};
use crate::takeover::{Heir, NotKept, TakenOver};
use crate::transport::Transport;
use crate::verdict::{DropReason, Note};
use census::Census;
pub use held::KernelGauges;
use held::{Gauges, Held, Turn};
pub use kernel::{KernelMemory, PoolMemory, PoolWords};

/// 32-bit words of a table.
pub type MemoryWords = Memory<AtomicU32>;
use ports::{Holder, PortPools};

/// A sweep gets round the whole table in this time.
const SWEEP_NANOS: u64 = 4_000_000_000;
/// Entries looked at in one [`Worker::tick`].
const SWEEP_BUDGET: usize = 4096;

/// As many, where the worker has little else to do.
const KERNEL_SWEEP_BUDGET: usize = 1 << 17;

/// How often a worker writes that it is alive.
const ALIVE_NANOS: u64 = 1_000_000_000;

/// Flows, NAT ports and counters of one thread.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    counters: Arc<WorkerCounters>,
    flows: FlowTable,
    untaken_v6: Option<Untaken>,
    later_syns: LaterSyns,
    held: Held,
    /// Of a table that programs in the kernel write to.
    census: Option<Census>,
    generation: u64,
    now: Nanos,
    swept: Nanos,
    alive: Memory<AtomicU64>,
    icmp_budget: u64,
    icmp_filled: Nanos,
    fragments: Arc<Fragments>,
    pub(crate) hops: HopCache,
}

/// What makes a worker one that has its flows for itself, or one beside programs in the kernel.
struct WorkerParts {
    index: usize,
    counters: Arc<WorkerCounters>,
    flows: FlowTable,
    untaken_v6: Option<Untaken>,
    later_syns: LaterSyns,
    held: Held,
    census: Option<Census>,
    alive: Memory<AtomicU64>,
}

/// A key, and what there is of it.
pub(crate) struct Met {
    pub(crate) key: FlowKey,
    /// The live flow.
    pub(crate) flow: Option<(FlowId, Flow)>,
    /// `None`: the flow table was not asked.
    found: Option<Found>,
}

impl Met {
    /// Of a key that the flow table is not asked about.
    pub(crate) const fn unasked(key: FlowKey) -> Self {
        Self { key, flow: None, found: None }
    }
}

/// What a flow begins with.
pub(crate) struct NewFlow<'a, Paths> {
    pub(crate) met: &'a Met,
    pub(crate) server: u16,
    /// Passthrough: the paths its port may be taken from, the one to be preferred first.
    pub(crate) nat: Option<Paths>,
}

impl Worker {
    /// Worker `index` of the workers `snapshot` was built for. Takes the memory of its flow table at once.
    pub fn new(index: usize, snapshot: &PacketSnapshot) -> Self {
        Self::in_memory(index, snapshot, WorkerMemory::own(snapshot.options()))
    }

    /// As [`Worker::new`], with its flows in this memory, in which there are none.
    pub fn in_memory(index: usize, snapshot: &PacketSnapshot, memory: WorkerMemory) -> Self {
        let options = snapshot.options();
        let overflow = if snapshot.is_passthrough() { Overflow::Refuse } else { Overflow::EvictOldest };
        let counters: Arc<WorkerCounters> = Arc::default();
        let mut worker = Self::of_parts(
            snapshot,
            WorkerParts {
                index,
                counters: counters.clone(),
                flows: FlowTable::in_memory(memory.flows, overflow, snapshot.lifetimes(), options.seed),
                untaken_v6: memory.untaken_v6,
                later_syns: LaterSyns::default(),
                held: Held {
                    ports: PortPools::new(index, options, memory.nat, counters),
                    gauges: Gauges::Snapshot,
                },
                census: None,
                alive: memory.alive,
            },
        );
        snapshot.adopt(index);
        worker.take_v6(snapshot);
        worker
    }

    fn of_parts(snapshot: &PacketSnapshot, parts: WorkerParts) -> Self {
        let WorkerParts { index, counters, flows, untaken_v6, later_syns, held, census, alive } = parts;
        let options = snapshot.options();
        Self {
            index,
            counters,
            flows,
            untaken_v6,
            later_syns,
            held,
            census,
            generation: snapshot.generation(),
            now: Nanos(0),
            swept: Nanos(0),
            alive,
            icmp_budget: u64::from(options.icmp_per_second),
            icmp_filled: Nanos(0),
            fragments: Arc::new(Fragments::new(options.seed)),
            hops: HopCache::default(),
        }
    }

    /// Takes the memory of IPv6 flows with the first frontend that may have some.
    fn take_v6(&mut self, snapshot: &PacketSnapshot) {
        if snapshot.has_v6()
            && let Some(untaken) = self.untaken_v6.take()
            && untaken.take().is_err()
        {
            self.note(Note::FlowsNotShared);
            self.flows.give_up_v6_memory();
        }
    }

    /// Goes by the fragments that other workers see too: to be called before the first packet.
    pub fn share_fragments(&mut self, fragments: Arc<Fragments>) {
        self.fragments = fragments;
    }

    pub(crate) fn fragments(&self) -> &Fragments {
        &self.fragments
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// Its counters, for any thread to read.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        self.counters.clone()
    }

    /// Ends flows whose time is over: all of them within about four seconds when called some hundred times a
    /// second. A bounded amount of work a call; call it between batches.
    pub fn tick(&mut self, snapshot: &PacketSnapshot, now: Nanos) {
        self.begin(snapshot, now);
        self.tell_alive();
        let elapsed = self.now.0 - self.swept.0;
        let Self { flows, held, census, .. } = self;
        let (entries, round, most) = match census {
            None => (flows.entries(), SWEEP_NANOS, SWEEP_BUDGET),
            Some(_) if flows.all_entries() <= KERNEL_SWEEP_BUDGET => {
                (flows.all_entries(), 1_000_000_000, usize::MAX)
            }
            Some(_) => (flows.all_entries(), SWEEP_NANOS, KERNEL_SWEEP_BUDGET),
        };
        let due = (entries as u64).saturating_mul(elapsed.min(round)) / round;
        // A table's share of one tick may be less than a set; let it add up.
        if due < 4 {
            return;
        }
        self.swept = self.now;
        let budget = (due as usize).min(most);
        flows.sweep(Ticks::from_nanos(self.now.0), budget, |flow| {
            held.settle(&flow, snapshot);
        });
        if let Some(census) = census {
            census.step(flows, snapshot, budget);
        }
    }

    /// Tells whoever may take its flows over what time their ticks are of.
    fn tell_alive(&self) {
        if let Some(alive) = self.alive.first()
            && self.now.0.saturating_sub(alive.load(Relaxed)) >= ALIVE_NANOS
        {
            alive.store(self.now.0, Relaxed);
        }
    }

    /// Ends every flow, so that gauges fall to zero when the worker stops.
    pub fn end_all(&mut self, snapshot: &PacketSnapshot) {
        let Self { flows, held, .. } = self;
        flows.take_all(|flow| held.settle(&flow, snapshot));
    }

    /// Gives its memory away as it lies, for another worker; nothing is settled, so end all flows first.
    pub fn take_memory(&mut self, snapshot: &PacketSnapshot) -> WorkerMemory {
        let none =
            FlowTable::in_memory([Memory::own(0), Memory::own(0)], Overflow::Refuse, snapshot.lifetimes(), 0);
        let flows = std::mem::replace(&mut self.flows, none).into_memory();
        let alive = std::mem::replace(&mut self.alive, Memory::own(0));
        WorkerMemory { flows, untaken_v6: self.untaken_v6.take(), alive, nat: self.held.ports.take_memory() }
    }

    /// Goes on with flows of a balancer that was killed, before the first packet. What cannot be kept is counted.
    pub fn take_over(
        &mut self,
        heirs: &[Heir],
        snapshot: &PacketSnapshot,
        now: Nanos,
        report: &mut TakenOver,
    ) {
        self.begin(snapshot, now);
        self.tell_alive();
        for heir in heirs {
            let met = self.find(&heir.flow.key());
            // Damage may make two of one.
            if met.flow.is_some() {
                continue;
            }
            let Some(found) = met.found else { continue };
            match self.restore(heir, &found.place, snapshot) {
                // What is over stays for stragglers only.
                _ if heir.flow.state == FlowState::Closed => {}
                // One came, an idle conversation went.
                Ok(true) => report.lose(NotKept::NoRoom),
                Ok(false) => report.kept += 1,
                Err(why) => report.lose(why),
            }
        }
    }

    /// Tells whether another live flow had to go for it.
    fn restore(&mut self, heir: &Heir, place: &Place, snapshot: &PacketSnapshot) -> Result<bool, NotKept> {
        let (mut flow, now) = (heir.flow, self.ticks());
        let mut has_replaced = false;
        let Self { flows, held, .. } = self;
        let claim = flows.claim_for_heir(place, flow.state.is_half_open(), now, |evicted| {
            has_replaced |= evicted.is_live();
            held.settle(&evicted, snapshot);
        });
        let claim = claim.ok_or(NotKept::NoRoom)?;
        if let Some(path) = &heir.path {
            let holder =
                Holder { id: claim.id(), port_use: PortUse::of(&flow), since: Ticks(flow.last_seen) };
            let Some(pool) = self.held.ports.take_exact(path, flow.nat_port, holder, snapshot) else {
                self.flows.abandon(claim);
                return Err(NotKept::NoPort);
            };
            flow.pool = pool;
            flow.flags |= flags::HAS_PORT;
        }
        self.held.begin(&flow, snapshot);
        if flow.state.is_udp() || matches!(flow.state, FlowState::Established | FlowState::Closing) {
            self.held.open(&mut flow, snapshot, Turn::Opened);
        }
        let Self { flows, held, .. } = self;
        // Twins among heirs were passed over before; if another thread has begun the flow, that one goes on.
        let _ = flows.publish(claim, &mut flow, |twin| held.settle(&twin, snapshot));
        Ok(has_replaced)
    }

    /// Flows held now, ended ones included until they are swept.
    pub fn flows(&self) -> usize {
        self.census.as_ref().map_or_else(|| self.flows.len(), Census::flows)
    }

    /// Memory of IPv4 and of IPv6 flows in bytes when all entries are in use; those never used take none.
    pub fn flow_memory_bytes(&self) -> [usize; 2] {
        self.flows.memory_bytes()
    }

    /// Memory of NAT ports in bytes.
    pub fn port_memory_bytes(&self) -> usize {
        self.held.ports.memory_bytes()
    }

    pub(crate) fn begin(&mut self, snapshot: &PacketSnapshot, now: Nanos) {
        // A clock that steps back would make every flow look ancient.
        self.now = self.now.max(now);
        self.held.ports.set_now(self.ticks());
        if snapshot.generation() != self.generation {
            self.generation = snapshot.generation();
            self.flows.set_lifetimes(snapshot.lifetimes());
            self.take_v6(snapshot);
            self.held.ports.forget_unused(snapshot);
            if self.census.is_none() {
                snapshot.adopt(self.index);
            }
        }
    }

    pub(crate) fn ticks(&self) -> Ticks {
        Ticks::from_nanos(self.now.0)
    }

    pub(crate) fn count(&self, verdict: &crate::Verdict) {
        self.counters.count(verdict);
    }

    pub(crate) fn note(&self, note: Note) {
        self.counters.note(note);
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.held.gauges
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// What there is of this key.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey) -> Met {
        let found = self.flows.find(key, self.ticks());
        let flow = found.live.and_then(|id| Some((id, self.flows.get(id)?)));
        Met { key: *key, flow, found: Some(found) }
    }

    /// The live flow whose answers come along `path` to `nat_port`.
    pub(crate) fn lookup_reply(&self, path: &NatPath, nat_port: u16) -> Option<(FlowId, Flow)> {
        let (pool, id) = self.held.ports.holder(path, nat_port)?;
        let flow = self.flows.get(id)?;
        let holds = flow.has(flags::HAS_PORT) && flow.nat_port == nat_port && flow.pool == pool;
        (holds && !self.flows.is_expired(&flow, self.ticks())).then_some((id, flow))
    }

    /// The address a flow's packets to its server come from.
    pub(crate) fn nat_address(&self, flow: &Flow) -> Option<u128> {
        if flow.has(flags::HAS_PORT) { self.held.ports.nat_address(flow.pool) } else { None }
    }

    /// Whether a flow with this key would find room.
    pub(crate) fn has_room(&self, met: &Met) -> bool {
        met.found.is_some_and(|found| self.flows.has_room(&found.place, self.ticks()))
    }

    /// Begins a flow: takes a place, and a port if it needs one.
    pub(crate) fn begin_flow(
        &mut self,
        new: &NewFlow<'_, impl Iterator<Item = NatPath> + Clone>,
        transport: &Transport,
        snapshot: &PacketSnapshot,
    ) -> Result<Flow, DropReason> {
        let (now, key) = (self.ticks(), &new.met.key);
        let found = new.met.found.as_ref().ok_or(DropReason::FlowTableFull)?;
        let mut flow = Flow {
            client: key.client,
            client_port: key.client_port,
            port: key.port,
            frontend: key.frontend,
            server: new.server,
            last_seen: now.0,
            ..Flow::default()
        };
        match transport {
            Transport::Tcp(segment) => tcp::begin(&mut flow, segment),
            Transport::Udp { .. } => udp::begin_udp(&mut flow, now.0),
        }
        let Self { flows, held, counters, .. } = self;
        let lifetimes = snapshot.lifetimes();
        let claim = flows.claim(found, flow.state.is_half_open(), now, |evicted| {
            let is_over = now.since(Ticks(evicted.last_seen)) > lifetimes.0[evicted.state as usize];
            match evicted.state {
                _ if is_over => {}
                FlowState::Closed => {}
                state if state.is_half_open() => counters.note(Note::HalfOpenEvicted),
                _ => counters.note(Note::FlowEvicted),
            }
            held.settle(&evicted, snapshot);
        });
        let claim = claim.ok_or(DropReason::FlowTableFull)?;
        if let Some(paths) = &new.nat {
            let Some((pool, port)) = self.take_port(paths, (claim.id(), &found.place), snapshot) else {
                self.flows.abandon(claim);
                return Err(DropReason::PortsExhausted);
            };
            flow.pool = pool;
            flow.nat_port = port;
            flow.flags |= flags::HAS_PORT;
        }
        self.note(Note::FlowBegun);
        self.held.begin(&flow, snapshot);
        if matches!(transport, Transport::Udp { .. }) {
            self.held.open(&mut flow, snapshot, Turn::Opened);
        }
        let Self { flows, held, .. } = self;
        match flows.publish(claim, &mut flow, |twin| held.settle(&twin, snapshot)) {
            Ok(id) => {
                self.later_syns.forget(id);
                Ok(flow)
            }
            Err(of_another_thread) => Ok(of_another_thread),
        }
    }

    /// Takes a packet of a flow into account. Gives the flow as it is now.
    pub(crate) fn advance(
        &mut self,
        id: FlowId,
        was: &Flow,
        from: Direction,
        transport: &Transport,
        snapshot: &PacketSnapshot,
    ) -> Flow {
        let (now, mut flow) = (self.ticks(), *was);
        let sees_replies = snapshot.is_passthrough();
        let change = match transport {
            Transport::Tcp(segment) => {
                let later_syn =
                    if tcp::may_answer_syn(from, segment) { self.later_syns.get(id) } else { None };
                tcp::advance(&mut flow, from, segment, sees_replies, later_syn, now.0)
            }
            Transport::Udp { .. } => udp::advance_udp(&mut flow, from, sees_replies, now.0),
        };
        let Change { established, closed, restarted, revived, out_of_window, later_syn } = change;
        let port_use = match transport {
            Transport::Udp { .. } => PortUse::after_datagram(&flow, change),
            Transport::Tcp(_) => PortUse::after_segment(change),
        };
        if let Some(port_use) = port_use
            && flow.has(flags::HAS_PORT)
        {
            self.held.ports.used_for(flow.pool, flow.nat_port, port_use);
        }
        if out_of_window {
            self.note(Note::OutOfWindow);
        }
        // In DSR no answer to it would be seen.
        if let Some(seq) = later_syn.filter(|_| sees_replies) {
            self.later_syns.set(id, seq);
        }
        if restarted {
            self.later_syns.forget(id);
            self.held.close(&mut flow, snapshot);
        }
        if revived {
            self.held.open(&mut flow, snapshot, Turn::OpenAgain);
        }
        if established {
            self.held.open(&mut flow, snapshot, Turn::Opened);
        }
        if closed {
            self.held.close(&mut flow, snapshot);
        }
        if !self.flows.update(id, was, &flow) {
            // Somebody else has taken it further, and counts what comes of that.
            self.held.take_back(was, &flow, snapshot);
        }
        flow
    }

    /// Ends a flow at once and gives its port back.
    pub(crate) fn end_flow(&mut self, id: FlowId, snapshot: &PacketSnapshot) {
        if let Some(flow) = self.flows.remove(id) {
            self.held.settle(&flow, snapshot);
        }
    }

    /// Its flows, for other threads to look at.
    pub fn flow_view(&self) -> FlowView {
        FlowView::new(self.flows.reader(), self.held.ports.addresses())
    }

    /// Ends of these flows what is still there, as if their time was over. Gives how many those were.
    pub fn end_flows(&mut self, seen: &[Seen], snapshot: &PacketSnapshot, now: Nanos) -> u64 {
        self.begin(snapshot, now);
        let mut ended = 0;
        for Seen { id, flow } in seen {
            if let Some(flow) = self.flows.remove_same(*id, flow) {
                self.held.settle(&flow, snapshot);
                ended += 1;
            }
        }
        ended
    }

    /// Whether an ICMP error of ours may be sent.
    pub(crate) fn take_icmp_budget(&mut self, per_second: u32) -> bool {
        let per_second = u64::from(per_second);
        let refill = (self.now.0 - self.icmp_filled.0).min(1_000_000_000) * per_second / 1_000_000_000;
        if refill > 0 {
            self.icmp_budget = (self.icmp_budget + refill).min(per_second);
            self.icmp_filled = self.now;
        }
        let may = self.icmp_budget > 0;
        self.icmp_budget = self.icmp_budget.saturating_sub(1);
        may
    }

    fn take_port(
        &mut self,
        paths: &(impl Iterator<Item = NatPath> + Clone),
        holder: (FlowId, &Place),
        snapshot: &PacketSnapshot,
    ) -> Option<(u16, u16)> {
        for path in paths.clone() {
            let pool = self.held.ports.pool(&path)?;
            if let Some(port) = self.held.ports.take(pool, holder, snapshot) {
                return Some((pool, port));
            }
        }
        let (flows, now) = (&self.flows, self.ticks());
        let victims = paths.clone().filter_map(|path| {
            let pool = self.held.ports.pool(&path)?;
            self.held.ports.victim(pool, holder.1, |id| flows.idle(id, now)).map(|v| (v, pool))
        });
        let (victim, pool) =
            victims.reduce(|best, next| if next.0.is_readier_than(&best.0) { next } else { best })?;
        self.note(Note::PortTakenOver);
        let id = PortPools::flow_of(&victim);
        self.end_flow(id, snapshot);
        // Others may have used it at this moment: it lives, and keeps its port.
        let names =
            |flow: &Flow| flow.has(flags::HAS_PORT) && (flow.pool, flow.nat_port) == (pool, victim.port);
        if self.flows.get(id).is_some_and(|flow| names(&flow)) {
            return None;
        }
        Some((pool, self.held.ports.take_over(pool, &victim, holder, snapshot)?))
    }
}
