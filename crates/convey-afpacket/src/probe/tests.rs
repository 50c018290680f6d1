//! The ledger told what happens, without sockets.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convey_engine::{Link, MacAddr, NextHops, Route};
use convey_packet::tcp_flags::{ACK, RST, SYN};
use convey_packet::{Ip, Tcp};

use super::filter;
use super::frame::{self, Course, Heard, Words};
use super::ledger::{Ledger, Method, Outcome, Probe, Report, Sent, Surroundings};
use crate::bpf::interpreter::{Ancillary, run};
use crate::sys::VNET_HEADER_BYTES;

const PORT: u16 = 40_000;
const OURS: MacAddr = [2, 0, 0, 0, 0, 1];
const SERVER: MacAddr = [2, 0, 0, 0, 0, 11];
const OTHER: MacAddr = [2, 0, 0, 0, 0, 12];
const TIMEOUT: Duration = Duration::from_millis(900);

struct World {
    next_hops: Arc<NextHops>,
    source: Option<IpAddr>,
    resolved: Mutex<Vec<IpAddr>>,
}

impl Surroundings for World {
    fn next_hops(&self) -> Option<Arc<NextHops>> {
        Some(self.next_hops.clone())
    }
    fn resolve(&self, _: u32, address: IpAddr) {
        self.resolved.lock().unwrap().push(address);
    }
    fn source(&self, probe: &Probe, _: u32) -> Option<IpAddr> {
        let family = if probe.server.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
        self.source.map(|_| ip(family))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// 10.0.0.11 and .12 (fd00::11) resolved, 10.0.0.13 not.
fn world() -> World {
    world_with_silent(&[])
}

/// The same, where nobody answers for these any more.
fn world_with_silent(silent: &[&str]) -> World {
    let neighbours = [("10.0.0.11", SERVER), ("10.0.0.12", OTHER), ("fd00::11", SERVER)];
    let next_hops = NextHops::new(
        [Link { ifindex: 2, mac: OURS, mtu: 1500 }],
        [Route::by(ip("10.0.0.0"), 24, 2, None), Route::by(ip("fd00::"), 64, 2, None)],
        neighbours.map(|(address, mac)| ((2, ip(address)), mac)),
    );
    let next_hops = next_hops.with_silent(silent.iter().map(|address| (2, ip(address))));
    World { next_hops: Arc::new(next_hops), source: Some(ip("10.0.0.1")), resolved: Mutex::default() }
}

fn probe(server: &str, vips: &[&str], method: Method) -> Probe {
    Probe { server: at(server), vips: vips.iter().map(|vip| at(vip)).collect(), method, timeout: TIMEOUT }
}

type Told = Arc<Mutex<Option<Report>>>;

fn ask(ledger: &mut Ledger<'_, World>, probe: Probe, now: Instant) -> Told {
    let told = Told::default();
    let tell = told.clone();
    let done = Box::new(move |report| assert!(tell.lock().unwrap().replace(report).is_none(), "told once"));
    ledger.ask(probe, done, now);
    ledger.look(now);
    told
}

fn outcome(told: &Told) -> Option<Outcome> {
    told.lock().unwrap().as_ref().map(|report| report.outcome.clone())
}

/// The segment in a frame of ours.
fn sent(frame: &Sent) -> (Heard, u32) {
    let bytes = &frame.bytes[VNET_HEADER_BYTES..];
    let parsed = frame::parse(bytes).unwrap();
    let ip = Ip::parse(bytes, false).unwrap();
    (parsed, Tcp::parse(bytes, &ip).unwrap().seq)
}

/// Answers what was sent, from `from` and `mac`.
fn answer(ledger: &mut Ledger<'_, World>, to: &Sent, from: &str, mac: MacAddr, flags: u8, now: Instant) {
    let (syn, seq) = sent(to);
    let course = Course { macs: (mac, OURS), ends: (at(from), syn.from) };
    let mut bytes = frame::build(&course, Words { seq: 7, flags });
    let l4 = VNET_HEADER_BYTES + 14 + if syn.from.is_ipv4() { 20 } else { 40 };
    bytes[l4 + 8..l4 + 12].copy_from_slice(&seq.wrapping_add(1).to_be_bytes());
    ledger.hear(&bytes[VNET_HEADER_BYTES..], now);
}

#[test]
fn whoever_leaves_resets_what_is_not_answered_yet_and_nothing_else() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    for server in ["10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"] {
        ask(&mut ledger, probe(server, &["192.0.2.1:80"], Method::L2), now);
    }
    let syns = ledger.take_ready();
    assert_eq!(syns.len(), 2, "nobody is there at the third");
    answer(&mut ledger, &syns[0], "192.0.2.1:80", SERVER, SYN | ACK, now);
    assert_eq!(ledger.take_ready().len(), 1);
    ledger.leave();
    let resets = ledger.take_ready();
    assert_eq!(resets.len(), 1);
    let ((syn, seq), (reset, after)) = (sent(&syns[1]), sent(&resets[0]));
    assert_eq!((reset.flags, reset.from, reset.to), (RST, syn.from, syn.to));
    assert_eq!(
        (after, resets[0].bytes[VNET_HEADER_BYTES..][..6].to_vec()),
        (seq.wrapping_add(1), OTHER.to_vec())
    );
}

#[test]
fn a_server_that_answers_for_the_vip_is_asked_by_its_mac_and_its_half_open_connection_reset() {
    for (server, vip) in [("10.0.0.11:80", "192.0.2.1:80"), ("[fd00::11]:80", "[2001:db8::1]:80")] {
        let world = world();
        let mut ledger = Ledger::new(vec![PORT], &world);
        let now = Instant::now();
        let told = ask(&mut ledger, probe(server, &[vip], Method::L2), now);
        let syns = ledger.take_ready();
        let (syn, seq) = sent(&syns[0]);
        assert_eq!((syn.to, syn.from.port(), syn.flags), (at(vip), PORT, SYN));
        assert_eq!(syns[0].bytes[VNET_HEADER_BYTES..][..6], SERVER);
        assert_eq!(outcome(&told), None);
        answer(&mut ledger, &syns[0], vip, SERVER, SYN | ACK, now + Duration::from_millis(3));
        assert_eq!(outcome(&told), Some(Outcome::Answered));
        assert_eq!(told.lock().unwrap().as_ref().unwrap().latency, Duration::from_millis(3));
        let (reset, reset_seq) = sent(&ledger.take_ready()[0]);
        assert_eq!((reset.flags, reset_seq, reset.to), (RST, seq.wrapping_add(1), at(vip)));
    }
}

#[test]
fn the_checksums_of_what_is_sent_are_right() {
    for (server, vip) in [("10.0.0.11:80", "192.0.2.1:80"), ("[fd00::11]:80", "[2001:db8::1]:80")] {
        let world = world();
        let mut ledger = Ledger::new(vec![PORT], &world);
        let _told = ask(&mut ledger, probe(server, &[vip], Method::L2), Instant::now());
        let frame = &ledger.take_ready()[0].bytes[VNET_HEADER_BYTES..].to_vec();
        let ip = Ip::parse(frame, false).expect("the IP header's");
        let segment = &frame[ip.l4..ip.end];
        let pseudo = convey_packet::checksum::pseudo_header(ip.source, ip.destination, 6, segment.len());
        let whole = u64::from(pseudo) + u64::from(convey_packet::checksum::sum(segment));
        assert_eq!(convey_packet::checksum::fold(whole), 0xffff, "TCP's");
    }
}

#[test]
fn silence_names_the_vip_after_several_tries_and_a_late_answer_is_still_reset() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let began = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
    let mut tries = ledger.take_ready();
    while outcome(&told).is_none() {
        let due = ledger.due().unwrap();
        ledger.look(due);
        tries.extend(ledger.take_ready());
        assert!(due <= began + TIMEOUT);
    }
    assert_eq!(outcome(&told), Some(Outcome::Silent(at("192.0.2.1:80"), None)));
    assert_eq!(tries.len(), 3);
    assert_eq!(sent(&tries[0]), sent(&tries[2]), "the same segment, as a retransmission is");
    let late = began + TIMEOUT + Duration::from_secs(1);
    answer(&mut ledger, &tries[0], "192.0.2.1:80", SERVER, SYN | ACK, late);
    assert_eq!(sent(&ledger.take_ready()[0]).0.flags, RST);
    assert_eq!(outcome(&told), Some(Outcome::Silent(at("192.0.2.1:80"), None)));
    ledger.look(began + Duration::from_secs(60));
    assert_eq!(ledger.due(), None, "and forgotten in the end");
}

