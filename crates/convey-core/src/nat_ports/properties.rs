//! Whatever happens to ports in whatever order, told by a simple model, and by many threads at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::conntrack::Ticks;

const FIRST: u16 = 40_000;

#[derive(Debug, Clone)]
enum Event {
    Take { random: u32 },
    Exact { port: u16, port_use: u8 },
    Release { port: u16 },
    Use { port: u16, port_use: u8 },
    Wait { ms: u32 },
    TakeOver { random: u32 },
}

fn event(ports: u16) -> impl Strategy<Value = Event> {
    let port = move || FIRST..FIRST + ports;
    prop_oneof![
        8 => any::<u32>().prop_map(|random| Event::Take { random }),
        1 => (port(), 1u8..6).prop_map(|(port, port_use)| Event::Exact { port, port_use }),
        5 => port().prop_map(|port| Event::Release { port }),
        5 => (port(), 1u8..6).prop_map(|(port, port_use)| Event::Use { port, port_use }),
        3 => (0u32..20_000).prop_map(|ms| Event::Wait { ms }),
        2 => any::<u32>().prop_map(|random| Event::TakeOver { random }),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Port {
    owner: u32,
    port_use: PortUse,
    /// Milliseconds of the clock.
    since: u64,
    was_used: bool,
}

/// The whole of it as one would write it down.
struct Model {
    ports: Vec<Port>,
    now: u64,
}

impl Model {
    fn set(&mut self, port: u16, owner: u32, port_use: PortUse) {
        self.ports[usize::from(port - FIRST)] = Port { owner, port_use, since: self.now, was_used: true };
    }

    fn get(&self, port: u16) -> Port {
        self.ports[usize::from(port - FIRST)]
    }

    /// Milliseconds; more than any for a port that was never used.
    fn rest(&self, port: Port) -> u64 {
        if port.was_used { self.now - port.since } else { u64::MAX }
    }

    fn free(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(|p| p.owner == 0)
    }

    fn rank(&self, port: &Port) -> Option<u8> {
        let idle = self.now - port.since;
        match port.port_use {
            PortUse::Closed => Some(5),
            PortUse::Unconfirmed if idle >= 1000 => Some(4),
            PortUse::Brief if idle >= 2000 => Some(3),
            PortUse::Stream if idle >= 30_000 => Some(3),
            PortUse::Unconfirmed => Some(2),
            _ => None,
        }
    }
}

/// What the clock's steps can hide: 16.8 ms twice, rounded.
const BLUR: u64 = 40;

fn run(ports: u16, events: Vec<Event>) -> Result<(), TestCaseError> {
    let partition = Partition { first: FIRST, last: FIRST + ports - 1, stride: 1, remainder: 0 };
    let pool = PortPool::new(partition);
    let free = Port { owner: 0, port_use: PortUse::Free, since: 0, was_used: false };
    let mut model = Model { ports: vec![free; usize::from(ports)], now: 1_000_000 };
    let ticks = |ms: u64| Ticks::from_nanos(ms * 1_000_000);
    let mut next_owner = 0;
    for event in events {
        next_owner += 1;
        let now = ticks(model.now);
        match event {
            Event::Wait { ms } => model.now += u64::from(ms),
            Event::Take { random } => match pool.take(next_owner, random, now, |_| true) {
                None => prop_assert_eq!(model.free().count(), 0),
                Some(Taken { port, .. }) => {
                    let (was, longest) = (model.get(port), model.free().map(|p| model.rest(*p)).max());
                    prop_assert_eq!(was.owner, 0);
                    if ports <= 24 {
                        let rest = model.rest(was).saturating_add(BLUR);
                        prop_assert!(rest >= 60_000 || Some(rest) >= longest, "{} of {:?}", rest, longest);
                    }
                    model.set(port, next_owner, PortUse::Unconfirmed);
                }
            },
            Event::Exact { port, port_use } => {
                let port_use = PortUse::from_number(port_use);
                let taken = pool.take_exact(port, next_owner, port_use, now);
                prop_assert_eq!(taken, model.get(port).owner == 0);
                if taken {
                    model.set(port, next_owner, port_use);
                }
            }
            Event::Release { port } => {
                let owner = model.get(port).owner;
                prop_assert!(!pool.release(port, owner + 1, now));
                prop_assert_eq!(pool.release(port, owner, now), owner != 0);
                if owner != 0 {
                    model.set(port, 0, PortUse::Free);
                }
            }
            Event::Use { port, port_use } => {
                let (was, port_use) = (model.get(port), PortUse::from_number(port_use));
                prop_assert_eq!(pool.used_for(port, was.owner, port_use, now), was.owner != 0);
                if was.owner != 0 && was.port_use != port_use {
                    model.set(port, was.owner, port_use);
                }
            }
            Event::TakeOver { random } => {
                // Each flow was used last when its port became what it is.
                let idle = |owner: u32| {
                    let port = model.ports.iter().find(|p| p.owner == owner)?;
                    Some(now.since(ticks(port.since)))
                };
                let found = pool.victim(random, now, idle);
                let best = model.ports.iter().filter(|p| p.owner != 0).filter_map(|p| model.rank(p)).max();
                match found {
                    None => {
                        let certain = model.ports.iter().filter(|p| p.owner != 0);
                        let certain =
                            certain.filter(|p| model.rank(p) >= Some(2) && model.now - p.since > 30_100);
                        prop_assert!(ports > 24 || certain.count() == 0);
                    }
                    Some(victim) => {
                        let was = model.get(victim.port);
                        prop_assert_eq!(was.owner, victim.owner);
                        prop_assert!(!matches!(was.port_use, PortUse::Free | PortUse::Connection));
                        if ports <= 24 && best == Some(5) {
                            prop_assert_eq!(was.port_use, PortUse::Closed);
                        }
                        prop_assert!(pool.take_over(&victim, next_owner, now));
                        model.set(victim.port, next_owner, PortUse::Unconfirmed);
                    }
                }
            }
        }
    }
    for (port, expected) in (FIRST..).zip(&model.ports) {
        prop_assert_eq!(pool.owner(port).unwrap_or(0), expected.owner);
    }
    prop_assert_eq!(pool.held(), model.ports.iter().filter(|p| p.owner != 0).count());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_few_ports_are_what_the_model_says_and_come_in_its_order(
        events in prop::collection::vec(event(20), 1..400),
    ) {
        run(20, events)?;
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_ports_are_what_the_model_says(events in prop::collection::vec(event(150), 1..600)) {
        run(150, events)?;
    }
}

#[test]
fn no_two_threads_ever_have_the_same_port_and_none_is_lost_between_them() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 500_000;
    // Few enough ports for the threads to meet, and more than all of them hold at once.
    let pool = PortPool::new(Partition { first: FIRST, last: FIRST + 79, stride: 1, remainder: 0 });
    let owners: Vec<AtomicU32> = (0..80).map(|_| AtomicU32::new(0)).collect();
    let (refused, clock) = (AtomicU64::new(0), AtomicU32::new(1));
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (pool, owners, refused, clock) = (&pool, &owners, &refused, &clock);
            scope.spawn(move || {
                let mut state = u64::from(thread) << 32 | 0x1234_5678_9abc_def1;
                let mut held: Vec<u16> = Vec::new();
                for _ in 0..ROUNDS {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let now = Ticks(clock.fetch_add(1, Relaxed) & 0xff_ffff);
                    if held.len() < 20 && state & 1 == 0 {
                        let Some(taken) = pool.take(thread, (state >> 32) as u32, now, |_| true) else {
                            refused.fetch_add(1, Relaxed);
                            continue;
                        };
                        let before = owners[usize::from(taken.port - FIRST)].swap(thread, Relaxed);
                        assert_eq!(before, 0, "port {} is another thread's", taken.port);
                        held.push(taken.port);
                    } else if !held.is_empty() {
                        let port = held.swap_remove((state >> 8) as usize % held.len());
                        let port_use = PortUse::from_number(1 + (state >> 4) as u8 % 5);
                        assert!(pool.used_for(port, thread, port_use, now));
                        assert_eq!(owners[usize::from(port - FIRST)].swap(0, Relaxed), thread);
                        assert!(pool.release(port, thread, now));
                    }
                }
                for port in held {
                    assert_eq!(owners[usize::from(port - FIRST)].swap(0, Relaxed), thread);
                    assert!(pool.release(port, thread, now_of(clock)));
                }
            });
        }
    });
    assert_eq!((pool.held(), refused.into_inner()), (0, 0));
    let now = now_of(&clock);
    let all = (0..80).filter_map(|n| pool.take(1, n << 20, now, |_| true)).count();
    assert_eq!((all, pool.take(1, 0, now, |_| true)), (80, None));
}

#[test]
fn threads_that_want_more_ports_than_there_are_get_them_all_and_no_release_goes_unseen() {
    // One port for two threads: after a release somebody must get it, each time.
    let pool = PortPool::new(Partition { first: FIRST, last: FIRST, stride: 1, remainder: 0 });
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 1..=3 {
            let (pool, taken) = (&pool, &taken);
            scope.spawn(move || {
                while taken.load(Relaxed) < 600_000 {
                    if pool.take(thread, 0, Ticks(5), |_| true).is_some() {
                        taken.fetch_add(1, Relaxed);
                        assert_eq!(pool.owner(FIRST), Some(thread));
                        assert!(pool.release(FIRST, thread, Ticks(5)));
                    } else {
                        thread::yield_now();
                    }
                }
            });
        }
    });
    assert!(pool.take(9, 0, Ticks(5), |_| true).is_some());
}

fn now_of(clock: &AtomicU32) -> Ticks {
    Ticks(clock.load(Relaxed).wrapping_add(Ticks::span(Duration::from_secs(1))) & 0xff_ffff)
}
