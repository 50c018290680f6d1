//! Failures in a row. A success writes only where failures were counted before it, so that a healthy server costs its
//! connections no shared write.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many connections to one server have failed since the last success; of all workers.
#[derive(Debug, Default)]
pub struct FailureStreak(AtomicU32);

impl FailureStreak {
    /// Counts a failure; whether it is the `limit`th in a row, from which on counting begins anew. `limit` is at least 1.
    pub fn failed(&self, limit: u32) -> bool {
        self.0.fetch_add(1, Relaxed).saturating_add(1) >= limit && self.0.swap(0, Relaxed) >= limit
    }

    /// The row is broken.
    pub fn succeeded(&self) {
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_met_by_failures_in_a_row_alone_and_once_for_each_row() {
        let streak = FailureStreak::default();
        assert_eq!([(); 7].map(|()| streak.failed(3)), [false, false, true, false, false, true, false]);
        streak.succeeded();
        assert_eq!([(); 3].map(|()| streak.failed(3)), [false, false, true]);
        assert!(streak.failed(1));
    }

    #[test]
    fn a_limit_that_was_lowered_is_met_by_the_next_failure() {
        let streak = FailureStreak::default();
        assert!(!streak.failed(10) && !streak.failed(10) && streak.failed(2));
    }

    #[test]
    fn threads_that_fail_at_once_meet_it_once_for_each_row() {
        let (streak, met) = (FailureStreak::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        met.fetch_add(u32::from(streak.failed(100)), Relaxed);
                    }
                });
            }
        });
        assert!((1..=400).contains(&met.load(Relaxed)), "{met:?}");
    }
}
