//! Flows over time: floods, exhaustion, reloads, ends.

mod common;

use std::collections::HashSet;

use common::Lab;
use common::world::{VIP, client, close, connect, connect_dsr, open, send, tuple};
use convey_engine::{Nanos, Note, Outcome, PacketSnapshot, PassReason, Step, Worker, explain};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::RST;

#[test]
fn no_two_live_flows_share_a_port_and_no_reply_reaches_another_client() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let flows: Vec<(String, String)> =
        (0..100).map(|n| (client(n), connect(&mut lab, &client(n), 1000).0)).collect();
    assert_eq!(flows.iter().map(|f| &f.1).collect::<HashSet<_>>().len(), 100);
    for (client, nat) in &flows {
        let out = send(&mut lab, P::tcp("10.0.0.11:8080", nat).seq(5001, 1001).payload(b"yours"), 1001);
        assert_eq!(&tuple(&out.frame()).1, client);
    }
    assert_eq!(send(&mut lab, P::syn(&client(100), VIP), 1002).reason.unwrap(), "tcp_reset.ports_exhausted");
    for (client, _) in &flows {
        assert_eq!(send(&mut lab, P::tcp(client, VIP), 1003).verdict, "forward");
    }
}

#[test]
fn the_same_port_serves_two_servers_at_once() {
    let mut lab = Lab::passthrough((40000, 40003), 2);
    let flows: Vec<_> = (0..6).map(|n| send(&mut lab, P::syn(&client(n), VIP), 1000).verdict).collect();
    assert_eq!(flows, ["forward"; 6], "four ports towards each of two servers");
}

#[test]
fn a_syn_flood_leaves_conversations_alone_and_memory_flat() {
    let mut lab = Lab::passthrough((40000, 40999), 1);
    let real: Vec<_> = (0..200).map(|n| (client(n), connect(&mut lab, &client(n), 1000).0)).collect();
    let memory = (lab.worker.flow_memory_bytes(), lab.worker.port_memory_bytes());
    for n in 10_000..30_000 {
        send(&mut lab, P::syn(&client(n), VIP), 1001);
        if n % 100 == 0 {
            let late = format!("203.0.113.9:{n}");
            connect(&mut lab, &late, 1001);
            assert_eq!(send(&mut lab, P::tcp(&late, VIP), 1001).verdict, "forward", "{late}");
        }
    }
    for (client, _) in &real {
        assert_eq!(send(&mut lab, P::tcp(client, VIP), 1002).verdict, "forward");
    }
    assert_eq!((lab.worker.flow_memory_bytes(), lab.worker.port_memory_bytes()), memory);
    assert_eq!(open(&lab).1, 400, "only finished handshakes are connections");
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_established_ones() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    let mut live = Vec::new();
    let mut refused = 0;
    for n in 0..4000 {
        match send(&mut lab, P::syn(&client(n), VIP), 1000) {
            out if out.verdict == "forward" => {
                connect(&mut lab, &client(n), 1000);
                live.push(client(n));
            }
            out => {
                assert_eq!(out.reason.unwrap(), "tcp_reset.flow_table_full");
                refused += 1;
            }
        }
    }
    assert!(live.len() >= 1024 && refused > 0);
    for client in &live {
        assert_eq!(send(&mut lab, P::tcp(client, VIP), 1001).verdict, "forward");
    }
}

#[test]
fn in_dsr_a_full_table_falls_back_to_the_hash_and_nothing_is_refused() {
    let mut lab = Lab::dsr(5);
    let servers: Vec<String> = (0..5000).map(|n| connect_dsr(&mut lab, &client(n), 1000)).collect();
    for (n, server) in servers.iter().enumerate() {
        let out = send(&mut lab, P::tcp(&client(n as u32), VIP), 1001);
        assert_eq!(&tuple(&out.frame()).1, server);
    }
}

#[test]
fn a_restarted_dsr_balancer_sends_known_flows_to_the_same_servers() {
    let (mut before, mut after) = (Lab::dsr(5), Lab::dsr(5));
    for n in 0..500 {
        let server = connect_dsr(&mut before, &client(n), 1000);
        let out = send(&mut after, P::tcp(&client(n), VIP).payload(b"on"), 1000);
        assert_eq!(tuple(&out.frame()).1, server);
    }
}

