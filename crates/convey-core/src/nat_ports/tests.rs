use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::conntrack::Ticks;

fn partition(first: u16, last: u16, stride: u16, remainder: u16) -> Partition {
    Partition { first, last, stride, remainder }
}

/// A random number, another each time.
fn random() -> u32 {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let n = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    crate::selection::flow_hash(7, [n]) as u32
}

fn seconds(seconds: u64) -> Ticks {
    Ticks::from_nanos(seconds * 1_000_000_000)
}

const NOW: u64 = 1000;

fn take(pool: &PortPool, owner: u32) -> Option<u16> {
    pool.take(owner, random(), seconds(NOW), |_| true).map(|t| t.port)
}

#[test]
fn workers_own_every_port_of_the_range_exactly_once() {
    for workers in [1, 2, 3, 7] {
        let mut seen = HashSet::new();
        for worker in 0..workers {
            let pool = PortPool::new(partition(33768, 61000, workers, worker));
            while let Some(port) = take(&pool, 1) {
                assert!((33768..=61000).contains(&port) && port % workers == worker);
                assert!(seen.insert(port));
            }
        }
        assert_eq!(seen.len(), 61000 - 33768 + 1);
    }
}

#[test]
fn no_port_is_handed_out_twice_and_none_is_refused_while_one_is_free() {
    for ports in [1, 10, 31, 32, 33, 64, 1000] {
        let pool = PortPool::new(partition(100, 99 + ports, 1, 0));
        let held: HashSet<u16> = (1..=u32::from(ports)).filter_map(|owner| take(&pool, owner)).collect();
        assert_eq!((held.len(), pool.held()), (usize::from(ports), usize::from(ports)));
        assert_eq!(take(&pool, 9999), None);
        let freed = 100 + ports / 2;
        for _ in 0..50 {
            let owner = pool.owner(freed).unwrap();
            assert!(pool.release(freed, owner, seconds(NOW)));
            assert_eq!(take(&pool, 9999), Some(freed));
            assert_eq!(take(&pool, 9999), None);
        }
    }
}

#[test]
fn the_port_free_longest_comes_first() {
    let pool = PortPool::new(partition(100, 103, 1, 0));
    let ports: Vec<u16> = (1..=4).filter_map(|h| take(&pool, h)).collect();
    for (after, which) in [2, 0, 3].into_iter().enumerate() {
        pool.release(ports[which], 1 + which as u32, seconds(NOW + after as u64));
    }
    let next = |pool: &PortPool| pool.take(9, random(), seconds(NOW + 4), |_| true).unwrap().port;
    assert_eq!((next(&pool), next(&pool), next(&pool)), (ports[2], ports[0], ports[3]));
}

#[test]
fn of_ports_freed_in_the_same_moment_the_last_one_is_not_the_next_to_be_taken() {
    let pool = PortPool::new(partition(100, 109, 1, 0));
    let mut last = take(&pool, 1).unwrap();
    for _ in 0..10_000 {
        pool.release(last, 1, seconds(NOW));
        let next = take(&pool, 1).unwrap();
        assert_ne!(next, last);
        last = next;
    }
}

#[test]
fn a_port_just_freed_rests_a_minute_while_any_other_will_do() {
    let pool = PortPool::new(partition(33768, 61000, 1, 0));
    let mut freed_at = vec![None; 1 << 16];
    // As many a second as leave each of the 27,233 ports 90 seconds on average.
    for n in 0..200_000u64 {
        let now = Ticks::from_nanos(n * 90_000_000_000 / 27_233);
        let port = pool.take(1, random(), now, |_| true).unwrap().port;
        if let Some(at) = freed_at[usize::from(port)].replace(now) {
            let rest: u32 = now.since(at);
            assert!(rest >= Ticks::span(Duration::from_secs(30)), "{rest} ticks");
        }
        pool.release(port, 1, now);
    }
}

#[test]
fn few_places_are_looked_at_where_ports_have_rested_and_enough_to_find_the_last_one() {
    let pool = PortPool::new(partition(1, 32_000, 1, 0));
    let taken: Vec<Taken> =
        (1..=32_000).map(|o| pool.take(o, random(), seconds(NOW), |_| true).unwrap()).collect();
    assert!(taken[..8_000].iter().all(|t| t.looks <= 2));
    assert!(taken[..31_000].iter().all(|t| t.looks <= 500));
    assert!(taken.iter().all(|t| t.looks <= 1001));
}

