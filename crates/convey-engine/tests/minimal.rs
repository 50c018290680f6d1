//! DSR with minimal tracking: flows stay where they began though nobody remembers them.

mod common;

use common::Lab;
use common::world::{VIP, client, open, send, tuple};
use convey_core::{ServerSpec, SnapshotSpec};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, RST};
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;

fn server_of(out: &common::Out) -> String {
    tuple(&out.frame()).1
}

/// The server that a packet of an open connection goes to.
fn goes_on(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    server_of(&send(lab, P::tcp(&client(n), VIP), now_ms))
}

fn connect(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    let server = server_of(&send(lab, P::syn(&client(n), VIP), now_ms));
    assert_eq!(goes_on(lab, n, now_ms), server, "{n}");
    server
}

fn datagram(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    server_of(&send(lab, P::udp(&client(n), VIP).payload(b"?"), now_ms))
}

fn server<'a>(spec: &'a mut SnapshotSpec, address: &str) -> &'a mut ServerSpec {
    let servers = &mut spec.backends[0].servers;
    servers.iter_mut().find(|s| s.addr.to_string() == address).expect("a server of that address")
}

fn remove(spec: &mut SnapshotSpec, address: &str) {
    spec.backends[0].servers.retain(|s| s.addr.to_string() != address);
}

#[test]
fn no_flow_is_remembered_and_no_connection_counted_while_no_server_changes() {
    let mut lab = Lab::minimal(3);
    for n in 0..200 {
        let server = connect(&mut lab, n, 1000);
        send(&mut lab, P::tcp(&client(n), VIP).flags(FIN | ACK), 1001);
        assert_eq!(goes_on(&mut lab, n, 1002), server);
        send(&mut lab, P::tcp(&client(n), VIP).flags(RST), 1003);
        let server = datagram(&mut lab, n, 1000);
        assert_eq!(datagram(&mut lab, n, 400_000), server);
    }
    assert_eq!((lab.worker.flows(), open(&lab)), (0, (0, 0)));
    assert_eq!(lab.worker.counters().noted(convey_engine::Note::HashRouted), 0);
}

#[test]
fn connections_stay_at_a_server_that_drains_goes_down_or_is_removed_and_new_ones_go_elsewhere() {
    type Change = fn(&mut SnapshotSpec, &str);
    let changes: [Change; 4] = [
        |spec, at| server(spec, at).draining = true,
        |spec, at| server(spec, at).weight = 0,
        |spec, at| server(spec, at).up = false,
        remove,
    ];
    for change in changes {
        let mut lab = Lab::minimal(3);
        let before: Vec<String> = (0..100).map(|n| connect(&mut lab, n, 1000)).collect();
        let gone = before[0].clone();
        lab.reload_at(2000, |spec| change(spec, &gone));
        for (n, server) in (0..).zip(&before) {
            assert_eq!(goes_on(&mut lab, n, 3000), *server, "{n}");
        }
        for n in 100..200 {
            let server = connect(&mut lab, n, 4000);
            assert_ne!(server, gone);
            assert_eq!(goes_on(&mut lab, n, 5000), server);
        }
        // Two thirds of the table are as they were.
        assert!((1..70).contains(&lab.worker.flows()), "{}", lab.worker.flows());
        // A SYN of a client whose connection is at the server that left begins another one elsewhere.
        let again = server_of(&send(&mut lab, P::syn(&client(0), VIP).seq(900_000, 0), 6000));
        assert_ne!(again, gone);
        assert_eq!(server_of(&send(&mut lab, P::tcp(&client(0), VIP).seq(900_001, 5), 6001)), again);
    }
}

#[test]
fn a_slot_that_moves_again_and_again_keeps_the_flows_of_every_server_it_had() {
    let mut lab = Lab::minimal(4);
    let mut known = Vec::new();
    let begin = |lab: &mut Lab, known: &mut Vec<(u32, String)>, now_ms| {
        for n in known.len() as u32..known.len() as u32 + 150 {
            known.push((n, connect(lab, n, now_ms)));
        }
    };
    begin(&mut lab, &mut known, 1000);
    for (i, address) in ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"].into_iter().enumerate() {
        let now_ms = 10_000 * (i as u64 + 1);
        lab.reload_at(now_ms, |spec| server(spec, address).up = false);
        begin(&mut lab, &mut known, now_ms + 1000);
        for (n, server) in &known {
            assert_eq!(goes_on(&mut lab, *n, now_ms + 2000), *server, "{n} after {address}");
        }
    }
    // They come back in the order they went: their slots are where they were, and others' flows in them stay.
    for (i, address) in ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"].into_iter().enumerate() {
        let now_ms = 100_000 + 10_000 * i as u64;
        lab.reload_at(now_ms, |spec| server(spec, address).up = true);
        begin(&mut lab, &mut known, now_ms + 1000);
        for (n, server) in &known {
            assert_eq!(goes_on(&mut lab, *n, now_ms + 2000), *server, "{n} with {address}");
        }
    }
}

