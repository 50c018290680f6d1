//! Layer-4 checksums that a sender on this machine left open.
//!
//! The kernel of a container or a virtual machine leaves them to the card, and a veth, a bridge or a tap in between carries
//! the promise along; at XDP the promise is lost and the field holds only the sum of the pseudo-header.

use convey_packet::checksum::{pseudo_header, sum};
use convey_packet::{Fragment, Ip, TCP, UDP};

/// Completes the checksum of the frame in `frame[..len]` if it was left open; whether it was.
///
/// A whole packet whose field holds the pseudo-header's sum and whose checksum is wrong is taken for one: of packets that
/// were damaged on the way that is one in 65,536.
pub fn complete(frame: &mut [u8], len: usize) -> bool {
    let Some(packet) = frame.get(..len) else { return false };
    let Ok(ip) = Ip::parse(packet, false) else { return false };
    let offset = match ip.protocol {
        TCP => 16,
        UDP => 6,
        _ => return false,
    };
    let at = ip.l4 + offset;
    let (Some(field), Some(transport)) =
        (packet.get(at..at + 2).and_then(|f| f.try_into().ok()), packet.get(ip.l4..ip.end))
    else {
        return false;
    };
    let field = u16::from_be_bytes(field);
    if ip.fragment != Fragment::No || at + 2 > ip.end {
        return false;
    }
    let pseudo = pseudo_header(ip.source, ip.destination, ip.protocol, transport.len());
    if field != pseudo {
        return false;
    }
    let total = convey_packet::checksum::fold(u64::from(sum(transport)) + u64::from(pseudo));
    if total == 0xffff {
        return false;
    }
    // The field is part of the sum and holds the pseudo-header's: that is all a complete one is made of.
    let complete = match !sum(transport) {
        0 if ip.protocol == UDP => 0xffff,
        complete => complete,
    };
    frame[at..at + 2].copy_from_slice(&complete.to_be_bytes());
    true
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
                let (whole, mut open) = (packet.build(), packet.clone().partial().build());
                assert_ne!(whole, open);
                let len = open.len();
                assert!(complete(&mut open, len));
                assert_eq!(open, whole);
                assert!(!complete(&mut open, len), "once is enough");
            }
        }
    }

    #[test]
    fn a_checksum_that_is_whole_wrong_absent_or_not_in_the_packet_stays() {
        for packet in packets() {
            let all = [
                packet.clone(),
                packet.clone().corrupt(0x1234),
                packet.clone().partial().fragment(0, true).payload(&[1; 64]),
                packet.clone().trailer(9),
            ];
            for packet in all {
                let mut frame = packet.build();
                let (before, len) = (frame.clone(), frame.len());
                assert!(!complete(&mut frame, len));
                assert_eq!(frame, before);
                for len in 0..len {
                    complete(&mut frame, len);
                    assert_eq!(frame, before, "cut to {len}");
                }
            }
        }
        let mut none = PacketBuilder::udp(V4[0], V4[1]).no_checksum().build();
        let (before, len) = (none.clone(), none.len());
        assert!(!complete(&mut none, len));
        assert_eq!(none, before);
    }
}