#[test]
fn ports_that_cannot_be_used_are_passed_over() {
    let pool = PortPool::new(partition(100, 139, 1, 0));
    let even = |port: u16| port.is_multiple_of(2);
    let held: HashSet<u16> =
        (0..20).filter_map(|_| pool.take(1, random(), seconds(NOW), even)).map(|t| t.port).collect();
    assert!(held.len() == 20 && held.iter().all(|p| even(*p)));
    assert_eq!(pool.take(1, random(), seconds(NOW), even), None);
    // The others are not forgotten over it.
    assert!(take(&pool, 1).is_some_and(|port| !even(port)));
}

/// Idle for as many seconds as the owner's number says; 1000 and above: expired.
fn idle(owner: u32) -> Option<u32> {
    (owner < 1000).then_some(Ticks::span(Duration::from_secs(u64::from(owner))))
}

/// A full pool whose ports are held by `owners` for these uses, one after the other.
fn full(owners: &[(u32, PortUse)]) -> PortPool {
    let pool = PortPool::new(partition(100, 99 + owners.len() as u16, 1, 0));
    for (after, &(owner, port_use)) in owners.iter().enumerate() {
        assert!(pool.take_exact(100 + after as u16, owner, port_use, seconds(after as u64)));
    }
    pool
}

fn victim_of(pool: &PortPool) -> Option<u32> {
    pool.victim(random(), seconds(NOW), idle).map(|v| v.owner)
}

#[test]
fn the_flow_that_gives_way_is_closed_or_unconfirmed_or_an_idle_conversation_in_this_order() {
    use PortUse::{Brief, Closed, Connection, Stream, Unconfirmed};
    let victim = |owners: &[(u32, PortUse)]| victim_of(&full(owners));
    let all = [(900, Connection), (7, Closed), (5, Unconfirmed), (40, Stream), (20, Brief), (0, Unconfirmed)]
        .map(|(owner, port_use)| if owner == 0 { (999, port_use) } else { (owner, port_use) });
    let fresh = |owner: u32| if owner == 999 { Some(0) } else { idle(owner) };
    let victim_fresh =
        |owners: &[(u32, PortUse)]| full(owners).victim(random(), seconds(NOW), fresh).map(|v| v.owner);
    assert_eq!(victim_fresh(&all), Some(7));
    assert_eq!(victim_fresh(&[all[0], all[2], all[3], all[4]]), Some(5));
    assert_eq!(victim_fresh(&[all[0], all[3], all[4], all[5]]), Some(40));
    assert_eq!(victim_fresh(&[all[0], (29, Stream), all[4], all[5]]), Some(20));
    assert_eq!(victim_fresh(&[all[0], (29, Stream), (1, Brief), all[5]]), Some(999));
    assert_eq!(victim(&[all[0], (29, Stream), (1, Brief)]), None);
    assert_eq!(victim(&[all[0], (29, Stream), (1000, Connection)]), Some(1000));
}

#[test]
fn of_two_flows_of_one_use_the_one_used_longest_ago_gives_way() {
    let pool = full(&[(50, PortUse::Stream), (40, PortUse::Stream), (60, PortUse::Stream)]);
    let order = [60, 50, 40].map(|expected| {
        let victim = pool.victim(random(), seconds(NOW), idle).unwrap();
        assert!(pool.take_over(&victim, expected + 500, seconds(NOW)));
        pool.used_for(victim.port, expected + 500, PortUse::Connection, seconds(NOW));
        victim.owner
    });
    assert_eq!(order, [60, 50, 40]);
}

#[test]
fn flows_are_looked_up_only_where_they_may_be_the_one_that_gives_way() {
    let owners: Vec<_> = (0..24).map(|n| (2 + n, PortUse::Unconfirmed)).collect();
    let pool = full(&owners);
    let asked = Cell::new(0);
    let least = (0..100).map(|_| {
        asked.set(0);
        // Each was used last when it was taken, as in a flood.
        let victim = pool.victim(random(), seconds(NOW), |owner| {
            asked.set(asked.get() + 1);
            Some(Ticks::span(Duration::from_secs(NOW + 2 - u64::from(owner))))
        });
        assert_eq!(victim.unwrap().owner, 2);
        asked.get()
    });
    assert!(least.sum::<u32>() < 100 * 8);
}

#[test]
fn the_one_idle_conversation_is_found_among_many_busy_ones_before_long() {
    let pool = PortPool::new(partition(1, 400, 1, 0));
    for port in 1..=400u16 {
        pool.take_exact(port, u32::from(port), PortUse::Stream, seconds(1));
    }
    let idle = |owner| Some(Ticks::span(Duration::from_secs(if owner == 77 { 31 } else { 3 })));
    let tries = (0..100).position(|_| pool.victim(random(), seconds(NOW), idle).is_some());
    assert!(tries.is_some_and(|tries| tries < 40), "{tries:?}");
}

