//! The distribution that each method gives, and what it never does.

use std::cell::Cell;
use std::collections::HashSet;

use proptest::prelude::*;

use super::maglev::{MaglevTable, SLOTS};
use super::{Asker, Balance, Candidates, Part, SLOW_START_STEPS, Selector, Unseen, moved_slots};

const SOURCE: Balance = Balance::SourceHash { ipv6_prefix: 64 };
const ALL: [Balance; 5] =
    [Balance::RoundRobin, Balance::LeastConnections, Balance::RandomTwo, SOURCE, Balance::Maglev];

fn part(n: usize, weight: u32, backup: bool) -> Part {
    let addr = format!("10.1.{}.{}:80", n / 250, n % 250).parse().unwrap();
    Part { addr, weight, share: SLOW_START_STEPS, backup }
}

fn parts(weights: &[u32]) -> Vec<Part> {
    weights.iter().enumerate().map(|(n, &weight)| part(n, weight, false)).collect()
}

/// Client `n` of many; its address and port tell it apart.
fn client(n: u32) -> Asker {
    let client = format!("10.9.{}.{}:{}", n >> 8 & 255, n & 255, 1024 + (n >> 16)).parse().unwrap();
    Asker { client, listen: "192.0.2.1:80".parse().unwrap(), protocol: 6 }
}

fn counts(selector: &Selector, servers: usize, picks: u32, view: &impl Candidates) -> Vec<u32> {
    let mut counts = vec![0; servers];
    for n in 0..picks {
        counts[selector.pick(&client(n), view).unwrap()] += 1;
    }
    counts
}

/// Connections that stay open, and servers that are not to be chosen.
#[derive(Default)]
struct Load {
    open: Vec<Cell<u64>>,
    limits: Vec<u64>,
    tried: HashSet<usize>,
}

impl Load {
    fn idle(servers: usize) -> Self {
        Self { open: vec![Cell::new(0); servers], limits: vec![0; servers], tried: HashSet::new() }
    }

    fn enter(&self, server: usize) {
        self.open[server].set(self.open[server].get() + 1);
    }
}

impl Candidates for Load {
    fn open(&self, server: usize) -> u64 {
        self.open[server].get()
    }
    fn limit(&self, server: usize) -> u64 {
        self.limits[server]
    }
    fn is_passed_over(&self, server: usize) -> bool {
        self.tried.contains(&server)
    }
    fn passes_over(&self) -> bool {
        !self.tried.is_empty()
    }
}

#[test]
fn every_method_gives_idle_servers_connections_by_weight_within_a_tenth() {
    const PICKS: u32 = 40_000;
    let weights = [20, 20, 60, 100];
    for balance in ALL {
        let selector = Selector::new(balance, &parts(&weights), None);
        for (&weight, count) in weights.iter().zip(counts(&selector, 4, PICKS, &Unseen)) {
            let want = PICKS * weight / 200;
            assert!(count.abs_diff(want) <= want / 10, "{balance:?}: {count} of {want}");
        }
    }
}

#[test]
fn connections_that_stay_open_are_shared_by_weight_to_one_by_least_connections() {
    let weights = [20, 40, 100, 3];
    let selector = Selector::new(Balance::LeastConnections, &parts(&weights), None);
    let load = Load::idle(4);
    for n in 0..1630 {
        load.enter(selector.pick(&client(n), &load).unwrap());
    }
    for (weight, open) in weights.iter().zip(&load.open) {
        assert!(open.get().abs_diff(u64::from(*weight) * 10) <= 1, "{:?}", load.open);
    }
}

#[test]
fn the_better_of_two_keeps_equal_servers_within_a_few_connections_of_each_other() {
    let selector = Selector::new(Balance::RandomTwo, &parts(&[20; 50]), None);
    let load = Load::idle(50);
    for n in 0..50_000 {
        load.enter(selector.pick(&client(n), &load).unwrap());
    }
    // One draw alone would spread by hundreds; two by log log n.
    let open: Vec<u64> = load.open.iter().map(Cell::get).collect();
    let (min, max) = (open.iter().min().unwrap(), open.iter().max().unwrap());
    assert!(max - min <= 30, "{min}..{max}");
}

/// Equal servers, of which the last is at the first step of its slow start.
fn one_at_its_beginning(balance: Balance, servers: usize) -> Selector {
    let mut parts = parts(&vec![u32::from(SLOW_START_STEPS); servers]);
    let last = parts.last_mut().unwrap();
    (last.weight, last.share) = (1, 1);
    Selector::new(balance, &parts, None)
}

