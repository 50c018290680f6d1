//! More conversations with a server than there are NAT ports towards it.

mod common;

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
    for (spread_ms, questions) in [(60_000, 2), (4_000, 1)] {
        let mut lab = lab((33768, 61000));
        for n in 0..40_000u64 {
            let now = 1000 + n * spread_ms / 40_000;
            for _ in 0..questions {
                assert!(
                    ask(&mut lab, &client(n as u32), now).is_some(),
                    "conversation {n} of {spread_ms} ms"
                );
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