#[test]
fn slots_settle_once_no_flow_can_be_left_elsewhere_and_an_active_one_never_moves() {
    let mut lab = Lab::minimal(3);
    let before: Vec<String> = (0..60).map(|n| connect(&mut lab, n, 1000)).collect();
    let gone = before[0].clone();
    lab.reload_at(2000, |spec| remove(spec, &gone));
    // Client 0 says something every hour; the others are silent.
    let mut now_ms = 2000;
    for _ in 0..10 {
        now_ms += HOUR;
        lab.worker.tick(&lab.snapshot, convey_engine::Nanos::from_millis(now_ms));
        if lab.snapshot.has_settled_slots(convey_engine::Nanos::from_millis(now_ms)) {
            lab.build_at(now_ms);
        }
        assert_eq!(goes_on(&mut lab, 0, now_ms), gone);
    }
    let silent = before.iter().position(|s| *s == gone && *s != before[1]).unwrap_or(0);
    assert_eq!(silent, 0);
    for n in (1..60).filter(|n| before[*n as usize] == gone) {
        assert_ne!(goes_on(&mut lab, n, now_ms), gone, "{n} was silent for ten hours");
    }
    // Silent at last, and the server's slot is free.
    now_ms += 3 * HOUR;
    for _ in 0..3 {
        lab.build_at(now_ms);
    }
    assert_ne!(goes_on(&mut lab, 0, now_ms), gone);
    assert!(!lab.snapshot.has_ended_slots());
    assert_eq!(lab.snapshot.slot_table().servers.iter().filter(|(_, s)| s.backend == "v4").count(), 2);
}

#[test]
fn conversations_stay_where_they_are_and_new_ones_leave_a_draining_server_when_the_window_is_over() {
    let mut lab = Lab::minimal(3);
    let before: Vec<String> = (0..60).map(|n| datagram(&mut lab, n, 1000)).collect();
    let draining = before[0].clone();
    lab.reload_at(2000, |spec| server(spec, &draining).draining = true);
    let mut now_ms = 2000;
    for _ in 0..30 {
        now_ms += 20_000;
        if lab.snapshot.has_settled_slots(convey_engine::Nanos::from_millis(now_ms)) {
            lab.build_at(now_ms);
        }
        for (n, server) in (0..).zip(&before) {
            assert_eq!(datagram(&mut lab, n, now_ms), *server, "{n} at {now_ms}");
        }
    }
    for n in 60..120 {
        assert_ne!(datagram(&mut lab, n, now_ms), draining, "{n}");
    }
    lab.reload_at(now_ms, |spec| remove(spec, &draining));
    for n in 0..60 {
        assert_ne!(datagram(&mut lab, n, now_ms + 1), draining, "{n}");
    }
}

