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
