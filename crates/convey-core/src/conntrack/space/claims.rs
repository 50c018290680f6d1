//! Which entry a new flow takes, and who gives way to it.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::super::{entry, udp};
use super::sets::Sets;
use super::{Claimed, Clock, Flow, FlowState, SETS_A_CHUNK, Space, Ticks, Victims};

/// Attempts to take an entry from others that write.
const ATTEMPTS: usize = 8;
/// Sets behind a chain in which a half-open flow is looked for that ends for a newcomer.
const SETS_BEHIND: usize = 256;

/// An entry that may be taken.
#[derive(Debug, Clone, Copy)]
struct Spot {
    at: usize,
    /// Its control word when it was chosen.
    control: u32,
}

impl<const WORDS: usize> Space<WORDS> {
    /// Whether a chain has an entry that [`Space::claim`] could take.
    pub(in super::super) fn has_room(&self, hash: u64, clock: Clock<'_>, victims: Victims) -> bool {
        self.vacant(hash, clock).or_else(|| self.victim(hash, clock, victims)).is_some()
    }

    /// Takes an entry for a flow with this hash; `ended` gets the flow that lay there, once it has left.
    pub(in super::super) fn claim(
        &self,
        hash: u64,
        clock: Clock<'_>,
        victims: Victims,
        hash_of: impl Fn(&Flow) -> u64,
        mut ended: impl FnMut(Flow),
    ) -> Option<Claimed> {
        for _ in 0..ATTEMPTS {
            let spot = self.vacant(hash, clock).or_else(|| self.victim(hash, clock, victims))?;
            if let Some(claimed) = self.claim_at(hash, spot, &hash_of, &mut ended) {
                return Some(claimed);
            }
        }
        None
    }

    /// As [`Space::claim`], where half-open flows are as many as may be: takes the entry of the oldest in the first
    /// set that has any. Where the chain has none, one behind it ends, and nothing is taken. Programs in the kernel
    /// choose the same.
    pub(in super::super) fn claim_half_open(
        &self,
        hash: u64,
        now: Ticks,
        hash_of: impl Fn(&Flow) -> u64,
        mut ended: impl FnMut(Flow),
    ) -> Option<Claimed> {
        for i in 0..Self::CHAIN {
            let set = self.set_of(hash, i);
            if let Some((at, control)) = self.oldest_half_open(set, now)
                && let Some(claimed) = self.claim_at(hash, Spot { at, control }, &hash_of, &mut ended)
            {
                return Some(claimed);
            }
        }
        // At `sets.count` one has come round to where the chain goes on from its first set.
        for i in Self::CHAIN..=(Self::CHAIN + SETS_BEHIND - 1).min(self.sets.count) {
            let set = self.set_of(hash, i);
            if self.sets.is_touched(set / SETS_A_CHUNK)
                && let Some((at, control)) = self.oldest_half_open(set, now)
                && let Some(flow) = self.get(at).filter(|flow| entry::control(flow) == control)
                && self.remove_as(at, &flow, &hash_of)
            {
                ended(flow);
                break;
            }
        }
        None
    }

    /// Takes the entry of a flow whose time is over, in the chain of `hash`.
    pub(in super::super) fn replace(
        &self,
        hash: u64,
        at: usize,
        clock: Clock<'_>,
        hash_of: impl Fn(&Flow) -> u64,
        ended: impl FnOnce(Flow),
    ) -> Option<Claimed> {
        let over = self.get(at).filter(|flow| clock.has_ended(flow))?;
        let spot = Spot { at, control: entry::control(&over) };
        self.claim_at(hash, spot, hash_of, ended)
    }

    /// How many sets of its chain a flow at `at` has passed. A chain may meet a set twice; the first time counts.
    pub(super) fn passed(&self, hash: u64, at: usize) -> usize {
        (0..Self::CHAIN).position(|i| self.set_of(hash, i) == at / Self::WAYS).unwrap_or(0)
    }

    /// Where it is, and its control word. Of equal ones the first.
    fn oldest_half_open(&self, set: usize, now: Ticks) -> Option<(usize, u32)> {
        let ways = (0..Self::WAYS).map(|way| set * Self::WAYS + way);
        let half_open = ways.filter_map(|at| {
            let entry = self.sets.entry(at);
            let control = entry.control().load(Acquire);
            entry::state(control)?.is_half_open().then(|| (now.since(entry.last_seen()), at, control))
        });
        half_open.rev().max_by_key(|(idle, ..)| *idle).map(|(_, at, control)| (at, control))
    }

    /// The first entry of the chain that is free or whose flow's time is over: programs in the kernel take the same.
    fn vacant(&self, hash: u64, clock: Clock<'_>) -> Option<Spot> {
        (0..Self::CHAIN).find_map(|i| {
            let first = self.set_of(hash, i);
            let set = self.sets.set(first);
            (0..Self::WAYS).find_map(|way| {
                let entry = Sets::<WORDS>::way(set, way);
                let control = entry.control().load(Acquire);
                let state = entry::state(control)?;
                let is_vacant = state == FlowState::Free || clock.is_over(state, entry.last_seen());
                is_vacant.then_some(Spot { at: first * Self::WAYS + way, control })
            })
        })
    }

    fn victim(&self, hash: u64, clock: Clock<'_>, victims: Victims) -> Option<Spot> {
        let chain = (0..Self::CHAIN).flat_map(|i| {
            let first = self.set_of(hash, i) * Self::WAYS;
            first..first + Self::WAYS
        });
        let ranked = chain.filter_map(|at| {
            let flow = self.get(at)?;
            let rank = match flow.state {
                FlowState::Closed => 4,
                state if state.is_half_open() && victims != Victims::Dead => 3,
                FlowState::UdpStream if udp::is_idle(&flow, clock.now) => 2,
                _ if victims == Victims::Any => 1,
                _ => return None,
            };
            let spot = Spot { at, control: entry::control(&flow) };
            Some((rank, clock.now.since(Ticks(flow.last_seen)), spot))
        });
        // Of equal ones the first: it is passed by the fewest lookups.
        ranked.rev().max_by_key(|(rank, idle, _)| (*rank, *idle)).map(|(_, _, spot)| spot)
    }

    fn claim_at(
        &self,
        hash: u64,
        Spot { at, control: old }: Spot,
        hash_of: impl Fn(&Flow) -> u64,
        ended: impl FnOnce(Flow),
    ) -> Option<Claimed> {
        let entry = self.sets.entry(at);
        let flow = entry.read(self.sets.field);
        if flow.is_some_and(|flow| entry::control(&flow) != old) {
            return None;
        }
        entry.control().compare_exchange(old, entry::claimed(old), AcqRel, Relaxed).ok()?;
        if let Some(flow) = flow {
            self.count_out(at, hash_of(&flow), flow.state);
            ended(flow);
        }
        let passed = self.passed(hash, at);
        for i in 0..passed {
            self.spills[self.set_of(hash, i)].fetch_add(1, Relaxed);
        }
        self.sets.touch(at);
        Some(Claimed { at, passed })
    }
}
