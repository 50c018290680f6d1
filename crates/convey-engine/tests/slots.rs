//! Slots of frontends and servers over changes of the configuration: flows name them by number alone.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::Lab;
use common::world::{VIP, client, close, connect, send, tuple};
use convey_core::{ServerSpec, SnapshotSpec};
use convey_testkit::PacketBuilder as P;
use proptest::prelude::*;

fn server(n: u8) -> ServerSpec {
    ServerSpec {
        name: format!("s{n}"),
        addr: format!("10.0.0.{}:8080", 11 + n).parse().expect("an address"),
        weight: 1,
        max_connections: 0,
        up: true,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    }
}

fn set_servers(numbers: impl IntoIterator<Item = u8>) -> impl FnOnce(&mut SnapshotSpec) {
    move |spec| {
        let backend = spec.backends.iter_mut().find(|b| b.name == "v4").expect("a backend of that name");
        backend.servers = numbers.into_iter().map(server).collect();
    }
}

fn slot_of(lab: &Lab, name: &str) -> Option<u16> {
    lab.snapshot.slot_table().servers.iter().find(|(_, s)| s.name == name).map(|(slot, _)| slot)
}

#[test]
fn a_slot_is_not_used_anew_while_a_flow_names_it_and_is_used_anew_after_its_end() {
    let mut lab = Lab::passthrough((40000, 40099), 2);
    lab.reload(set_servers([0]));
    let (nat, address) = connect(&mut lab, &client(1), 1000);
    let slot = slot_of(&lab, "s0").unwrap();
    lab.reload(set_servers(1..20));
    send(&mut lab, P::tcp(&client(1), VIP).seq(1001, 5001), 1001);
    lab.reload(set_servers(1..40));
    assert_eq!(slot_of(&lab, "s0"), Some(slot), "it has a flow");
    let others: BTreeSet<u16> = (1..40).map(|n| slot_of(&lab, &format!("s{n}")).unwrap()).collect();
    assert!(others.len() == 39 && !others.contains(&slot));

    close(&mut lab, &client(1), &nat, &address, 1002);
    // The ended flow goes with the sweep, after which the worker has seen the last snapshot.
    for second in 0..70 {
        lab.worker.tick(&lab.snapshot, convey_engine::Nanos::from_millis(2000 + second * 1000));
    }
    lab.reload(set_servers(1..41));
    assert_eq!((slot_of(&lab, "s0"), slot_of(&lab, "s40")), (None, Some(slot)));
}

#[test]
fn a_server_that_comes_back_while_its_flows_last_has_a_slot_and_counters_of_its_own() {
    let mut lab = Lab::passthrough((40000, 40099), 2);
    lab.reload(set_servers([0]));
    let (nat, address) = connect(&mut lab, &client(1), 1000);
    lab.reload(set_servers([1]));
    lab.reload(set_servers([0, 1]));
    let slots: Vec<_> = lab.snapshot.slot_table().servers.iter().filter(|(_, s)| s.name == "s0").collect();
    assert_eq!(slots.len(), 2);
    close(&mut lab, &client(1), &nat, &address, 1002);
    let of_v4 = lab.config.backends.iter().find(|b| &*b.name == "v4").unwrap();
    assert!(of_v4.servers.iter().all(|s| s.counters.open() == 0), "no gauge went below zero");
}

#[test]
fn servers_of_one_address_have_slots_of_their_own_and_keep_them() {
    let mut lab = Lab::passthrough((40000, 40099), 2);
    let twins = |order: [&'static str; 2]| {
        move |spec: &mut SnapshotSpec| {
            let backend = spec.backends.iter_mut().find(|b| b.name == "v4").unwrap();
            backend.servers = order.map(|name| ServerSpec { name: name.into(), ..server(0) }).into();
        }
    };
    lab.reload(twins(["a", "b"]));
    let before = (slot_of(&lab, "a").unwrap(), slot_of(&lab, "b").unwrap());
    assert_ne!(before.0, before.1);
    lab.reload(twins(["b", "a"]));
    assert_eq!((slot_of(&lab, "a").unwrap(), slot_of(&lab, "b").unwrap()), before);
}

#[derive(Debug, Clone)]
enum Step {
    /// The servers with these numbers are configured, in this order.
    Servers(Vec<u8>),
    Connect(u32),
    Close(usize),
    /// Time passes, by seconds.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::btree_set(0u8..12, 1..6)
            .prop_flat_map(|set| Just(set.into_iter().collect::<Vec<_>>()).prop_shuffle())
            .prop_map(Step::Servers),
        (0u32..1000).prop_map(Step::Connect),
        (0usize..100).prop_map(Step::Close),
        (1u64..90).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_any_changes_of_the_configuration_every_flow_stays_with_its_server_and_slots_come_free(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut lab = Lab::passthrough((40000, 40999), 12);
        lab.reload(set_servers([0]));
        let mut flows: BTreeMap<u32, (String, String)> = BTreeMap::new();
        let mut now = 1000;
        for step in steps {
            match step {
                Step::Servers(numbers) => lab.reload(set_servers(numbers)),
                Step::Connect(n) => {
                    if let std::collections::btree_map::Entry::Vacant(flow) = flows.entry(n) {
                        flow.insert(connect(&mut lab, &client(n), now));
                    }
                }
                Step::Close(at) => {
                    if let Some(n) = flows.keys().nth(at).copied() {
                        let (nat, server) = flows.remove(&n).unwrap();
                        close(&mut lab, &client(n), &nat, &server, now);
                        // Its port is another connection's by the next step at the earliest.
                        now += 61_000;
                    }
                }
                Step::Wait(seconds) => now += seconds * 1000,
            }
            now += 1;
            for _ in 0..3 {
                lab.worker.tick(&lab.snapshot, convey_engine::Nanos::from_millis(now));
            }
            for (n, (nat, server)) in &flows {
                let out = send(&mut lab, P::tcp(&client(*n), VIP).seq(1001, 5001), now);
                prop_assert_eq!(tuple(&out.frame()), (nat.clone(), server.clone()));
            }
            let table = lab.snapshot.slot_table();
            for server in lab.snapshot.servers_in_service() {
                let is_it = |s: &&convey_engine::ServerIdentity| *s.backend == *server.backend && *s.name == *server.name;
                prop_assert!(table.servers.iter().any(|(_, s)| is_it(&s)), "{server:?}");
            }
        }
        // With the last flow goes the last slot of what left.
        for (n, (nat, server)) in &flows {
            close(&mut lab, &client(*n), nat, server, now);
        }
        for second in 0..200 {
            lab.worker.tick(&lab.snapshot, convey_engine::Nanos::from_millis(now + second * 1000));
        }
        lab.reload(|_| {});
        let in_service = lab.snapshot.servers_in_service().count();
        prop_assert_eq!(lab.snapshot.slot_table().servers.iter().count(), in_service);
    }
}
