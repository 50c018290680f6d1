//! A client's address and port that were used before, at any later time: by a flow that ended, expired, or whose
//! server has left.

mod common;

use common::Lab;
use common::world::{VIP, client, close, connect, connect_dsr, open, send, tuple};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, RST, SYN};

/// A whole new connection from `client`: handshake and a byte each way. Gives its server.
fn converse(lab: &mut Lab, client: &str, isn: u32, now_ms: u64) -> String {
    let out = send(lab, P::syn(client, VIP).seq(isn, 0), now_ms);
    assert_eq!(out.verdict, "forward", "SYN: {out:?}");
    let (nat, server) = tuple(&out.frame());
    let answer = send(lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(9000, isn + 1), now_ms);
    assert_eq!(answer.verdict, "forward", "SYN-ACK: {answer:?}");
    let ack = send(lab, P::tcp(client, VIP).seq(isn + 1, 9001), now_ms);
    assert_eq!(ack.verdict, "forward", "ACK: {ack:?}");
    assert_eq!(tuple(&ack.frame()), (nat.clone(), server.clone()));
    let data = send(lab, P::tcp(client, VIP).seq(isn + 1, 9001).payload(b"x"), now_ms);
    assert_eq!(tuple(&data.frame()), (nat, server.clone()));
    server
}

#[test]
fn a_tuple_is_answered_at_once_however_long_after_its_flow_was_closed_and_without_any_sweep() {
    for wait_s in [0, 1, 29, 31, 59, 60, 61, 62, 63, 64, 119, 121, 7439, 7441, 100_000] {
        for by_reset in [false, true] {
            let mut lab = Lab::passthrough((40000, 40019), 2);
            let (nat, server) = connect(&mut lab, &client(1), 1000);
            if by_reset {
                send(&mut lab, P::tcp(&client(1), VIP).flags(RST).seq(1001, 0), 1000);
            } else {
                close(&mut lab, &client(1), &nat, &server, 1000);
            }
            let now = 1000 + wait_s * 1000;
            converse(&mut lab, &client(1), 500_000, now);
            assert_eq!(open(&lab), (2, 1), "{wait_s} s");
            assert_eq!(lab.worker.flows(), 1, "{wait_s} s");
        }
    }
}

#[test]
fn a_tuple_whose_flow_expired_open_is_answered_at_once() {
    for wait_s in [7441, 7445, 100_000] {
        let mut lab = Lab::passthrough((40000, 40019), 2);
        connect(&mut lab, &client(1), 1000);
        converse(&mut lab, &client(1), 500_000, 1000 + wait_s * 1000);
        assert_eq!(open(&lab), (2, 1));
    }
}

#[test]
fn a_handshake_that_begins_after_an_unanswered_one_ran_out_is_not_hidden_by_it() {
    let mut lab = Lab::passthrough((40000, 40019), 2);
    for n in 0..5 {
        send(&mut lab, P::syn(&client(1), VIP).seq(1000 * n, 0), 1000 + u64::from(n) * 31_000);
    }
    converse(&mut lab, &client(1), 500_000, 200_000);
}

#[test]
fn datagrams_after_a_conversation_expired_share_one_port() {
    let mut lab = Lab::passthrough((40000, 40019), 1);
    let dns = "192.0.2.10:53";
    let converse = |lab: &mut Lab, now: u64| {
        let (nat, server) = tuple(&send(lab, P::udp(&client(1), dns), now).frame());
        send(lab, P::udp(&server, &nat), now);
        assert_eq!(tuple(&send(lab, P::udp(&client(1), dns), now).frame()), (nat.clone(), server));
        nat
    };
    converse(&mut lab, 1000);
    let now = 302_000;
    let nat = converse(&mut lab, now);
    for _ in 0..100 {
        assert_eq!(tuple(&send(&mut lab, P::udp(&client(1), dns), now).frame()).0, nat);
    }
    assert_eq!((lab.worker.flows(), open(&lab)), (1, (2, 1)));
}

#[test]
fn in_dsr_a_tuple_is_served_at_any_time_after_its_flow() {
    for wait_s in [1, 9, 11, 61, 7441] {
        let mut lab = Lab::dsr(2);
        connect_dsr(&mut lab, &client(1), 1000);
        let now = 1000 + wait_s * 1000;
        let server = tuple(&send(&mut lab, P::syn(&client(1), VIP).seq(77_000, 0), now).frame()).1;
        let ack = send(&mut lab, P::tcp(&client(1), VIP).seq(77_001, 5), now);
        assert_eq!(tuple(&ack.frame()).1, server);
        assert_eq!(open(&lab).1, 1);
    }
}
