//! What is known about neighbours and how it is kept fresh. Pure: the time is an argument, requests are returned.
//!
//! The kernel does not see the packets forwarded here, so it would let the entries of servers and gateways grow
//! stale and would not notice a server that changed its address. Those are therefore *kept*: asked in turn,
//! by unicast, and looked for anew when they do not answer, while packets still go to the last address known.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use convey_engine::MacAddr;

use crate::kernel_tables::Neighbour;
use crate::netlink::NeighbourRequest::{self, Forget, Probe, Use};

/// A neighbour on an interface.
pub type Key = (u32, IpAddr);

/// How often a kept neighbour is asked: with the time for an answer, a new MAC address is found within a second.
const MIN_INTERVAL: Duration = Duration::from_millis(300);

/// Time for asking one neighbour when there are many: at most 200 are asked a second.
const SHARE: Duration = Duration::from_millis(5);

/// How often one missing neighbour is asked for.
const RETRY: Duration = Duration::from_millis(250);

/// After this time without news a neighbour that is not kept is asked whether it is still there, if packets are
/// sent to it: nobody else does, for the kernel does not see them.
const AGE: Duration = Duration::from_secs(5);

/// How long it may take to answer by unicast before it is looked for anew.
const PATIENCE: Duration = Duration::from_secs(1);

/// Neighbours that are not kept asked at once at most; the others' turn comes next.
const MAX_AGED: usize = 100;

/// How often a kept neighbour is looked for without an answer before it counts as silent.
const SEARCHES: u32 = 3;

/// Silence of a kept neighbour that is worth a word.
const LONG: Duration = Duration::from_secs(3);

/// Entries remembered that are not kept; clients on the link.
const MAX_OTHERS: usize = 65_536;

#[derive(Debug)]
struct Kept {
    since: Instant,
    due: Instant,
    asked: bool,
    /// How often everybody was asked for it since it was last heard from.
    searches: u32,
    is_silent: bool,
}

impl Kept {
    fn new(now: Instant) -> Self {
        Self { since: now, due: now, asked: false, searches: 0, is_silent: false }
    }
}

#[derive(Debug)]
struct Known {
    mac: MacAddr,
    /// When it is to be asked, unless it is kept.
    due: Instant,
    /// Whether it was asked by unicast and has not answered yet.
    asked: bool,
    /// Whether the kernel no longer has it.
    is_forgotten: bool,
}

/// Neighbours by interface and address.
#[derive(Debug, Default)]
pub struct Neighbours {
    macs: HashMap<Key, Known>,
    kept: HashMap<Key, Kept>,
    missing: HashMap<Key, Instant>,
    fixed: HashMap<Key, ()>,
    silence_changed: bool,
}