#[test]
fn flows_stay_with_their_server_across_add_drain_health_and_removal() {
    for mode in ["passthrough", "dsr"] {
        let mut lab = if mode == "dsr" { Lab::dsr(3) } else { Lab::passthrough((33768, 61000), 3) };
        let flows: Vec<(String, String)> = (0..300)
            .map(|n| {
                let server = if mode == "dsr" {
                    connect_dsr(&mut lab, &client(n), 1000)
                } else {
                    connect(&mut lab, &client(n), 1000).1
                };
                (client(n), server)
            })
            .collect();
        let check = |lab: &mut Lab, step: &str| {
            for (client, server) in &flows {
                let out = send(lab, P::tcp(client, VIP), 1001);
                assert_eq!(&tuple(&out.frame()).1, server, "{mode}: {step}");
            }
        };
        lab.reload(|s| s.backends[0].servers[0].draining = true);
        check(&mut lab, "drain");
        lab.reload(|s| s.backends[0].servers[1].up = false);
        check(&mut lab, "health down");
        lab.reload(|s| {
            let mut added = s.backends[0].servers[2].clone();
            added.name = "s9".into();
            let port: u16 = if mode == "dsr" { 80 } else { 8081 };
            added.addr = std::net::SocketAddr::from(([10, 0, 0, 12], port)).into();
            s.backends[0].servers.push(added);
        });
        check(&mut lab, "add");
        lab.reload(|s| s.backends[0].servers.retain(|s| s.name == "s9"));
        check(&mut lab, "removal");
        assert_eq!(lab.config.totals.open(), 300);
    }
}

#[test]
fn a_frontend_that_is_removed_keeps_its_flows_and_refuses_others_until_they_are_over() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    lab.reload(|s| {
        s.frontends.clear();
        s.backends.clear();
    });
    for now in [1001, 1002] {
        let out = send(&mut lab, P::tcp(&client(1), VIP).payload(b"up"), now);
        assert_eq!(tuple(&out.frame()), (nat.clone(), server.clone()));
        let out = send(&mut lab, P::tcp(&server, &nat).seq(5001, 1001).payload(b"down"), now);
        assert_eq!(tuple(&out.frame()), (VIP.to_owned(), client(1)));
    }
    let refused = send(&mut lab, P::syn(&client(2), VIP), 1003);
    assert_eq!(refused.reason.unwrap(), "tcp_reset.frontend_left");
    assert!(lab.snapshot.has_ended_slots(), "the other frontends have no flows");
    lab.reload(|_| {});
    assert_eq!(lab.snapshot.vips().count(), 1, "the kernel stays out of it");
    assert_eq!(lab.snapshot.nat_sources().len(), 1);
    assert!(!lab.snapshot.has_ended_slots());

    close(&mut lab, &client(1), &nat, &server, 1004);
    lab.worker.tick(&lab.snapshot, Nanos::from_millis(1_000_000));
    assert!(lab.snapshot.has_ended_slots());
    lab.reload(|_| {});
    assert_eq!((lab.snapshot.vips().count(), lab.snapshot.nat_sources().len()), (0, 0));
    assert_eq!(send(&mut lab, P::syn(&client(2), VIP), 1_000_001).verdict, "pass");
}

