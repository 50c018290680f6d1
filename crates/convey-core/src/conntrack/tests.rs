use super::*;

pub(super) const LIFE: Lifetimes = Lifetimes([0, 30, 30, 1000, 100, 60, 30, 30, 300]);

/// Flow `n`, IPv4.
pub(super) fn flow(n: u32, state: FlowState, now: u32) -> Flow {
    let client = (0xffff << 32) | u128::from(n >> 8);
    Flow { client, client_port: n as u16 & 0xff, port: 80, state, last_seen: now, ..Flow::default() }
}

/// Flow `n`, IPv6.
pub(super) fn flow_v6(n: u32, state: FlowState, now: u32) -> Flow {
    Flow { client: 0x2001_0db8 << 96 | u128::from(n) << 16, ..flow(n, state, now) }
}

fn key(n: u32) -> FlowKey {
    flow(n, FlowState::Free, 0).key()
}

fn table(capacity: usize, overflow: Overflow) -> FlowTable {
    FlowTable::new(capacity, overflow, LIFE, 42)
}

/// Stores a flow as a packet path does: what it replaces ends first. Gives who gave way.
fn put(t: &mut FlowTable, mut flow: Flow) -> Option<(FlowId, Vec<Flow>)> {
    let now = Ticks(flow.last_seen);
    let found = t.find(&flow.key(), now);
    assert_eq!(found.live, None);
    let mut ended = Vec::new();
    let claim = t.claim(&found, flow.state.is_half_open(), now, |f| ended.push(f))?;
    let id = t.publish(claim, &mut flow, |_| unreachable!("one thread")).expect("no twin");
    Some((id, ended))
}

fn change(t: &FlowTable, id: FlowId, change: impl FnOnce(&mut Flow)) {
    let was = t.get(id).unwrap();
    let mut flow = was;
    change(&mut flow);
    assert!(t.update(id, &was, &flow));
}

/// Stores a flow that is confirmed in place.
fn establish(t: &mut FlowTable, mut flow: Flow) -> Option<FlowId> {
    flow.state = FlowState::SynSent;
    let (id, _) = put(t, flow)?;
    change(t, id, |f| f.state = FlowState::Established);
    Some(id)
}

pub(super) fn assert_counts(t: &FlowTable) {
    let [v4, wanted_v4] = t.v4.recount(|f| t.hash_of(f));
    let [v6, wanted_v6] = t.v6.recount(|f| t.hash_of(f));
    assert!(v4 == wanted_v4 && v6 == wanted_v6, "spills");
    let flows: Vec<Flow> = t.v4.flows().chain(t.v6.flows()).collect();
    assert_eq!(t.len(), flows.len());
    assert_eq!(t.half_open(), flows.iter().filter(|f| f.state.is_half_open()).count());
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }
}

#[test]
fn memory_is_66_bytes_an_ipv4_flow_and_132_an_ipv6_one() {
    let bytes = table(1 << 16, Overflow::Refuse).memory_bytes();
    assert_eq!(bytes.map(|b| b.div_ceil(1 << 16)), [67, 133]);
}

#[test]
fn the_capacity_asked_for_fits_without_one_refusal_or_eviction_in_either_family_and_mixed() {
    let makers: [fn(u32) -> Flow; 3] = [
        |n| flow(n, FlowState::Established, 1),
        |n| flow_v6(n, FlowState::Established, 1),
        |n| {
            if n % 2 == 0 {
                flow(n, FlowState::Established, 1)
            } else {
                flow_v6(n, FlowState::Established, 1)
            }
        },
    ];
    for make in makers {
        for (capacity, seeds) in [(64, 200), (1 << 10, 100), (1 << 14, 10), (1 << 18, 1)] {
            for seed in 0..seeds {
                let mut t = FlowTable::new(capacity, Overflow::Refuse, LIFE, seed);
                for n in 0..capacity as u32 {
                    let (_, ended) =
                        put(&mut t, make(n)).unwrap_or_else(|| panic!("{n} of {capacity}, {seed}"));
                    assert!(ended.is_empty());
                }
                assert_eq!(t.len(), capacity);
            }
        }
    }
}

