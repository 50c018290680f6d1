//! The flows of one worker: a table of fixed capacity whose entries are a cache line each.
//!
//! Two spaces. A new flow starts in the **half-open** space, where the oldest gives way to the newest; when
//! its conversation is confirmed it is promoted to the **established** space, where an open TCP connection and a
//! busy UDP conversation never give way to another (passthrough) or only the least recently used flow does (DSR,
//! where the Maglev table still knows the server). So a flood of first packets costs other first packets, never a
//! conversation. A flow whose time is over counts as absent, swept or not.
//!
//! Each space is an array of sets of eight; a key may lie in either of two sets and goes to the emptier one,
//! which keeps refusals away until about three quarters are full; a third more entries than asked for are
//! made, so that the capacity asked for fits. Keys are compared in full.
//! Expiry is incremental: [`FlowTable::sweep`] does a bounded amount of work.

mod bytes;
mod flow;
mod handshake;
mod memory;
mod space;
pub mod tcp;
pub mod udp;
mod window;

pub use flow::{Direction, Flow, FlowKey, FlowState, Lifetimes, Ticks, flags};
pub use memory::Memory;

use crate::selection::flow_hash;
use space::{Space, Victims};

/// What happens to a flow for which the established space has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused: of the live flows only idle UDP conversations are given up (passthrough, whose state cannot
    /// be recomputed).
    Refuse,
    /// The least recently used flow of the set is forgotten (DSR).
    EvictOldest,
}

/// Where a flow lies; changes when it is promoted. 30 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId(u32);

impl FlowId {
    const HALF_OPEN: u32 = 1 << 29;

    /// To be stored; see [`FlowId::from_bits`].
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The id with these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & (Self::HALF_OPEN * 2 - 1))
    }

    /// Whether it lies in the half-open space.
    pub const fn is_half_open(self) -> bool {
        self.0 & Self::HALF_OPEN != 0
    }

    const fn index(self) -> usize {
        (self.0 & (Self::HALF_OPEN - 1)) as usize
    }
}

/// A flow that was stored, and the one that gave way to it, which the caller settles (ports, counters).
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Where it lies now.
    pub id: FlowId,
    /// Who lay there.
    pub evicted: Option<Flow>,
}

/// All flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    established: Space,
    half_open: Space,
    overflow: Overflow,
    seed: u64,
    lifetimes: Lifetimes,
}

impl FlowTable {
    /// A table for `capacity` established flows (64 to 2^28, with a third more entries than that) and a quarter
    /// as many half-open ones. `seed` should be secret, so that nobody can aim at one set.
    pub fn new(capacity: usize, overflow: Overflow, lifetimes: Lifetimes, seed: u64) -> Self {
        Self::in_memory(Self::entries(capacity).map(Memory::own), overflow, lifetimes, seed)
    }

    /// How many entries a table for `capacity` established flows has: for established flows, and for half-open
    /// ones.
    pub fn entries(capacity: usize) -> [usize; 2] {
        let capacity = capacity.clamp(64, 1 << 28);
        [Space::entries(capacity + capacity / 3), Space::entries((capacity / 4).max(64))]
    }

    /// A table without flows in this memory: see [`FlowTable::entries`].
    pub fn in_memory(
        [established, half_open]: [Memory<Flow>; 2],
        overflow: Overflow,
        lifetimes: Lifetimes,
        seed: u64,
    ) -> Self {
        Self {
            established: Space::new(established),
            half_open: Space::new(half_open),
            overflow,
            seed,
            lifetimes,
        }
    }

    /// How long flows live from now on.
    pub fn set_lifetimes(&mut self, lifetimes: Lifetimes) {
        self.lifetimes = lifetimes;
    }

