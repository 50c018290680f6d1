//! Smooth weighted round robin: over any window of `sum(weights)` picks each server is picked exactly
//! `weight` times, and heavy servers are spread out rather than picked in a row.

use std::sync::{Mutex, PoisonError};

/// Scheduler state of one backend, shared by all workers so that the sequence is exact over all of them.
#[derive(Debug)]
pub struct RoundRobin {
    credits: Mutex<Vec<i64>>,
}

impl RoundRobin {
    /// A scheduler whose servers start with `credits`: zeros for new ones, [`RoundRobin::credits`] of an
    /// earlier scheduler for those that stay, so that a reload does not favour the first server.
    pub fn new(credits: Vec<i64>) -> Self {
        Self { credits: Mutex::new(credits) }
    }

    /// The present credits, in server order.
    pub fn credits(&self) -> Vec<i64> {
        self.lock().clone()
    }

    /// Picks the next of `0..servers`, where `weight(i)` is its weight, or 0 to leave it out this time.
    pub fn pick(&self, weight: impl Fn(usize) -> u32) -> Option<usize> {
        let mut credits = self.lock();
        let mut total = 0;
        let mut best: Option<usize> = None;
        for i in 0..credits.len() {
            let w = i64::from(weight(i));
            if w == 0 {
                continue;
            }
            credits[i] += w;
            total += w;
            if best.is_none_or(|b| credits[i] > credits[b]) {
                best = Some(i);
            }
        }
        if let Some(b) = best {
            credits[b] -= total;
        }
        best
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<i64>> {
        // Credits are valid after any interrupted update, so a poisoned lock is usable.
        self.credits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32], picks: usize) -> Vec<usize> {
        let rr = RoundRobin::new(vec![0; weights.len()]);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[rr.pick(|i| weights[i]).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_exact_for_equal_and_unequal_weights() {
        assert_eq!(counts(&[1, 1], 30), [15, 15]);
        assert_eq!(counts(&[1, 2], 30), [10, 20]);
        assert_eq!(counts(&[10, 100, 1, 1], 112), [10, 100, 1, 1]);
        assert_eq!(counts(&[65535, 1], 65536), [65535, 1]);
    }

    #[test]
    fn heavy_servers_are_spread_out() {
        let rr = RoundRobin::new(vec![0; 3]);
        let order: Vec<_> = (0..7).map(|_| rr.pick(|i| [5, 1, 1][i]).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn zero_weight_gets_none_and_nothing_eligible_is_none() {
        assert_eq!(counts(&[0, 3], 9), [0, 9]);
        assert_eq!(RoundRobin::new(vec![0; 2]).pick(|_| 0), None);
        assert_eq!(RoundRobin::new(vec![]).pick(|_| 1), None);
    }

    #[test]
    fn threads_together_are_exact() {
        let rr = RoundRobin::new(vec![0; 2]);
        let first: usize = std::thread::scope(|s| {
            let rr = &rr;
            let handles: Vec<_> = (0..3)
                .map(|_| s.spawn(move || (0..1000).filter(|_| rr.pick(|i| [1, 2][i]) == Some(0)).count()))
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).sum()
        });
        assert_eq!(first, 1000);
    }
}