#[test]
fn keys_are_compared_in_full() {
    for make in [flow, flow_v6] {
        for overflow in [Overflow::Refuse, Overflow::EvictOldest] {
            let mut t = table(64, overflow);
            let id = establish(&mut t, make(7, FlowState::Established, 1));
            let key = make(7, FlowState::Established, 1).key();
            assert_eq!(t.lookup(&key, Ticks(1)), id);
            for bit in 0..128 {
                assert!(t.lookup(&FlowKey { client: key.client ^ 1 << bit, ..key }, Ticks(1)).is_none());
            }
            for bit in 0..16 {
                let bit = 1 << bit;
                assert!(t.lookup(&FlowKey { client_port: key.client_port ^ bit, ..key }, Ticks(1)).is_none());
                assert!(t.lookup(&FlowKey { frontend: key.frontend ^ bit, ..key }, Ticks(1)).is_none());
                let other_port = t.lookup(&FlowKey { port: key.port ^ bit, ..key }, Ticks(1));
                // In passthrough the frontend tells the port.
                assert_eq!(other_port.is_some(), overflow == Overflow::Refuse);
            }
        }
    }
}

#[test]
fn a_flood_never_evicts_an_established_flow_and_half_open_ones_are_a_quarter_at_most() {
    for make in [flow, flow_v6] {
        let mut t = table(1 << 10, Overflow::Refuse);
        for n in 0..1000 {
            establish(&mut t, make(n, FlowState::Established, 1)).unwrap();
        }
        let quarter = t.entries() / 4;
        for n in 10_000..110_000u32 {
            let state = if n.is_multiple_of(3) { FlowState::UdpNew } else { FlowState::SynSent };
            let now = 2 + n % 2;
            let (_, ended) = put(&mut t, make(n, state, now)).expect("the newest finds room");
            assert!(ended.iter().all(|f| f.state.is_half_open()));
            assert!(t.half_open() <= quarter);
        }
        assert!(t.half_open() + 8 >= quarter, "the flood has what it may have");
        assert!((0..1000).all(|n| t.lookup(&make(n, FlowState::Free, 0).key(), Ticks(3)).is_some()));
        assert_counts(&t);
    }
}

#[test]
fn a_flow_is_confirmed_where_it_lies_in_a_full_table_too() {
    let mut t = table(64, Overflow::Refuse);
    let (id, _) = put(&mut t, flow(1, FlowState::SynSent, 1)).unwrap();
    for n in 1000..1100 {
        establish(&mut t, flow(n, FlowState::Established, 1));
    }
    change(&t, id, |f| f.state = FlowState::Established);
    for n in 2000..9000 {
        put(&mut t, flow(n, FlowState::SynSent, 2));
    }
    assert_eq!(t.lookup(&key(1), Ticks(3)), Some(id));
}

#[test]
fn a_full_table_refuses_and_keeps_every_live_flow() {
    let mut t = table(64, Overflow::Refuse);
    let stored: Vec<u32> =
        (0..500).filter(|&n| establish(&mut t, flow(n, FlowState::Established, 1)).is_some()).collect();
    assert!((64..=132).contains(&stored.len()), "{}", stored.len());
    assert!(stored.iter().all(|&n| t.lookup(&key(n), Ticks(2)).is_some()));
    let refused = (0..500).filter(|n| !t.has_room(&t.find(&key(*n), Ticks(2)).place, Ticks(2))).count();
    assert!(refused > 0);
    assert_counts(&t);
}

#[test]
fn the_least_recently_used_flow_gives_way_not_the_oldest_inserted() {
    let mut t = table(64, Overflow::EvictOldest);
    // Fill until something is evicted, touching flow 0 before each insertion: it is old but busy.
    establish(&mut t, flow(0, FlowState::Established, 1)).unwrap();
    for n in 1..5000 {
        let now = n + 1;
        let id = t.lookup(&key(0), Ticks(now)).expect("a busy flow was evicted");
        change(&t, id, |f| f.last_seen = now);
        establish(&mut t, flow(n, FlowState::Established, now)).unwrap();
    }
}