#[test]
fn a_server_that_comes_back_in_slow_start_gets_its_share_and_not_all_while_many_connections_are_open() {
    for balance in [Balance::LeastConnections, Balance::RandomTwo] {
        let selector = one_at_its_beginning(balance, 4);
        let load = Load::idle(4);
        load.open[..3].iter().for_each(|open| open.set(100));
        for n in 0..2000 {
            load.enter(selector.pick(&client(n), &load).unwrap());
        }
        // A twentieth of what each other has.
        let open: Vec<u64> = load.open.iter().map(Cell::get).collect();
        assert!(open[3] <= open[0] / 20 + 3, "{balance:?}: {open:?}");
        assert!(open[3] >= 10, "{balance:?}: {open:?}");
    }
}

#[test]
fn a_server_that_comes_back_in_slow_start_gets_a_small_share_where_no_two_connections_are_open_at_once() {
    for balance in ALL {
        let selector = one_at_its_beginning(balance, 2);
        let load = Load::idle(2);
        let mut back = 0;
        for n in 0..4000 {
            let picked = selector.pick(&client(n), &load).unwrap();
            // The one before has just ended.
            load.open.iter().for_each(|open| open.set(0));
            load.enter(picked);
            back += u32::from(picked == 1);
        }
        assert!((20..600).contains(&back), "{balance:?}: {back} of 4000");
    }
}

#[test]
fn servers_that_are_all_in_slow_start_are_picked_all_the_same() {
    for balance in ALL {
        let mut parts = parts(&[1, 1]);
        parts.iter_mut().for_each(|p| p.share = 1);
        let selector = Selector::new(balance, &parts, None);
        assert!((0..200).all(|n| selector.pick(&client(n), &Unseen).is_some()), "{balance:?}");
    }
}

#[test]
fn backups_are_asked_only_while_no_ordinary_server_takes_a_connection() {
    let of = |ordinary: u32| {
        [part(0, ordinary, false), part(1, ordinary, false), part(2, 20, true), part(3, 60, true)]
    };
    for balance in ALL {
        let selector = Selector::new(balance, &of(20), None);
        assert_eq!(&counts(&selector, 4, 400, &Unseen)[2..], [0, 0], "{balance:?}");
        assert_eq!(selector.weights(), [20, 20, 0, 0]);
        let mut load = Load::idle(4);
        load.limits = vec![1, 0, 0, 0];
        load.enter(0);
        load.tried.insert(1);
        let backups = counts(&selector, 4, 4000, &load);
        assert_eq!(&backups[..2], [0, 0], "{balance:?}");
        assert!(backups[2].abs_diff(1000) < 150, "{balance:?}: {backups:?}");
        let down = Selector::new(balance, &of(0), None);
        assert_eq!(down.weights(), [0, 0, 20, 60]);
        assert!(down.pick(&client(0), &Unseen).is_some_and(|i| i >= 2));
    }
}

#[test]
fn a_source_keeps_its_server_whatever_its_port_and_comes_back_to_it_when_it_has_room_again() {
    let selector = Selector::new(SOURCE, &parts(&[20; 10]), None);
    let mut load = Load::idle(10);
    let home = selector.pick(&client(7), &load).unwrap();
    assert_eq!(selector.pick(&client(7 + (5 << 16)), &load), Some(home), "another port");
    load.tried.insert(home);
    let second = selector.pick(&client(7), &load).unwrap();
    assert_ne!(second, home);
    assert_eq!(selector.pick(&client(7), &load), Some(second), "always the same other one");
    load.tried.clear();
    assert_eq!(selector.pick(&client(7), &load), Some(home));
}

#[test]
fn clients_of_a_full_server_are_spread_over_the_others_by_weight() {
    for balance in [SOURCE, Balance::Maglev] {
        let selector = Selector::new(balance, &parts(&[100, 20, 40]), None);
        let mut load = Load::idle(3);
        load.tried.insert(0);
        let counts = counts(&selector, 3, 30_000, &load);
        assert!(counts[1].abs_diff(10_000) < 1000 && counts[2].abs_diff(20_000) < 1000, "{counts:?}");
    }
}

