//! The flows of one worker, or of several threads: a table of fixed capacity, 32 bytes an IPv4 flow and 64 an IPv6 one.
//!
//! A hit touches one set of 128 bytes: there are no tags, and keys are compared in full. Of the entries half are
//! spare, so that the capacity asked for fits without a refusal, in IPv4, in IPv6 and in any mixture. Memory of
//! entries that were never used is not touched: a table of IPv6 flows that nobody has costs nothing.
//!
//! A flow stays where it was put, and its [`FlowId`] with it. Where its chain of sets has no room, others give way by
//! rank: closed flows, the oldest half-open one, idle UDP conversations; in DSR, where the Maglev table still knows
//! the server, the least recently used of all. In passthrough an open TCP connection and a busy UDP conversation
//! never do. No more than a quarter of the entries are half-open: a flood of first packets costs other first packets,
//! never a conversation.
//!
//! A flow whose time is over counts as absent, swept or not. Expiry is incremental: [`FlowTable::sweep`] does a bounded
//! amount of work.

mod entry;
mod flight;
mod flow;
mod handshake;
mod later_syn;
mod memory;
mod numbers;
mod reader;
mod space;
pub mod tcp;
pub mod udp;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

pub use entry::{WORDS_V4, WORDS_V6, read_entry};
pub use flow::{Direction, Flow, FlowKey, FlowState, Lifetimes, Ticks, flags};
pub use later_syn::{LaterSyns, PLACES as LATER_SYN_PLACES};
pub use memory::Memory;
pub use numbers::numbers;
pub use reader::FlowReader;

use crate::selection::flow_hash;
use entry::PortField;
use space::{Claimed, Clock, Space, Victims};

/// What happens to a flow for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused: of the confirmed flows only idle UDP conversations are given up (passthrough, whose state cannot
    /// be recomputed). The frontend tells the port its clients talk to, so the table keeps none.
    Refuse,
    /// The least recently used flow is forgotten (DSR).
    EvictOldest,
}

impl Overflow {
    const fn port_field(self) -> PortField {
        match self {
            Self::Refuse => PortField::InFlight,
            Self::EvictOldest => PortField::Port,
        }
    }
}

/// Where a flow lies, for as long as it lives. 30 bits: family and index of the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId(u32);

impl FlowId {
    const V6: u32 = 1 << 29;

    /// To be stored; see [`FlowId::from_bits`].
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The id with these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & (Self::V6 * 2 - 1))
    }

    const fn new(is_v4: bool, at: usize) -> Self {
        Self(at as u32 | if is_v4 { 0 } else { Self::V6 })
    }

    const fn is_v4(self) -> bool {
        self.0 & Self::V6 == 0
    }

    const fn index(self) -> usize {
        (self.0 & (Self::V6 - 1)) as usize
    }
}

/// What there is of a key, and where a flow with it would lie.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The live flow.
    pub live: Option<FlowId>,
    /// A flow whose time is over and that was not swept yet: [`FlowTable::claim`] ends it, or, in a table that several
    /// threads use, [`FlowTable::publish`].
    pub expired: Option<FlowId>,
    /// For [`FlowTable::claim_for_heir`].
    pub place: Place,
}

/// Where a flow with a certain key may lie: the key is hashed once.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    hash: u64,
    is_v4: bool,
}

impl Place {
    /// A number that decides where the search for the flow's NAT port begins, hard to foresee as the hash is seeded;
    /// the same that programs in the kernel take.
    pub const fn random(&self) -> u32 {
        self.hash.wrapping_mul(0x9e37_79b9) as u32
    }
}

/// An entry that was taken for a flow: [`FlowTable::publish`] or [`FlowTable::abandon`] it.
#[derive(Debug)]
#[must_use]
pub struct Claim {
    place: Place,
    claimed: Claimed,
}

impl Claim {
    /// The id the flow will have.
    pub const fn id(&self) -> FlowId {
        FlowId::new(self.place.is_v4, self.claimed.at)
    }
}

/// All flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    v4: Space<WORDS_V4>,
    v6: Space<WORDS_V6>,
    overflow: Overflow,
    seed: u64,
    lifetimes: Lifetimes,
}

/// Does the same to the space of one family or the other.
macro_rules! space {
    ($table:expr, $is_v4:expr, $space:ident => $then:expr) => {
        if $is_v4 {
            let $space = &$table.v4;
            $then
        } else {
            let $space = &$table.v6;
            $then
        }
    };
}

