//! The flows of one address family: sets of 128 bytes, of which a key may lie in a chain of eight
//! (IPv4) or sixteen.
//!
//! The first set of a chain is one that a half of the hash names, the others lie in a row from where the other half
//! names. A flow goes to the first that has room; each set it passes counts it among its `spills`, until it leaves.
//! So a lookup ends at the first set without spills: for nearly every flow at the first.
//!
//! The entries may lie in memory that outlives this process, which may be killed between any two instructions, and
//! that others write to. Whoever takes an entry makes it CLAIMED by compare and swap, fills it, and publishes it last.
//! What is judged and what is taken is one and the same control word, so nobody ends what another has begun since.

mod claims;
pub(super) mod sets;
mod twins;

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::entry::{self, Key, PortField};
use super::flow::{Flow, FlowKey, FlowState, Lifetimes, Ticks};
use super::memory::Memory;
pub(super) use sets::SET_WORDS;
use sets::{SETS_A_CHUNK, Sets};

/// Words to be added to memory that may begin anywhere, so that whole sets find their place.
pub(super) const SPARE_WORDS: usize = SET_WORDS;
/// Entries a flow may lie in. With fewer some capacity asked for would not fit.
const CHAIN_ENTRIES: usize = 32;
/// Sets of the chain of a flow whose entry has so many words.
pub(super) const fn chain(words: usize) -> usize {
    CHAIN_ENTRIES / (SET_WORDS / words)
}

/// In [`Space::counts`]: a flow.
const FLOW: u64 = 1 << 32;
/// In [`Space::counts`]: that it is half-open.
const HALF_OPEN: u64 = 1;

/// Who gives way when no set of a chain has an entry that is free or whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victims {
    /// Closed flows and idle UDP conversations.
    Dead,
    /// Half-open flows as well, after the closed ones.
    HalfOpen,
    /// All flows, those last.
    Any,
}

/// The time, and how long flows live.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock<'a> {
    pub(super) lifetimes: &'a Lifetimes,
    pub(super) now: Ticks,
}

impl Clock<'_> {
    #[inline]
    pub(super) fn is_over(self, state: FlowState, last_seen: Ticks) -> bool {
        self.now.since(last_seen) > self.lifetimes.0[state as usize]
    }

    fn has_ended(self, flow: &Flow) -> bool {
        self.is_over(flow.state, Ticks(flow.last_seen))
    }
}

/// An entry that was taken for a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimed {
    pub(super) at: usize,
    /// How many sets of its chain it has passed.
    passed: usize,
}

#[derive(Debug)]
pub(super) struct Space<const WORDS: usize> {
    sets: Sets<WORDS>,
    /// Whether several threads write to it at once.
    is_shared: bool,
    /// By set: flows that lie further along their chain.
    spills: Memory<AtomicU32>,
    /// Flows, in the upper half; half-open ones, in the lower.
    counts: AtomicU64,
    /// Where half-open flows are counted instead, when programs in the kernel begin and end flows as well: those of
    /// both families. Flows are not counted then.
    half_open_of_all: Option<Arc<Memory<AtomicU64>>>,
    cursor: AtomicUsize,
}

impl<const WORDS: usize> Space<WORDS> {
    const WAYS: usize = SET_WORDS / WORDS;
    /// Sets of a chain.
    const CHAIN: usize = chain(WORDS);

    /// Words of memory for `entries` entries, in whole sets and at least as many as a chain has.
    pub(super) const fn words(entries: usize) -> usize {
        let sets = entries.div_ceil(Self::WAYS);
        (if sets < Self::CHAIN { Self::CHAIN } else { sets }) * SET_WORDS
    }

    /// A space in `memory`, in which there is no flow. Memory that does not begin with a whole set loses one.
    pub(super) fn new(mut memory: Memory<AtomicU32>, field: PortField) -> Self {
        if memory.len() < (Self::CHAIN + 1) * SET_WORDS {
            memory = Memory::own((Self::CHAIN + 1) * SET_WORDS);
        }
        let sets = Sets::new(memory, field);
        Self {
            is_shared: false,
            spills: Memory::own(sets.count),
            sets,
            counts: AtomicU64::new(0),
            half_open_of_all: None,
            cursor: AtomicUsize::new(0),
        }
    }