#[test]
fn one_of_ten_servers_that_leaves_moves_its_own_clients_and_few_others() {
    for balance in [SOURCE, Balance::Maglev] {
        let mut weights = [20; 10];
        let before = Selector::new(balance, &parts(&weights), None);
        weights[4] = 0;
        let after = Selector::new(balance, &parts(&weights), None);
        let moved = (0..20_000).filter(|&n| {
            let old = before.pick(&client(n), &Unseen);
            old != Some(4) && old != after.pick(&client(n), &Unseen)
        });
        let moved = moved.count();
        assert!(moved < 20_000 * 3 / 100, "{moved} of 18,000 others moved");
    }
}

#[test]
fn each_step_of_a_slow_start_moves_little_more_of_the_table_than_the_share_it_gives() {
    let at =
        |share: u32| Selector::new(Balance::Maglev, &parts(&[20, 20, 20, share]), None).members(|i| i as u16);
    for share in 0..20 {
        let gained = SLOTS as f64
            * (f64::from(share + 1) / f64::from(61 + share) - f64::from(share) / f64::from(60 + share));
        let moved = moved_slots(&at(share), &at(share + 1)) as f64;
        assert!(moved < gained * 2.5, "{share}: {moved} moved for {gained:.0}");
    }
    // Whole weights have the table that they had without slow start.
    let whole = |scale: u32| {
        let members = Selector::new(Balance::Maglev, &parts(&[scale, 3 * scale, 2 * scale]), None)
            .members(|i| i as u16);
        MaglevTable::build(&members)
    };
    assert_eq!(whole(1), whole(u32::from(SLOW_START_STEPS)));
}

#[test]
fn rounds_and_tables_go_on_where_nothing_of_the_servers_has_changed() {
    let before = Selector::new(Balance::RoundRobin, &parts(&[20, 20, 20]), None);
    assert_eq!(before.pick(&client(0), &Unseen), Some(0));
    let same = [Some(0), Some(1), Some(2)];
    let after = Selector::new(Balance::RoundRobin, &parts(&[20, 20, 20]), Some((&before, &same)));
    assert_eq!(after.pick(&client(0), &Unseen), Some(1));
    let reweighted = Selector::new(Balance::RoundRobin, &parts(&[20, 20, 40]), Some((&after, &same)));
    assert_eq!(reweighted.pick(&client(0), &Unseen), Some(2));
}

prop_compose! {
    fn any_part()(n in 0usize..60, weight in prop_oneof![Just(0u32), 1u32..100, Just(1_310_700)], backup: bool) -> Part {
        part(n, weight, backup)
    }
}

proptest! {
    #[test]
    fn none_without_weight_none_full_and_none_tried_is_picked_and_somebody_is_while_anybody_can(
        parts in proptest::collection::vec(any_part(), 0..40),
        busy in proptest::collection::vec((0u64..4, 0u64..4, any::<bool>()), 40),
        asker in 0u32..1_000_000,
    ) {
        let load = Load {
            open: busy.iter().map(|(open, ..)| Cell::new(*open)).collect(),
            limits: busy.iter().map(|(_, limit, _)| *limit).collect(),
            tried: busy.iter().enumerate().filter(|(_, b)| b.2).map(|(i, _)| i).collect(),
        };
        let free = |i: &usize| {
            let (open, limit, tried) = busy[*i];
            parts[*i].weight > 0 && !tried && (limit == 0 || open < limit)
        };
        let can: Vec<usize> = (0..parts.len()).filter(free).collect();
        let has_ordinary = can.iter().any(|&i| !parts[i].backup);
        for balance in ALL {
            let picked = Selector::new(balance, &parts, None).pick(&client(asker), &load);
            match picked {
                Some(i) => prop_assert!(can.contains(&i) && parts[i].backup != has_ordinary, "{balance:?}: {i}"),
                None => prop_assert!(can.is_empty(), "{balance:?}: {can:?}"),
            }
        }
    }

    #[test]
    fn least_connections_picks_one_that_no_other_has_fewer_connections_than_for_its_weight(
        servers in proptest::collection::vec((1u32..50, 0u64..100), 1..40),
    ) {
        let weights: Vec<u32> = servers.iter().map(|s| s.0).collect();
        let load = Load { open: servers.iter().map(|s| Cell::new(s.1)).collect(), ..Load::idle(servers.len()) };
        let picked = Selector::new(Balance::LeastConnections, &parts(&weights), None).pick(&client(1), &load).unwrap();
        let (weight, open) = servers[picked];
        prop_assert!(servers.iter().all(|(w, o)| open * u64::from(*w) <= o * u64::from(weight)));
    }
}
