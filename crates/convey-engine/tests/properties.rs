//! What holds for every packet and every order of events.

mod common;

use std::collections::HashMap;

use common::Lab;
use convey_core::selection::{MaglevTable, Member, maglev::SLOTS, member_seed};
use convey_engine::{Checksum, FrameMeta, Gso, Nanos};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, RST, SYN};
use convey_testkit::fixture::Input;
use proptest::prelude::*;

const VIP: [&str; 2] = ["192.0.2.10", "[2001:db8:1::10]"];

fn send(lab: &mut Lab, packet: &P, now_ms: u64) -> common::Out {
    let frame = convey_testkit::hex(&packet.clone().macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build());
    lab.run(&Input { frame, ingress: 1, now_ms, partial: None, gso: None })
}

/// The transport checksum of a frame as etherparse computes it, and as it stands there.
fn checksums(frame: &[u8]) -> (u16, u16) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    match (packet.net.expect("IP"), packet.transport.expect("transport")) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(t)) => (
            t.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).expect("sum"),
            t.checksum(),
        ),
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(t)) => (
            t.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).expect("sum"),
            t.checksum(),
        ),
        (NetSlice::Ipv4(ip), TransportSlice::Udp(u)) => {
            let (s, d) = (ip.header().source(), ip.header().destination());
            (u.to_header().calc_checksum_ipv4_raw(s, d, u.payload()).expect("sum"), u.checksum())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(u)) => {
            let (s, d) = (ip.header().source(), ip.header().destination());
            (u.to_header().calc_checksum_ipv6_raw(s, d, u.payload()).expect("sum"), u.checksum())
        }
        other => panic!("{other:?}"),
    }
}

fn client(v6: bool, host: u16, port: u16) -> String {
    if v6 {
        format!("[2001:db8:99::{host:x}]:{port}")
    } else {
        format!("198.51.{}.{}:{port}", host >> 8, host & 0xff)
    }
}