#[test]
fn by_rank_closed_flows_give_way_then_half_open_ones_then_idle_datagrams_then_in_dsr_others() {
    let idle = udp::STREAM_IDLE;
    let lifetimes = Lifetimes([u32::MAX; FlowState::COUNT]);
    for overflow in [Overflow::Refuse, Overflow::EvictOldest] {
        let mut t = FlowTable::new(64, overflow, lifetimes, 1);
        // Too few half-open ones to be capped; the oldest in use are no worse off than the others.
        let state = |n: u32| match n % 8 {
            0 => FlowState::Closed,
            1 => FlowState::SynSent,
            2 | 3 => FlowState::UdpStream,
            _ => FlowState::Established,
        };
        let mut n = 0;
        while t.len() < t.v4.entries() && n < 3000 {
            let hash = t.find(&key(n), Ticks(1)).place;
            if t.v4.has_free(hash.hash) {
                put(&mut t, flow(n, state(n), 1)).unwrap();
            }
            n += 1;
        }
        assert_eq!(t.len(), t.v4.entries());
        let now = 1 + idle;
        let mut ranks = Vec::new();
        for n in 10_000..20_000 {
            let Some((_, ended)) = put(&mut t, flow(n, FlowState::Established, now)) else { break };
            let [one] = ended[..] else { panic!("{ended:?}") };
            ranks.push(one.state);
        }
        let first = |state| ranks.iter().position(|s| *s == state);
        assert!(first(FlowState::Closed) < first(FlowState::SynSent), "{ranks:?}");
        assert!(first(FlowState::SynSent) < first(FlowState::UdpStream), "{ranks:?}");
        assert_eq!(first(FlowState::Established).is_some(), overflow == Overflow::EvictOldest);
        assert_counts(&t);
    }
}

#[test]
fn an_expired_flow_is_not_found_and_the_sweep_takes_it_out() {
    for make in [flow, flow_v6] {
        let mut t = table(64, Overflow::Refuse);
        establish(&mut t, make(1, FlowState::Established, 100)).unwrap();
        let key = make(1, FlowState::Free, 0).key();
        assert!(t.lookup(&key, Ticks(1100)).is_some());
        assert!(t.lookup(&key, Ticks(1101)).is_none());
        let mut ended = 0;
        t.sweep(Ticks(1101), t.entries(), |_| ended += 1);
        assert_eq!((ended, t.len()), (1, 0));
    }
}

#[test]
fn an_expired_flow_never_hides_its_successor_wherever_the_two_lie() {
    let mut random = Random(77);
    for round in 0..300 {
        let mut t = FlowTable::new(64, Overflow::Refuse, LIFE, round);
        for n in 0..100 {
            establish(&mut t, flow(1000 + n, FlowState::Established, 100));
        }
        let first = establish(&mut t, flow(1, FlowState::Established, 100));
        // Room comes and goes in front of it.
        for _ in 0..random.below(50) {
            let n = 1000 + random.below(100);
            if let Some(id) = t.lookup(&key(n), Ticks(100)) {
                t.remove(id);
            }
        }
        let now = 100 + 1001;
        let found = t.find(&key(1), Ticks(now));
        assert_eq!((found.live, found.expired), (None, first));
        let Some((id, _)) = put(&mut t, flow(1, FlowState::SynSent, now)) else { continue };
        let found = t.find(&key(1), Ticks(now));
        assert_eq!((found.live, found.expired), (Some(id), None));
        assert_counts(&t);
    }
}

