use super::*;

const LIFE: Lifetimes = Lifetimes([0, 30, 30, 1000, 100, 60, 30, 30, 300]);

fn flow(n: u32, state: FlowState, now: u32) -> Flow {
    let client = (0xffff << 32) | u128::from(n >> 8);
    Flow { client, client_port: n as u16 & 0xff, port: 80, state, last_seen: now, ..Flow::default() }
}

fn table(capacity: usize, overflow: Overflow) -> FlowTable {
    FlowTable::new(capacity, overflow, LIFE, 42)
}

/// Stores flow `n` in the established space.
fn establish(t: &mut FlowTable, n: u32, now: u32) -> Option<Stored> {
    let id = t.insert(flow(n, FlowState::SynSent, now), Ticks(now))?.id;
    t.get_mut(id)?.state = FlowState::Established;
    t.promote(id, Ticks(now))
}

#[test]
fn a_flow_is_a_cache_line() {
    assert_eq!((size_of::<Flow>(), align_of::<Flow>()), (64, 64));
}

#[test]
fn memory_is_105_bytes_a_flow_of_capacity_all_taken_at_the_start() {
    let bytes = table(1 << 16, Overflow::Refuse).memory_bytes();
    assert_eq!(bytes.div_ceil(1 << 16), 105);
}

#[test]
fn the_capacity_asked_for_fits_without_one_refusal() {
    let mut t = table(1 << 14, Overflow::Refuse);
    for n in 0..1 << 14 {
        assert!(establish(&mut t, n, 1).is_some_and(|s| s.evicted.is_none()), "flow {n}");
    }
}

#[test]
fn keys_are_compared_in_full() {
    let mut t = table(64, Overflow::Refuse);
    establish(&mut t, 7, 1);
    let key = flow(7, FlowState::Established, 1).key();
    assert!(t.lookup(&key, Ticks(1)).is_some());
    for other in [
        FlowKey { client: key.client ^ 1 << 127, ..key },
        FlowKey { client: key.client ^ 1, ..key },
        FlowKey { client_port: key.client_port ^ 1, ..key },
        FlowKey { port: 81, ..key },
        FlowKey { frontend: 1, ..key },
    ] {
        assert!(t.lookup(&other, Ticks(1)).is_none());
    }
}

#[test]
fn a_syn_flood_never_evicts_an_established_flow_and_memory_stays_flat() {
    let mut t = table(1 << 10, Overflow::Refuse);
    for n in 0..700 {
        establish(&mut t, n, 1).unwrap();
    }
    for n in 10_000..110_000 {
        t.insert(flow(n, FlowState::SynSent, 2), Ticks(2)).unwrap();
    }
    assert!((0..700).all(|n| t.lookup(&flow(n, FlowState::Free, 0).key(), Ticks(3)).is_some()));
    assert!(t.len() <= t.slots());
}

#[test]
fn a_confirmed_flow_that_waits_for_room_is_not_pushed_out_by_half_open_ones() {
    let mut t = table(64, Overflow::Refuse);
    let id = t.insert(flow(1, FlowState::SynSent, 1), Ticks(1)).unwrap().id;
    t.get_mut(id).unwrap().state = FlowState::Established;
    for n in 1000..9000 {
        t.insert(flow(n, FlowState::SynSent, 2), Ticks(2));
    }
    assert_eq!(t.lookup(&flow(1, FlowState::Free, 0).key(), Ticks(3)), Some(id));
}

#[test]
fn a_full_table_refuses_and_keeps_every_live_flow() {
    let mut t = table(64, Overflow::Refuse);
    let stored: Vec<u32> = (0..500).filter(|&n| establish(&mut t, n, 1).is_some()).collect();
    assert!(stored.len() >= 64 && stored.len() <= 88, "{}", stored.len());
    assert!(stored.iter().all(|&n| t.lookup(&flow(n, FlowState::Free, 0).key(), Ticks(2)).is_some()));
    assert!((0..500).any(|n| !t.has_room(&flow(n, FlowState::Free, 0).key(), Ticks(2))));
}

