//! Whether a frame's checksum is whole. A program at tc does not see it, and does not need to: the kernel's helpers
//! know. Whoever sends the frame by a socket has to tell.

use convey_afpacket::workers::{VNET_HEADER_BYTES, VnetHeader};
use convey_packet::{Fragment, Ip, TCP, UDP};

/// The virtio_net_hdr of a frame of `len` bytes, of which `frame` is there. `gso_size`: payload bytes of a segment, if
/// it stands for several.
pub(super) fn header(frame: &[u8], len: usize, gso_size: u16) -> [u8; VNET_HEADER_BYTES] {
    let Ok(ip) = Ip::parse(frame, gso_size != 0) else { return VnetHeader::plain() };
    if ip.fragment != Fragment::No {
        return VnetHeader::plain();
    }
    let offset = match ip.protocol {
        TCP => 16,
        UDP => 6,
        _ => return VnetHeader::plain(),
    };
    let (start, end) = (ip.l4, ip.end.min(len));
    let Some(segment) = frame.get(start..end.min(frame.len())) else { return VnetHeader::plain() };
    let Some(field) = segment.get(offset..).and_then(|bytes| bytes.first_chunk::<2>()) else {
        return VnetHeader::plain();
    };
    let pseudo = pseudo_header(&ip, (end - start) as u32);
    let is_open = u16::from_be_bytes(*field) == pseudo;
    let is_whole = end <= frame.len() && fold(u32::from(pseudo) + sum(segment)) == 0xffff;
    if gso_size != 0 {
        let is_v6 = !ip.source.is_v4();
        return VnetHeader::super_frame(
            (ip.protocol == UDP, is_v6),
            start,
            usize::from(gso_size),
            (start, offset),
        );
    }
    if is_open && !is_whole { VnetHeader::open(start, offset) } else { VnetHeader::plain() }
}

fn pseudo_header(ip: &Ip, len: u32) -> u16 {
    let address = |bits: u128| (0..8).map(|i| (bits >> (16 * i)) as u32 & 0xffff).sum::<u32>();
    let of = |addr: convey_packet::Addr| {
        let bits = addr.bits();
        if addr.is_v4() { (bits as u32 >> 16) + (bits as u32 & 0xffff) } else { address(bits) }
    };
    fold(of(ip.source) + of(ip.destination) + u32::from(ip.protocol) + (len >> 16) + (len & 0xffff))
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .fold(0, |a, b| u32::from(fold(a + b)))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use convey_testkit::PacketBuilder;
    use convey_testkit::build::SYN;

    use super::*;

    fn frame() -> Vec<u8> {
        PacketBuilder::tcp("192.0.2.1:1000", "192.0.2.2:80").flags(SYN).build()
    }

    #[test]
    fn a_frame_whose_checksum_is_the_pseudo_headers_alone_is_sent_as_one_that_is_open() {
        let whole = frame();
        assert_eq!(header(&whole, whole.len(), 0), VnetHeader::plain());
        let mut open = whole.clone();
        let ip = Ip::parse(&whole, false).unwrap();
        let pseudo = pseudo_header(&ip, (ip.end - ip.l4) as u32);
        open[50..52].copy_from_slice(&pseudo.to_be_bytes());
        assert_eq!(header(&open, open.len(), 0), VnetHeader::open(34, 16));
        let mut wrong = whole;
        wrong[50] ^= 1;
        assert_eq!(header(&wrong, wrong.len(), 0), VnetHeader::plain());
    }
}
