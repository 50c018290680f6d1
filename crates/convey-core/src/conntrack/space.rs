//! Sets of eight entries; every key may lie in one of two sets. A 16-bit tag for each entry, kept apart, lets
//! a lookup touch one cache line a set and then only the entry it wants.
//!
//! The entries may lie in memory that outlives this process. It may be killed between any two instructions, so an
//! entry is free by its state before its fields change, and until they are whole.

use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

use super::flow::{Flow, FlowKey, FlowState, Lifetimes, Ticks};
use super::memory::Memory;
use super::udp;

const WAYS: usize = 8;

/// Tag of an entry without a flow.
const FREE: u16 = 0;

/// Who may be pushed out when no entry is free. Expired flows always, then the oldest of these:
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victims {
    /// Closed flows and idle UDP conversations.
    Dead,
    /// Closed and half-open flows.
    HalfOpen,
    /// All flows, closed ones first.
    Any,
}

#[derive(Debug)]
pub(super) struct Space {
    /// By set; `FREE` exactly where `flows` has none.
    tags: Box<[[u16; WAYS]]>,
    flows: Memory<Flow>,
    used: usize,
    cursor: usize,
}

impl Space {
    /// Entries of a space that has room for `slots`: whole sets, and at least one.
    pub(super) const fn entries(slots: usize) -> usize {
        let sets = slots.div_ceil(WAYS);
        if sets == 0 { WAYS } else { sets * WAYS }
    }

    /// A space without a flow in `flows`, of which whole sets are used.
    pub(super) fn new(mut flows: Memory<Flow>) -> Self {
        if flows.len() < WAYS {
            flows = Memory::own(WAYS);
        }
        for flow in flows.iter_mut().filter(|f| f.state != FlowState::Free) {
            flow.state = FlowState::Free;
        }
        let sets = flows.len() / WAYS;
        Self { tags: vec![[FREE; WAYS]; sets].into(), flows, used: 0, cursor: 0 }
    }

    pub(super) fn into_memory(self) -> Memory<Flow> {
        self.flows
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn slots(&self) -> usize {
        self.tags.len() * WAYS
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.flows) + size_of_val(&*self.tags)
    }

    #[inline]
    fn sets(&self, hash: u64) -> [usize; 2] {
        // Scaling 32 bits down takes their upper ones; no division, any number of sets.
        let scale = |half: u64| ((half * self.tags.len() as u64) >> 32) as usize;
        [scale(hash >> 32), scale(hash & 0xffff_ffff)]
    }

    #[inline]
    fn tag(hash: u64) -> u16 {
        // The lower bits of the upper half, which choose no set.
        (hash >> 32) as u16 | 1
    }

    /// The first entry with this key for which `wanted` holds. A key may have several: an expired one stays
    /// until it is swept, and its successor may lie before or behind it.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey, hash: u64, wanted: impl Fn(&Flow) -> bool) -> Option<usize> {
        let tag = Self::tag(hash);
        for set in self.sets(hash) {
            for (way, _) in self.tags[set].iter().enumerate().filter(|(_, t)| **t == tag) {
                let at = set * WAYS + way;
                if self.flows[at].is(key) && wanted(&self.flows[at]) {
                    return Some(at);
                }
            }
        }
        None
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&Flow> {
        self.flows.get(at).filter(|f| f.state != FlowState::Free)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Flow> {
        self.flows.get_mut(at).filter(|f| f.state != FlowState::Free)
    }

    /// The entry a new flow goes to: a free one of the emptier set, else one of `victims`.
    pub(super) fn victim(
        &self,
        hash: u64,
        now: Ticks,
        lifetimes: &Lifetimes,
        victims: Victims,
    ) -> Option<usize> {
        let sets = self.sets(hash);
        let free = |set: usize| self.tags[set].iter().filter(|t| **t == FREE).count();
        let [first, second] = sets.map(free);
        if first + second > 0 {
            let set = if first >= second { sets[0] } else { sets[1] };
            return self.tags[set].iter().position(|t| *t == FREE).map(|way| set * WAYS + way);
        }
        sets.into_iter()
            .flat_map(|set| set * WAYS..(set + 1) * WAYS)
            .filter_map(|at| {
                let f = &self.flows[at];
                let rank = match f.state {
                    _ if f.is_expired(lifetimes, now) => 4,
                    FlowState::Closed => 3,
                    FlowState::UdpStream if udp::is_idle(f, now) => 2,
                    state if state.is_half_open() && victims == Victims::HalfOpen => 1,
                    _ if victims == Victims::Any => 1,
                    _ => return None,
                };
                Some((rank, now.since(Ticks(f.last_seen)), at))
            })
            .max()
            .map(|(_, _, at)| at)
    }

    /// Stores `flow` at an entry that [`Space::victim`] named for `hash`; gives the flow that lay there.
    pub(super) fn put(&mut self, at: usize, hash: u64, flow: Flow) -> Option<Flow> {
        let entry = &mut self.flows[at];
        let old = *entry;
        entry.state = FlowState::Free;
        compiler_fence(SeqCst);
        *entry = Flow { state: FlowState::Free, ..flow };
        compiler_fence(SeqCst);
        entry.state = flow.state;
        self.tags[at / WAYS][at % WAYS] = Self::tag(hash);
        if old.state == FlowState::Free {
            self.used += 1;
            return None;
        }
        Some(old)
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Flow> {
        let entry = self.flows.get_mut(at).filter(|f| f.state != FlowState::Free)?;
        let flow = *entry;
        entry.state = FlowState::Free;
        compiler_fence(SeqCst);
        self.tags[at / WAYS][at % WAYS] = FREE;
        self.used -= 1;
        Some(flow)
    }

    pub(super) fn take_all(&mut self, ended: &mut impl FnMut(Flow)) {
        for at in 0..self.flows.len() {
            if let Some(flow) = self.take(at) {
                ended(flow);
            }
        }
    }

    pub(super) fn sweep(
        &mut self,
        now: Ticks,
        lifetimes: &Lifetimes,
        budget: usize,
        ended: &mut impl FnMut(Flow),
    ) {
        for _ in 0..budget.div_ceil(WAYS).min(self.tags.len()) {
            let set = self.cursor;
            self.cursor = (self.cursor + 1) % self.tags.len();
            if self.tags[set] == [FREE; WAYS] {
                continue;
            }
            for at in set * WAYS..(set + 1) * WAYS {
                if self.get(at).is_some_and(|f| f.is_expired(lifetimes, now))
                    && let Some(flow) = self.take(at)
                {
                    ended(flow);
                }
            }
        }
    }
}
