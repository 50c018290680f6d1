//! Datagrams in fragments: what comes out is put together again and is the datagram that went in, rewritten.

mod common;

use common::{Lab, Out};
use convey_engine::{DropReason, FrameMeta, Nanos, Note, PassReason};
use convey_testkit::PacketBuilder as P;
use proptest::prelude::*;

const VIP: &str = "192.0.2.10:53";
const VIP6: &str = "[2001:db8:1::10]:53";
const CLIENT: &str = "198.51.100.7:40001";
const CLIENT6: &str = "[2001:db8:99::7]:40001";

fn send(lab: &mut Lab, ingress: u32, packet: &P, now_ms: u64) -> Out {
    let macs = if ingress == 1 {
        ([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe])
    } else {
        ([2, 0, 0, 0, 2, 1], [2, 0, 0, 0, 2, 0x11])
    };
    let frame = packet.clone().macs(macs.0, macs.1).build();
    lab.run_bytes(&frame, &FrameMeta { ingress_ifindex: ingress, ..FrameMeta::default() }, now_ms)
}

fn reason(out: &Out) -> (&str, &str) {
    (&out.verdict, out.reason.as_deref().unwrap_or_default())
}

/// Source, destination, identification and offset, and the bytes of a fragment.
fn read(out: &Out) -> (Vec<u8>, u32, usize, Vec<u8>) {
    let frame = out.frame();
    let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12] == 8 {
        let offset = usize::from(half(20) & 0x1fff) * 8;
        (frame[26..34].to_vec(), half(18).into(), offset, frame[34..].to_vec())
    } else {
        let id = u32::from_be_bytes([frame[58], frame[59], frame[60], frame[61]]);
        (frame[22..54].to_vec(), id, usize::from(half(56) & 0xfff8), frame[62..].to_vec())
    }
}

/// The transport bytes of the fragments, which must be of one datagram.
fn put_together(outs: &[Out]) -> Vec<u8> {
    let mut parts: Vec<_> = outs.iter().map(read).collect();
    parts.sort_by_key(|(_, _, offset, _)| *offset);
    let mut bytes = Vec::new();
    for (addresses, id, offset, part) in &parts {
        assert_eq!((addresses, id), (&parts[0].0, &parts[0].1), "of one datagram");
        assert_eq!(*offset, bytes.len());
        bytes.extend(part);
    }
    bytes
}

/// The transport bytes of a whole packet.
fn transport(packet: &P) -> Vec<u8> {
    packet.build().split_off(packet.transport_offset())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_datagram_arrives_whole_and_with_a_right_checksum_in_either_direction_and_family(
        payload in prop::collection::vec(any::<u8>(), 1500..20_000),
        size in (1usize..180).prop_map(|words| words * 8),
        is_v6 in any::<bool>(),
        order in any::<prop::sample::Index>(),
        id in any::<u16>(),
    ) {
        let (client, vip, nat, server) = if is_v6 {
            (CLIENT6, VIP6, "[2001:db8:1::10]:40000", "[2001:db8:2::11]:8080")
        } else {
            (CLIENT, VIP, "192.0.2.10:40000", "10.0.0.11:8080")
        };
        let mut lab = Lab::new(&common::world("passthrough"));
        for (ingress, from, to, new_from, new_to) in [(1, client, vip, nat, server), (2, server, nat, vip, client)] {
            let mut parts = P::udp(from, to).payload(&payload).id(id).cut(size);
            // In the order they may come in once the first is there; many gaps are more than is followed.
            let later = &mut parts[1..];
            if later.len() < 20 {
                later.rotate_left(order.index(later.len()));
                later.reverse();
            }
            let outs: Vec<_> = parts.iter().map(|part| send(&mut lab, ingress, part, 1000)).collect();
            prop_assert_eq!(put_together(&outs), transport(&P::udp(new_from, new_to).payload(&payload)));
        }
        let counters = &lab.snapshot.frontend(if is_v6 { 3 } else { 1 }).unwrap().counters;
        let bytes = (counters.bytes_tx(), counters.bytes_rx());
        prop_assert_eq!(bytes, (payload.len() as u64, payload.len() as u64), "counted as without fragments");
    }
}

#[test]
fn two_clients_that_choose_one_identification_are_told_apart_by_their_server() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let datagrams =
        [1u8, 2].map(|n| P::udp(&format!("198.51.100.{n}:5000"), VIP).payload(&[n; 2000]).id(77).cut(1480));
    let mut outs = [0, 1].map(|part| [0, 1].map(|n: usize| send(&mut lab, 1, &datagrams[n][part], 1000)));
    let ids = outs.each_mut().map(|outs| outs.each_ref().map(|out| read(out).1));
    assert_eq!(ids[0], ids[1], "the later fragment has the first one's");
    assert_ne!(ids[0][0], ids[0][1]);
}

#[test]
fn an_identification_is_used_again_as_soon_as_its_datagram_is_complete() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    for round in 0..100 {
        for part in P::udp(CLIENT, VIP).payload(&[round; 3000]).id(5).cut(1480) {
            assert_eq!(send(&mut lab, 1, &part, 1000).verdict, "forward", "{round}");
        }
    }
    assert_eq!(lab.worker.counters().noted(Note::DatagramBegun), 100);
}

