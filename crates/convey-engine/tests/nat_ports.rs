//! More conversations with a server than there are NAT ports towards it.

mod common;

use std::collections::HashSet;
use std::net::IpAddr;

use common::Lab;
use common::world::{VIP, client, connect, send, tuple};
use convey_engine::{Note, PacketOptions};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, SYN};
use proptest::prelude::*;

const DNS: &str = "192.0.2.10:53";

/// One server and these NAT ports, with room for more flows than that.
fn lab(ports: (u16, u16)) -> Lab {
    let mut world = common::world("passthrough");
    world.nat_ports = ports;
    world.servers.truncate(1);
    let options = PacketOptions { capacity: 1 << 16, ..common::options(&world) };
    Lab::with(&world, common::spec(&world), options)
}

/// A question and an answer. Gives the NAT address, or `None` when the question was refused.
fn ask(lab: &mut Lab, from: &str, now_ms: u64) -> Option<String> {
    let out = send(lab, P::udp(from, DNS), now_ms);
    if out.verdict != "forward" {
        return None;
    }
    let (nat, server) = tuple(&out.frame());
    assert_eq!(tuple(&send(lab, P::udp(&server, &nat), now_ms).frame()).1, from);
    Some(nat)
}

#[test]
fn forty_thousand_conversations_of_two_questions_each_within_a_minute_are_all_served() {
    let mut lab = lab((33768, 61000));
    for n in 0..40_000u64 {
        for _ in 0..2 {
            assert!(ask(&mut lab, &client(n as u32), 1000 + n * 3 / 2).is_some(), "conversation {n}");
        }
    }
}

#[test]
fn a_port_serves_a_question_every_two_seconds_and_one_asked_but_once_at_any_rate() {
    for (questions, every_ms) in [(2, 21), (1, 1)] {
        let mut lab = lab((40000, 40099));
        for n in 0..2000u64 {
            for _ in 0..questions {
                assert!(ask(&mut lab, &client(n as u32), 1000 + n * every_ms).is_some(), "{n}");
            }
        }
    }
}

#[test]
fn a_busy_conversation_is_never_broken_by_any_number_of_new_ones() {
    let mut lab = lab((40000, 40099));
    let busy: Vec<String> = (0..50).map(|n| ask(&mut lab, &client(n), 1000).unwrap()).collect();
    for round in 0..200u64 {
        let now = 1000 + round * 500;
        for (n, nat) in busy.iter().enumerate() {
            assert_eq!(ask(&mut lab, &client(n as u32), now).as_ref(), Some(nat), "round {round}");
        }
        for n in 0..20 {
            let other = client(1000 + round as u32 * 20 + n);
            ask(&mut lab, &other, now);
            ask(&mut lab, &other, now);
        }
    }
}

#[test]
fn of_the_idle_conversations_the_one_idle_longest_gives_way_first() {
    let mut lab = lab((40000, 40009));
    let long =
        |lab: &mut Lab, n, now| (0..10).map(|_| ask(lab, &client(n), now).unwrap()).next_back().unwrap();
    let ports: Vec<String> = (0..10).map(|n| long(&mut lab, n, 1000 + u64::from(n) * 1000)).collect();
    // The first goes on once more and is then the last in the order.
    long(&mut lab, 0, 20_000);
    let taken: Vec<String> =
        (0..9).map(|n| ask(&mut lab, &client(100 + n), 41_000 + u64::from(n)).unwrap()).collect();
    assert_eq!(taken, ports[1..]);
    assert_eq!(lab.worker.counters().noted(Note::PortTakenOver), 9);
}

#[test]
fn a_pause_of_some_seconds_costs_a_long_conversation_nothing_while_brief_ones_can_give_way() {
    let mut lab = lab((40000, 40009));
    for _ in 0..10 {
        ask(&mut lab, &client(0), 1000).unwrap();
    }
    let held = ask(&mut lab, &client(0), 1000).unwrap();
    for n in 0..80 {
        let now = 1000 + u64::from(n) * 300;
        for _ in 0..2 {
            assert!(ask(&mut lab, &client(100 + n), now).is_some(), "{now}");
        }
    }
    assert_eq!(ask(&mut lab, &client(0), 26_000).unwrap(), held);
}

#[test]
fn a_flood_of_first_datagrams_takes_no_port_from_a_conversation_under_way() {
    let mut lab = lab((40000, 40099));
    let held = ask(&mut lab, &client(0), 1000).unwrap();
    ask(&mut lab, &client(0), 1000);
    for n in 0..20_000u64 {
        send(&mut lab, P::udp(&client(10_000 + n as u32), DNS), 1000 + n / 10);
        if n % 1000 == 0 {
            assert_eq!(ask(&mut lab, &client(0), 1000 + n / 10).as_ref(), Some(&held));
        }
    }
}

