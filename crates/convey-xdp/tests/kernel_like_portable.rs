//! What a kernel program leaves in the tables is what the portable engine leaves there.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::sync::atomic::Ordering::Relaxed;

use convey_bpf::tables::{Method, Standing};
use convey_core::conntrack::{Flow, FlowState};
use convey_testkit::build::{ACK, RST, SYN};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::{Hook, Image};
use lab::{Lab, Verdict, at, ends, frontend, handed_up, image, path, server, sizes};

const CLIENT: &str = "198.51.100.7:4000";
const VIP: &str = "192.0.2.10:80";
const SERVERS: [&str; 2] = ["10.1.0.1:8080", "10.1.0.2:8080"];

/// A TCP frontend and a UDP one, both with the first server.
fn of_first_server(limit: u64) -> Image {
    let tcp = frontend(VIP, 0, &["192.0.2.10"]);
    let mut udp = tcp.clone();
    udp.protocol = 17;
    let servers = SERVERS.map(|address| server(address, Method::Nat)).into();
    let paths = [6, 17].into_iter().flat_map(|p| SERVERS.map(|s| path("192.0.2.10", s, p))).collect();
    let mut image = image(vec![Some(tcp), Some(udp)], servers, paths);
    image.config.max_connections = limit;
    image
}

fn flow(lab: &Lab) -> Flow {
    let table = lab::tables::flows(&lab.kernel, true);
    let flow = table.flows_at(0..table.all_entries()).next();
    flow.unwrap()
}

fn later_syns(lab: &Lab) -> usize {
    let syns = lab.kernel.memory("later_syns").unwrap().words64();
    syns.iter().filter(|syn| syn.load(Relaxed) != 0).count()
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn datagrams_and_longer_retransmissions_of_a_syn_leave_nothing_in_flight() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let lab = Lab::new(hook, &sizes(true), &of_first_server(0));
        for _ in 0..3 {
            lab.forwards(&PacketBuilder::udp(CLIENT, VIP));
        }
        assert_eq!((flow(&lab).next[0], flow(&lab).in_flight), (3, [0, 0]), "{hook:?}");
        let lab = Lab::new(hook, &sizes(true), &of_first_server(0));
        let syn = PacketBuilder::syn(CLIENT, VIP).seq(1000, 0);
        lab.forwards(&syn);
        lab.forwards(&syn.payload(&[1; 10]));
        assert_eq!((flow(&lab).next[0], flow(&lab).in_flight), (1011, [0, 0]), "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_later_syn_is_forgotten_once_answered_and_by_whoever_has_the_entry_next() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut lab = Lab::new(hook, &sizes(true), &of_first_server(0));
        lab.know(at(CLIENT).ip());
        let syn = |seq| PacketBuilder::syn(CLIENT, VIP).seq(seq, 0);
        let (nat, to) = ends(&lab.forwards(&syn(1000)));
        lab.forwards(&syn(900_000));
        assert_eq!(later_syns(&lab), 1, "{hook:?}");
        let answer = PacketBuilder::tcp(&to.to_string(), &nat.to_string());
        lab.forwards(&answer.clone().flags(SYN | ACK).seq(5000, 900_001));
        assert_eq!(later_syns(&lab), 0, "{hook:?}: it was answered");
        lab.forwards(&syn(2_000_000));
        assert_eq!(later_syns(&lab), 1, "{hook:?}");
        // Ends, and the next flow of the client lies where it lay.
        lab.forwards(&answer.flags(RST | ACK).seq(5001, 900_001));
        assert_eq!(flow(&lab).state, FlowState::Closed);
        lab.forwards(&syn(3_000_000));
        assert_eq!((flow(&lab).state, later_syns(&lab)), (FlowState::SynSent, 0), "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_conversation_whose_server_is_down_goes_to_another_though_connections_are_as_many_as_may_be() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut lab = Lab::new(hook, &sizes(true), &of_first_server(1));
        let datagram = PacketBuilder::udp(CLIENT, VIP);
        assert_eq!(ends(&lab.forwards(&datagram)).1, at(SERVERS[0]));
        let mut down = of_first_server(1);
        down.servers[0].as_mut().unwrap().standing = Standing::Down;
        down.tables[0] = Some(vec![1; 65_537]);
        lab.install(&down);
        assert_eq!(ends(&lab.forwards(&datagram)).1, at(SERVERS[1]), "{hook:?}");
        let other = PacketBuilder::udp("198.51.100.7:4001", VIP).build();
        assert_eq!(lab.run(&other).0, Verdict::Drop, "{hook:?}: the limit holds for others");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn user_space_sees_icmp_errors_that_quote_extension_headers_of_our_addresses() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let vip = "[2001:db8::10]:80";
        let image = image(
            vec![Some(frontend(vip, 0, &[]))],
            vec![server("[2001:db8:1::1]:80", Method::Rewrite)],
            vec![],
        );
        let mut lab = Lab::new(hook, &sizes(false), &image);
        let client = "[2001:db8:c::7]:4000";
        for (from, copies) in [(vip, 1), ("[2001:db8::99]:80", 0)] {
            let about = PacketBuilder::tcp(from, client).extension(60, &[0, 1, 4, 0, 0, 0, 0]).quoted(200);
            let error = PacketBuilder::icmp("[2001:db8:77::1]:0", from, 2, 0, 1280, &about).build();
            assert_eq!(lab.run(&error).0, Verdict::Pass, "{hook:?}: the host may need it");
            assert_eq!(handed_up(&mut lab).len(), copies, "{hook:?} {from}");
        }
    }
}
