//! The state one thread owns: flows, NAT ports, counters.

mod ports;

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use convey_core::conntrack::tcp::{self, Change};
use convey_core::conntrack::udp;
use convey_core::conntrack::{
    Direction, Flow, FlowId, FlowKey, FlowState, FlowTable, Memory, Overflow, Ticks, flags,
};
use convey_core::nat_ports::PortUse;

use crate::counters::WorkerCounters;
use crate::fragments::Fragments;
use crate::memory::WorkerMemory;
use crate::meta::Nanos;
use crate::snapshot::{NatPath, PacketSnapshot};
use crate::takeover::{Heir, NotKept, TakenOver};
use crate::transport::Transport;
use crate::verdict::{DropReason, Note};
use ports::PortPools;

/// A sweep gets round the whole table in this time.
const SWEEP_NANOS: u64 = 4_000_000_000;
/// Entries looked at in one [`Worker::tick`].
const SWEEP_BUDGET: usize = 4096;

/// Flows, NAT ports and counters of one thread.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    counters: Arc<WorkerCounters>,
    flows: FlowTable,
    ports: PortPools,
    generation: u64,
    now: Nanos,
    swept: Nanos,
    icmp_budget: u64,
    icmp_filled: Nanos,
    fragments: Arc<Fragments>,
}

/// What a flow begins with.
pub(crate) struct NewFlow<Paths> {
    pub(crate) key: FlowKey,
    pub(crate) server: u16,
    /// Passthrough: the paths its port may be taken from, the one to be preferred first.
    pub(crate) nat: Option<Paths>,
}

impl Worker {
    /// Worker `index` of the workers `snapshot` was built for. Takes the memory of its flow table at once.
    pub fn new(index: usize, snapshot: &PacketSnapshot) -> Self {
        Self::in_memory(index, snapshot, WorkerMemory::own(snapshot.options()))
    }