    /// A space whose flows lie in this memory, which others write to as well, and are counted once: here.
    /// `None`: there are not as many spills as sets, or the memory does not begin with a whole set.
    pub(super) fn shared(
        memory: Memory<AtomicU32>,
        spills: Memory<AtomicU32>,
        field: PortField,
    ) -> Option<Self> {
        let sets = memory.len() / SET_WORDS;
        let mut space = Self::new(memory, field);
        if !space.sets.fill_memory(sets) || spills.len() < sets {
            return None;
        }
        space.spills = spills;
        space.is_shared = true;
        // Whoever else takes an entry does not tell of it.
        space.sets.touch_all();
        let flows = (0..space.entries()).filter_map(|at| space.get(at));
        let count = flows.map(|f| FLOW + u64::from(f.state.is_half_open()) * HALF_OPEN).sum();
        space.counts = AtomicU64::new(count);
        Some(space)
    }

    /// From now on half-open flows are counted there, and flows nowhere.
    pub(super) fn count_half_open_in(&mut self, count: Arc<Memory<AtomicU64>>) {
        self.half_open_of_all = Some(count);
    }

    fn count(&self, flows: i64, half_open: i64) {
        match &self.half_open_of_all {
            None => {
                let change = flows * FLOW.cast_signed() + half_open * HALF_OPEN.cast_signed();
                self.counts.fetch_add(change.cast_unsigned(), Relaxed);
            }
            Some(count) if half_open != 0 => {
                if let Some(count) = count.first() {
                    count.fetch_add(half_open.cast_unsigned(), Relaxed);
                }
            }
            Some(_) => {}
        }
    }

    /// A space of this size in memory of this process, without flows.
    pub(super) fn elsewhere(&self) -> Self {
        let memory = Memory::own(self.sets.count * SET_WORDS + SPARE_WORDS);
        Self { is_shared: self.is_shared, ..Self::new(memory, self.sets.field) }
    }

    /// From now on several threads write to it at once.
    pub(super) fn share(&mut self) {
        self.is_shared = true;
    }