#[test]
fn connections_keep_their_ports_however_long_they_are_idle_and_others_are_refused() {
    let mut lab = lab((40000, 40009));
    for n in 0..10 {
        connect(&mut lab, &client(n), 1000);
    }
    let late = 7_000_000;
    assert_eq!(send(&mut lab, P::syn(&client(50), VIP), late).reason.unwrap(), "tcp_reset.ports_exhausted");
    // Their time over, no sweep has to come by first.
    let later = 1000 + 7_442_000;
    assert_eq!(send(&mut lab, P::syn(&client(50), VIP), later).verdict, "forward");
}

#[test]
fn a_half_open_flood_with_guessed_acknowledgements_shuts_nobody_out() {
    let mut lab = lab((40000, 40099));
    for n in 0..200u32 {
        let from = client(10_000 + n);
        let out = send(&mut lab, P::syn(&from, VIP), 1000);
        let (nat, server) = tuple(&out.frame());
        send(&mut lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(0x5a5a_0000 + n, 1001), 1000);
        for guess in 0..256u32 {
            send(&mut lab, P::tcp(&from, VIP).seq(1001, guess << 24), 1000);
        }
    }
    assert_eq!(lab.config.totals.open(), 0);
    connect(&mut lab, &client(1), 1001);
    assert_eq!(lab.config.totals.open(), 1);
}

/// As [`lab`], with these NAT addresses.
fn lab_with(ports: (u16, u16), addresses: &[&str]) -> Lab {
    let mut world = common::world("passthrough");
    world.nat_ports = ports;
    world.servers.truncate(1);
    let nat_addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect("an address")).collect();
    let options = PacketOptions {
        capacity: 1 << 16,
        local_addresses: nat_addresses.clone(),
        nat_addresses,
        ..common::options(&world)
    };
    Lab::with(&world, common::spec(&world), options)
}

#[test]
fn every_nat_address_has_all_the_ports_and_answers_to_any_of_them_come_home() {
    let addresses = ["10.0.0.3", "10.0.0.1", "10.0.0.2"];
    let mut lab = lab_with((40000, 40009), &addresses);
    let mut live = Vec::new();
    for n in 0..30 {
        live.push((client(n), connect(&mut lab, &client(n), 1000)));
    }
    let used: HashSet<&str> = live.iter().filter_map(|(_, (nat, _))| nat.split(':').next()).collect();
    assert_eq!(used, HashSet::from(addresses));
    assert_eq!(live.iter().map(|(_, (nat, _))| nat).collect::<HashSet<_>>().len(), 30);
    let refused = send(&mut lab, P::syn(&client(30), VIP), 1001);
    assert_eq!(refused.reason.unwrap(), "tcp_reset.ports_exhausted");
    for (from, (nat, server)) in &live {
        let answer = send(&mut lab, P::tcp(server, nat).seq(5001, 1001).payload(b"yours"), 1002);
        assert_eq!(&tuple(&answer.frame()).1, from);
        // An error about what went to the server, quoted with the NAT address, finds the client.
        let quoted = P::tcp(nat, server).seq(1001, 5001).payload(&[1; 1400]).quoted(28);
        let at = nat.split(':').next().unwrap();
        let error = send(&mut lab, P::icmp("10.0.0.99", at, 3, 4, 1280, &quoted), 1002);
        assert_eq!(error.frame()[30..34], from_octets(from));
    }
    let guarded: HashSet<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    assert!(guarded.is_subset(&lab.snapshot.nat_sources()));
}

fn from_octets(client: &str) -> [u8; 4] {
    client.parse::<std::net::SocketAddrV4>().map(|a| a.ip().octets()).expect("an IPv4 client")
}

#[test]
fn a_client_keeps_to_one_nat_address_while_it_has_ports() {
    let mut lab = lab_with((40000, 40999), &["10.0.0.1", "10.0.0.2"]);
    for host in 1..20 {
        let addresses: HashSet<String> = (0..20)
            .map(|port| connect(&mut lab, &format!("198.51.100.{host}:{}", 2000 + port), 1000).0)
            .map(|nat| nat.split(':').next().unwrap().to_string())
            .collect();
        assert_eq!(addresses.len(), 1);
    }
}