#[test]
fn connections_of_a_frontend_that_is_removed_renamed_or_gets_another_backend_go_on() {
    let mut lab = Lab::minimal(4);
    lab.reload_at(500, |spec| {
        let (mut other, mut servers) = (spec.backends[0].clone(), Vec::new());
        std::mem::swap(&mut servers, &mut other.servers);
        let (first, second) = servers.split_at(2);
        spec.backends[0].servers = first.to_vec();
        spec.backends.push(convey_core::BackendSpec {
            name: "other".into(),
            servers: second.to_vec(),
            ..other
        });
    });
    let before: Vec<String> = (0..60).map(|n| connect(&mut lab, n, 1000)).collect();
    let all_go_on = |lab: &mut Lab, now_ms| {
        for (n, server) in (0..).zip(&before) {
            assert_eq!(goes_on(lab, n, now_ms), *server, "{n} at {now_ms}");
        }
    };
    lab.reload_at(2000, |spec| {
        let at = spec.frontends.iter().position(|f| f.listen[0].to_string() == VIP).expect("a frontend");
        spec.frontends[at].backend = "other".into();
    });
    all_go_on(&mut lab, 2001);
    let newer = connect(&mut lab, 70, 2002);
    assert!(!before.contains(&newer));
    lab.reload_at(3000, |spec| {
        let at = spec.frontends.iter().position(|f| f.listen[0].to_string() == VIP).expect("a frontend");
        spec.frontends[at].name = "renamed".into();
    });
    all_go_on(&mut lab, 3001);
    assert_eq!(goes_on(&mut lab, 70, 3001), newer);
    lab.reload_at(4000, |spec| spec.frontends.retain(|f| f.name != "renamed"));
    lab.build_at(5000);
    all_go_on(&mut lab, 5001);
    assert_eq!(goes_on(&mut lab, 70, 5001), newer);
    assert_eq!(send(&mut lab, P::syn(&client(90), VIP), 5002).verdict, "reply");
    lab.build_at(5000 + 3 * HOUR);
    for second in 0..10 {
        let now = convey_engine::Nanos::from_millis(5000 + 3 * HOUR + 1000 * second);
        lab.worker.tick(&lab.snapshot, now);
    }
    lab.build_at(16_000 + 3 * HOUR);
    assert_eq!(send(&mut lab, P::tcp(&client(3), VIP), 17_000 + 3 * HOUR).verdict, "pass");
}

#[test]
fn icmp_errors_go_to_the_server_that_the_connection_is_at() {
    let mut lab = Lab::minimal(3);
    let before: Vec<String> = (0..30).map(|n| connect(&mut lab, n, 1000)).collect();
    let gone = before[0].clone();
    lab.reload_at(2000, |spec| server(spec, &gone).draining = true);
    let later: Vec<String> = (30..60).map(|n| connect(&mut lab, n, 3000)).collect();
    for (n, server) in (0..).zip(before.iter().chain(&later)) {
        let answer = P::tcp(VIP, &client(n)).quoted(64);
        let error = P::icmp("198.51.100.254", "192.0.2.10", 3, 4, 1400, &answer);
        let frame = send(&mut lab, error, 4000).frame();
        let to = format!("{}.{}.{}.{}:80", frame[30], frame[31], frame[32], frame[33]);
        assert_eq!(to, *server, "{n}");
    }
}