impl FlowTable {
    /// A table for `capacity` flows (64 to 2^28), with twice as many entries for each family. `seed` should be secret,
    /// so that nobody can aim at one set.
    pub fn new(capacity: usize, overflow: Overflow, lifetimes: Lifetimes, seed: u64) -> Self {
        Self::in_memory(Self::own_memory(capacity), overflow, lifetimes, seed)
    }

    /// 32-bit words of memory for `capacity` flows: IPv4, IPv6.
    pub fn words(capacity: usize) -> [usize; 2] {
        let entries = capacity.clamp(64, 1 << 28) * 2;
        [Space::<WORDS_V4>::words(entries), Space::<WORDS_V6>::words(entries)]
    }

    /// Memory of this process for `capacity` flows.
    pub fn own_memory(capacity: usize) -> [Memory<AtomicU32>; 2] {
        Self::words(capacity).map(|words| Memory::own(words + space::SPARE_WORDS))
    }

    /// A table in this memory: see [`FlowTable::words`]. It must be all zero, or what [`FlowTable::into_memory`] of a
    /// table without flows gave.
    pub fn in_memory(
        [v4, v6]: [Memory<AtomicU32>; 2],
        overflow: Overflow,
        lifetimes: Lifetimes,
        seed: u64,
    ) -> Self {
        let field = overflow.port_field();
        Self { v4: Space::new(v4, field), v6: Space::new(v6, field), overflow, seed, lifetimes }
    }

    /// From now on several threads may use it at once: see [`FlowTable::publish`].
    pub fn share(&mut self) {
        self.v4.share();
        self.v6.share();
    }

    /// The flows that lie in this memory, which a kernel program writes to as well: IPv4, IPv6, and for each the
    /// spills, a word a set. Flows are counted as they are now; what others begin or end is not told to it.
    /// `None`: sizes do not fit, or a table does not begin at a multiple of 128 bytes.
    pub fn shared(
        [v4, v6]: [Memory<AtomicU32>; 2],
        [spills_v4, spills_v6]: [Memory<AtomicU32>; 2],
        overflow: Overflow,
        lifetimes: Lifetimes,
        seed: u64,
    ) -> Option<Self> {
        let field = overflow.port_field();
        let v4 = Space::shared(v4, spills_v4, field)?;
        let v6 = Space::shared(v6, spills_v6, field)?;
        Some(Self { v4, v6, overflow, seed, lifetimes })
    }

    /// From now on half-open flows are counted in the first word of this memory, where programs in the kernel count
    /// theirs as well. [`FlowTable::len`] tells nothing any more.
    pub fn count_half_open_in(&mut self, count: Memory<AtomicU64>) {
        let count = Arc::new(count);
        self.v4.count_half_open_in(count.clone());
        self.v6.count_half_open_in(count);
    }

    /// How long flows live from now on.
    pub fn set_lifetimes(&mut self, lifetimes: Lifetimes) {
        self.lifetimes = lifetimes;
    }

    /// What there is of this key.
    #[inline]
    pub fn find(&self, key: &FlowKey, now: Ticks) -> Found {
        let is_v4 = key.is_v4();
        let hash = hash(self.seed, self.overflow, key);
        let (live, expired) = space!(self, is_v4, space => space.find(key, hash, self.clock(now)));
        let id = |at| FlowId::new(is_v4, at);
        Found { live: live.map(id), expired: expired.map(id), place: Place { hash, is_v4 } }
    }