    /// The live flow with this key. One whose time is over counts as absent, swept or not.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, now: Ticks) -> Option<FlowId> {
        self.find(key, |f| !f.is_expired(&self.lifetimes, now))
    }

    /// A flow with this key whose time is over and that was not swept yet: to be ended before another begins.
    pub fn lookup_expired(&self, key: &FlowKey, now: Ticks) -> Option<FlowId> {
        self.find(key, |f| f.is_expired(&self.lifetimes, now))
    }

    /// The flow at `id`, if there is one.
    #[inline]
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.space(id).get(id.index())
    }

    /// The flow at `id`, to be changed; its key must stay.
    #[inline]
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.space_mut(id).get_mut(id.index())
    }

    /// Whether the time of `flow` is over.
    #[inline]
    pub fn is_expired(&self, flow: &Flow, now: Ticks) -> bool {
        flow.is_expired(&self.lifetimes, now)
    }

    /// Ticks since the flow at `id` was used; `None` when there is none whose time is not over.
    pub fn idle(&self, id: FlowId, now: Ticks) -> Option<u32> {
        self.get(id).filter(|f| !self.is_expired(f, now)).map(|f| now.since(Ticks(f.last_seen)))
    }

    /// Whether a new flow with this key could be promoted as things are.
    pub fn has_room(&self, key: &FlowKey, now: Ticks) -> bool {
        self.overflow == Overflow::EvictOldest
            || self.established.victim(self.hash(key), now, &self.lifetimes, Victims::Dead).is_some()
    }

    /// Stores a new flow in the half-open space. `None` when its sets are full of flows that wait for promotion.
    pub fn insert(&mut self, flow: Flow, now: Ticks) -> Option<Stored> {
        let hash = self.hash(&flow.key());
        let at = self.half_open.victim(hash, now, &self.lifetimes, Victims::HalfOpen)?;
        let evicted = self.half_open.put(at, hash, flow);
        Some(Stored { id: FlowId(at as u32 | FlowId::HALF_OPEN), evicted })
    }

    /// Moves a confirmed flow to the established space. `None` when there is no room or it is there already:
    /// it stays where it is, and half-open flows do not push it out.
    pub fn promote(&mut self, id: FlowId, now: Ticks) -> Option<Stored> {
        if !id.is_half_open() {
            return None;
        }
        let flow = *self.get(id)?;
        let victims = match self.overflow {
            Overflow::Refuse => Victims::Dead,
            Overflow::EvictOldest => Victims::Any,
        };
        let hash = self.hash(&flow.key());
        let at = self.established.victim(hash, now, &self.lifetimes, victims)?;
        // Killed in between, it lies in both: that can be seen, a flow that is lost cannot.
        let evicted = self.established.put(at, hash, flow);
        self.half_open.take(id.index());
        Some(Stored { id: FlowId(at as u32), evicted })
    }

    /// Stores a flow that was begun before this table was, where its state has it lie. Nothing but what is over or
    /// idle gives way to it. `None`: there is no room.
    pub fn restore(&mut self, flow: Flow, now: Ticks) -> Option<Stored> {
        let hash = self.hash(&flow.key());
        let (space, bit) = match flow.state.is_half_open() {
            true => (&mut self.half_open, FlowId::HALF_OPEN),
            false => (&mut self.established, 0),
        };
        let at = space.victim(hash, now, &self.lifetimes, Victims::Dead)?;
        let evicted = space.put(at, hash, flow);
        Some(Stored { id: FlowId(at as u32 | bit), evicted })
    }

    /// The memory it lies in; what flows it has are lost.
    pub fn into_memory(self) -> [Memory<Flow>; 2] {
        [self.established.into_memory(), self.half_open.into_memory()]
    }

    /// Takes a flow out.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.space_mut(id).take(id.index())
    }

    /// Looks at the next `budget` entries of each space and takes out those whose time is over.
    pub fn sweep(&mut self, now: Ticks, budget: usize, mut ended: impl FnMut(Flow)) {
        self.established.sweep(now, &self.lifetimes, budget, &mut ended);
        self.half_open.sweep(now, &self.lifetimes, budget, &mut ended);
    }

    /// Takes out every flow.
    pub fn take_all(&mut self, mut ended: impl FnMut(Flow)) {
        self.established.take_all(&mut ended);
        self.half_open.take_all(&mut ended);
    }

    /// Flows held, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.established.len() + self.half_open.len()
    }

    /// Whether it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows held in the established space.
    pub fn established(&self) -> usize {
        self.established.len()
    }

    /// Entries of both spaces together.
    pub fn slots(&self) -> usize {
        self.established.slots() + self.half_open.slots()
    }

    /// Entries of the established space.
    pub fn capacity(&self) -> usize {
        self.established.slots()
    }

    /// Memory of the table in bytes; all of it is taken at the start.
    pub fn memory_bytes(&self) -> usize {
        self.established.memory_bytes() + self.half_open.memory_bytes()
    }

    #[inline]
    fn find(&self, key: &FlowKey, wanted: impl Fn(&Flow) -> bool + Copy) -> Option<FlowId> {
        let hash = self.hash(key);
        match self.established.find(key, hash, wanted) {
            Some(i) => Some(FlowId(i as u32)),
            None => Some(FlowId(self.half_open.find(key, hash, wanted)? as u32 | FlowId::HALF_OPEN)),
        }
    }

    fn hash(&self, key: &FlowKey) -> u64 {
        let ports = u64::from(key.client_port) << 32 | u64::from(key.port) << 16 | u64::from(key.frontend);
        flow_hash(self.seed, [(key.client >> 64) as u64, key.client as u64, ports])
    }

    fn space(&self, id: FlowId) -> &Space {
        if id.is_half_open() { &self.half_open } else { &self.established }
    }

    fn space_mut(&mut self, id: FlowId) -> &mut Space {
        if id.is_half_open() { &mut self.half_open } else { &mut self.established }
    }
}

#[cfg(test)]
mod tests;