#[test]
fn spills_and_counts_are_exact_after_any_order_of_events_and_return_to_nothing() {
    for overflow in [Overflow::Refuse, Overflow::EvictOldest] {
        let mut random = Random(5);
        let mut t = table(256, overflow);
        let mut now = 1;
        for step in 0..60_000 {
            let n = random.below(900);
            let make = if n.is_multiple_of(3) { flow_v6 } else { flow };
            let state = FlowState::from_number(1 + random.below(8) as u8).unwrap();
            match (t.lookup(&make(n, state, now).key(), Ticks(now)), random.below(4)) {
                (None, 0) => {
                    let found = t.find(&make(n, state, now).key(), Ticks(now));
                    // Whoever gives a claim back leaves no trace.
                    if let Some(claim) = t.claim(&found, state.is_half_open(), Ticks(now), |_| {}) {
                        t.abandon(claim);
                    }
                }
                (None, _) => drop(put(&mut t, make(n, state, now))),
                (Some(id), 0) => assert!(t.remove(id).is_some()),
                (Some(id), _) => change(&t, id, |f| (f.state, f.last_seen) = (state, now)),
            }
            if random.below(50) == 0 {
                now += random.below(40);
                t.sweep(Ticks(now), 64, |_| {});
            }
            if step % 1000 == 0 {
                assert_counts(&t);
            }
        }
        assert_counts(&t);
        t.take_all(|_| {});
        assert_counts(&t);
        assert!(t.is_empty() && t.v4.recount(|f| t.hash_of(f)).concat().iter().all(|n| *n == 0));
    }
}

#[test]
fn a_flow_that_another_has_changed_or_that_is_another_by_now_is_left_alone() {
    let mut t = table(64, Overflow::Refuse);
    let id = establish(&mut t, flow(1, FlowState::Established, 1)).unwrap();
    let old = t.get(id).unwrap();
    change(&t, id, |f| f.state = FlowState::Closing);
    assert!(!t.update(id, &old, &Flow { last_seen: 9, ..old }));
    t.remove(id);
    assert!(!t.update(id, &old, &old) && t.remove(id).is_none());
    let again = establish(&mut t, flow(1, FlowState::Established, 1)).unwrap();
    assert_eq!(again, id, "the same entry");
    assert!(!t.update(id, &old, &Flow { last_seen: 9, ..old }), "claimed anew");
    assert_eq!(t.get(id).unwrap().last_seen, 1);
    let out_of_range = FlowId::from_bits(u32::MAX);
    assert!(t.get(out_of_range).is_none() && t.remove(out_of_range).is_none());
    assert!(!t.update(out_of_range, &old, &old));
}

#[test]
fn a_sweep_does_no_more_than_its_budget_and_gets_round_in_the_end() {
    let mut t = table(64, Overflow::Refuse);
    for n in 0..40 {
        establish(&mut t, flow(n, FlowState::Established, 1)).unwrap();
    }
    let mut rounds = 0;
    while !t.is_empty() {
        let mut ended = 0;
        t.sweep(Ticks(5000), 8, |_| ended += 1);
        assert!(ended <= 16);
        rounds += 1;
    }
    assert!(rounds <= t.entries().div_ceil(8));
}

#[test]
fn time_wraps_without_ending_flows_and_a_flow_of_a_moment_ahead_is_new() {
    let mut t = table(64, Overflow::Refuse);
    establish(&mut t, flow(1, FlowState::Established, Ticks::MASK - 10)).unwrap();
    assert!(t.lookup(&key(1), Ticks(20)).is_some());
    assert!(t.lookup(&key(1), Ticks(Ticks::MASK - 11)).is_some(), "another thread's clock");
    assert!(t.lookup(&key(1), Ticks(1000)).is_none());
}

#[test]
fn capacity_zero_is_a_small_table_not_a_panic() {
    assert!((128..=132).contains(&table(0, Overflow::Refuse).entries()));
    let none = FlowTable::in_memory([Memory::own(0), Memory::own(0)], Overflow::Refuse, LIFE, 0);
    assert!(none.is_empty() && none.lookup(&key(1), Ticks(1)).is_none());
}