    /// The live flow with this key. One whose time is over counts as absent, swept or not.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, now: Ticks) -> Option<FlowId> {
        self.find(key, now).live
    }

    /// The flow at `id`, if there is one.
    #[inline]
    pub fn get(&self, id: FlowId) -> Option<Flow> {
        space!(self, id.is_v4(), space => space.get(id.index()))
    }

    /// Writes what a packet has changed of the flow at `id`: state, flags, windows, scales, bytes and time. Tells
    /// whether it was there as it `was`.
    #[inline]
    pub fn update(&self, id: FlowId, was: &Flow, flow: &Flow) -> bool {
        space!(self, id.is_v4(), space => space.update(id.index(), was, flow))
    }

    /// Whether the time of `flow` is over.
    #[inline]
    pub fn is_expired(&self, flow: &Flow, now: Ticks) -> bool {
        self.clock(now).is_over(flow.state, Ticks(flow.last_seen))
    }

    /// Ticks since the flow at `id` was used; `None` when there is none whose time is not over.
    pub fn idle(&self, id: FlowId, now: Ticks) -> Option<u32> {
        self.get(id).filter(|f| !self.is_expired(f, now)).map(|f| now.since(Ticks(f.last_seen)))
    }

    /// Whether a new flow would be refused for want of room as things are.
    pub fn has_room(&self, place: &Place, now: Ticks) -> bool {
        let victims = self.victims();
        victims == Victims::Any
            || space!(self, place.is_v4, space => space.has_room(place.hash, self.clock(now), victims))
    }

    /// Takes an entry for a new flow with the key that was looked up: in a table of one thread that of the one before
    /// it whose time is over, if there is one. Who gives way to it is given to `ended`, which settles it (ports,
    /// counters). `None`: there is no room.
    pub fn claim(
        &self,
        found: &Found,
        is_half_open: bool,
        now: Ticks,
        mut ended: impl FnMut(Flow),
    ) -> Option<Claim> {
        let place = &found.place;
        let hash_of = |flow: &Flow| self.hash_of(flow);
        // Where others write, too, the flow that was found may be another by now; programs in the kernel end it last.
        if let Some(expired) =
            found.expired.filter(|_| !space!(self, place.is_v4, space => space.is_shared()))
        {
            let at = expired.index();
            let replaced = match is_half_open && self.is_crowded(place) {
                true => None,
                false => {
                    let clock = self.clock(now);
                    space!(self, place.is_v4, space => space.replace(place.hash, at, clock, hash_of, &mut ended))
                }
            };
            if let Some(claimed) = replaced {
                return Some(Claim { place: *place, claimed });
            }
            if let Some(flow) =
                space!(self, place.is_v4, space => space.remove_over(at, self.clock(now), hash_of))
            {
                ended(flow);
            }
        }
        let is_crowded = is_half_open && self.is_crowded(place);
        let claimed = is_crowded.then(
            || space!(self, place.is_v4, space => space.claim_half_open(place.hash, now, hash_of, &mut ended)),
        );
        let claimed = match claimed.flatten() {
            Some(claimed) => claimed,
            None => self.claim_from(place, now, self.victims(), &mut ended)?,
        };
        Some(Claim { place: *place, claimed })
    }

    /// As [`FlowTable::claim`], for a flow that was begun before this table was: nothing but what is over or idle
    /// gives way to it.
    pub fn claim_for_heir(
        &self,
        place: &Place,
        is_half_open: bool,
        now: Ticks,
        mut ended: impl FnMut(Flow),
    ) -> Option<Claim> {
        if is_half_open && self.is_crowded(place) {
            return None;
        }
        let claimed = self.claim_from(place, now, Victims::Dead, &mut ended)?;
        Some(Claim { place: *place, claimed })
    }

    fn claim_from(
        &self,
        place: &Place,
        now: Ticks,
        victims: Victims,
        ended: &mut impl FnMut(Flow),
    ) -> Option<Claimed> {
        let hash_of = |flow: &Flow| self.hash_of(flow);
        space!(self, place.is_v4, space => space.claim(place.hash, self.clock(now), victims, hash_of, ended))
    }

    /// Fills the entry taken: the flow is there for everybody.
    ///
    /// In a table that several threads use, two may have begun a flow with one key. Then the one that lies further
    /// along its chain, which lookups would not reach, is taken out and given to `ended`: the other thread's, or this
    /// one.
    ///
    /// # Errors
    /// The other thread's flow, when it is the one that stays.
    pub fn publish(&self, claim: Claim, flow: &mut Flow, ended: impl FnMut(Flow)) -> Result<FlowId, Flow> {
        let id = claim.id();
        let Place { hash, is_v4 } = claim.place;
        space!(self, is_v4, space => {
            space.publish(claim.claimed, flow);
            if space.is_shared() {
                let hash_of = |flow: &Flow| self.hash_of(flow);
                space.end_twins(claim.claimed, hash, flow, self.clock(Ticks(flow.last_seen)), hash_of, ended)?;
            }
        });
        Ok(id)
    }

    /// Gives the entry back.
    pub fn abandon(&self, claim: Claim) {
        space!(self, claim.place.is_v4, space => space.abandon(claim.claimed, claim.place.hash));
    }

    /// The memory it lies in, as it is.
    pub fn into_memory(self) -> [Memory<AtomicU32>; 2] {
        [self.v4.into_memory(), self.v6.into_memory()]
    }

    /// What [`FlowTable::shared`] was given: by family, flows and spills.
    pub fn into_shared_memory(self) -> [[Memory<AtomicU32>; 2]; 2] {
        [self.v4.into_shared(), self.v6.into_shared()]
    }

    /// Keeps IPv6 flows, of which there must be none, in memory of this process from now on.
    pub fn give_up_v6_memory(&mut self) {
        self.v6 = self.v6.elsewhere();
    }

    /// Takes a flow out.
    pub fn remove(&self, id: FlowId) -> Option<Flow> {
        space!(self, id.is_v4(), space => space.remove(id.index(), |flow| self.hash_of(flow)))
    }

    /// Takes out the flow at `id` for as long as it is `flow`, whatever its state has become. `None`: it has ended.
    pub fn remove_same(&self, id: FlowId, flow: &Flow) -> Option<Flow> {
        space!(self, id.is_v4(), space => space.remove_same(id.index(), flow, |flow| self.hash_of(flow)))
    }

    /// Looks at the next `budget` entries of each family and takes out those whose time is over.
    pub fn sweep(&self, now: Ticks, budget: usize, mut ended: impl FnMut(Flow)) {
        let hash_of = |flow: &Flow| self.hash_of(flow);
        let clock = self.clock(now);
        self.v4.sweep(clock, budget, hash_of, &mut ended);
        self.v6.sweep(clock, budget, hash_of, &mut ended);
    }

    /// The flows at these of all entries, IPv4 ones first: see [`FlowTable::all_entries`].
    pub fn flows_at(&self, entries: std::ops::Range<usize>) -> impl Iterator<Item = Flow> + '_ {
        let of_v4 = self.v4.entries();
        entries.filter_map(move |at| match at.checked_sub(of_v4) {
            None => self.v4.get(at),
            Some(at) => self.v6.get(at),
        })
    }

    /// Entries of both families together.
    pub fn all_entries(&self) -> usize {
        self.v4.entries() + self.v6.entries()
    }

    /// Takes out every flow.
    pub fn take_all(&self, mut ended: impl FnMut(Flow)) {
        self.v4.take_all(|flow| self.hash_of(flow), &mut ended);
        self.v6.take_all(|flow| self.hash_of(flow), &mut ended);
    }

    /// Flows held, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it holds no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Half-open flows held.
    pub fn half_open(&self) -> usize {
        self.v4.half_open() + self.v6.half_open()
    }

    /// Entries of each family.
    pub fn entries(&self) -> usize {
        self.v4.entries().max(self.v6.entries())
    }

    /// Memory in bytes of a table whose entries are all in use: IPv4 and IPv6.
    pub fn memory_bytes(&self) -> [usize; 2] {
        [self.v4.memory_bytes(), self.v6.memory_bytes()]
    }

    /// Whether as many of the family's flows are half-open as may be.
    fn is_crowded(&self, place: &Place) -> bool {
        space!(self, place.is_v4, space => space.half_open() >= space.entries() / 4)
    }

    fn victims(&self) -> Victims {
        match self.overflow {
            Overflow::Refuse => Victims::HalfOpen,
            Overflow::EvictOldest => Victims::Any,
        }
    }

    #[inline]
    fn clock(&self, now: Ticks) -> Clock<'_> {
        Clock { lifetimes: &self.lifetimes, now }
    }

    fn hash_of(&self, flow: &Flow) -> u64 {
        hash(self.seed, self.overflow, &flow.key())
    }
}

/// The hash of a key; of what the table does not keep it knows nothing.
#[inline]
fn hash(seed: u64, overflow: Overflow, key: &FlowKey) -> u64 {
    let port = if overflow == Overflow::Refuse { 0 } else { key.port };
    let ports = u64::from(key.client_port) << 32 | u64::from(port) << 16 | u64::from(key.frontend);
    if key.is_v4() {
        flow_hash(seed, [key.client as u64, ports])
    } else {
        flow_hash(seed, [(key.client >> 64) as u64, key.client as u64, ports])
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