#[test]
fn a_frontend_that_takes_over_the_address_of_another_leaves_that_ones_flows_alone() {
    for mut lab in [Lab::passthrough((33768, 61000), 2), Lab::dsr(2)] {
        let mode = if lab.snapshot.mode() == convey_core::Mode::Dsr { "dsr" } else { "passthrough" };
        let before: Vec<_> = (0..50)
            .map(|n| {
                let client = client(n);
                if mode == "dsr" {
                    connect_dsr(&mut lab, &client, 1000)
                } else {
                    connect(&mut lab, &client, 1000).1
                }
            })
            .collect();
        lab.reload(|s| {
            let mut other = s.backends[0].clone();
            other.name = "other".into();
            other.servers.truncate(1);
            s.backends.push(other);
            s.frontends[0].name = "renamed".into();
            s.frontends[0].backend = "other".into();
        });
        for (n, server) in (0..).zip(&before) {
            let out = send(&mut lab, P::tcp(&client(n), VIP).payload(b"x"), 1001);
            assert_eq!(&tuple(&out.frame()).1, server, "{mode}");
        }
        // The same clients begin anew, and others: by the new configuration.
        for n in [0, 1, 2, 3, 100, 101, 102] {
            let out = send(&mut lab, P::tcp(&client(n), VIP).flags(RST).seq(1002, 0), 1002);
            assert!(out.verdict == "forward" || n >= 100, "{mode}: {}", out.verdict);
            let out = send(&mut lab, P::syn(&client(n), VIP), 1003);
            assert!(tuple(&out.frame()).1.starts_with("10.0.0.11:"), "{mode}");
        }
    }
}

#[test]
fn a_drained_server_gets_no_new_flow_and_all_drained_is_no_server() {
    let mut lab = Lab::passthrough((33768, 61000), 2);
    lab.reload(|s| s.backends[0].servers[0].draining = true);
    for n in 0..100 {
        let out = send(&mut lab, P::syn(&client(n), VIP), 1000);
        assert_eq!(tuple(&out.frame()).1, "10.0.0.12:8080");
    }
    lab.reload(|s| s.backends[0].servers[1].up = false);
    assert_eq!(send(&mut lab, P::syn(&client(100), VIP), 1000).reason.unwrap(), "tcp_reset.no_server");
}

#[test]
fn gauges_rise_and_fall_exactly_with_connections_and_never_below_zero() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    assert_eq!(open(&lab), (1, 1));
    close(&mut lab, &client(1), &nat, &server, 1001);
    assert_eq!(open(&lab), (1, 0));
    connect(&mut lab, &client(2), 1000);
    send(&mut lab, P::tcp(&client(2), VIP).flags(RST).seq(1001, 0), 1002);
    send(&mut lab, P::tcp(&client(2), VIP).flags(RST).seq(1001, 0), 1002);
    assert_eq!(open(&lab), (2, 0));
    send(&mut lab, P::udp(&client(3), "192.0.2.10:53"), 1003);
    assert_eq!(open(&lab), (3, 1));
    let snapshot = lab.snapshot.clone();
    for ms in 0..5000 {
        lab.worker.tick(&snapshot, Nanos::from_millis(100_000 + ms));
    }
    assert_eq!(open(&lab), (3, 0));
    assert_eq!(lab.worker.flows(), 0);
    for f in &lab.config.frontends {
        assert_eq!(f.counters.open(), 0);
    }
}

#[test]
fn a_server_that_is_removed_and_comes_back_with_flows_open_never_makes_a_gauge_wrap() {
    let mut lab = Lab::passthrough((33768, 61000), 2);
    let flows: Vec<_> = (0..50).map(|n| connect(&mut lab, &client(n), 1000)).collect();
    let removed = lab.config.spec().backends[0].servers[0].clone();
    lab.reload(|s| {
        s.backends[0].servers.remove(0);
    });
    lab.reload(|s| s.backends[0].servers.push(removed));
    for (n, (nat, server)) in flows.iter().enumerate() {
        close(&mut lab, &client(n as u32), nat, server, 1001);
    }
    for server in &lab.config.backends[0].servers {
        assert_eq!(server.counters.open(), 0, "{}", server.name);
    }
    assert_eq!(open(&lab), (50, 0));
}

#[test]
fn packets_and_their_payload_are_counted_live_in_the_direction_they_go() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    send(&mut lab, P::tcp(&client(1), VIP).payload(&[1; 100]), 1001);
    send(&mut lab, P::tcp(&server, &nat).seq(5001, 1101).payload(&[1; 1000]), 1002);
    let frontend = &lab.config.frontends[0].counters;
    let backend = &lab.config.backends[0];
    for c in [frontend, &lab.config.totals, &backend.counters, &backend.servers[0].counters] {
        assert_eq!((c.bytes_tx(), c.bytes_rx()), (100, 1000));
        assert_eq!((c.packets_tx(), c.packets_rx()), (3, 2));
    }
}