/// Source and destination as etherparse reads them.
fn tuple(frame: &[u8]) -> (String, String) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let (s, d) = match packet.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().to_string(), ip.header().destination_addr().to_string())
        }
        NetSlice::Ipv6(ip) => {
            (format!("[{}]", ip.header().source_addr()), format!("[{}]", ip.header().destination_addr()))
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let (sp, dp) = match packet.transport.expect("transport") {
        TransportSlice::Tcp(t) => (t.source_port(), t.destination_port()),
        TransportSlice::Udp(u) => (u.source_port(), u.destination_port()),
        other => panic!("{other:?}"),
    };
    (format!("{s}:{sp}"), format!("{d}:{dp}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_checksums_equal_a_full_computation_and_nat_there_and_back_is_the_identity(
        v6: bool, tcp: bool, host in 1u16..65000, port in 1u16.., ttl in 2u8.., tos: u8,
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        answer in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut lab = Lab::new(&common::world("passthrough"));
        let from = client(v6, host, port);
        let vip = format!("{}:{}", VIP[usize::from(v6)], if tcp { 80 } else { 53 });
        let out = if tcp { P::syn(&from, &vip) } else { P::udp(&from, &vip) }.ttl(ttl).tos(tos).payload(&payload);
        let there = send(&mut lab, &out, 1000).frame();
        let (full, field) = checksums(&there);
        prop_assert_eq!(full, field);
        prop_assert!(there.ends_with(&payload));

        let (nat, server) = tuple(&there);
        let back = if tcp { P::tcp(&server, &nat).flags(SYN | ACK).seq(7, 1001) } else { P::udp(&server, &nat) };
        let back = send(&mut lab, &back.ttl(ttl).payload(&answer), 1001).frame();
        let (full, field) = checksums(&back);
        prop_assert_eq!(full, field);
        prop_assert_eq!(tuple(&back), (vip, from));
        prop_assert!(back.ends_with(&answer));
    }

    #[test]
    fn any_bytes_end_in_a_counted_verdict(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), ethertype in 0usize..3, partial: bool,
        start: u16, offset: u16, gso: Option<u16>, dsr: bool,
    ) {
        let mut bytes = bytes;
        if bytes.len() > 14 {
            bytes[0] &= 0xfe;
            let kind = [[8, 0], [0x86, 0xdd], [bytes[12], bytes[13]]][ethertype];
            bytes[12..14].copy_from_slice(&kind);
            bytes[14] = [0x45, 0x60, bytes[14]][ethertype];
        }
        let mut lab = Lab::new(&common::world(if dsr { "dsr" } else { "passthrough" }));
        let checksum = if partial { Checksum::Partial { start, offset } } else { Checksum::Complete };
        let meta = FrameMeta { ingress_ifindex: 1, checksum, gso: gso.map(|size| Gso { kind: 1, size }) };
        lab.run_bytes(&bytes, &meta, 1000);
        prop_assert_eq!(lab.worker.counters().packets(), 1);
    }

    #[test]
    fn maglev_leaves_no_hole_and_gives_every_server_its_share_to_the_slot(
        weights in proptest::collection::vec(0u32..1000, 1..60),
    ) {
        let members: Vec<Member> = weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| Member { seed: member_seed(&[i as u8, 9]), weight, value: i as u16 })
            .collect();
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        match MaglevTable::build(&members) {
            None => prop_assert_eq!(total, 0),
            Some(table) => {
                let mut counts = vec![0u64; weights.len()];
                for &v in table.slots() {
                    counts[usize::from(v)] += 1;
                }
                for (&w, &n) in weights.iter().zip(&counts) {
                    let floor = u64::from(w) * SLOTS as u64 / total;
                    prop_assert!(n == floor || n == floor + 1, "{} of {}: {}", w, total, n);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Open(u16),
    Data(u16),
    Finish(u16),
    Reset(u16),
    Flood(u16),
    Wait(u16),
    Sweep,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let who = 0u16..40;
    let event = prop_oneof![
        4 => who.clone().prop_map(Event::Open),
        3 => who.clone().prop_map(Event::Data),
        2 => who.clone().prop_map(Event::Finish),
        1 => who.prop_map(Event::Reset),
        1 => (0u16..1000).prop_map(Event::Flood),
        2 => (0u16..40_000).prop_map(Event::Wait),
        1 => Just(Event::Sweep),
    ];
    proptest::collection::vec(event, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_live_flows_share_a_port_and_the_gauge_is_the_number_of_conversations(events in events()) {
        let vip = "192.0.2.10:80";
        let mut lab = Lab::passthrough((40000, 40019), 1);
        let mut live: HashMap<u16, String> = HashMap::new();
        let mut now = 1000;
        for event in events {
            match event {
                Event::Open(n) if !live.contains_key(&n) => {
                    let from = client(false, n, 5000);
                    let out = send(&mut lab, &P::syn(&from, vip), now);
                    if out.verdict != "forward" {
                        prop_assert_eq!(live.len(), 20, "refused with a port to spare: {:?}", out);
                        continue;
                    }
                    let (nat, server) = tuple(&out.frame());
                    prop_assert!(!live.values().any(|held| *held == nat), "{} is held", nat);
                    send(&mut lab, &P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001), now);
                    send(&mut lab, &P::tcp(&from, vip).seq(1001, 5001), now);
                    live.insert(n, nat);
                }
                Event::Data(n) => {
                    if let Some(nat) = live.get(&n) {
                        let back = P::tcp("10.0.0.11:8080", nat).seq(5001, 1001).payload(b"x");
                        let to = tuple(&send(&mut lab, &back, now).frame()).1;
                        prop_assert_eq!(to, client(false, n, 5000));
                    }
                }
                Event::Finish(n) => {
                    if let Some(nat) = live.remove(&n) {
                        let from = client(false, n, 5000);
                        send(&mut lab, &P::tcp(&from, vip).flags(FIN | ACK).seq(1001, 5001), now);
                        send(&mut lab, &P::tcp("10.0.0.11:8080", &nat).flags(FIN | ACK).seq(5001, 1002), now);
                    }
                }
                Event::Reset(n) => {
                    if live.remove(&n).is_some() {
                        send(&mut lab, &P::tcp(&client(false, n, 5000), vip).flags(RST).seq(1001, 0), now);
                    }
                }
                Event::Flood(n) => {
                    for i in 0..n % 50 {
                        send(&mut lab, &P::syn(&client(false, 1000 + n + i, 6000), vip), now);
                    }
                }
                Event::Wait(ms) => now += u64::from(ms),
                Event::Sweep => {
                    let snapshot = lab.snapshot.clone();
                    lab.worker.tick(&snapshot, Nanos::from_millis(now));
                }
                Event::Open(_) => {}
            }
            prop_assert_eq!(lab.config.totals.open(), live.len() as u64);
        }
    }
}
