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

    /// Picks the next by these `weights`; those of weight 0 and those that `takes` says no of are left out this time.
    #[inline]
    pub fn pick(&self, weights: &[u32], takes: impl Fn(usize) -> bool) -> Option<usize> {
        let mut credits = self.lock();
        let (mut total, mut best, mut most) = (0, None, i64::MIN);
        for (i, (credit, &weight)) in credits.iter_mut().zip(weights).enumerate() {
            if weight == 0 || !takes(i) {
                continue;
            }
            *credit += i64::from(weight);
            total += i64::from(weight);
            if *credit > most {
                (best, most) = (Some(i), *credit);
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
            counts[rr.pick(weights, |_| true).unwrap()] += 1;
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
        let order: Vec<_> = (0..7).map(|_| rr.pick(&[5, 1, 1], |_| true).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn zero_weight_gets_none_and_nothing_eligible_is_none() {
        assert_eq!(counts(&[0, 3], 9), [0, 9]);
        assert_eq!(RoundRobin::new(vec![0; 2]).pick(&[0, 0], |_| true), None);
        assert_eq!(RoundRobin::new(vec![0]).pick(&[1], |_| false), None);
    }

    #[test]
    fn threads_together_are_exact() {
        let rr = RoundRobin::new(vec![0; 2]);
        let first: usize = std::thread::scope(|s| {
            let rr = &rr;
            let handles: Vec<_> = (0..3)
                .map(|_| s.spawn(move || (0..1000).filter(|_| rr.pick(&[1, 2], |_| true) == Some(0)).count()))
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).sum()
        });
        assert_eq!(first, 1000);
    }
}