#[test]
fn a_refusal_names_the_vip() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), now);
    let syns = ledger.take_ready();
    answer(&mut ledger, &syns[0], "192.0.2.1:80", SERVER, RST | ACK, now);
    assert_eq!(outcome(&told), Some(Outcome::Refused(at("192.0.2.1:80"))));
    assert!(ledger.take_ready().is_empty(), "a reset is not answered");
}

#[test]
fn a_server_has_to_answer_for_all_of_its_vips() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let began = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80", "192.0.2.2:80"], Method::L2), began);
    let syns = ledger.take_ready();
    answer(&mut ledger, &syns[0], "192.0.2.1:80", SERVER, SYN | ACK, began);
    assert_eq!(outcome(&told), None);
    ledger.look(began + TIMEOUT);
    assert_eq!(outcome(&told), Some(Outcome::Silent(at("192.0.2.2:80"), None)));
}

#[test]
fn by_rewrite_the_servers_own_address_is_asked_and_the_answer_has_to_come_from_the_vip() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    for (from, expected) in [
        ("192.0.2.1:80", Outcome::Answered),
        ("10.0.0.11:80", Outcome::Elsewhere(at("10.0.0.11:80"), at("192.0.2.1:80"))),
    ] {
        let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::Rewrite), now);
        let syns = ledger.take_ready();
        assert_eq!(sent(&syns[0]).0.to, at("10.0.0.11:80"));
        answer(&mut ledger, &syns[0], from, SERVER, SYN | ACK, now);
        assert_eq!(outcome(&told), Some(expected));
        assert_eq!(
            sent(&ledger.take_ready()[0]).0.to,
            at("10.0.0.11:80"),
            "the reset goes where the SYN went"
        );
    }
}