#[test]
fn in_dsr_the_return_path_is_not_counted() {
    let mut lab = Lab::dsr(1);
    connect_dsr(&mut lab, &client(1), 1000);
    send(&mut lab, P::tcp(&client(1), VIP).payload(&[1; 100]), 1001);
    assert_eq!((open(&lab), lab.config.totals.bytes_tx(), lab.config.totals.bytes_rx()), ((1, 1), 100, 0));
}

#[test]
fn limits_hold_and_are_counted_apart() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    lab.reload(|s| s.frontends[0].max_connections = 2);
    connect(&mut lab, &client(1), 1000);
    let (nat, server) = connect(&mut lab, &client(2), 1000);
    assert_eq!(send(&mut lab, P::syn(&client(3), VIP), 1000).reason.unwrap(), "tcp_reset.limit_frontend");
    assert_eq!(lab.config.frontends[0].reasons.get(convey_core::Reason::LimitFrontend), 1);
    close(&mut lab, &client(2), &nat, &server, 1001);
    connect(&mut lab, &client(3), 1002);
    lab.reload(|s| s.backends[0].servers[0].max_connections = 1);
    lab.reload(|s| s.frontends[0].max_connections = 0);
    assert_eq!(send(&mut lab, P::syn(&client(4), VIP), 1000).reason.unwrap(), "tcp_reset.limit_server");
    lab.reload(|s| s.limits.max_connections = 1);
    assert_eq!(send(&mut lab, P::syn(&client(4), VIP), 1000).reason.unwrap(), "tcp_reset.limit_total");
}

#[test]
fn one_source_port_in_a_loop_never_stalls_and_never_meets_its_old_tuple() {
    let mut lab = Lab::passthrough((40000, 40009), 1);
    let mut last = String::new();
    for _ in 0..100 {
        let (nat, server) = connect(&mut lab, &client(1), 1000);
        assert_ne!(nat, last, "the server may still hold that tuple in TIME_WAIT");
        close(&mut lab, &client(1), &nat, &server, 1001);
        last = nat;
    }
    assert_eq!(open(&lab), (100, 0));
}

#[test]
fn ports_of_the_least_recently_closed_flows_are_reused_under_pressure() {
    let mut lab = Lab::passthrough((40000, 40009), 1);
    for n in 0..1000 {
        let (nat, server) = connect(&mut lab, &client(n), 1000);
        close(&mut lab, &client(n), &nat, &server, 1001);
    }
    assert_eq!(lab.worker.counters().noted(Note::PortTakenOver), 990);
    assert_eq!(open(&lab), (1000, 0));
}

#[test]
fn only_the_workers_own_ports_are_handed_out() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    lab.options.workers = 4;
    lab.snapshot = std::sync::Arc::new(PacketSnapshot::build(&lab.config, &lab.options, None).unwrap());
    for worker in 0..4 {
        lab.worker = Worker::new(worker, &lab.snapshot);
        for n in 0..25 {
            let (nat, _) = connect(&mut lab, &client(n), 1000);
            let port: usize = nat.rsplit(':').next().unwrap().parse().unwrap();
            assert_eq!(port % 4, worker);
        }
        assert_eq!(
            send(&mut lab, P::syn(&client(99), VIP), 1000).reason.unwrap(),
            "tcp_reset.ports_exhausted"
        );
    }
}

#[test]
fn a_frontends_own_port_within_the_nat_range_is_never_taken_for_nat() {
    let mut lab = Lab::passthrough((78, 82), 1);
    let ports: HashSet<String> = (0..4).map(|n| connect(&mut lab, &client(n), 1000).0).collect();
    assert_eq!(ports.len(), 4);
    assert!(!ports.contains(VIP));
    assert_eq!(send(&mut lab, P::syn(&client(9), VIP), 1000).reason.unwrap(), "tcp_reset.ports_exhausted");
}

#[test]
fn the_budget_for_icmp_errors_bounds_them_and_refills() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    lab.options.icmp_per_second = 5;
    lab.reload(|_| {});
    lab.worker = Worker::new(0, &lab.snapshot);
    let mut verdicts = |now| {
        (0..20).map(|_| send(&mut lab, P::syn(&client(1), VIP).ttl(1), now).verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(1000).iter().filter(|v| *v == "reply").count(), 5);
    assert_eq!(verdicts(3000).iter().filter(|v| *v == "reply").count(), 5);
}

