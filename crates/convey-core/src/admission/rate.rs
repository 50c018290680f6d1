//! Token buckets that many threads take from, each one word: the moment at which it is full again (GCRA).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// So many a second on average, and up to `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds in which one token comes.
    interval: u64,
    /// Tokens that a full bucket has.
    burst: u64,
}

impl Rate {
    /// Both count as 1 at least. Above a million a second the step of a nanosecond begins to show.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second as u64 };
        let interval = 1_000_000_000 / per_second;
        Self {
            interval: if interval == 0 { 1 } else { interval },
            burst: if burst == 0 { 1 } else { burst as u64 },
        }
    }

    /// Of a bucket that is full again at `full`, when it is so after one has asked it for a token `now`, and whether it
    /// had one.
    pub(super) fn ask(self, full: u64, now: u64) -> (u64, bool) {
        // The bucket may have been emptied under a slower rate: it owes no more than all of its tokens.
        let full = full.clamp(now, now.saturating_add(self.interval * self.burst));
        let has_one = full - now <= self.interval * (self.burst - 1);
        (if has_one { full.saturating_add(self.interval) } else { full }, has_one)
    }

    /// When it will be full if a token is put back.
    pub(super) fn before_one(self, full: u64) -> u64 {
        full.saturating_sub(self.interval)
    }
}

/// Begins full.
#[derive(Debug, Default)]
pub struct TokenBucket(AtomicU64);

impl TokenBucket {
    /// Takes a token `now`, in nanoseconds from any fixed moment, if there is one.
    pub fn take(&self, rate: Rate, now: u64) -> bool {
        let mut full = self.0.load(Relaxed);
        loop {
            let (after, has_one) = rate.ask(full, now);
            if after == full {
                return has_one;
            }
            match self.0.compare_exchange_weak(full, after, Relaxed, Relaxed) {
                Ok(_) => return has_one,
                Err(other) => full = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_taken_at_once_and_then_one_for_each_interval() {
        let (bucket, rate) = (TokenBucket::default(), Rate::new(10, 3));
        let takes = |now| bucket.take(rate, now);
        assert_eq!([0; 4].map(takes), [true, true, true, false]);
        assert!(!takes(SECOND / 10 - 1));
        assert!(takes(SECOND / 10) && !takes(SECOND / 10));
        // Idle for long it holds a burst and no more.
        assert_eq!([100 * SECOND; 4].map(takes), [true, true, true, false]);
    }

    #[test]
    fn a_faster_rate_does_not_wait_for_what_a_slower_one_lent() {
        let bucket = TokenBucket::default();
        for _ in 0..1000 {
            assert!(bucket.take(Rate::new(1, 1000), 0));
        }
        let faster = Rate::new(100, 1);
        assert!(!bucket.take(faster, 0));
        assert!(bucket.take(faster, SECOND / 100));
    }

    #[test]
    fn a_clock_that_stands_at_its_end_breaks_nothing() {
        let (bucket, rate) = (TokenBucket::default(), Rate::new(1, u32::MAX));
        assert!(bucket.take(rate, u64::MAX) && bucket.take(rate, u64::MAX));
    }

    #[test]
    fn threads_that_take_at_once_get_the_burst_together_and_no_more() {
        let (bucket, rate) = (TokenBucket::default(), Rate::new(1, 1000));
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(rate, 7)).count())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    proptest! {
        /// Whatever the times, in any span there are no more than the burst and what the span brings.
        #[test]
        fn no_span_of_time_has_more_than_its_rate_and_the_burst(
            per_second in 1..1000u32,
            burst in 1..50u32,
            steps in proptest::collection::vec(0..50_000_000u64, 1..200),
        ) {
            let (bucket, rate) = (TokenBucket::default(), Rate::new(per_second, burst));
            let (mut now, mut taken) = (SECOND, Vec::new());
            for step in steps {
                now += step;
                if bucket.take(rate, now) {
                    taken.push(now);
                }
            }
            for (first, begin) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let most = u64::from(burst) + (end - begin) / rate.interval;
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }
    }
}
