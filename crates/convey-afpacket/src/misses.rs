//! Which missing neighbours a worker has reported just now: every packet of a flood may miss one, and each report
//! costs a system call here and work in the thread that asks.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How soon the same missing neighbour is reported again by a worker.
const AGAIN: Duration = Duration::from_millis(100);

/// Reports within [`AGAIN`] at most; what comes in excess is reported by a later packet.
const MAX_REPORTS: usize = 64;

/// A neighbour on an interface.
type Key = (u32, IpAddr);

/// The reports of the last while.
#[derive(Debug)]
pub struct Misses {
    reported: Vec<Key>,
    since: Instant,
}

impl Default for Misses {
    fn default() -> Self {
        Self { reported: Vec::with_capacity(MAX_REPORTS), since: Instant::now() }
    }
}

impl Misses {
    /// Whether a packet that misses this neighbour is to be reported.
    pub fn is_news(&mut self, key: Key, now: Instant) -> bool {
        if now >= self.since + AGAIN {
            self.reported.clear();
            self.since = now;
        }
        if self.reported.len() >= MAX_REPORTS || self.reported.contains(&key) {
            return false;
        }
        self.reported.push(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(i: u32) -> Key {
        (2, IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i)))
    }

    #[test]
    fn neighbours_missed_in_turn_are_reported_once_a_while_each() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        let reports = (0..1000).filter(|i| misses.is_news(neighbour(i % 3), now)).count();
        assert_eq!(reports, 3);
        assert!(misses.is_news(neighbour(0), now + AGAIN));
    }

    #[test]
    fn a_scan_of_a_whole_network_is_reported_in_part_only() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        assert_eq!((0..10_000).filter(|i| misses.is_news(neighbour(*i), now)).count(), MAX_REPORTS);
    }
}