#[test]
fn a_clock_that_steps_back_ends_no_flow() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    connect(&mut lab, &client(1), 3_600_000);
    assert_eq!(send(&mut lab, P::tcp(&client(1), VIP), 1000).verdict, "forward");
}

#[test]
fn explain_says_what_the_packet_path_does_and_changes_nothing() {
    let mut lab = Lab::passthrough((40000, 40099), 3);
    for n in 0..20 {
        let source = client(n).parse().unwrap();
        let ask = |lab: &Lab| {
            let tcp = convey_core::Protocol::Tcp;
            explain(tcp, source, VIP.parse().unwrap(), &lab.snapshot, &lab.next_hops, &lab.worker)
        };
        let foretold = ask(&lab);
        assert_eq!(foretold, ask(&lab));
        assert_eq!((foretold.flow, foretold.outcome), (None, Outcome::Forward));
        assert!(foretold.maglev_slot.is_some());
        let (nat, server) = connect(&mut lab, &client(n), 1000);
        assert_eq!(foretold.server.as_ref().unwrap().2.to_string(), server);
        let known = ask(&lab);
        assert_eq!((known.flow, known.maglev_slot), (Some("established"), None));
        assert_eq!(known.rewritten.unwrap().0.to_string(), nat);
        let tcp = convey_core::Protocol::Tcp;
        let back = explain(
            tcp,
            server.parse().unwrap(),
            nat.parse().unwrap(),
            &lab.snapshot,
            &lab.next_hops,
            &lab.worker,
        );
        assert_eq!(back.rewritten.unwrap().1, source);
    }
    let tcp = convey_core::Protocol::Tcp;
    let stray = explain(
        tcp,
        client(1).parse().unwrap(),
        "192.0.2.10:22".parse().unwrap(),
        &lab.snapshot,
        &lab.next_hops,
        &lab.worker,
    );
    assert_eq!(stray.outcome, Outcome::Pass(PassReason::NotVip));
    assert_eq!(stray.steps, [Step::NotOurs { destination: "192.0.2.10:22".parse().unwrap() }]);
}

#[test]
fn a_worker_that_stops_leaves_gauges_at_zero() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    for n in 0..10 {
        connect(&mut lab, &client(n), 1000);
    }
    let snapshot = lab.snapshot.clone();
    lab.worker.end_all(&snapshot);
    assert_eq!(open(&lab), (10, 0));
}

#[test]
fn slots_of_removed_servers_are_used_anew_once_their_flows_are_gone() {
    let mut lab = Lab::dsr(1);
    // Each round outlasts an established flow, so that no more than a few generations have flows.
    const ROUND_MS: u64 = 8_000_000;
    for round in 0..200u64 {
        connect_dsr(&mut lab, &client(round as u32), ROUND_MS * round);
        let octet = 11 + (round % 2) as u8;
        lab.reload(|s| {
            s.backends[0].servers[0].name = format!("s{round}");
            let addr = &mut s.backends[0].servers[0].addr;
            *addr = std::net::SocketAddr::from(([10, 0, 0, octet], addr.ip().unwrap().port())).into();
        });
        let snapshot = lab.snapshot.clone();
        lab.worker.tick(&snapshot, Nanos::from_millis(ROUND_MS * round + ROUND_MS / 2));
    }
    let slots = (0..u16::MAX).filter(|&s| lab.snapshot.server(s).is_some()).count();
    assert!((2..=4).contains(&slots), "{slots}");
    let snapshot = lab.snapshot.clone();
    lab.worker.end_all(&snapshot);
    for _ in 0..3 {
        lab.reload(|_| {});
        let snapshot = lab.snapshot.clone();
        lab.worker.tick(&snapshot, Nanos::from_secs(1000));
    }
    let left = (0..u16::MAX).filter(|&s| lab.snapshot.server(s).is_some()).count();
    assert_eq!(left, 1);
}