#[test]
fn a_port_is_taken_over_on_whichever_address_it_costs_least() {
    let mut lab = lab_with((40000, 40004), &["10.0.0.1", "10.0.0.2"]);
    let live: Vec<_> = (0..10).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    // One of the ten closes: its port serves the next client, whichever address that client would prefer.
    send(&mut lab, P::tcp(&live[3].0, VIP).flags(convey_testkit::build::RST).seq(1001, 0), 1001);
    assert_eq!(connect(&mut lab, &client(77), 1002).0, live[3].1.0);
}

#[test]
fn a_nat_address_must_be_one_of_this_host_that_packets_can_have() {
    let world = common::world("passthrough");
    let build = |nat: &str, local: &str| {
        let options = PacketOptions {
            nat_addresses: vec![nat.parse().unwrap()],
            local_addresses: vec![local.parse().unwrap()],
            ..common::options(&world)
        };
        let config = convey_core::Snapshot::first(common::spec(&world), 1).unwrap();
        convey_engine::PacketSnapshot::build(&config, &options, None).map(|_| ()).map_err(|e| e.field)
    };
    let refused = Err("passthrough.nat_addresses".to_string());
    assert_eq!(build("10.0.0.1", "10.0.0.1"), Ok(()));
    assert_eq!(build("10.0.0.1", "10.0.0.2"), refused);
    for never in ["127.0.0.1", "224.0.0.1", "0.0.0.0", "fe80::1", "::ffff:10.0.0.1"] {
        assert_eq!(build(never, never), refused, "{never}");
    }
}

#[test]
fn a_frontend_without_a_nat_address_of_its_family_uses_its_own() {
    let lab = lab_with((40000, 40009), &["10.0.0.1"]);
    let frontends: Vec<_> = (0..10).filter_map(|slot| lab.snapshot.frontend(slot)).collect();
    assert!(frontends.iter().any(|f| f.address.is_v4()) && frontends.iter().any(|f| !f.address.is_v4()));
    for frontend in frontends {
        let sources: Vec<IpAddr> = frontend.nat_sources.iter().map(|a| (*a).into()).collect();
        let own = IpAddr::from(frontend.address);
        assert_eq!(sources, [if own.is_ipv4() { IpAddr::from([10, 0, 0, 1]) } else { own }]);
    }
}

#[test]
fn answers_stay_with_the_engine_until_the_last_flow_of_a_backend_that_was_emptied_has_ended() {
    let mut lab = lab((40000, 40009));
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    let v4 = |lab: &Lab| lab.snapshot.nat_sources().iter().any(IpAddr::is_ipv4);
    lab.reload(|s| s.backends[0].servers.clear());
    for _ in 0..3 {
        lab.reload(|_| {});
        assert!(v4(&lab));
        let answer = P::tcp(&server, &nat).seq(5001, 1001).payload(b"x");
        assert_eq!(send(&mut lab, answer, 1001).verdict, "forward");
    }
    common::world::close(&mut lab, &client(1), &nat, &server, 1002);
    let snapshot = lab.snapshot.clone();
    lab.worker.end_all(&snapshot);
    for _ in 0..3 {
        lab.reload(|_| {});
        let snapshot = lab.snapshot.clone();
        lab.worker.tick(&snapshot, convey_engine::Nanos::from_secs(100));
    }
    assert!(!v4(&lab));
}

#[derive(Debug, Clone)]
enum Event {
    Ask(u16),
    Wait(u16),
    Sweep,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_datagram_meets_another_clients_port_and_none_is_refused_while_somebody_is_idle(
        events in proptest::collection::vec(
            prop_oneof![
                8 => (0u16..60).prop_map(Event::Ask),
                3 => (0u16..3000).prop_map(Event::Wait),
                1 => (0u16..u16::MAX).prop_map(Event::Wait),
                1 => Just(Event::Sweep),
            ],
            1..300,
        ),
    ) {
        let mut lab = lab((40000, 40019));
        let mut asked = vec![0u64; 60];
        let mut now = 100_000;
        for event in events {
            match event {
                Event::Wait(ms) => now += u64::from(ms),
                Event::Sweep => {
                    let snapshot = lab.snapshot.clone();
                    lab.worker.tick(&snapshot, convey_engine::Nanos::from_millis(now));
                }
                Event::Ask(n) => {
                    // `ask` itself checks that the answer comes home.
                    if ask(&mut lab, &client(u32::from(n)), now).is_some() {
                        asked[usize::from(n)] = now;
                    } else {
                        let recent = asked.iter().filter(|&&at| now - at < 31_000).count();
                        prop_assert!(recent >= 20, "refused with {} in use", recent);
                    }
                }
            }
            prop_assert!(lab.config.totals.open() <= lab.worker.flows() as u64);
        }
    }
}