#[test]
fn an_answer_of_another_server_that_was_handed_the_syn_does_not_count() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let began = Instant::now();
    let _other = ask(&mut ledger, probe("10.0.0.12:80", &["192.0.2.1:80"], Method::L2), began);
    ledger.take_ready();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
    let syns = ledger.take_ready();
    answer(&mut ledger, &syns[0], "192.0.2.1:80", OTHER, SYN | ACK, began);
    let resets = ledger.take_ready();
    assert_eq!(resets[0].bytes[VNET_HEADER_BYTES..][..6], OTHER, "it holds the half-open connection");
    ledger.look(began + TIMEOUT);
    let expected = Outcome::Silent(at("192.0.2.1:80"), Some(ip("10.0.0.12")));
    assert_eq!(outcome(&told), Some(expected));
}

#[test]
fn an_answer_by_a_link_of_the_server_that_nobody_else_is_known_by_counts() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), now);
    let syns = ledger.take_ready();
    answer(&mut ledger, &syns[0], "192.0.2.1:80", [2, 0, 0, 0, 9, 9], SYN | ACK, now);
    assert_eq!(outcome(&told), Some(Outcome::Answered));
}

#[test]
fn strangers_segments_change_nothing() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), now);
    let syns = ledger.take_ready();
    let (syn, seq) = sent(&syns[0]);
    for (to, ack, flags) in [
        (syn.from, seq, SYN | ACK),
        (syn.from, seq.wrapping_add(2), RST | ACK),
        (syn.from, seq.wrapping_add(1), SYN),
        (syn.from, seq.wrapping_add(1), RST),
        (SocketAddr::new(syn.from.ip(), PORT + 1), seq.wrapping_add(1), SYN | ACK),
    ] {
        let course = Course { macs: (SERVER, OURS), ends: (at("192.0.2.1:80"), to) };
        let mut bytes = frame::build(&course, Words { seq: 7, flags });
        bytes[VNET_HEADER_BYTES + 42..][..4].copy_from_slice(&ack.to_be_bytes());
        ledger.hear(&bytes[VNET_HEADER_BYTES..], now);
        for cut in 0..bytes.len() - VNET_HEADER_BYTES {
            ledger.hear(&bytes[VNET_HEADER_BYTES..][..cut], now);
        }
    }
    assert_eq!(outcome(&told), None);
    assert!(ledger.take_ready().is_empty());
}

#[test]
fn a_server_whose_neighbour_is_silent_is_resolved_until_the_time_is_up() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let began = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.13:80", &["192.0.2.1:80"], Method::L2), began);
    ledger.look(began + TIMEOUT / 2);
    ledger.look(began + TIMEOUT);
    assert_eq!(outcome(&told), Some(Outcome::Unresolved(ip("10.0.0.13"), 2)));
    assert!(world.resolved.lock().unwrap().len() >= 2);
    assert!(ledger.take_ready().is_empty());
}

