//! The addresses that connections to the servers of a backend start from, in turn.
//!
//! Each address has ports of its own towards each server. One that has none left is passed over for a while: looking
//! for a port where there is none takes the kernel milliseconds. While all are passed over, each connection tries one.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::client_address::Source;

/// How long an address without ports is passed over, in milliseconds.
const PAUSE_MS: u64 = 100;

/// Where connections start from, with what is remembered of each address.
#[derive(Debug)]
pub enum Sources {
    /// Where the kernel chooses.
    Kernel,
    /// The client's address.
    Client,
    /// One of these.
    Pool(SourcePool),
}

impl From<&Source> for Sources {
    fn from(source: &Source) -> Self {
        match source {
            Source::Kernel => Self::Kernel,
            Source::Client => Self::Client,
            Source::Pool(addresses) => Self::Pool(SourcePool::new(addresses)),
        }
    }
}

/// One address.
#[derive(Debug)]
pub struct SourceAddress {
    /// The address.
    pub ip: IpAddr,
    passed_over_until: AtomicU64,
}

impl SourceAddress {
    /// It had no port left at `now_ms`, milliseconds of any clock that only goes forward.
    pub fn is_full(&self, now_ms: u64) {
        self.passed_over_until.store(now_ms + PAUSE_MS, Relaxed);
    }

    fn has_room(&self, now_ms: u64) -> bool {
        self.passed_over_until.load(Relaxed) <= now_ms
    }
}

/// Addresses of both families.
#[derive(Debug)]
pub struct SourcePool {
    v4: Box<[SourceAddress]>,
    v6: Box<[SourceAddress]>,
    next: AtomicUsize,
}

impl SourcePool {
    /// A pool of `addresses`.
    pub fn new(addresses: &[IpAddr]) -> Self {
        let of_family = |is_ipv4| {
            let family = addresses.iter().filter(|ip| ip.is_ipv4() == is_ipv4);
            family.map(|&ip| SourceAddress { ip, passed_over_until: AtomicU64::new(0) }).collect()
        };
        Self { v4: of_family(true), v6: of_family(false), next: AtomicUsize::new(0) }
    }

    /// The addresses to try for a server of this family, in order: each that is not passed over, or one that is.
    /// Nothing where there is none of the family.
    pub fn turn(&self, is_ipv4: bool, now_ms: u64) -> impl Iterator<Item = &SourceAddress> {
        let family = if is_ipv4 { &self.v4 } else { &self.v6 };
        // The cursor is shared by workers; that it wraps costs one turn in 2^64.
        let first = if family.len() > 1 { self.next.fetch_add(1, Relaxed) % family.len() } else { 0 };
        let in_turn = family[first..].iter().chain(&family[..first]);
        let last_resort = family.get(first).filter(|_| family.iter().all(|a| !a.has_room(now_ms)));
        in_turn.filter(move |a| a.has_room(now_ms)).chain(last_resort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> SourcePool {
        SourcePool::new(&["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3"].map(|ip| ip.parse().unwrap()))
    }

    fn first(pool: &SourcePool, now_ms: u64) -> String {
        pool.turn(true, now_ms).next().unwrap().ip.to_string()
    }

    #[test]
    fn addresses_of_the_servers_family_take_turns() {
        let pool = pool();
        let turns: Vec<_> = (0..4).map(|_| first(&pool, 0)).collect();
        assert_eq!(turns, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        assert_eq!(pool.turn(false, 0).count(), 1);
        assert_eq!(SourcePool::new(&[]).turn(true, 0).count(), 0);
    }

    #[test]
    fn an_address_without_ports_is_passed_over_for_a_while_and_one_is_tried_when_none_has_any() {
        let pool = pool();
        pool.turn(true, 1000).next().unwrap().is_full(1000);
        let others: Vec<_> = pool.turn(true, 1050).map(|a| a.ip.to_string()).collect();
        assert_eq!(others, ["10.0.0.2", "10.0.0.3"]);
        pool.turn(true, 1050).for_each(|a| a.is_full(1050));
        assert_eq!(pool.turn(true, 1060).count(), 1);
        assert_eq!(pool.turn(true, 1100).count(), 1);
        assert_eq!(pool.turn(true, 1150).count(), 3);
    }
}
