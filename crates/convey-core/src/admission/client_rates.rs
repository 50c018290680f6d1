//! A token bucket for each client, in a table that never grows.
//!
//! A client has eight places where its bucket may lie, chosen by a keyed hash. A bucket that is full says nothing and
//! is the same as none; where all eight are in use, the one that is nearest to full gives way, so that its client
//! begins anew with a full bucket. However many addresses a stranger has, it takes no more memory, keeps nobody out,
//! and makes the table forget those first that came least; clients that are held to their rate are the last.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::rate::Rate;

/// Clients that may be held to their rate at once.
const CLIENTS: usize = 1 << 16;
const SHARDS: usize = 64;
const WAYS: usize = 8;
const SETS: usize = CLIENTS / SHARDS / WAYS;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Tells its client from all others.
    tag: u64,
    /// When it is full, in nanoseconds.
    full: u64,
}

type Set = [Bucket; WAYS];

/// How often clients came; memory is 1 MiB.
#[derive(Debug)]
pub struct ClientRates {
    hasher: RandomState,
    shards: Box<[Mutex<Box<[Set]>>]>,
}

impl Default for ClientRates {
    fn default() -> Self {
        let sets = || Mutex::new(vec![Set::default(); SETS].into_boxed_slice());
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| sets()).collect() }
    }
}

impl ClientRates {
    /// Takes a token of the client's bucket `now`, if there is one.
    pub fn take(&self, client: IpAddr, rate: Rate, now: u64) -> bool {
        self.with_set(client, |set, tag| {
            let bucket = match set.iter().position(|b| b.tag == tag) {
                Some(known) => &mut set[known],
                None => {
                    let nearest = (0..WAYS).min_by_key(|way| set[*way].full).unwrap_or(0);
                    set[nearest] = Bucket { tag, full: 0 };
                    &mut set[nearest]
                }
            };
            let (full, has_one) = rate.ask(bucket.full, now);
            bucket.full = full;
            has_one
        })
    }

    /// Puts a token back.
    pub fn give_back(&self, client: IpAddr, rate: Rate) {
        self.with_set(client, |set, tag| {
            if let Some(bucket) = set.iter_mut().find(|b| b.tag == tag) {
                bucket.full = rate.before_one(bucket.full);
            }
        });
    }

    fn with_set<T>(&self, client: IpAddr, run: impl FnOnce(&mut Set, u64) -> T) -> T {
        let hash = self.hasher.hash_one(client);
        let (shard, set) = ((hash >> 58) as usize % SHARDS, (hash >> 40) as usize % SETS);
        let mut sets = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        // An empty place has no tag.
        run(&mut sets[set], hash | 1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn client(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn clients_have_buckets_of_their_own() {
        let (table, rate) = (ClientRates::default(), Rate::new(1, 2));
        for n in 0..1000 {
            assert_eq!([0; 3].map(|now| table.take(client(n), rate, now)), [true, true, false]);
        }
        assert!(table.take(client(7), rate, SECOND) && !table.take(client(7), rate, SECOND));
        table.give_back(client(7), rate);
        assert!(table.take(client(7), rate, SECOND));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_memory_and_keeps_no_newcomer_out() {
        let (table, rate) = (ClientRates::default(), Rate::new(1, 1));
        for n in 0..1_000_000 {
            assert!(table.take(client(n), rate, SECOND), "a client that never came before was refused");
        }
        let sets: usize = table.shards.iter().map(|s| s.lock().unwrap().len()).sum();
        assert_eq!(sets * size_of::<Set>(), 1 << 20);
    }

    #[test]
    fn a_client_that_is_held_to_its_rate_is_not_forgotten_for_a_flood_of_others() {
        let (table, rate) = (ClientRates::default(), Rate::new(10, 100));
        let greedy = client(0xc000_0201);
        while table.take(greedy, rate, SECOND) {}
        for n in 0..1_000_000 {
            table.take(client(n), rate, SECOND);
        }
        assert!(!table.take(greedy, rate, SECOND));
    }
}