    /// As [`Worker::new`], with its flows in this memory. What lies in it is lost.
    pub fn in_memory(index: usize, snapshot: &PacketSnapshot, memory: WorkerMemory) -> Self {
        let options = snapshot.options();
        let overflow = if snapshot.is_passthrough() { Overflow::Refuse } else { Overflow::EvictOldest };
        snapshot.adopt(index);
        Self {
            index,
            counters: Arc::default(),
            flows: FlowTable::in_memory(memory.flows, overflow, snapshot.lifetimes(), options.seed),
            ports: PortPools::new(index, options, memory.nat),
            generation: snapshot.generation(),
            now: Nanos(0),
            swept: Nanos(0),
            icmp_budget: u64::from(options.icmp_per_second),
            icmp_filled: Nanos(0),
            fragments: Arc::new(Fragments::new(options.seed)),
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
        let elapsed = self.now.0 - self.swept.0;
        let due = (self.flows.slots() as u64).saturating_mul(elapsed.min(SWEEP_NANOS)) / SWEEP_NANOS;
        // A table's share of one tick may be less than a set; let it add up.
        if due < 8 {
            return;
        }
        self.swept = self.now;
        let Self { flows, ports, .. } = self;
        flows.sweep(Ticks::from_nanos(self.now.0), (due as usize).min(SWEEP_BUDGET), |flow| {
            settle(&flow, snapshot, ports);
        });
    }

    /// Ends every flow, so that gauges fall to zero when the worker stops.
    pub fn end_all(&mut self, snapshot: &PacketSnapshot) {
        let Self { flows, ports, .. } = self;
        flows.take_all(|flow| settle(&flow, snapshot, ports));
    }

    /// Gives its memory away as it lies, for another worker; nothing is settled, so end all flows first.
    pub fn take_memory(&mut self, snapshot: &PacketSnapshot) -> WorkerMemory {
        let none =
            FlowTable::in_memory([Memory::own(0), Memory::own(0)], Overflow::Refuse, snapshot.lifetimes(), 0);
        let flows = std::mem::replace(&mut self.flows, none).into_memory();
        WorkerMemory { flows, nat: self.ports.take_memory() }
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
        for heir in heirs {
            // Killed while it moved the flow, the balancer has left it twice.
            if self.lookup(&heir.flow.key()).is_some() {
                continue;
            }
            match self.restore(heir, snapshot) {
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
    fn restore(&mut self, heir: &Heir, snapshot: &PacketSnapshot) -> Result<bool, NotKept> {
        let mut flow = heir.flow;
        if let Some(path) = &heir.path {
            let port_use = PortUse::of(&flow);
            flow.pool =
                self.ports.take_exact(path, flow.nat_port, port_use, snapshot).ok_or(NotKept::NoPort)?;
            flow.flags |= flags::HAS_PORT;
        }
        let Some(stored) = self.flows.restore(flow, self.ticks()) else {
            if flow.has(flags::HAS_PORT) {
                self.ports.release(flow.pool, flow.nat_port);
            }
            return Err(NotKept::NoRoom);
        };
        if flow.has(flags::HAS_PORT) {
            self.ports.rename_holder(flow.pool, flow.nat_port, stored.id.bits());
        }
        tenures(&flow, snapshot, |t| {
            t.flows.fetch_add(1, Relaxed);
        });
        if flow.state.is_udp() || matches!(flow.state, FlowState::Established | FlowState::Closing) {
            self.count_open(stored.id, snapshot);
        }
        if let Some(evicted) = &stored.evicted {
            settle(evicted, snapshot, &mut self.ports);
        }
        Ok(stored.evicted.is_some_and(|f| f.is_live()))
    }

    /// Flows held now, ended ones included until they are swept.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Memory of flows and ports in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.flows.memory_bytes() + self.ports.memory_bytes()
    }

    pub(crate) fn begin(&mut self, snapshot: &PacketSnapshot, now: Nanos) {
        // A clock that steps back would make every flow look ancient.
        self.now = self.now.max(now);
        if snapshot.generation() != self.generation {
            self.generation = snapshot.generation();
            self.flows.set_lifetimes(snapshot.lifetimes());
            self.ports.forget_unused(snapshot);
            snapshot.adopt(self.index);
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

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The live flow with this key.
    pub(crate) fn lookup(&self, key: &FlowKey) -> Option<FlowId> {
        self.flows.lookup(key, self.ticks())
    }

    /// The live flow whose answers come along `path` to `nat_port`.
    pub(crate) fn lookup_reply(&self, path: &NatPath, nat_port: u16) -> Option<FlowId> {
        let (pool, holder) = self.ports.holder(path, nat_port)?;
        let id = FlowId::from_bits(holder);
        let flow = self.flows.get(id)?;
        let holds = flow.has(flags::HAS_PORT) && flow.nat_port == nat_port && flow.pool == pool;
        (holds && !self.flows.is_expired(flow, self.ticks())).then_some(id)
    }

    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id)
    }

    /// The address a flow's packets to its server come from.
    pub(crate) fn nat_address(&self, flow: &Flow) -> Option<u128> {
        if flow.has(flags::HAS_PORT) { self.ports.nat_address(flow.pool) } else { None }
    }

    /// Whether a flow with this key would find room once confirmed.
    pub(crate) fn has_room(&self, key: &FlowKey) -> bool {
        self.flows.has_room(key, self.ticks())
    }

    /// Begins a flow: takes a port if it needs one and stores it.
    pub(crate) fn begin_flow(
        &mut self,
        new: &NewFlow<impl Iterator<Item = NatPath> + Clone>,
        transport: &Transport,
        snapshot: &PacketSnapshot,
    ) -> Result<FlowId, DropReason> {
        let now = self.ticks();
        // Its time is over and its port and place are free to be taken at once.
        while let Some(expired) = self.flows.lookup_expired(&new.key, now) {
            self.end_flow(expired, snapshot);
        }
        let mut flow = Flow {
            client: new.key.client,
            client_port: new.key.client_port,
            port: new.key.port,
            frontend: new.key.frontend,
            server: new.server,
            last_seen: now.0,
            ..Flow::default()
        };
        match transport {
            Transport::Tcp(segment) => tcp::begin(&mut flow, segment),
            Transport::Udp { .. } => udp::begin_udp(&mut flow, now.0),
        }
        if let Some(paths) = &new.nat {
            let (pool, port) = self.take_port(paths, snapshot).ok_or(DropReason::PortsExhausted)?;
            flow.pool = pool;
            flow.nat_port = port;
            flow.flags |= flags::HAS_PORT;
        }
        let Some(stored) = self.flows.insert(flow, now) else {
            if flow.has(flags::HAS_PORT) {
                self.ports.release(flow.pool, flow.nat_port);
            }
            return Err(DropReason::FlowTableFull);
        };
        if let Some(evicted) = stored.evicted {
            if evicted.state.is_half_open() && !self.flows.is_expired(&evicted, now) {
                self.note(Note::HalfOpenEvicted);
            }
            settle(&evicted, snapshot, &mut self.ports);
        }
        if flow.has(flags::HAS_PORT) {
            self.ports.rename_holder(flow.pool, flow.nat_port, stored.id.bits());
        }
        self.note(Note::FlowBegun);
        tenures(&flow, snapshot, |t| {
            // Published with the next generation this worker adopts.
            t.flows.fetch_add(1, Relaxed);
        });
        if matches!(transport, Transport::Udp { .. }) {
            self.count_open(stored.id, snapshot);
        }
        Ok(stored.id)
    }

    /// Takes a packet of a flow into account. Gives where the flow lies now.
    pub(crate) fn advance(
        &mut self,
        id: FlowId,
        from: Direction,
        transport: &Transport,
        snapshot: &PacketSnapshot,
    ) -> FlowId {
        let now = self.ticks();
        let Some(flow) = self.flows.get_mut(id) else { return id };
        let sees_replies = snapshot.is_passthrough();
        let change = match transport {
            Transport::Tcp(segment) => tcp::advance(flow, from, segment, sees_replies, now.0),
            Transport::Udp { .. } => udp::advance_udp(flow, from, sees_replies, now.0),
        };
        let Change { established, closed, restarted, revived, out_of_window } = change;
        let port_use = match transport {
            Transport::Udp { .. } => PortUse::after_datagram(flow, change, now),
            Transport::Tcp(_) => PortUse::after_segment(change),
        };
        let waits = id.is_half_open() && !flow.state.is_half_open() && flow.state != FlowState::Closed;
        if let Some(port_use) = port_use
            && flow.has(flags::HAS_PORT)
        {
            self.ports.used_for(flow.pool, flow.nat_port, port_use);
        }
        if out_of_window {
            self.note(Note::OutOfWindow);
        }
        if restarted {
            self.count_closed(id, snapshot);
        }
        if revived {
            self.count_reopened(id, snapshot);
        }
        if established {
            self.count_open(id, snapshot);
        }
        if closed {
            self.count_closed(id, snapshot);
        }
        if waits && !closed { self.promote(id, snapshot) } else { id }
    }

    /// Ends a flow at once and gives its port back.
    pub(crate) fn end_flow(&mut self, id: FlowId, snapshot: &PacketSnapshot) {
        if let Some(flow) = self.flows.remove(id) {
            settle(&flow, snapshot, &mut self.ports);
        }
    }

    /// Stores the checksum changes of a flow's rewriting.
    pub(crate) fn set_deltas(&mut self, id: FlowId, deltas: convey_packet::Deltas) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.transport_delta = deltas.transport.bits();
            flow.addresses_delta = deltas.addresses.bits();
        }
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

    fn promote(&mut self, id: FlowId, snapshot: &PacketSnapshot) -> FlowId {
        let now = self.ticks();
        let Some(stored) = self.flows.promote(id, now) else {
            self.note(Note::PromotionDeferred);
            return id;
        };
        if let Some(evicted) = stored.evicted {
            if evicted.state != FlowState::Closed && !self.flows.is_expired(&evicted, now) {
                self.note(Note::FlowEvicted);
            }
            settle(&evicted, snapshot, &mut self.ports);
        }
        if let Some(flow) = self.flows.get(stored.id)
            && flow.has(flags::HAS_PORT)
        {
            self.ports.rename_holder(flow.pool, flow.nat_port, stored.id.bits());
        }
        stored.id
    }

    fn take_port(
        &mut self,
        paths: &(impl Iterator<Item = NatPath> + Clone),
        snapshot: &PacketSnapshot,
    ) -> Option<(u16, u16)> {
        for path in paths.clone() {
            let pool = self.ports.pool(&path)?;
            if let Some(port) = self.ports.take(pool, snapshot) {
                return Some((pool, port));
            }
        }
        let (flows, now) = (&self.flows, self.ticks());
        let victims = paths.clone().filter_map(|path| {
            let pool = self.ports.pool(&path)?;
            self.ports.victim(pool, |holder| flows.idle(FlowId::from_bits(holder), now)).map(|v| (v, pool))
        });
        let (victim, pool) = victims.max_by_key(|(victim, _)| *victim)?;
        self.note(Note::PortTakenOver);
        self.end_flow(FlowId::from_bits(victim.holder), snapshot);
        Some((pool, self.ports.take(pool, snapshot)?))
    }

    fn count_open(&mut self, id: FlowId, snapshot: &PacketSnapshot) {
        self.count_with(id, snapshot, convey_core::ConnCounters::opened);
    }

    /// As open, without another connection in the total.
    fn count_reopened(&mut self, id: FlowId, snapshot: &PacketSnapshot) {
        self.count_with(id, snapshot, |c| {
            c.try_reserve(0);
        });
    }

    fn count_with(&mut self, id: FlowId, snapshot: &PacketSnapshot, open: fn(&convey_core::ConnCounters)) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.has(flags::COUNTED) {
            return;
        }
        flow.flags |= flags::COUNTED;
        let flow = *flow;
        gauges(&flow, snapshot, open);
    }

    fn count_closed(&mut self, id: FlowId, snapshot: &PacketSnapshot) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if !flow.has(flags::COUNTED) {
            return;
        }
        flow.flags &= !flags::COUNTED;
        let flow = *flow;
        gauges(&flow, snapshot, convey_core::ConnCounters::closed);
    }
}