#[test]
fn the_least_recently_used_flow_gives_way_not_the_oldest_inserted() {
    let mut t = table(64, Overflow::EvictOldest);
    // Fill until something is evicted, touching flow 0 before each insertion: it is old but busy.
    let key = flow(0, FlowState::Free, 0).key();
    establish(&mut t, 0, 1).unwrap();
    for n in 1..5000 {
        let now = n + 1;
        let id = t.lookup(&key, Ticks(now)).expect("a busy flow was evicted");
        t.get_mut(id).unwrap().last_seen = now;
        establish(&mut t, n, now).unwrap();
    }
}

#[test]
fn a_closed_flow_gives_way_before_a_live_one() {
    let mut t = table(64, Overflow::EvictOldest);
    for n in 0..500 {
        establish(&mut t, n, 10).unwrap();
    }
    let live: Vec<u32> =
        (0..500).filter(|&n| t.lookup(&flow(n, FlowState::Free, 0).key(), Ticks(10)).is_some()).collect();
    for &n in &live {
        let id = t.lookup(&flow(n, FlowState::Free, 0).key(), Ticks(10)).unwrap();
        if n % 2 == 0 {
            // Closed ones are younger, and still go first.
            *t.get_mut(id).unwrap() = Flow { state: FlowState::Closed, ..flow(n, FlowState::Closed, 20) };
        }
    }
    let evicted = establish(&mut t, 9999, 21).unwrap().evicted;
    assert!(evicted.is_none_or(|f| f.state == FlowState::Closed), "{evicted:?}");
}

#[test]
fn an_expired_flow_is_not_found_and_the_sweep_takes_it_out() {
    let mut t = table(64, Overflow::Refuse);
    establish(&mut t, 1, 100).unwrap();
    let key = flow(1, FlowState::Free, 0).key();
    assert!(t.lookup(&key, Ticks(1100)).is_some());
    assert!(t.lookup(&key, Ticks(1101)).is_none());
    let mut ended = 0;
    t.sweep(Ticks(1101), t.slots(), |_| ended += 1);
    assert_eq!((ended, t.len()), (1, 0));
}

#[test]
fn an_expired_flow_never_hides_its_successor_in_either_space_before_it_is_swept() {
    let key = flow(1, FlowState::Free, 0).key();
    // Expired among the established ones, and the successor half-open; then the successor promoted beside it.
    let mut t = table(64, Overflow::Refuse);
    establish(&mut t, 1, 100).unwrap();
    let now = 100 + 1001;
    let id = t.insert(flow(1, FlowState::SynSent, now), Ticks(now)).unwrap().id;
    assert_eq!(t.lookup(&key, Ticks(now)), Some(id));
    t.get_mut(id).unwrap().state = FlowState::Established;
    let id = t.promote(id, Ticks(now)).unwrap().id;
    assert_eq!(t.lookup(&key, Ticks(now)), Some(id));
    // Expired and successor both half-open, whichever lies first.
    for first in 0..4 {
        let mut t = table(64, Overflow::Refuse);
        for n in 0..first {
            t.insert(flow(1, FlowState::SynSent, n), Ticks(n)).unwrap();
        }
        let id = t.insert(flow(1, FlowState::SynSent, 100), Ticks(100)).unwrap().id;
        assert_eq!(t.lookup(&key, Ticks(100)), Some(id));
        for _ in 0..first {
            let expired = t.lookup_expired(&key, Ticks(100)).unwrap();
            assert_ne!(expired, id);
            t.remove(expired);
        }
        assert_eq!(t.lookup_expired(&key, Ticks(100)), None);
    }
}

#[test]
fn a_sweep_does_no_more_than_its_budget_and_gets_round_in_the_end() {
    let mut t = table(64, Overflow::Refuse);
    for n in 0..40 {
        establish(&mut t, n, 1).unwrap();
    }
    let mut rounds = 0;
    while !t.is_empty() {
        let mut ended = 0;
        t.sweep(Ticks(5000), 8, |_| ended += 1);
        assert!(ended <= 16);
        rounds += 1;
    }
    assert!(rounds <= 11);
}

#[test]
fn time_wraps_without_ending_flows() {
    let mut t = table(64, Overflow::Refuse);
    establish(&mut t, 1, u32::MAX - 10).unwrap();
    assert!(t.lookup(&flow(1, FlowState::Free, 0).key(), Ticks(20)).is_some());
}

#[test]
fn capacity_zero_is_a_small_table_not_a_panic() {
    assert_eq!(table(0, Overflow::Refuse).capacity(), 88);
}