#[test]
fn a_server_whose_neighbour_fell_silent_is_given_up_long_before_the_time_is_up() {
    let mut world = world_with_silent(&["10.0.0.11"]);
    let soon = Duration::from_millis(100);
    let began = Instant::now();
    {
        let mut ledger = Ledger::new(vec![PORT], &world);
        let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
        assert_eq!(outcome(&told), None);
        ledger.look(began + soon);
        assert_eq!(outcome(&told), Some(Outcome::Unresolved(ip("10.0.0.11"), 2)));
        assert_eq!(ledger.take_ready().len(), 1, "it may be there though it does not answer ARP");
    }
    {
        let mut ledger = Ledger::new(vec![PORT], &world);
        let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
        let syns = ledger.take_ready();
        answer(&mut ledger, &syns[0], "192.0.2.1:80", SERVER, SYN | ACK, began + soon / 2);
        assert_eq!(outcome(&told), Some(Outcome::Answered));
    }
    world.next_hops = world_with_silent(&["10.0.0.12"]).next_hops;
    let mut ledger = Ledger::new(vec![PORT], &world);
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
    ledger.look(began + TIMEOUT / 2);
    assert_eq!(outcome(&told), None, "another's silence is none of its own");
}

#[test]
fn without_a_route_or_an_address_to_ask_from_it_is_told_at_once() {
    let world = World { source: None, ..world() };
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), now);
    assert_eq!(outcome(&told), Some(Outcome::NoSource(2)));
    let told = ask(&mut ledger, probe("172.16.0.1:80", &["192.0.2.1:80"], Method::L2), now);
    assert!(matches!(outcome(&told), Some(Outcome::NoWay(_))));
}

#[test]
fn a_server_behind_a_router_is_asked_by_rewrite_alone() {
    let next_hops = NextHops::new(
        [Link { ifindex: 2, mac: OURS, mtu: 1500 }],
        [Route::by(ip("0.0.0.0"), 0, 2, Some(ip("10.0.0.254")))],
        [((2, ip("10.0.0.254")), OTHER)],
    );
    let world = World { next_hops: Arc::new(next_hops), ..world() };
    let mut ledger = Ledger::new(vec![PORT], &world);
    let now = Instant::now();
    let told = ask(&mut ledger, probe("172.16.0.1:80", &["192.0.2.1:80"], Method::L2), now);
    assert_eq!(outcome(&told), Some(Outcome::BehindRouter));
    let told = ask(&mut ledger, probe("172.16.0.1:80", &["192.0.2.1:80"], Method::Rewrite), now);
    assert_eq!(outcome(&told), None);
    assert_eq!(ledger.take_ready()[0].bytes[VNET_HEADER_BYTES..][..6], OTHER);
}

#[test]
fn what_the_kernel_does_not_send_is_no_fault_of_the_server() {
    let world = world();
    let mut ledger = Ledger::new(vec![PORT], &world);
    let began = Instant::now();
    let told = ask(&mut ledger, probe("10.0.0.11:80", &["192.0.2.1:80"], Method::L2), began);
    let syns = ledger.take_ready();
    ledger.refused(&syns[0], &std::io::Error::from_raw_os_error(libc::ENOBUFS));
    ledger.look(began + TIMEOUT);
    assert!(matches!(outcome(&told), Some(Outcome::NotSent(_))));
}

#[test]
fn the_sockets_hear_tcp_to_the_probes_ports_and_nothing_else() {
    for (ethertype, from, to) in [
        (libc::ETH_P_IP as u32, "192.0.2.1:80", "10.0.0.1:40000"),
        (libc::ETH_P_IPV6 as u32, "[2001:db8::1]:80", "[fd00::1]:40000"),
    ] {
        let program = filter::answers(ethertype, &[39_999, PORT, 50_000]);
        let hears = |to: SocketAddr, protocol: u8| {
            let course = Course { macs: (SERVER, OURS), ends: (at(from), to) };
            let mut frame =
                frame::build(&course, Words { seq: 1, flags: SYN | ACK })[VNET_HEADER_BYTES..].to_vec();
            frame[if to.is_ipv4() { 23 } else { 20 }] = protocol;
            run(&program, &frame, Ancillary::default()) != 0
        };
        assert!(hears(at(to), 6));
        assert!(!hears(at(to), 17));
        assert!(!hears(SocketAddr::new(at(to).ip(), PORT + 1), 6));
        assert_eq!(run(&program, &[0; 30], Ancillary::default()), 0);
    }
}