impl Neighbours {
    /// The usable ones.
    pub fn usable(&self) -> impl Iterator<Item = (Key, MacAddr)> + '_ {
        self.macs.iter().map(|(key, known)| (*key, known.mac))
    }

    /// Whether every kept neighbour has a link-layer address.
    pub fn all_known(&self) -> bool {
        self.kept.keys().all(|key| self.macs.contains_key(key))
    }

    /// Those kept for a while already of which no address was ever learnt.
    pub fn unanswered(&self, now: Instant) -> impl Iterator<Item = Key> + '_ {
        let is_unanswered =
            move |(key, kept): &(&Key, &Kept)| now >= kept.since + LONG && !self.macs.contains_key(*key);
        self.kept.iter().filter(is_unanswered).map(|(key, _)| *key)
    }

    /// Kept ones that were looked for several times and do not answer. The kernel never calls them failed: it is asked
    /// anew before it would give up.
    pub fn silent(&self) -> impl Iterator<Item = Key> + '_ {
        self.kept.iter().filter(|(_, kept)| kept.is_silent).map(|(key, _)| *key)
    }

    /// Whether [`Neighbours::silent`] has changed since this was last called.
    pub fn take_silence_changed(&mut self) -> bool {
        std::mem::take(&mut self.silence_changed)
    }

    /// Keeps these neighbours fresh from now on, and only these.
    pub fn keep(&mut self, wanted: impl IntoIterator<Item = Key>, now: Instant) {
        let mut before = std::mem::take(&mut self.kept);
        for key in wanted {
            let kept = before.remove(&key).unwrap_or(Kept::new(now));
            self.kept.insert(key, kept);
        }
    }

    /// Asks all kept neighbours at the next [`Neighbours::tick`]; for a link that came up.
    pub fn ask_all(&mut self, now: Instant) {
        for kept in self.kept.values_mut() {
            kept.due = now;
        }
    }

    /// Takes in what the kernel says; `present` is false when it forgot the entry. Tells whether an address changed.
    pub fn learn(&mut self, present: bool, neighbour: &Neighbour, now: Instant) -> bool {
        let key = (neighbour.ifindex, neighbour.address);
        if present && neighbour.fixed {
            self.fixed.insert(key, ());
        } else {
            self.fixed.remove(&key);
        }
        let interval = self.interval();
        if let Some(kept) = self.kept.get_mut(&key)
            && present
            && neighbour.confirmed
        {
            self.silence_changed |= kept.is_silent;
            *kept = Kept { since: kept.since, due: now + interval, ..Kept::new(now) };
        }
        match neighbour.mac {
            Some(mac) if present => {
                self.missing.remove(&key);
                if self.macs.len() >= MAX_OTHERS + self.kept.len() && !self.macs.contains_key(&key) {
                    // Forgetting all clients costs each a question; a bounded table matters more.
                    self.macs.retain(|key, _| self.kept.contains_key(key));
                }
                let former = self.macs.get(&key);
                let is_same = former.is_some_and(|known| known.mac == mac);
                let (due, asked) = match former.filter(|_| is_same && !neighbour.confirmed) {
                    Some(known) => (known.due, known.asked),
                    None => (now + AGE, false),
                };
                self.macs.insert(key, Known { mac, due, asked, is_forgotten: false });
                !is_same
            }
            // The kernel forgets what it does not use itself; that a neighbour failed is news all the same.
            _ if neighbour.failed && !self.kept.contains_key(&key) => self.macs.remove(&key).is_some(),
            _ => {
                if let Some(known) = self.macs.get_mut(&key) {
                    known.is_forgotten |= !present;
                }
                false
            }
        }
    }

    /// The requests about neighbours that are not kept, of those that packets were sent to lately. One that moved is
    /// found again within a few seconds; packets go to the last address known until it is known to have failed.
    pub fn age(&mut self, used: impl Iterator<Item = Key>, now: Instant) -> Vec<(NeighbourRequest, Key)> {
        let mut requests = Vec::new();
        for key in used {
            if requests.len() >= MAX_AGED {
                break;
            }
            if self.kept.contains_key(&key) || self.fixed.contains_key(&key) {
                continue;
            }
            let Some(known) = self.macs.get_mut(&key).filter(|known| now >= known.due) else { continue };
            match (known.is_forgotten, known.asked) {
                (true, _) => requests.push((Use, key)),
                (false, false) => requests.push((Probe, key)),
                (false, true) => requests.extend([(Forget, key), (Use, key)]),
            }
            known.asked = !known.is_forgotten && !known.asked;
            known.due = now + if known.asked { PATIENCE } else { AGE };
        }
        requests
    }

    /// Forgets everything on interfaces that are gone. Tells whether there was something.
    pub fn retain_interfaces(&mut self, is_up: impl Fn(u32) -> bool) -> bool {
        let before = self.macs.len();
        self.macs.retain(|(ifindex, _), _| is_up(*ifindex));
        self.macs.len() != before
    }

    /// A packet found no neighbour: the request to make, unless one was made just now.
    pub fn resolve(&mut self, key: Key, now: Instant) -> Option<NeighbourRequest> {
        if self.macs.contains_key(&key) || self.missing.get(&key).is_some_and(|at| now < *at + RETRY) {
            return None;
        }
        if self.missing.len() >= MAX_OTHERS {
            self.missing.retain(|_, at| now < *at + RETRY);
        }
        if self.missing.len() < MAX_OTHERS {
            self.missing.insert(key, now);
        }
        Some(Use)
    }

    /// The requests that are due, and when to come again.
    pub fn tick(&mut self, now: Instant) -> (Vec<(NeighbourRequest, Key)>, Duration) {
        let interval = self.interval();
        let mut requests = Vec::new();
        let mut next = interval;
        for (key, kept) in &mut self.kept {
            if self.fixed.contains_key(key) {
                continue;
            }
            if now >= kept.due {
                if kept.searches >= SEARCHES && !kept.is_silent {
                    kept.is_silent = true;
                    self.silence_changed = true;
                }
                match (self.macs.contains_key(key), kept.asked) {
                    (true, false) => {
                        requests.push((Probe, *key));
                        kept.asked = true;
                    }
                    // No answer from the address known: ask everybody.
                    (true, true) => {
                        requests.extend([(Forget, *key), (Use, *key)]);
                        kept.asked = false;
                        kept.searches = kept.searches.saturating_add(1);
                    }
                    (false, _) => requests.push((Use, *key)),
                }
                kept.due = now + interval;
            }
            next = next.min(kept.due - now);
        }
        (requests, next.max(Duration::from_millis(1)))
    }

    fn interval(&self) -> Duration {
        MIN_INTERVAL.max(SHARE * u32::try_from(self.kept.len()).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (2, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)));

    fn said(mac: Option<u8>, confirmed: bool) -> Neighbour {
        Neighbour {
            ifindex: KEY.0,
            address: KEY.1,
            mac: mac.map(|m| [m; 6]),
            confirmed,
            fixed: false,
            failed: mac.is_none(),
        }
    }

    fn requests(neighbours: &mut Neighbours, now: Instant) -> Vec<NeighbourRequest> {
        neighbours.tick(now).0.into_iter().map(|(request, _)| request).collect()
    }

    #[test]
    fn a_kept_neighbour_is_resolved_then_asked_in_turn_for_as_long_as_it_answers() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.keep([KEY], start);
        assert_eq!(requests(&mut n, start), [Use]);
        assert!(n.learn(true, &said(Some(1), true), start));
        assert_eq!(requests(&mut n, start), []);
        for round in 1..5 {
            let now = start + MIN_INTERVAL * round;
            assert_eq!(requests(&mut n, now), [Probe]);
            assert!(!n.learn(true, &said(Some(1), true), now), "the same address is no news");
        }
    }

    #[test]
    fn a_kept_neighbour_that_is_silent_is_looked_for_within_a_second_and_its_last_address_used_meanwhile() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.keep([KEY], start);
        n.learn(true, &said(Some(1), true), start);
        let mut asked = Vec::new();
        let mut now = start;
        while !asked.contains(&Forget) {
            let (due, wait) = n.tick(now);
            asked.extend(due.into_iter().map(|(request, _)| request));
            now += wait;
        }
        assert_eq!(asked, [Probe, Forget, Use]);
        assert!(now - start < Duration::from_secs(1));
        assert!(!n.learn(false, &said(None, false), now), "still sent to the last address");
        assert_eq!(n.usable().next(), Some((KEY, [1; 6])));
        assert!(n.learn(true, &said(Some(2), true), now), "a new address is news");
    }

    #[test]
    fn a_kept_neighbour_that_never_answers_again_is_silent_within_three_seconds_until_it_is_heard_from() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.keep([KEY], start);
        n.learn(true, &said(Some(1), true), start);
        let mut now = start;
        while !n.take_silence_changed() {
            let (_, wait) = n.tick(now);
            // What the kernel says of an entry that is forgotten on request.
            n.learn(true, &said(None, false), now);
            n.learn(false, &said(None, false), now);
            now += wait;
            assert!(now - start < LONG);
        }
        assert!(now - start > Duration::from_secs(1), "not for a moment's silence");
        assert_eq!(n.silent().collect::<Vec<_>>(), [KEY]);
        assert_eq!(n.usable().next(), Some((KEY, [1; 6])), "still sent to the last address");
        n.learn(true, &said(Some(1), false), now);
        assert_eq!(n.silent().count(), 1, "being asked is no answer");
        n.learn(true, &said(Some(1), true), now);
        assert!(n.take_silence_changed());
        assert_eq!(n.silent().count(), 0);
    }

    #[test]
    fn a_kept_neighbour_that_is_asked_anew_and_answers_late_is_never_silent() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.keep([KEY], start);
        n.learn(true, &said(Some(1), true), start);
        for round in 1..40u32 {
            let now = start + MIN_INTERVAL * round;
            n.tick(now);
            if round % 4 == 0 {
                n.learn(true, &said(Some(1), true), now);
            }
        }
        assert!(!n.take_silence_changed());
    }

    #[test]
    fn a_client_that_the_kernel_forgot_is_remembered_and_one_that_failed_is_not() {
        let (mut n, now) = (Neighbours::default(), Instant::now());
        n.learn(true, &said(Some(1), true), now);
        assert!(!n.learn(false, &Neighbour { mac: Some([1; 6]), failed: false, ..said(None, false) }, now));
        assert_eq!(n.usable().count(), 1);
        assert!(n.learn(true, &said(None, false), now));
        assert_eq!(n.usable().count(), 0);
    }

    #[test]
    fn a_client_that_packets_go_to_is_asked_after_a_while_and_looked_for_when_it_is_silent() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.learn(true, &said(Some(1), true), start);
        let age = |n: &mut Neighbours, at| -> Vec<_> {
            n.age([KEY].into_iter(), at).into_iter().map(|r| r.0).collect()
        };
        assert_eq!(age(&mut n, start + AGE / 2), []);
        assert_eq!(age(&mut n, start + AGE), [Probe]);
        n.learn(true, &said(Some(1), true), start + AGE);
        assert_eq!(age(&mut n, start + AGE + PATIENCE), [], "it has answered");
        assert_eq!(age(&mut n, start + AGE * 2), [Probe]);
        assert!(!n.learn(true, &said(Some(1), false), start + AGE * 2), "being asked is no answer");
        assert_eq!(age(&mut n, start + AGE * 2 + PATIENCE), [Forget, Use]);
        assert!(n.learn(true, &said(Some(2), true), start + AGE * 2 + PATIENCE), "it moved");
        assert_eq!(n.age([].into_iter(), start + AGE * 9), [], "nobody sends to it");
    }

    #[test]
    fn a_client_that_the_kernel_forgot_is_looked_for_when_packets_go_to_it() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.learn(true, &said(Some(1), true), start);
        n.learn(false, &Neighbour { mac: Some([1; 6]), failed: false, ..said(None, false) }, start);
        assert_eq!(n.age([KEY].into_iter(), start + AGE), [(Use, KEY)]);
        assert_eq!(n.usable().next(), Some((KEY, [1; 6])), "until it is known to have moved");
        assert!(n.learn(true, &said(Some(2), true), start + AGE));
    }

    #[test]
    fn of_very_many_clients_some_are_asked_at_a_time() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        let key = |i: u32| (KEY.0, IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i)));
        for i in 0..1000 {
            n.learn(true, &Neighbour { address: key(i).1, ..said(Some(1), true) }, start);
        }
        let asked = n.age((0..1000).map(key), start + AGE);
        assert_eq!(asked.len(), MAX_AGED);
        let next = n.age((0..1000).map(key), start + AGE + Duration::from_millis(1));
        assert!(next.iter().all(|request| !asked.contains(request)), "the others' turn comes next");
    }

    #[test]
    fn a_missing_neighbour_is_asked_for_a_few_times_a_second_however_many_packets_miss_it() {
        let (mut n, now) = (Neighbours::default(), Instant::now());
        assert_eq!(n.resolve(KEY, now), Some(Use));
        assert_eq!(n.resolve(KEY, now + RETRY / 2), None);
        assert_eq!(n.resolve(KEY, now + RETRY), Some(Use));
        n.learn(true, &said(Some(1), true), now);
        assert_eq!(n.resolve(KEY, now + RETRY * 3), None);
    }

    #[test]
    fn a_kept_neighbour_that_never_answered_is_told_of_after_a_while() {
        let (mut n, start) = (Neighbours::default(), Instant::now());
        n.keep([KEY], start);
        assert_eq!(n.unanswered(start + LONG / 2).count(), 0);
        n.keep([KEY], start + LONG / 2);
        assert_eq!(n.unanswered(start + LONG).collect::<Vec<_>>(), [KEY]);
        n.learn(true, &said(Some(1), true), start + LONG);
        assert_eq!(n.unanswered(start + LONG * 2).count(), 0);
    }

    #[test]
    fn an_entry_set_by_hand_is_never_asked_for() {
        let (mut n, now) = (Neighbours::default(), Instant::now());
        n.keep([KEY], now);
        n.learn(true, &Neighbour { fixed: true, ..said(Some(1), true) }, now);
        assert_eq!(requests(&mut n, now + MIN_INTERVAL * 10), []);
    }

    #[test]
    fn clients_without_number_do_not_grow_the_table_without_bound() {
        let (mut n, now) = (Neighbours::default(), Instant::now());
        for i in 0..MAX_OTHERS as u32 + 100 {
            let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i));
            n.learn(true, &Neighbour { address, ..said(Some(1), true) }, now);
        }
        assert!(n.usable().count() <= MAX_OTHERS);
    }
}
