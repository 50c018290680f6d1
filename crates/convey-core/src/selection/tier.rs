//! Servers that one choice is made among: the ordinary ones of a backend, or its backups.

use std::sync::{Arc, OnceLock};

use super::maglev::{MaglevTable, Member, mix};
use super::random::below;
use super::selector::{Candidates, SLOW_START_STEPS};

/// Draws of a server at random before all are looked through for those that take one.
const DRAWS: usize = 8;

#[derive(Debug)]
pub(super) struct Tier {
    /// By server; 0 for those of the other tier, too.
    pub(super) weights: Box<[u32]>,
    /// By server the sum of the weights before it and of its own; empty until somebody draws.
    sums: OnceLock<Box<[u64]>>,
    table: OnceLock<Option<Arc<MaglevTable>>>,
    /// By server how much of its weight counts, in steps of slow start; empty while nobody is in it.
    shares: Box<[u8]>,
}

impl Tier {
    pub(super) fn new(weights: Box<[u32]>, shares: Box<[u8]>) -> Self {
        Self { weights, sums: OnceLock::new(), table: OnceLock::new(), shares }
    }

    /// Whether a server takes part in this comparison of open connections. One in slow start does as often as its share
    /// says: it has the fewest, and while few are open anywhere its weight would not keep it from getting every other.
    fn joins(&self, i: usize) -> bool {
        self.shares.get(i).is_none_or(|&share| below(SLOW_START_STEPS.into()) < share.into())
    }

    pub(super) fn has_weight(&self) -> bool {
        self.weights.iter().any(|&w| w > 0)
    }

    /// Goes on with the table of another tier of the same servers and weights.
    pub(super) fn take_over(&self, other: &Self) {
        if let Some(table) = other.table.get() {
            let _ = self.table.set(table.clone());
        }
    }

    /// The table of servers by index; made at the first call, a few milliseconds of work.
    pub(super) fn table(&self, seeds: &[u64]) -> Option<&MaglevTable> {
        let members = || {
            let numbered = (0..=u16::MAX).zip(self.weights.iter().zip(seeds));
            numbered.map(|(value, (&weight, &seed))| Member { seed, weight, value }).collect::<Vec<_>>()
        };
        self.table.get_or_init(|| MaglevTable::build(&members()).map(Arc::new)).as_deref()
    }

    /// The server of the slot that `hash` names. While that one takes none, its clients are spread over the others by
    /// their hash and weight (weighted rendezvous), so that each has one server to go to and comes back from it.
    pub(super) fn by_hash(&self, hash: u64, seeds: &[u64], view: &impl Candidates) -> Option<usize> {
        let home = usize::from(self.table(seeds)?.get(MaglevTable::slot(hash))?);
        if takes(view, home) {
            return Some(home);
        }
        let distance = |i: usize| {
            let unit = ((mix(hash ^ seeds[i]) >> 11) + 1) as f64 / (1u64 << 53) as f64;
            -unit.ln() / f64::from(self.weights[i])
        };
        let others = self.eligible(view).map(|i| (i, distance(i)));
        others.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// The server with the fewest open connections for its weight; among equal ones at random, by weight.
    pub(super) fn least_connected(&self, view: &impl Candidates) -> Option<usize> {
        let joining = self.least_of(self.eligible(view).filter(|i| self.joins(*i)), view);
        match joining {
            None if !self.shares.is_empty() => self.least_of(self.eligible(view), view),
            least => least,
        }
    }

    fn least_of(&self, servers: impl Iterator<Item = usize>, view: &impl Candidates) -> Option<usize> {
        let mut best: Option<(usize, u64)> = None;
        let mut tied = 0;
        for i in servers {
            let (open, weight) = (view.open(i), u64::from(self.weights[i]));
            let order = best.map(|(b, least)| self.compare((i, open), (b, least)));
            match order {
                None | Some(std::cmp::Ordering::Less) => (best, tied) = (Some((i, open)), weight),
                Some(std::cmp::Ordering::Equal) => {
                    tied += weight;
                    // An idle backend's connections would all go to its first server.
                    if below(tied) < weight {
                        best = Some((i, open));
                    }
                }
                Some(std::cmp::Ordering::Greater) => {}
            }
        }
        best.map(|(i, _)| i)
    }

    /// Of two servers drawn by weight the one with fewer open connections for its weight.
    pub(super) fn better_of_two(&self, view: &impl Candidates) -> Option<usize> {
        let first = self.draw(view, None)?;
        let second = self.draw(view, Some(first)).filter(|i| self.joins(*i));
        let Some(second) = second else { return Some(first) };
        let order = self.compare((second, view.open(second)), (first, view.open(first)));
        Some(if order.is_lt() { second } else { first })
    }

    /// A server at random, by weight, other than `but`.
    fn draw(&self, view: &impl Candidates, but: Option<usize>) -> Option<usize> {
        let sums = self.sums.get_or_init(|| {
            let mut sum = 0;
            let add = |&weight| {
                sum += u64::from(weight);
                sum
            };
            self.weights.iter().map(add).collect()
        });
        let total = sums.last().copied().filter(|&total| total > 0)?;
        for _ in 0..DRAWS {
            let drawn = below(total);
            let i = sums.partition_point(|&sum| sum <= drawn);
            if Some(i) != but && takes(view, i) {
                return Some(i);
            }
        }
        let mut all = 0;
        let mut found = None;
        for i in self.eligible(view).filter(|i| Some(*i) != but) {
            let weight = u64::from(self.weights[i]);
            all += weight;
            if below(all) < weight {
                found = Some(i);
            }
        }
        found
    }

    /// Which of two servers has fewer open connections for its weight.
    fn compare(&self, (a, open_a): (usize, u64), (b, open_b): (usize, u64)) -> std::cmp::Ordering {
        let load = |open: u64, other: usize| open.saturating_mul(u64::from(self.weights[other]));
        load(open_a, b).cmp(&load(open_b, a))
    }

    fn eligible(&self, view: &impl Candidates) -> impl Iterator<Item = usize> {
        (0..self.weights.len()).filter(move |&i| self.weights[i] > 0 && takes(view, i))
    }
}

/// Whether a server with a weight takes one more.
#[inline]
pub(super) fn takes(view: &impl Candidates, i: usize) -> bool {
    has_room(view, i) && !view.is_passed_over(i)
}

#[inline]
pub(super) fn has_room(view: &impl Candidates, i: usize) -> bool {
    let limit = view.limit(i);
    limit == 0 || view.open(i) < limit
}
