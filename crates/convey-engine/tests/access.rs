//! Who may begin flows: lists of networks at a frontend.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::sync::Arc;

use common::world::{VIP, client, connect, connect_dsr, send};
use common::{Lab, Out};
use convey_core::{AccessList, Protocol, Reason};
use convey_engine::{Outcome, Step, explain};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, RST};

fn set_lists(lab: &mut Lab, allow: &[&str], deny: &[&str]) {
    let parse = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>();
    let access = AccessList::new(&parse(allow), &parse(deny)).unwrap().map(Arc::new);
    lab.reload(|spec| spec.frontends.iter_mut().for_each(|f| f.admission.access.clone_from(&access)));
}

fn is_denied(out: &Out) -> bool {
    (out.verdict.as_str(), out.reason.as_deref()) == ("drop", Some("denied"))
}

#[test]
fn a_denied_client_gets_no_word_whatever_it_sends_and_each_packet_is_counted() {
    for mut lab in [Lab::passthrough((40000, 40099), 2), Lab::dsr(2), Lab::minimal(2)] {
        set_lists(&mut lab, &["0.0.0.0/0"], &["198.51.0.0/24"]);
        let packets = [
            P::syn(&client(1), VIP),
            P::tcp(&client(1), VIP).seq(7, 7),
            P::tcp(&client(1), VIP).flags(RST | ACK),
            P::tcp(&client(1), VIP).payload(b"hello"),
        ];
        for packet in packets {
            let out = send(&mut lab, packet, 1000);
            assert!(is_denied(&out), "{out:?}");
        }
        assert_eq!(send(&mut lab, P::syn("203.0.113.7:999", VIP), 1000).verdict, "forward");
        assert_eq!(lab.config.frontends[0].reasons.get(Reason::Denied), 4);
        assert_eq!(lab.config.reasons.get(Reason::Denied), 4);
    }
}

#[test]
fn flows_that_were_open_when_a_reload_denies_their_client_go_on_until_they_end_and_no_other_begins() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let (nat, server) = connect(&mut lab, &client(1), 1000);
    set_lists(&mut lab, &["203.0.113.0/24"], &[]);
    assert_eq!(send(&mut lab, P::tcp(&client(1), VIP), 1001).verdict, "forward");
    assert_eq!(send(&mut lab, P::tcp(&server, &nat).seq(5001, 1001), 1001).verdict, "forward");
    assert!(is_denied(&send(&mut lab, P::syn(&client(2), VIP), 1002)));
    common::world::close(&mut lab, &client(1), &nat, &server, 1003);
    assert!(is_denied(&send(&mut lab, P::syn(&client(1), VIP).seq(900_000, 0), 1004)));

    let mut lab = Lab::dsr(1);
    connect_dsr(&mut lab, &client(1), 1000);
    set_lists(&mut lab, &[], &["198.51.0.0/24"]);
    assert_eq!(send(&mut lab, P::tcp(&client(1), VIP), 1001).verdict, "forward");
    assert!(is_denied(&send(&mut lab, P::tcp(&client(2), VIP), 1001)), "a flow that nobody remembers");
}

#[test]
fn where_flows_are_not_remembered_a_reload_ends_the_connections_of_whom_it_denies() {
    let mut lab = Lab::minimal(2);
    assert_eq!(send(&mut lab, P::syn(&client(1), VIP), 1000).verdict, "forward");
    set_lists(&mut lab, &[], &["198.51.0.0/24"]);
    assert!(is_denied(&send(&mut lab, P::tcp(&client(1), VIP), 1001)));
}

#[test]
fn clients_of_ipv6_go_by_networks_of_ipv6_alone() {
    let mut lab = Lab::new(&common::world("passthrough"));
    let (client6, vip6) = ("[2001:db8:99::7]:40001", "[2001:db8:1::10]:80");
    set_lists(&mut lab, &[], &["0.0.0.0/0"]);
    assert_eq!(send(&mut lab, P::syn(client6, vip6), 1000).verdict, "forward");
    assert!(is_denied(&send(&mut lab, P::syn(&client(1), VIP), 1000)));
    set_lists(&mut lab, &["2001:db8:98::/47"], &["2001:db8:99:0:8000::/65"]);
    assert_eq!(send(&mut lab, P::syn("[2001:db8:99::8]:40001", vip6), 1000).verdict, "forward");
    assert!(is_denied(&send(&mut lab, P::syn("[2001:db8:99:0:8000::8]:40001", vip6), 1000)));
    assert!(is_denied(&send(&mut lab, P::syn(&client(1), VIP), 1000)));
}

#[test]
fn explain_says_what_becomes_of_a_denied_client_and_which_network_it_is_in() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    set_lists(&mut lab, &["0.0.0.0/0"], &["198.51.0.0/24"]);
    let ask = |lab: &Lab, client: &str| {
        let [from, to] = [client, VIP].map(|text| text.parse().unwrap());
        explain(Protocol::Tcp, from, to, &lab.snapshot, &lab.next_hops, &lab.worker)
    };
    let told = ask(&lab, &client(1));
    assert_eq!((told.outcome.verdict(), told.outcome.reason()), ("drop", Some("denied")));
    match told.steps.last() {
        Some(Step::Denied { network: Some(network), .. }) => {
            assert_eq!(network.to_string(), "198.51.0.0/24");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&lab, "203.0.113.7:999").outcome, Outcome::Forward);
}
