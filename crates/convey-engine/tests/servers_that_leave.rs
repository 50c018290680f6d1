//! Flows whose server went down, drains or was removed: what goes elsewhere, and what stays.

mod common;

use common::Lab;
use common::world::{VIP, client, connect, connect_dsr, open, send, tuple};
use convey_core::SnapshotSpec;
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, RST, SYN};

/// Of a UDP frontend beside the TCP one.
const DNS: &str = VIP;

fn lab(mode: &str) -> Lab {
    let mut lab = if mode == "dsr" { Lab::dsr(3) } else { Lab::passthrough((33768, 61000), 3) };
    lab.reload(|s| {
        let mut udp = s.frontends[0].clone();
        udp.name = "datagrams".into();
        udp.protocol = convey_core::Protocol::Udp;
        s.frontends.push(udp);
    });
    lab
}

fn server_of(out: &common::Out) -> String {
    tuple(&out.frame()).1
}

/// Takes the server with this address out of service.
fn take_out(how: &str, address: &str) -> impl FnOnce(&mut SnapshotSpec) {
    let (how, address) = (how.to_string(), address.to_string());
    move |spec| {
        let servers = &mut spec.backends[0].servers;
        let at =
            servers.iter().position(|s| s.addr.to_string() == address).expect("a server of that address");
        match how.as_str() {
            "down" => servers[at].up = false,
            "removed" => drop(servers.remove(at)),
            "draining" => servers[at].draining = true,
            "weight 0" => servers[at].weight = 0,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_syn_whose_flow_is_pinned_to_a_server_that_is_down_or_gone_selects_anew() {
    for mode in ["passthrough", "dsr"] {
        for how in ["down", "removed"] {
            let mut lab = lab(mode);
            for n in 0..50 {
                if mode == "dsr" {
                    connect_dsr(&mut lab, &client(n), 1000);
                } else {
                    connect(&mut lab, &client(n), 1000);
                }
            }
            let gone = server_of(&send(&mut lab, P::tcp(&client(0), VIP), 1001));
            lab.reload(take_out(how, &gone));
            for n in 0..50 {
                let before = server_of(&send(&mut lab, P::tcp(&client(n), VIP), 1002));
                let after = send(&mut lab, P::syn(&client(n), VIP).seq(700_000, 0), 1002);
                if before == gone || mode == "dsr" {
                    assert_ne!(server_of(&after), gone, "{mode}, {how}, {n}");
                }
                if before == gone && mode != "dsr" {
                    // The new connection works from end to end.
                    let (nat, server) = tuple(&after.frame());
                    send(&mut lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(5, 700_001), 1003);
                    let ack = send(&mut lab, P::tcp(&client(n), VIP).seq(700_001, 6), 1003);
                    assert_eq!(tuple(&ack.frame()), (nat, server));
                }
            }
            assert!(open(&lab).1 <= 50);
        }
    }
}

#[test]
fn an_unanswered_syn_sent_once_more_leaves_a_server_that_went_down_or_was_removed() {
    for mode in ["passthrough", "dsr"] {
        for how in ["down", "removed"] {
            let mut lab = lab(mode);
            let first = server_of(&send(&mut lab, P::syn(&client(1), VIP), 1000));
            assert_eq!(server_of(&send(&mut lab, P::syn(&client(1), VIP), 2000)), first);
            lab.reload(take_out(how, &first));
            assert_ne!(server_of(&send(&mut lab, P::syn(&client(1), VIP), 4000)), first, "{mode}, {how}");
        }
    }
}

#[test]
fn a_handshake_nobody_answers_ends_30_seconds_after_its_first_syn_however_often_it_is_sent() {
    for mode in ["passthrough", "dsr"] {
        let mut lab = lab(mode);
        for second in [0, 1, 3, 7, 15, 31] {
            send(&mut lab, P::syn(&client(1), VIP), 1000 * (1 + second));
        }
        let begun = lab.worker.counters().noted(convey_engine::Note::FlowBegun);
        assert_eq!(begun, 2, "{mode}");
    }
}

#[test]
fn a_handshake_under_way_lives_by_the_lifetime_of_the_latest_configuration() {
    for mode in ["passthrough", "dsr"] {
        let mut lab = lab(mode);
        send(&mut lab, P::syn(&client(1), VIP), 1000);
        lab.options.timeouts.syn = std::time::Duration::from_secs(2);
        lab.reload(|_| {});
        let begun = |lab: &Lab| lab.worker.counters().noted(convey_engine::Note::FlowBegun);
        send(&mut lab, P::syn(&client(1), VIP), 2500);
        assert_eq!(begun(&lab), 1, "{mode}");
        send(&mut lab, P::syn(&client(1), VIP), 4000);
        assert_eq!(begun(&lab), 2, "{mode}");
    }
}

#[test]
fn datagrams_leave_a_server_that_went_down_or_was_removed_at_once() {
    for mode in ["passthrough", "dsr"] {
        for how in ["down", "removed"] {
            let mut lab = lab(mode);
            let datagram = |lab: &mut Lab, n, now| send(lab, P::udp(&client(n), DNS), now);
            let mut before = Vec::new();
            for n in 0..40 {
                let out = datagram(&mut lab, n, 1000).frame();
                let (nat, server) = tuple(&out);
                send(&mut lab, P::udp(&server, &nat), 1000);
                assert_eq!(server_of(&datagram(&mut lab, n, 1001)), server);
                before.push(server);
            }
            let gone = before[0].clone();
            lab.reload(take_out(how, &gone));
            for n in 0..40 {
                let now = server_of(&datagram(&mut lab, n, 1100));
                assert_ne!(now, gone, "{mode}, {how}");
                if before[n as usize] != gone {
                    assert_eq!(now, before[n as usize], "{mode}, {how}: others stay");
                }
                assert_eq!(server_of(&datagram(&mut lab, n, 1101)), now);
            }
            assert_eq!(open(&lab).1, 40, "{mode}, {how}");
        }
    }
}

#[test]
fn datagrams_that_move_are_not_held_up_by_the_limit_they_count_for() {
    let mut lab = lab("passthrough");
    let first = server_of(&send(&mut lab, P::udp(&client(1), DNS), 1000));
    lab.reload(|s| {
        s.limits.max_connections = 1;
        for f in &mut s.frontends {
            f.max_connections = 1;
        }
    });
    lab.reload(take_out("down", &first));
    assert_ne!(server_of(&send(&mut lab, P::udp(&client(1), DNS), 1001)), first);
    assert_eq!(send(&mut lab, P::udp(&client(2), DNS), 1001).reason.unwrap(), "limit_total");
}

#[test]
fn datagrams_of_a_conversation_go_on_when_checks_fail_everywhere_and_new_ones_have_no_server() {
    let mut lab = lab("passthrough");
    let server = server_of(&send(&mut lab, P::udp(&client(1), DNS), 1000));
    lab.reload(|s| s.backends[0].servers.iter_mut().for_each(|s| s.up = false));
    assert_eq!(server_of(&send(&mut lab, P::udp(&client(1), DNS), 1001)), server);
    assert_eq!(send(&mut lab, P::udp(&client(2), DNS), 1001).reason.unwrap(), "no_server");
    let refused = send(&mut lab, P::syn(&client(2), VIP), 1001);
    assert_eq!(refused.reason.unwrap(), "tcp_reset.no_server");
}

#[test]
fn connections_and_datagrams_stay_with_a_server_that_drains() {
    for mode in ["passthrough", "dsr"] {
        for how in ["draining", "weight 0"] {
            let mut lab = lab(mode);
            if mode == "dsr" {
                connect_dsr(&mut lab, &client(1), 1000);
            } else {
                connect(&mut lab, &client(1), 1000);
            }
            let server = server_of(&send(&mut lab, P::tcp(&client(1), VIP), 1001));
            let of_datagrams = server_of(&send(&mut lab, P::udp(&client(1), DNS), 1001));
            lab.reload(take_out(how, &server));
            assert_eq!(server_of(&send(&mut lab, P::tcp(&client(1), VIP), 1002)), server);
            assert_eq!(server_of(&send(&mut lab, P::udp(&client(1), DNS), 1002)), of_datagrams);
        }
    }
}

#[test]
fn connections_stay_with_a_server_that_went_down_or_was_removed() {
    for mode in ["passthrough", "dsr"] {
        for how in ["down", "removed"] {
            let mut lab = lab(mode);
            if mode == "dsr" {
                connect_dsr(&mut lab, &client(1), 1000);
            } else {
                connect(&mut lab, &client(1), 1000);
            }
            let server = server_of(&send(&mut lab, P::tcp(&client(1), VIP), 1001));
            lab.reload(take_out(how, &server));
            assert_eq!(server_of(&send(&mut lab, P::tcp(&client(1), VIP), 1002)), server);
        }
    }
}

#[test]
fn a_server_that_answers_a_later_syn_begins_the_flow_again_with_a_time_of_its_own() {
    let mut lab = Lab::passthrough((40000, 40019), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    // The client lost its connection without a word and uses its port again hours later.
    let late = 7_300_000;
    assert_eq!(tuple(&send(&mut lab, P::syn(&client(1), VIP).seq(900_000, 0), late).frame()).0, nat);
    send(&mut lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(70_000, 900_001), late);
    send(&mut lab, P::tcp(&client(1), VIP).seq(900_001, 70_001), late);
    assert_eq!(open(&lab), (2, 1));
    // Beyond the end of the old one's time.
    let later = 1000 + 7_440_000 + 60_000;
    let data = P::tcp(&client(1), VIP).seq(900_001, 70_001).payload(b"x");
    assert_eq!(tuple(&send(&mut lab, data, later).frame()), (nat, server));
}

#[test]
fn in_dsr_a_tuple_used_again_after_a_close_nobody_saw_goes_where_new_clients_go() {
    for how in ["down", "removed", "weight 0", "draining"] {
        for closes in [true, false] {
            let mut lab = lab("dsr");
            let old = connect_dsr(&mut lab, &client(1), 1000);
            if closes {
                send(&mut lab, P::tcp(&client(1), VIP).flags(FIN | ACK), 1001);
            }
            lab.reload(take_out(how, &old));
            let fresh = server_of(&send(&mut lab, P::syn(&client(1), VIP).seq(90_000, 0), 3000));
            assert_ne!(fresh, old, "{how}");
            // Eight seconds later it is there still.
            for second in 3..20 {
                let data = P::tcp(&client(1), VIP).seq(90_001, 7).payload(b"x");
                assert_eq!(server_of(&send(&mut lab, data, 1000 * second)), fresh, "{how}, {second} s");
            }
            assert_eq!(open(&lab).1, 1);
        }
    }
}

#[test]
fn in_dsr_a_busy_port_gets_a_new_server_with_every_connection() {
    let mut lab = lab("dsr");
    let drained = connect_dsr(&mut lab, &client(1), 1000);
    lab.reload(take_out("weight 0", &drained));
    for n in 1..160 {
        let syn = P::syn(&client(1), VIP).seq(n * 100_000, 0);
        assert_ne!(server_of(&send(&mut lab, syn, 1000)), drained);
    }
}

#[test]
fn in_dsr_a_syn_sent_once_more_stays_with_its_server_while_the_table_changes() {
    let mut lab = lab("dsr");
    let servers: Vec<_> =
        (0..200).map(|n| server_of(&send(&mut lab, P::syn(&client(n), VIP), 1000))).collect();
    lab.reload(|s| {
        s.backends[0].servers.iter_mut().for_each(|s| s.weight = 7 + s.addr.ip().unwrap().port() % 3)
    });
    lab.reload(|s| s.backends[0].servers[0].weight = 1);
    for (n, server) in servers.iter().enumerate() {
        let again = send(&mut lab, P::syn(&client(n as u32), VIP), 2000);
        assert_eq!(&server_of(&again), server);
    }
}

#[test]
fn in_dsr_limits_are_not_looked_at_because_forged_packets_would_reach_them() {
    let mut lab = lab("dsr");
    lab.reload(|s| {
        s.limits.max_connections = 1;
        s.frontends[0].max_connections = 1;
        s.backends[0].servers.iter_mut().for_each(|s| s.max_connections = 1);
    });
    for n in 0..20 {
        connect_dsr(&mut lab, &client(n), 1000);
    }
    assert_eq!(open(&lab), (20, 20));
}

#[test]
fn a_connection_whose_reset_was_forged_is_counted_and_carried_on() {
    let mut lab = Lab::passthrough((40000, 40019), 1);
    connect(&mut lab, &client(1), 1000);
    send(&mut lab, P::tcp(&client(1), VIP).flags(RST).seq(1001, 0), 2000);
    assert_eq!(open(&lab), (1, 0));
    let data =
        |lab: &mut Lab, now| send(lab, P::tcp(&client(1), VIP).seq(1001, 5001).payload(b"on"), now).verdict;
    assert_eq!(data(&mut lab, 3000), "forward");
    assert_eq!(open(&lab), (1, 1));
    assert_eq!(data(&mut lab, 3_600_000), "forward");
    send(&mut lab, P::tcp(&client(1), VIP).flags(RST).seq(1003, 0), 3_600_001);
    assert_eq!(open(&lab), (1, 0));
}

#[test]
fn a_reset_of_the_client_stays_a_reset_while_the_servers_bytes_are_under_way() {
    let mut lab = Lab::passthrough((40000, 40019), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    send(&mut lab, P::tcp(&client(1), VIP).flags(RST).seq(1001, 0), 2000);
    for n in 0..5 {
        let data = P::tcp(&server, &nat).seq(5001 + n * 1000, 1001).payload(&[1; 1000]);
        assert_eq!(send(&mut lab, data, 2001).verdict, "forward");
    }
    assert_eq!(open(&lab), (1, 0));
}

#[test]
fn fast_open_data_the_server_does_not_take_leaves_a_connection_that_lasts() {
    let mut lab = Lab::passthrough((40000, 40019), 1);
    let (nat, server) = tuple(&send(&mut lab, P::syn(&client(1), VIP).payload(&[7; 300]), 1000).frame());
    send(&mut lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001), 1001);
    send(&mut lab, P::tcp(&client(1), VIP).seq(1001, 5001).payload(&[7; 300]), 1002);
    assert_eq!(open(&lab), (1, 1));
    let later = P::tcp(&client(1), VIP).seq(1301, 5001).payload(b"x");
    assert_eq!(send(&mut lab, later, 600_000).verdict, "forward");
}
