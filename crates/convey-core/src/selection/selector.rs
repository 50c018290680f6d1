//! Which server of a backend gets a new connection: what proxy mode asks for each, what the tables of the packet modes
//! are made from, and what `explain` asks.

use super::balance::{Asker, Balance};
use super::maglev::{Member, member_seed};
use super::round_robin::RoundRobin;
use super::tier::{Tier, has_room, takes};
use crate::endpoint::Endpoint;

/// Steps in which a server in slow start gets its weight back. Weights in selection are counted in parts of this size:
/// a server of weight 1 has [`SLOW_START_STEPS`] of them, and one at its beginning.
pub const SLOW_START_STEPS: u8 = 20;

/// What a server takes part with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Names it for good in Maglev tables.
    pub addr: Endpoint,
    /// Its share, in [`SLOW_START_STEPS`]ths of a configured weight; 0: it takes no new connections.
    pub weight: u32,
    /// The steps of its slow start that it has behind it, [`SLOW_START_STEPS`] when it is in none; `weight` is by it already.
    pub share: u8,
    /// Asked only while no ordinary server takes one.
    pub backup: bool,
}

/// What is known of the servers at the moment one is chosen, by their index.
pub trait Candidates {
    /// Connections open at it now.
    fn open(&self, server: usize) -> u64;
    /// Connections that may be open at it; 0: no limit.
    fn limit(&self, server: usize) -> u64;
    /// Whether it is not to be chosen this time: tried already, or found full.
    fn is_passed_over(&self, server: usize) -> bool;
    /// Whether there is any such server; as a rule there is none, and nobody need ask of each.
    fn passes_over(&self) -> bool;
}

/// Servers of which nothing is known but their weights.
#[derive(Debug, Clone, Copy)]
pub struct Unseen;

impl Candidates for Unseen {
    fn open(&self, _: usize) -> u64 {
        0
    }
    fn limit(&self, _: usize) -> u64 {
        0
    }
    fn is_passed_over(&self, _: usize) -> bool {
        false
    }
    fn passes_over(&self) -> bool {
        false
    }
}

/// Selection in one backend. Shared by all workers; only round robin has state that they write.
#[derive(Debug)]
pub struct Selector {
    balance: Balance,
    seeds: Box<[u64]>,
    ordinary: Tier,
    /// `None` when there is no backup.
    backups: Option<Tier>,
    round_robin: RoundRobin,
}

impl Selector {
    /// Selection among servers that take part with `parts`. `former` is the selector of the same backend before and, by
    /// server, the index it had there, so that a change elsewhere does not begin rounds and tables anew.
    pub fn new(balance: Balance, parts: &[Part], former: Option<(&Self, &[Option<usize>])>) -> Self {
        let weights = |of: bool| parts.iter().map(|p| if p.backup == of { p.weight } else { 0 }).collect();
        let is_slow = parts.iter().any(|p| p.share < SLOW_START_STEPS);
        let shares = || if is_slow { parts.iter().map(|p| p.share).collect() } else { Box::default() };
        let seed = |part: &Part| member_seed(part.addr.to_string().as_bytes());
        let mut selector = Self {
            balance,
            seeds: parts.iter().map(seed).collect(),
            ordinary: Tier::new(weights(false), shares()),
            backups: parts.iter().any(|p| p.backup).then(|| Tier::new(weights(true), shares())),
            round_robin: RoundRobin::new(vec![0; parts.len()]),
        };
        if let Some((former, indices)) = former {
            selector.take_over(former, indices);
        }
        selector
    }

    fn take_over(&mut self, former: &Self, indices: &[Option<usize>]) {
        let tier_weights = |s: &Self, i: usize| {
            (s.ordinary.weights.get(i).copied(), s.backups.as_ref().and_then(|b| b.weights.get(i)).copied())
        };
        let same = |(i, old): (usize, &Option<usize>)| {
            let normal = |(o, b): (Option<u32>, Option<u32>)| (o.unwrap_or(0), b.unwrap_or(0));
            old.is_some_and(|old| normal(tier_weights(self, i)) == normal(tier_weights(former, old)))
        };
        // Credits earned under other weights would skew the first picks under the new ones.
        if former.seeds.len() == self.seeds.len() && indices.iter().enumerate().all(same) {
            let credits = former.round_robin.credits();
            let mine = indices.iter().map(|i| i.and_then(|i| credits.get(i).copied()).unwrap_or(0));
            self.round_robin = RoundRobin::new(mine.collect());
        }
        if former.seeds != self.seeds {
            return;
        }
        for (mine, theirs) in self.tiers().zip(former.tiers()) {
            if mine.weights == theirs.weights {
                mine.take_over(theirs);
            }
        }
    }

    /// How servers are chosen.
    pub fn balance(&self) -> Balance {
        self.balance
    }

    /// Does now what the first choice would have to wait for.
    pub fn prepare(&self) {
        if self.balance.is_by_table() {
            for tier in self.tiers() {
                tier.table(&self.seeds);
            }
        }
    }

    /// The server for `asker`, or `None` while nobody takes a connection. A backup only where no ordinary server does.
    pub fn pick(&self, asker: &Asker, view: &impl Candidates) -> Option<usize> {
        match self.pick_in(&self.ordinary, asker, view) {
            None => self.pick_in(self.backups.as_ref()?, asker, view),
            picked => picked,
        }
    }

    #[inline]
    fn pick_in(&self, tier: &Tier, asker: &Asker, view: &impl Candidates) -> Option<usize> {
        match self.balance {
            Balance::RoundRobin if view.passes_over() => {
                self.round_robin.pick(&tier.weights, |i| takes(view, i))
            }
            Balance::RoundRobin => self.round_robin.pick(&tier.weights, |i| has_room(view, i)),
            Balance::LeastConnections => tier.least_connected(view),
            Balance::RandomTwo => tier.better_of_two(view),
            Balance::SourceHash { .. } | Balance::Maglev => {
                tier.by_hash(asker.hash(self.balance), &self.seeds, view)
            }
        }
    }

    /// Weights by server as they count while every server has room: backups have none while an ordinary server has one.
    pub fn weights(&self) -> &[u32] {
        match &self.backups {
            Some(backups) if !self.ordinary.has_weight() => &backups.weights,
            _ => &self.ordinary.weights,
        }
    }

    /// Whether a server has a weight, be it a backup.
    pub fn has_weight(&self) -> bool {
        self.tiers().any(Tier::has_weight)
    }

    /// The members of the one table that the packet modes forward by, where `value` says what stands for a server.
    pub fn members(&self, value: impl Fn(usize) -> u16) -> Vec<Member> {
        let weighed = self.weights().iter().zip(&self.seeds).enumerate();
        weighed.map(|(i, (&weight, &seed))| Member { seed, weight, value: value(i) }).collect()
    }

    fn tiers(&self) -> impl Iterator<Item = &Tier> {
        [Some(&self.ordinary), self.backups.as_ref()].into_iter().flatten()
    }
}
