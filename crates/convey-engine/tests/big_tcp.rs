//! Super-frames longer than an IP header can tell (BIG TCP): IPv4 with a total length of 0, IPv6 with a jumbo payload
//! option that the kernel takes off again when it cuts them.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use common::{Lab, Out};
use convey_testkit::PacketBuilder as P;
use convey_testkit::fixture::Input;

const HOP_BY_HOP: u8 = 0;
static PAYLOAD: [u8; 180_000] = [7; 180_000];

fn send(lab: &mut Lab, frame: &[u8], partial: Option<(u16, u16)>, gso: Option<(u8, u16)>) -> Out {
    lab.run(&Input { frame: convey_testkit::hex(frame), ingress: 1, now_ms: 1000, partial, gso })
}

fn begin(client: &str, vip: &str) -> Lab {
    let mut lab = Lab::new(&common::world("dsr"));
    for packet in [P::syn(client, vip), P::tcp(client, vip)] {
        assert_eq!(send(&mut lab, &packet.build(), None, None).verdict, "forward");
    }
    lab
}

#[test]
fn an_ipv4_super_frame_without_a_total_length_goes_on_whole() {
    let (client, vip) = ("198.51.100.7:40001", "192.0.2.10:80");
    let mut frame = P::tcp(client, vip).payload(&PAYLOAD).partial().build();
    frame[16..18].fill(0);
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let out = send(&mut begin(client, vip), &frame, Some((34, 16)), Some((1, 1460))).frame();
    assert_eq!((out.len(), &out[16..18]), (frame.len(), &[0, 0][..]));
}

#[test]
fn an_ipv6_super_frame_goes_on_whole_though_its_jumbo_option_makes_a_segment_seem_too_long() {
    let (client, vip) = ("[2001:db8:99::7]:40001", "[2001:db8:1::10]:80");
    let length = u32::try_from(PAYLOAD.len() + 20 + 8).unwrap().to_be_bytes();
    let option = [&[0, 0xc2, 4][..], &length].concat();
    let mut frame = P::tcp(client, vip).extension(HOP_BY_HOP, &option).payload(&PAYLOAD).partial().build();
    frame[18..20].fill(0);
    // 1440 bytes of payload fill a packet of 1500 without the option.
    let out = send(&mut begin(client, vip), &frame, Some((62, 16)), Some((4, 1440)));
    assert_eq!((out.verdict.as_str(), out.reason.clone()), ("forward", None));
    assert_eq!(out.frame().len(), frame.len());
    assert_eq!(out.frame()[18..20], [0, 0]);
    let out = send(&mut begin(client, vip), &frame, Some((62, 16)), Some((4, 1441)));
    assert_eq!(out.reason.unwrap(), "packet_too_big.too_big", "one byte more does not fit");
}