    /// Its sets for another thread to read; see [`Sets::again`].
    pub(super) fn reader(&self) -> Option<Sets<WORDS>> {
        self.sets.again()
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub(super) fn into_memory(self) -> Memory<AtomicU32> {
        self.sets.memory
    }

    /// Its flows and their spills.
    pub(super) fn into_shared(self) -> [Memory<AtomicU32>; 2] {
        [self.sets.memory, self.spills]
    }

    pub(super) fn len(&self) -> usize {
        (self.counts.load(Relaxed) >> 32) as usize
    }

    pub(super) fn half_open(&self) -> usize {
        match &self.half_open_of_all {
            None => self.counts.load(Relaxed) as u32 as usize,
            // Whoever counts down first may be seen first.
            Some(count) => count.first().map_or(0, |c| c.load(Relaxed).cast_signed().max(0) as usize),
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.sets.entries()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.sets.count * SET_WORDS * 4 + size_of_val(&*self.spills) + self.sets.chunks()
    }

    /// Set `i` of the chain of `hash`.
    #[inline]
    fn set_of(&self, hash: u64, i: usize) -> usize {
        // Scaling 32 bits down takes their upper ones; no division, any number of sets.
        let scale = |half: u64| ((half * self.sets.count as u64) >> 32) as usize;
        if i == 0 {
            return scale(hash >> 32);
        }
        let set = scale(hash & 0xffff_ffff) + i - 1;
        if set >= self.sets.count { set - self.sets.count } else { set }
    }

    /// The flow with this key: the live one, and one whose time is over.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey, hash: u64, clock: Clock<'_>) -> (Option<usize>, Option<usize>) {
        let key = Key::new(key, self.sets.field);
        for i in 0..Self::CHAIN {
            let at = self.set_of(hash, i);
            let set = self.sets.set(at);
            for way in 0..Self::WAYS {
                let entry = Sets::<WORDS>::way(set, way);
                if !entry.has_key(&key) {
                    continue;
                }
                let control = if self.is_shared {
                    // Another flow may have come here since.
                    entry.control_of(&key)
                } else {
                    Some(entry.control().load(Acquire))
                };
                match control.and_then(entry::state) {
                    None | Some(FlowState::Free) => {}
                    // It is ended before another with its key begins, so there is no other.
                    Some(state) if clock.is_over(state, entry.last_seen()) => {
                        return (None, Some(at * Self::WAYS + way));
                    }
                    Some(_) => return (Some(at * Self::WAYS + way), None),
                }
            }
            if self.spills[at].load(Relaxed) == 0 {
                break;
            }
        }
        (None, None)
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<Flow> {
        self.sets.get(at)
    }

    /// Writes what has changed of the flow at `at`, whose key and server stay. Whether it was there as it `was`.
    #[inline]
    pub(super) fn update(&self, at: usize, was: &Flow, flow: &Flow) -> bool {
        let entry = self.sets.entry(at);
        let (old, new) = (entry::control(was), entry::control(flow));
        let begins_half_open = flow.state.is_half_open() && !was.state.is_half_open();
        let ends_half_open = was.state.is_half_open() && !flow.state.is_half_open();
        if old == new {
            if entry.control().load(Relaxed) != old {
                return false;
            }
        } else {
            // Counted before it is one: whoever takes it out meanwhile counts it out.
            if begins_half_open {
                self.count(0, 1);
            }
            let is_changed = entry.control().compare_exchange(old, new, AcqRel, Relaxed).is_ok();
            let is_one_less = if is_changed { ends_half_open } else { begins_half_open };
            if is_one_less {
                self.count(0, -1);
            }
            if !is_changed {
                return false;
            }
        }
        if self.is_shared {
            entry.change_course(was, flow, self.sets.field);
        } else {
            entry.write_course(flow, self.sets.field);
        }
        true
    }

    /// Fills the entry that was taken.
    pub(super) fn publish(&self, claimed: Claimed, flow: &mut Flow) {
        let entry = self.sets.entry(claimed.at);
        flow.claim = entry::claim_of(entry.control().load(Relaxed));
        entry.write(flow, self.sets.field);
        self.count(1, i64::from(flow.state.is_half_open()));
        entry.control().store(entry::control(flow), Release);
    }

    /// Gives the entry back that was taken.
    pub(super) fn abandon(&self, claimed: Claimed, hash: u64) {
        let entry = self.sets.entry(claimed.at);
        entry.control().store(entry::freed(entry.control().load(Relaxed)), Release);
        self.unspill(hash, claimed.passed);
    }

    pub(super) fn remove(&self, at: usize, hash_of: impl Fn(&Flow) -> u64) -> Option<Flow> {
        self.get(at).filter(|flow| self.remove_as(at, flow, hash_of))
    }

    /// Takes out the flow at `at` for as long as it is this one, whatever its state has become.
    pub(super) fn remove_same(&self, at: usize, flow: &Flow, hash_of: impl Fn(&Flow) -> u64) -> Option<Flow> {
        let is_same = |now: &Flow| now.claim == flow.claim && now.key() == flow.key();
        loop {
            let now = self.get(at).filter(is_same)?;
            if self.remove_as(at, &now, &hash_of) {
                return Some(now);
            }
        }
    }

    /// Takes out the flow at `at` if its time is over.
    pub(super) fn remove_over(
        &self,
        at: usize,
        clock: Clock<'_>,
        hash_of: impl Fn(&Flow) -> u64,
    ) -> Option<Flow> {
        self.get(at).filter(|flow| clock.has_ended(flow) && self.remove_as(at, flow, hash_of))
    }

    /// Takes out the flow at `at` if it still is this one, as it is.
    fn remove_as(&self, at: usize, flow: &Flow, hash_of: impl Fn(&Flow) -> u64) -> bool {
        let old = entry::control(flow);
        let is_out =
            self.sets.entry(at).control().compare_exchange(old, entry::freed(old), AcqRel, Relaxed).is_ok();
        if is_out {
            self.count_out(at, hash_of(flow), flow.state);
        }
        is_out
    }

    /// A flow has left the entry at `at`.
    fn count_out(&self, at: usize, hash: u64, state: FlowState) {
        self.unspill(hash, self.passed(hash, at));
        self.count(-1, -i64::from(state.is_half_open()));
    }

    fn unspill(&self, hash: u64, passed: usize) {
        for i in 0..passed {
            self.spills[self.set_of(hash, i)].fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn take_all(&self, hash_of: impl Fn(&Flow) -> u64, ended: &mut impl FnMut(Flow)) {
        for chunk in 0..self.sets.chunks() {
            if !self.sets.is_touched(chunk) {
                continue;
            }
            let sets = chunk * SETS_A_CHUNK..((chunk + 1) * SETS_A_CHUNK).min(self.sets.count);
            for at in sets.start * Self::WAYS..sets.end * Self::WAYS {
                if let Some(flow) = self.remove(at, &hash_of) {
                    ended(flow);
                }
            }
        }
    }

    /// Takes out the flows whose time is over among the next `budget` entries.
    pub(super) fn sweep(
        &self,
        clock: Clock<'_>,
        budget: usize,
        hash_of: impl Fn(&Flow) -> u64,
        ended: &mut impl FnMut(Flow),
    ) {
        let mut left = budget.div_ceil(Self::WAYS).min(self.sets.count);
        while left > 0 {
            let set = self.cursor.load(Relaxed);
            let chunk_end = (set / SETS_A_CHUNK + 1) * SETS_A_CHUNK;
            let is_empty = !self.sets.is_touched(set / SETS_A_CHUNK);
            let looked_at = if is_empty { left.min(chunk_end.min(self.sets.count) - set) } else { 1 };
            left -= looked_at;
            self.cursor.store((set + looked_at) % self.sets.count, Relaxed);
            if !is_empty {
                self.sweep_set(set, clock, &hash_of, ended);
            }
        }
    }

    fn sweep_set(
        &self,
        set: usize,
        clock: Clock<'_>,
        hash_of: impl Fn(&Flow) -> u64,
        ended: &mut impl FnMut(Flow),
    ) {
        let words = self.sets.set(set);
        for way in 0..Self::WAYS {
            let entry = Sets::<WORDS>::way(words, way);
            let control = entry.control().load(Acquire);
            if entry::is_free(control) {
                continue;
            }
            let at = set * Self::WAYS + way;
            if entry::state(control).is_some_and(|state| clock.is_over(state, entry.last_seen()))
                && let Some(flow) = self.remove_over(at, clock, &hash_of)
            {
                ended(flow);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        (0..self.entries()).filter_map(|at| self.get(at))
    }

    /// Whether a chain has an entry without a flow.
    #[cfg(test)]
    pub(super) fn has_free(&self, hash: u64) -> bool {
        let at = |i| self.set_of(hash, i) * Self::WAYS;
        (0..Self::CHAIN).any(|i| (at(i)..at(i) + Self::WAYS).any(|at| self.get(at).is_none()))
    }

    /// By set: spills as they are counted, and as the flows that lie here would have them.
    #[cfg(test)]
    pub(super) fn recount(&self, hash_of: impl Fn(&Flow) -> u64) -> [Vec<u32>; 2] {
        let mut wanted = vec![0; self.sets.count];
        for at in 0..self.entries() {
            let Some(flow) = self.get(at) else { continue };
            let hash = hash_of(&flow);
            let passed = (0..Self::CHAIN).position(|i| self.set_of(hash, i) == at / Self::WAYS).unwrap();
            for i in 0..passed {
                wanted[self.set_of(hash, i)] += 1;
            }
        }
        [self.spills.iter().map(|s| s.load(Relaxed)).collect(), wanted]
    }
}
