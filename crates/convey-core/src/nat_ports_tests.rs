use super::*;
use std::collections::HashSet;

fn partition(first: u16, last: u16, stride: u16, remainder: u16) -> Partition {
    Partition { first, last, stride, remainder }
}

#[test]
fn workers_own_every_port_of_the_range_exactly_once() {
    for workers in [1, 2, 3, 7] {
        let mut seen = HashSet::new();
        for worker in 0..workers {
            let mut pool = PortPool::new(partition(33768, 61000, workers, worker), 9);
            while let Some(port) = pool.take(0) {
                assert!((33768..=61000).contains(&port) && port % workers == worker);
                assert!(seen.insert(port));
            }
        }
        assert_eq!(seen.len(), 61000 - 33768 + 1);
    }
}

#[test]
fn no_port_is_handed_out_twice_before_the_counter_would_wrap_or_after() {
    let mut pool = PortPool::new(partition(100, 109, 1, 0), 1);
    let held: HashSet<u16> = (0..10).filter_map(|h| pool.take(h)).collect();
    assert_eq!(held.len(), 10);
    assert_eq!(pool.take(99), None);
    pool.release(105);
    assert_eq!(pool.take(99), Some(105));
    assert_eq!(pool.take(99), None);
}

#[test]
fn the_port_free_longest_comes_first() {
    let mut pool = PortPool::new(partition(100, 103, 1, 0), 1);
    let ports: Vec<u16> = (0..4).filter_map(|h| pool.take(h)).collect();
    for &p in &[ports[2], ports[0], ports[3]] {
        pool.release(p);
    }
    assert_eq!((pool.take(0), pool.take(0), pool.take(0)), (Some(ports[2]), Some(ports[0]), Some(ports[3])));
}

/// Idle for as many seconds as the holder's number says; 1000 and above: expired.
fn idle(holder: u32) -> Option<u32> {
    (holder < 1000).then_some(Ticks::span(Duration::from_secs(u64::from(holder))))
}

/// A full pool whose ports are held by `holders` for these uses.
fn full(holders: &[(u32, PortUse)]) -> PortPool {
    let mut pool = PortPool::new(partition(100, 99 + holders.len() as u16, 1, 0), 1);
    for &(holder, port_use) in holders {
        let port = pool.take(holder).unwrap();
        pool.used_for(port, port_use);
    }
    pool
}

fn victim(holders: &[(u32, PortUse)]) -> Option<u32> {
    full(holders).victim(idle).map(|v| v.holder)
}

#[test]
fn the_flow_that_gives_way_is_closed_or_unconfirmed_or_an_idle_conversation_in_this_order() {
    use PortUse::{Brief, Closed, Connection, Stream, Unconfirmed};
    let all = [(900, Connection), (7, Closed), (5, Unconfirmed), (40, Stream), (20, Brief), (0, Unconfirmed)];
    assert_eq!(victim(&all), Some(7));
    assert_eq!(victim(&[all[0], all[2], all[3], all[4]]), Some(5));
    assert_eq!(victim(&[all[0], all[3], all[4], all[5]]), Some(40));
    assert_eq!(victim(&[all[0], (29, Stream), all[4], all[5]]), Some(20));
    assert_eq!(victim(&[all[0], (29, Stream), (1, Brief), all[5]]), Some(0));
    assert_eq!(victim(&[all[0], (29, Stream), (1, Brief)]), None);
    assert_eq!(victim(&[all[0], (29, Stream), (1000, Connection)]), Some(1000));
}

#[test]
fn of_two_flows_of_one_use_the_one_used_longest_ago_gives_way() {
    let mut pool = full(&[(50, PortUse::Stream), (40, PortUse::Stream), (60, PortUse::Stream)]);
    let order: Vec<u32> = (0..3)
        .map(|_| {
            let holder = pool.victim(idle).unwrap().holder;
            let port = (100..=102).find(|&p| pool.holder(p) == Some(holder)).unwrap();
            pool.used_for(port, PortUse::Stream);
            holder
        })
        .collect();
    assert_eq!(order, [50, 40, 60]);
}

#[test]
fn a_closed_flow_keeps_its_turn_when_it_closes_again_and_loses_it_when_it_was_open_after_all() {
    let mut pool = full(&[(1, PortUse::Closed), (2, PortUse::Closed)]);
    let first = (100..=101).find(|&p| pool.holder(p) == Some(1)).unwrap();
    pool.used_for(first, PortUse::Closed);
    assert_eq!(pool.victim(idle).map(|v| v.holder), Some(1));
    pool.used_for(first, PortUse::Connection);
    assert_eq!(pool.victim(idle).map(|v| v.holder), Some(2));
}

#[test]
fn a_search_for_flows_whose_time_is_over_is_bounded_and_gets_round() {
    let mut holders = vec![(900, PortUse::Connection); 200];
    holders.push((1000, PortUse::Connection));
    let mut pool = full(&holders);
    let asked = std::cell::Cell::new(0);
    let counted = |holder| {
        asked.set(asked.get() + 1);
        idle(holder)
    };
    let tries = (0..20).position(|_| pool.victim(counted).is_some()).unwrap();
    assert!(asked.get() <= (tries + 1) * PROBES);
}

#[test]
fn a_renamed_holder_is_found_by_its_port_and_keeps_its_use() {
    let mut pool = PortPool::new(partition(100, 102, 1, 0), 1);
    let port = pool.take(5).unwrap();
    pool.used_for(port, PortUse::Closed);
    pool.rename_holder(port, 6);
    let victim = pool.victim(idle).map(|v| v.holder);
    assert_eq!((pool.holder(port), victim), (Some(6), Some(6)));
    pool.release(port);
    assert_eq!((pool.holder(port), pool.victim(idle), pool.held()), (None, None, 0));
    pool.release(port);
    pool.used_for(port, PortUse::Stream);
    assert_eq!((pool.held(), pool.holder(port)), (0, None));
}

#[test]
fn a_port_taken_exactly_is_held_by_nobody_else_and_none_is_lost_by_it() {
    let mut pool = PortPool::new(partition(100, 109, 2, 1), 1);
    assert!(pool.take_exact(105, 7, PortUse::Connection));
    assert!(!pool.take_exact(105, 8, PortUse::Connection));
    assert_eq!([104, 99, 111].map(|p| pool.take_exact(p, 8, PortUse::Stream)), [false; 3]);
    assert_eq!((pool.holder(105), pool.held()), (Some(7), 1));
    let rest: HashSet<u16> = (0..9).filter_map(|h| pool.take(h)).collect();
    assert_eq!(rest, HashSet::from([101, 103, 107, 109]));
    pool.release(105);
    assert_eq!(pool.take(9), Some(105));
}

#[test]
fn ports_outside_of_the_partition_are_nobodys() {
    let pool = PortPool::new(partition(100, 110, 2, 1), 1);
    assert_eq!([99, 100, 111, 0, u16::MAX].map(|p| pool.holder(p)), [None; 5]);
    assert_eq!(PortPool::new(partition(10, 9, 1, 0), 1).take(0), None);
    assert_eq!(PortPool::new(partition(65535, 65535, 2, 0), 1).take(0), None);
}

#[test]
fn a_port_costs_nine_bytes() {
    assert_eq!(PortPool::new(partition(1, 1000, 1, 0), 1).memory_bytes(), 9000);
}