#[test]
fn a_closed_flow_keeps_its_turn_when_it_closes_again_and_loses_it_when_it_was_open_after_all() {
    let pool = full(&[(1, PortUse::Closed), (2, PortUse::Closed)]);
    pool.used_for(100, 1, PortUse::Closed, seconds(NOW));
    assert_eq!(victim_of(&pool), Some(1));
    pool.used_for(100, 1, PortUse::Connection, seconds(NOW));
    assert_eq!(victim_of(&pool), Some(2));
}

#[test]
fn a_closed_flow_is_found_among_any_number_of_connections() {
    let pool = PortPool::new(partition(1, 20_000, 1, 0));
    for port in 1..=20_000u16 {
        pool.take_exact(port, u32::from(port), PortUse::Connection, seconds(1));
    }
    pool.used_for(777, 777, PortUse::Closed, seconds(2));
    let victim = pool.victim(random(), seconds(NOW), |_| Some(0)).unwrap();
    assert_eq!((victim.port, victim.owner), (777, 777));
}

#[test]
fn a_search_for_flows_whose_time_is_over_is_bounded_and_gets_round() {
    let mut owners = vec![(900, PortUse::Connection); 200];
    owners.push((1000, PortUse::Connection));
    let pool = full(&owners);
    let asked = Cell::new(0);
    let counted = |owner| {
        asked.set(asked.get() + 1);
        idle(owner)
    };
    let tries = (0..20).position(|_| pool.victim(random(), seconds(NOW), counted).is_some()).unwrap();
    assert!(asked.get() <= (tries + 1) * 24);
}

#[test]
fn a_port_comes_back_once_and_from_nobody_but_its_owner() {
    let pool = PortPool::new(partition(100, 102, 1, 0));
    let port = take(&pool, 6).unwrap();
    pool.used_for(port, 6, PortUse::Closed, seconds(NOW));
    assert_eq!((pool.owner(port), victim_of(&pool)), (Some(6), Some(6)));
    assert!(!pool.release(port, 5, seconds(NOW)) && pool.release(port, 6, seconds(NOW)));
    assert_eq!((pool.owner(port), victim_of(&pool), pool.held()), (None, None, 0));
    assert!(!pool.release(port, 6, seconds(NOW)) && !pool.release(port, 0, seconds(NOW)));
    assert!(!pool.used_for(port, 6, PortUse::Stream, seconds(NOW)));
    assert_eq!((pool.held(), pool.owner(port)), (0, None));
}

#[test]
fn a_port_whose_flow_is_not_found_is_anybodys_but_not_while_it_may_still_come() {
    let pool = PortPool::new(partition(100, 100, 1, 0));
    assert!(pool.take_exact(100, 5, PortUse::Unconfirmed, seconds(NOW)));
    let none = |_| None;
    assert_eq!(pool.victim(random(), seconds(NOW + 1), none), None);
    let victim = pool.victim(random(), seconds(NOW + 3), none).unwrap();
    assert!(pool.take_over(&victim, 8, seconds(NOW + 3)));
    assert_eq!((pool.owner(100), pool.held()), (Some(8), 1));
}

#[test]
fn the_port_of_a_victim_is_taken_over_unless_another_was_faster() {
    let pool = full(&[(7, PortUse::Closed)]);
    let victim = pool.victim(random(), seconds(NOW), idle).unwrap();
    pool.release(100, 7, seconds(NOW));
    assert_eq!(take(&pool, 8), Some(100));
    assert!(!pool.take_over(&victim, 9, seconds(NOW)));
    assert_eq!(pool.owner(100), Some(8));
}

#[test]
fn a_port_taken_exactly_is_held_by_nobody_else_and_none_is_lost_by_it() {
    let pool = PortPool::new(partition(100, 109, 2, 1));
    let exact = |port, owner, port_use| pool.take_exact(port, owner, port_use, seconds(NOW));
    assert!(exact(105, 7, PortUse::Connection));
    assert!(!exact(105, 8, PortUse::Connection) && !exact(103, 8, PortUse::Free));
    assert_eq!([104, 99, 111].map(|p| exact(p, 8, PortUse::Stream)), [false; 3]);
    assert_eq!((pool.owner(105), pool.held()), (Some(7), 1));
    let rest: HashSet<u16> = (0..9).filter_map(|_| take(&pool, 9)).collect();
    assert_eq!(rest, HashSet::from([101, 103, 107, 109]));
    pool.release(105, 7, seconds(NOW));
    assert_eq!(take(&pool, 9), Some(105));
}