/// Gives back what a flow that has left the table held.
fn settle(flow: &Flow, snapshot: &PacketSnapshot, ports: &mut PortPools) {
    if flow.has(flags::HAS_PORT) {
        ports.release(flow.pool, flow.nat_port);
    }
    if flow.has(flags::COUNTED) {
        gauges(flow, snapshot, convey_core::ConnCounters::closed);
    }
    tenures(flow, snapshot, |t| {
        t.flows.fetch_sub(1, Release);
    });
}

/// Total, frontend, backend and server of a flow.
fn gauges(flow: &Flow, snapshot: &PacketSnapshot, change: impl Fn(&convey_core::ConnCounters)) {
    change(snapshot.totals());
    if let Some(frontend) = snapshot.frontend(flow.frontend) {
        change(&frontend.counters);
    }
    if let Some(server) = snapshot.server(flow.server) {
        change(&server.backend_counters);
        change(&server.counters);
    }
}

fn tenures(flow: &Flow, snapshot: &PacketSnapshot, change: impl Fn(&crate::snapshot::Tenure)) {
    if let Some(frontend) = snapshot.frontend(flow.frontend) {
        change(&frontend.tenure);
    }
    if let Some(server) = snapshot.server(flow.server) {
        change(&server.tenure);
    }
}