#[test]
fn later_fragments_of_what_was_dropped_are_dropped() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    lab.reload(|spec| spec.backends[0].servers[0].up = false);
    let parts = P::udp(CLIENT, VIP).payload(&[1; 3000]).id(5).cut(1480);
    assert_eq!(reason(&send(&mut lab, 1, &parts[0], 1000)), ("drop", "no_server"));
    assert_eq!(reason(&send(&mut lab, 1, &parts[1], 1000)), ("drop", "fragment_refused"));

    let segment = P::tcp(CLIENT, "192.0.2.10:80").payload(&[1; 3000]).id(6).cut(1480);
    for part in &segment {
        assert_eq!(reason(&send(&mut lab, 1, part, 1000)), ("drop", "fragment_refused"));
    }
    assert_eq!(lab.worker.counters().dropped(DropReason::FragmentRefused), 4);
}

#[test]
fn a_datagram_that_is_not_complete_is_forgotten_after_two_seconds() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let parts = P::udp(CLIENT, VIP).payload(&[1; 4000]).id(5).cut(1480);
    send(&mut lab, 1, &parts[0], 1000);
    assert_eq!(send(&mut lab, 1, &parts[1], 2999).verdict, "forward");
    assert_eq!(reason(&send(&mut lab, 1, &parts[2], 3000)), ("pass", "fragment"));
    // Another may begin with its identification.
    assert_eq!(send(&mut lab, 1, &parts[0], 3000).verdict, "forward");
}

#[test]
fn a_flood_of_first_fragments_evicts_fragments_and_nothing_else() {
    let mut lab = Lab::dsr(1);
    let vip = "192.0.2.11:53";
    assert_eq!(send(&mut lab, 1, &P::udp(CLIENT, vip).payload(b"known"), 1000).verdict, "forward");
    let flows = lab.worker.flows();
    let old = P::udp(CLIENT, vip).payload(&[1; 3000]).id(1).cut(1480);
    let young = P::udp(CLIENT, vip).payload(&[2; 3000]).id(2).cut(1480);
    send(&mut lab, 1, &old[0], 1000);
    for n in 0..5000u32 {
        let first = &P::udp(CLIENT, vip).payload(&[3; 3000]).id(10 + n as u16).cut(1480)[0];
        assert_eq!(send(&mut lab, 1, first, 1000).verdict, "forward");
        if n == 4000 {
            send(&mut lab, 1, &young[0], 1000);
        }
    }
    assert_eq!(lab.worker.flows(), flows);
    assert_eq!(reason(&send(&mut lab, 1, &old[1], 1000)), ("pass", "fragment"));
    assert_eq!(send(&mut lab, 1, &young[1], 1000).verdict, "forward");
    assert_eq!(lab.worker.counters().noted(Note::DatagramEvicted), 5002 - 4096);
    assert_eq!(lab.worker.counters().passed(PassReason::Fragment), 1);
}

#[test]
fn what_was_held_is_followed_once_its_first_has_come() {
    let lab = Lab::passthrough((40000, 40099), 1);
    let fragments = std::sync::Arc::new(convey_engine::Fragments::new(0));
    let mut lab = lab;
    lab.worker.share_fragments(fragments.clone());
    let parts = P::udp(CLIENT, VIP).payload(&[1; 3000]).id(5).cut(1480);
    let later = parts[1].clone().macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
    assert!(!fragments.is_followed(&later, Nanos::from_secs(1)));
    let begun = fragments.begun();
    send(&mut lab, 1, &parts[0], 1000);
    assert!(fragments.begun() > begun);
    assert!(fragments.is_followed(&later, Nanos::from_secs(1)));
    assert!(!fragments.is_followed(&later, Nanos::from_secs(3)), "its time is over");
    for garbage in [&later[..14], &later[..20], &[][..]] {
        assert!(!fragments.is_followed(garbage, Nanos::from_secs(1)));
    }
}

#[test]
fn an_error_about_a_first_fragment_follows_its_flow_and_one_about_a_later_one_is_the_kernels() {
    let mut lab = Lab::new(&common::world("passthrough"));
    let parts = P::udp(CLIENT, VIP).payload(&[1; 3000]).id(5).cut(1480);
    let first = send(&mut lab, 1, &parts[0], 1000).frame();
    let later = send(&mut lab, 1, &parts[1], 1000).frame();
    let about = |frame: &[u8]| P::icmp("10.0.0.254", "192.0.2.10", 11, 1, 0, &frame[14..42]);
    let out = send(&mut lab, 2, &about(&first), 1000);
    assert_eq!((out.verdict.as_str(), out.egress), ("forward", Some(1)));
    let quoted = &out.frame()[42..];
    assert_eq!(&quoted[12..20], [198, 51, 100, 7, 192, 0, 2, 10], "quoted as the client knows it");
    assert_eq!(&quoted[20..24], [0x9c, 0x41, 0, 53]);
    assert_eq!(reason(&send(&mut lab, 2, &about(&later), 1000)), ("pass", "icmp_unrelated"));
}