#[test]
fn ports_outside_of_the_partition_are_nobodys() {
    let pool = PortPool::new(partition(100, 110, 2, 1));
    assert_eq!([99, 100, 111, 0, u16::MAX].map(|p| pool.owner(p)), [None; 5]);
    for none in [partition(10, 9, 1, 0), partition(65535, 65535, 2, 0)] {
        let pool = PortPool::new(none);
        assert_eq!((take(&pool, 1), pool.victim(random(), seconds(NOW), idle), pool.held()), (None, None, 0));
    }
}

#[test]
fn ports_are_as_they_lie_in_memory_that_was_there_before_and_none_where_it_is_too_short() {
    let parts = partition(100, 199, 1, 0);
    let words = PortPool::words(parts);
    let mapping: std::sync::Arc<dyn std::any::Any + Send + Sync> = std::sync::Arc::new(());
    let memory: &'static [AtomicU64] = Box::leak((0..words).map(|_| AtomicU64::new(0)).collect());
    let copy = |len: usize| {
        let copied: Box<[AtomicU64]> =
            memory[..len].iter().map(|w| AtomicU64::new(w.load(Relaxed))).collect();
        crate::conntrack::Memory::mapped(Box::leak(copied), mapping.clone())
    };
    let pool = PortPool::in_memory(parts, copy(words));
    assert_eq!(take(&pool, 5).and_then(|port| pool.owner(port)), Some(5));
    let short = PortPool::in_memory(parts, copy(words - 1));
    assert_eq!((take(&short, 5), short.owner(150)), (None, None));
}

#[test]
fn a_port_costs_eight_bytes_and_two_bits() {
    assert_eq!(PortPool::new(partition(1, 3200, 1, 0)).memory_bytes(), 3200 * 8 + 100 * 8 + 24);
}

#[test]
fn one_number_tells_pool_and_port_and_no_two_ports_have_the_same() {
    for parts in [partition(33768, 61000, 1, 0), partition(100, 109, 2, 1), partition(1, 65535, 3, 2)] {
        let mut last = None;
        for (pool, port) in (0..3).flat_map(|pool| (0..=u16::MAX).map(move |port| (pool, port))) {
            let Some(index) = parts.index(pool, port) else { continue };
            assert_eq!(parts.pool_and_port(index), Some((pool, port)));
            assert!(Some(index) > last);
            last = Some(index);
        }
        let words = PortPool::words(parts);
        assert_eq!(last, Some((2 * words + parts.len() - 1) as u32));
        assert_eq!(parts.pool_and_port((words - 1) as u32), None);
        assert_eq!(parts.index(u32::MAX, parts.port(0)), None);
    }
}

#[test]
fn a_reserved_port_is_handed_out_and_taken_over_by_nobody_until_it_is_unreserved() {
    let pool = PortPool::new(Partition { first: 100, last: 103, stride: 1, remainder: 0 });
    assert!(pool.reserve(101, seconds(NOW)) && pool.reserve(101, seconds(NOW)), "twice is once");
    assert!(!pool.reserve(99, seconds(NOW)), "another's");
    for owner in 1..=3 {
        assert_ne!(pool.take(owner, 0, seconds(NOW), |_| true).unwrap().port, 101);
    }
    assert_eq!(pool.take(4, 0, seconds(NOW), |_| true), None);
    assert_eq!((pool.held(), pool.owner(101)), (3, None));
    assert!(!pool.reserve(102, seconds(NOW)), "somebody holds it");
    // Flows of which none is left.
    let victims: Vec<u16> = (0..20)
        .filter_map(|random| pool.victim(random << 28, seconds(NOW + 100), |_| None))
        .map(|victim| victim.port)
        .collect();
    assert!(!victims.is_empty() && !victims.contains(&101), "{victims:?}");
    assert!(
        !pool.release(101, 7, seconds(NOW)) && !pool.take_exact(101, 7, PortUse::Connection, seconds(NOW))
    );
    pool.unreserve(101, seconds(NOW));
    assert_eq!(pool.take(4, 0, seconds(NOW), |_| true).unwrap().port, 101);
    pool.unreserve(101, seconds(NOW));
    assert_eq!(pool.owner(101), Some(4), "what is a flow's stays so");
}
