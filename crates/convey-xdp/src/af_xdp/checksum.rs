//! Layer-4 checksums that a sender on this machine left open.
//!
//! The kernel of a container or a virtual machine leaves them to the card, and a veth, a bridge or a tap in between carries
//! the promise along; at XDP the promise is lost and the field holds only the sum of the pseudo-header.

use convey_packet::checksum::{pseudo_header, sum};
use convey_packet::{Fragment, Ip, TCP, UDP};

/// Where the checksum of the frame in `frame[..len]` lies if it was left open: where summing starts, and how far behind
/// that it is.
///
/// A whole packet whose field holds the pseudo-header's sum is taken for one. Of packets with a right checksum one in 65,536
/// looks like that, too, and completing it gives the same checksum again; of damaged ones as many would be repaired.
pub fn open(frame: &[u8], len: usize) -> Option<(u16, u16)> {
    let packet = frame.get(..len)?;
    let ip = Ip::parse(packet, false).ok()?;
    let offset = match ip.protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let at = ip.l4 + offset;
    let field = u16::from_be_bytes(*packet.get(at..)?.first_chunk()?);
    if ip.fragment != Fragment::No || at + 2 > ip.end {
        return None;
    }
    let pseudo = pseudo_header(ip.source, ip.destination, ip.protocol, ip.end - ip.l4);
    (field == pseudo).then_some((ip.l4 as u16, offset as u16))
}

/// Completes the checksum `offset` behind `start` of a whole frame, over everything from `start` on.
pub fn complete(frame: &mut [u8], start: usize, offset: usize) {
    // The field is part of the sum and holds the pseudo-header's: that is all a complete one is made of. Where it would be
    // zero, which UDP has for "none", TCP takes the other zero as well.
    let sum = !sum(frame.get(start..).unwrap_or_default());
    let complete = if sum == 0 { 0xffff } else { sum };
    if let Some(field) = frame.get_mut(start + offset..).and_then(|rest| rest.first_chunk_mut()) {
        *field = complete.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use convey_testkit::PacketBuilder;

    use super::*;

    const V4: [&str; 2] = ["10.0.0.2:7777", "10.0.0.1:80"];
    const V6: [&str; 2] = ["[fd00::2]:7777", "[fd00::1]:80"];

    fn packets() -> Vec<PacketBuilder> {
        let of =
            |[from, to]: [&str; 2]| [PacketBuilder::tcp(from, to).flags(0x10), PacketBuilder::udp(from, to)];
        [V4, V6].into_iter().flat_map(of).collect()
    }

    #[test]
    fn an_open_checksum_becomes_the_one_the_sender_would_have_filled_in() {
        for packet in packets() {
            for len in [0, 1, 2, 31, 1400] {
                let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
                let packet = packet.clone().payload(&payload);
                let (whole, mut left_open) = (packet.build(), packet.clone().partial().build());
                assert_ne!(whole, left_open);
                let (start, offset) = open(&left_open, left_open.len()).unwrap();
                complete(&mut left_open, start.into(), offset.into());
                assert_eq!(left_open, whole);
                assert_eq!(open(&whole, whole.len()), None);
            }
        }
    }

    #[test]
    fn completing_a_checksum_that_is_right_and_looks_open_changes_nothing() {
        // The last two bytes make the rest add up to nothing.
        let frame = |last: u16| PacketBuilder::udp(V4[0], V4[1]).payload(&last.to_be_bytes()).build();
        let mut right = (0..=u16::MAX).map(frame).find(|f| open(f, f.len()).is_some()).unwrap();
        let before = right.clone();
        let (start, offset) = open(&right, right.len()).unwrap();
        complete(&mut right, start.into(), offset.into());
        assert_eq!(right, before);
    }

    #[test]
    fn a_checksum_that_is_whole_wrong_absent_or_not_in_the_packet_is_not_open() {
        for packet in packets() {
            let all = [
                packet.clone(),
                packet.clone().corrupt(0x1234),
                packet.clone().partial().fragment(0, true).payload(&[1; 64]),
                packet.clone().trailer(9),
            ];
            for packet in all {
                let frame = packet.build();
                for len in 0..=frame.len() {
                    assert_eq!(open(&frame, len), None, "cut to {len}");
                }
            }
        }
        let none = PacketBuilder::udp(V4[0], V4[1]).no_checksum().build();
        assert_eq!(open(&none, none.len()), None);
    }
}
