//! The fixtures against an independent reading: etherparse decodes every frame that must leave and computes its
//! checksums anew.

use std::collections::HashSet;

use convey_testkit::fixture::{Case, load_all};
use convey_testkit::unhex;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Cases whose transport checksum is wrong on purpose.
const CORRUPTED: [&str; 2] = [
    "a corrupted TCP checksum leaves corrupted by as much",
    "DSR by MAC: a corrupted checksum stays as it is",
];

fn cases() -> Vec<Case> {
    load_all().expect("fixtures").into_iter().flat_map(|(_, f)| f.cases).collect()
}

#[test]
fn the_files_are_what_the_cases_say() {
    let files = load_all().unwrap();
    let written = convey_testkit::cases::all();
    assert_eq!(files.len(), written.len());
    for (name, file) in written {
        let (_, loaded) = files.iter().find(|(n, _)| n == name).unwrap();
        assert!(*loaded == file, "{name}.json is stale: run the example write_fixtures");
    }
}

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for case in cases() {
        assert!(seen.insert(case.name.clone()), "{} is there twice", case.name);
    }
}

#[test]
fn every_frame_that_leaves_has_right_lengths_and_checksums_by_etherparse() {
    let mut checked = 0;
    for case in cases() {
        let Some(frame) = &case.expect.frame else { continue };
        let frame = unhex(frame).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        if let Some(NetSlice::Ipv4(v4)) = &packet.net {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "{}", case.name);
            assert_eq!(usize::from(header.total_len), frame.len() - 14, "{}: padding", case.name);
        }
        // The checksum over a datagram in fragments is the engine's own test's.
        if packet.is_ip_payload_fragmented() {
            continue;
        }
        let is_reply = case.expect.verdict == "reply";
        let is_wrong_on_purpose = CORRUPTED.contains(&&*case.name);
        let right = transport_checksum_is_right(&packet).unwrap_or_else(|| panic!("{}", case.name));
        if case.input.partial.is_some() && !is_reply {
            assert!(!right, "{}: a partial checksum must not look complete", case.name);
        } else {
            assert_eq!(right, !is_wrong_on_purpose, "{}", case.name);
        }
        checked += 1;
    }
    assert!(checked > 60);
}

#[test]
fn a_forwarded_packet_lives_one_hop_less_unless_only_its_macs_change() {
    for case in cases().into_iter().filter(|c| c.expect.verdict == "forward") {
        let ttl = |digits: &str| {
            let frame = unhex(digits).unwrap();
            if frame[12] == 8 { frame[22] } else { frame[21] }
        };
        let (before, after) = (ttl(&case.input.frame), ttl(case.expect.frame.as_deref().unwrap()));
        assert_eq!(after, before - u8::from(case.world != "dsr by MAC"), "{}", case.name);
    }
}

/// `None` when there is no transport header etherparse knows.
fn transport_checksum_is_right(packet: &SlicedPacket<'_>) -> Option<bool> {
    Some(match (packet.net.as_ref()?, packet.transport.as_ref()?) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let (s, d) = (ip.header().source(), ip.header().destination());
            tcp.calc_checksum_ipv4(s, d).ok()? == tcp.checksum()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let (s, d) = (ip.header().source(), ip.header().destination());
            tcp.calc_checksum_ipv6(s, d).ok()? == tcp.checksum()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let h = udp.to_header();
            let full =
                h.calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), udp.payload());
            h.checksum == 0 || full.ok()? == h.checksum
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let h = udp.to_header();
            let full =
                h.calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), udp.payload());
            full.ok()? == h.checksum
        }
        (_, TransportSlice::Icmpv4(icmp)) => {
            icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
        }
        _ => return None,
    })
}