#[test]
fn what_needs_every_connection_counted_or_every_flow_is_refused_with_its_key() {
    let lab = Lab::minimal(2);
    type Change = fn(&mut SnapshotSpec);
    let changes: [(&str, Change); 4] = [
        ("limits.max_connections", |spec| spec.limits.max_connections = 5),
        ("frontends.v4-http.max_connections", |spec| {
            spec.frontends[0].name = "v4-http".into();
            spec.frontends[0].max_connections = 5;
        }),
        ("backends.v4.servers.s2.max_connections", |spec| spec.backends[0].servers[1].max_connections = 5),
        ("dsr.connection_tracking", |spec| spec.mode = convey_core::Mode::Passthrough),
    ];
    for (key, change) in changes {
        let mut spec = lab.config.spec().clone();
        change(&mut spec);
        let config = convey_core::Snapshot::first(spec, 1).expect("a snapshot");
        let error = convey_engine::PacketSnapshot::build(&config, &lab.options, None).expect_err(key);
        assert_eq!(error.field, key);
        assert!(error.message.contains("minimal"), "{}", error.message);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Add(u8),
    Remove(u8),
    Weight(u8, u16),
    Up(u8, bool),
    Drain(u8, bool),
    Wait(u32),
    Begin(u8),
    Talk,
}

fn event() -> impl Strategy<Value = Event> {
    let server = 0..6u8;
    prop_oneof![
        1 => server.clone().prop_map(Event::Add),
        1 => server.clone().prop_map(Event::Remove),
        2 => (server.clone(), 0..4u16).prop_map(|(s, w)| Event::Weight(s, w)),
        3 => (server.clone(), any::<bool>()).prop_map(|(s, up)| Event::Up(s, up)),
        2 => (server, any::<bool>()).prop_map(|(s, drains)| Event::Drain(s, drains)),
        3 => (1..200_000u32).prop_map(Event::Wait),
        1 => Just(Event::Wait(3_000_000)),
        4 => (1..20u8).prop_map(Event::Begin),
        3 => Just(Event::Talk),
    ]
}

/// A flow as its ends know it.
struct Known {
    n: u32,
    is_udp: bool,
    server: String,
    last_ms: u64,
}

fn apply(spec: &mut SnapshotSpec, event: &Event) {
    let address = |s: u8| format!("10.0.0.{}:80", 11 + s);
    let find = |s: u8, spec: &SnapshotSpec| {
        spec.backends[0].servers.iter().position(|server| server.addr.to_string() == address(s))
    };
    match *event {
        Event::Add(s) if find(s, spec).is_none() => {
            let like = spec.backends[0].servers.first().cloned();
            let Some(like) = like else { return };
            let new = ServerSpec {
                name: format!("s{}", s + 1),
                addr: address(s).parse().expect("an address"),
                weight: 1,
                up: true,
                draining: false,
                backup: false,
                share: convey_core::selection::SLOW_START_STEPS,
                ..like
            };
            spec.backends[0].servers.push(new);
        }
        // One is left to be copied.
        Event::Remove(s) if spec.backends[0].servers.len() > 1 => remove(spec, &address(s)),
        Event::Weight(s, weight) => {
            if let Some(at) = find(s, spec) {
                spec.backends[0].servers[at].weight = weight;
            }
        }
        Event::Up(s, up) => {
            if let Some(at) = find(s, spec) {
                spec.backends[0].servers[at].up = up;
            }
        }
        Event::Drain(s, drains) => {
            if let Some(at) = find(s, spec) {
                spec.backends[0].servers[at].draining = drains;
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The model: a TCP connection that says something at least every two hours is at the server it began at, up or
    /// down, draining or removed, for as long as it says something. A UDP conversation that says something twice at
    /// least every four minutes is at the server it began at for as long as that one is neither down nor removed.
    #[test]
    fn no_established_flow_changes_its_server_over_any_sequence_of_server_changes(
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut lab = Lab::minimal(6);
        let (mut known, mut now_ms, mut begun): (Vec<Known>, u64, u32) = (Vec::new(), 1000, 0);
        for event in events {
            match event {
                Event::Wait(ms) => {
                    let end = now_ms + u64::from(ms);
                    while now_ms < end {
                        now_ms = end.min(now_ms + 60_000);
                        let now = convey_engine::Nanos::from_millis(now_ms);
                        lab.worker.tick(&lab.snapshot, now);
                        if lab.snapshot.has_settled_slots(now) || lab.snapshot.has_ended_slots() {
                            lab.build_at(now_ms);
                        }
                    }
                }
                Event::Begin(flows) => {
                    for n in begun..begun + u32::from(flows) {
                        let is_udp = n % 3 == 0;
                        let out = match is_udp {
                            true => send(&mut lab, P::udp(&client(n), VIP).payload(b"?"), now_ms),
                            false => send(&mut lab, P::syn(&client(n), VIP), now_ms),
                        };
                        // No server is up.
                        if out.verdict != "forward" {
                            continue;
                        }
                        known.push(Known { n, is_udp, server: server_of(&out), last_ms: now_ms });
                        // A connection is open, and a conversation is one, from the second packet on.
                        let again = if is_udp { datagram(&mut lab, n, now_ms) } else { goes_on(&mut lab, n, now_ms) };
                        prop_assert_eq!(again, server_of(&out));
                    }
                    begun += u32::from(flows);
                }
                Event::Talk => {}
                ref change => {
                    lab.reload_at(now_ms, |spec| apply(spec, change));
                    let spec = lab.config.spec().clone();
                    let is_there = |address: &str| {
                        spec.backends[0].servers.iter().any(|s| s.addr.to_string() == address && s.up)
                    };
                    // It is somewhere else now, or will be after its next datagram.
                    known.retain(|flow| !flow.is_udp || is_there(&flow.server));
                }
            }
            known.retain(|flow| now_ms - flow.last_ms <= if flow.is_udp { 240_000 } else { 7_200_000 });
            if matches!(event, Event::Talk) || matches!(event, Event::Wait(ms) if ms % 3 > 0) {
                for flow in &mut known {
                    for _ in 0..2 {
                        let out = match flow.is_udp {
                            true => send(&mut lab, P::udp(&client(flow.n), VIP).payload(b"?"), now_ms),
                            false => send(&mut lab, P::tcp(&client(flow.n), VIP), now_ms),
                        };
                        prop_assert_eq!(&out.verdict, "forward");
                        prop_assert_eq!(
                            server_of(&out), flow.server.clone(), "{} at {} ms, udp {}", flow.n, now_ms, flow.is_udp
                        );
                    }
                    flow.last_ms = now_ms;
                }
            }
        }
    }
}
