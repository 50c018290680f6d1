//! Super-frames longer than an IP header can tell (BIG TCP) leave as several that are not.
//!
//! The kernel would take an IPv4 one as it came, and send it in single segments wherever the link's `gso_max_size` is
//! smaller. From an IPv6 one of a packet socket it removes the jumbo payload option without filling in the length that
//! is then due (Linux 6.18), so that the receiver drops it.

use convey_packet::bytes::{get16, get32, put, put16};
use convey_packet::{ETHERNET_LEN, Ip, TCP, checksum, tcp_flags};

use crate::sys::VNET_HEADER_BYTES;
use crate::vnet::VnetHeader;

/// The longest packet that an IPv4 header can tell. IPv6 could tell 40 bytes more.
const MAX_PACKET_BYTES: usize = 65_535;

const CWR: u8 = 128;

/// Whether a frame, with its virtio_net_hdr, is too long to leave as it is.
pub fn is_jumbo(bytes: &[u8]) -> bool {
    bytes.len() > VNET_HEADER_BYTES + ETHERNET_LEN + MAX_PACKET_BYTES
}

/// A super-frame of ordinary length.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its virtio_net_hdr and all headers.
    pub headers: Vec<u8>,
    /// Its payload, of the frame it was cut from.
    pub payload: &'a [u8],
}

/// Cuts a rewritten frame of TCP, with its virtio_net_hdr, at the borders of segments. `None`: it cannot be cut.
pub fn cut(bytes: &[u8]) -> Option<Vec<Part<'_>>> {
    let (vnet, frame) = bytes.split_first_chunk::<VNET_HEADER_BYTES>()?;
    let vnet = VnetHeader::parse(vnet);
    let segment_bytes = usize::from(vnet.segment_bytes()?);
    let ip = Ip::parse(frame, true).ok()?;
    let header_bytes = usize::from(*frame.get(ip.l4 + 12)? >> 4) * 4;
    let payload = frame.get(ip.l4 + header_bytes..ip.end)?;
    if ip.protocol != TCP || header_bytes < 20 {
        return None;
    }
    let headers = headers(frame, &ip, header_bytes)?;
    let l4 = headers.len() - header_bytes;
    let room = MAX_PACKET_BYTES - (headers.len() - ETHERNET_LEN);
    let part_bytes = (room / segment_bytes).max(1) * segment_bytes;
    let parts = payload.len().div_ceil(part_bytes);
    let part = |(at, payload): (usize, &'_ [u8])| {
        let is_first = at == 0;
        let mut bytes =
            VnetHeader::super_frame((false, ip.is_v6), headers.len(), segment_bytes, (l4, 16)).to_vec();
        if is_first && vnet.has_ecn() {
            VnetHeader::set_ecn(&mut bytes);
        }
        bytes.extend_from_slice(&headers);
        let frame = bytes.get_mut(VNET_HEADER_BYTES..).unwrap_or_default();
        let offset = at * part_bytes;
        set_length(frame, &ip, l4, header_bytes + payload.len(), offset / segment_bytes);
        let seq = get32(frame, l4 + 4).unwrap_or_default().wrapping_add(offset as u32);
        put(frame, l4 + 4, &seq.to_be_bytes());
        let not_here =
            if at + 1 < parts { tcp_flags::FIN | tcp_flags::PSH } else { 0 } | if is_first { 0 } else { CWR };
        if let Some(flags) = frame.get_mut(l4 + 13) {
            *flags &= !not_here;
        }
        bytes
    };
    Some(
        payload
            .chunks(part_bytes)
            .enumerate()
            .map(|(at, payload)| Part { headers: part((at, payload)), payload })
            .collect(),
    )
}

/// Ethernet, IP and TCP headers, without the jumbo payload option. `None` where IPv6 has other extension headers.
fn headers(frame: &[u8], ip: &Ip, tcp_bytes: usize) -> Option<Vec<u8>> {
    let tcp = frame.get(ip.l4..ip.l4 + tcp_bytes)?;
    if !ip.is_v6 {
        return Some(frame.get(..ip.l4 + tcp_bytes)?.to_vec());
    }
    let fixed = ip.l3 + 40;
    let extension = frame.get(fixed..ip.l4)?;
    if !matches!(extension, [] | [TCP, 0, 0xc2, 4, ..]) {
        return None;
    }
    let mut headers = [frame.get(..fixed)?, tcp].concat();
    put(&mut headers, ip.l3 + 6, &[TCP]);
    Some(headers)
}

/// Writes the length of a part with this many bytes of TCP, and the sum that covers it. `segments` were before it.
fn set_length(frame: &mut [u8], ip: &Ip, l4: usize, tcp_bytes: usize, segments: usize) {
    // What was cut fits the field.
    if ip.is_v6 {
        put16(frame, ip.l3 + 4, tcp_bytes as u16);
    } else {
        put16(frame, ip.l3 + 2, (l4 - ip.l3 + tcp_bytes) as u16);
        let id = get16(frame, ip.l3 + 4).unwrap_or_default().wrapping_add(segments as u16);
        put16(frame, ip.l3 + 4, id);
        put16(frame, ip.l3 + 10, 0);
        let sum = checksum::sum(frame.get(ip.l3..l4).unwrap_or_default());
        put16(frame, ip.l3 + 10, !sum);
    }
    put16(frame, l4 + 16, checksum::pseudo_header(ip.source, ip.destination, TCP, tcp_bytes));
}

#[cfg(test)]
mod tests {
    use convey_testkit::PacketBuilder as P;

    use super::*;

    const SEGMENT: u16 = 1428;

    /// A super-frame as the kernel hands it over, and its payload.
    fn jumbo(is_v6: bool, len: usize) -> (Vec<u8>, Vec<u8>) {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let (source, destination) =
            if is_v6 { ("[2001:db8::1]:7", "[2001:db8::2]:80") } else { ("192.0.2.1:7", "192.0.2.2:80") };
        let packet = P::tcp(source, destination)
            .flags(tcp_flags::ACK | tcp_flags::PSH | CWR)
            .seq(u32::MAX - 70_000, 9)
            .tcp_options(&[1; 12])
            .payload(&payload)
            .partial();
        let (packet, ethertype) = if is_v6 {
            let total = (len + 32 + 8) as u32;
            (packet.extension(0, &[&[0, 0xc2, 4][..], &total.to_be_bytes()].concat()), 4)
        } else {
            (packet.id(65_500), 1)
        };
        let mut frame = packet.build();
        if is_v6 {
            put16(&mut frame, 18, 0);
        } else {
            put16(&mut frame, 16, 0);
            put16(&mut frame, 24, 0);
            let sum = checksum::sum(&frame[14..34]);
            put16(&mut frame, 24, !sum);
        }
        let [m0, m1] = SEGMENT.to_ne_bytes();
        let start = u8::try_from(packet.transport_offset()).unwrap();
        let mut bytes = vec![1, ethertype | 0x80, 0, 0, m0, m1];
        bytes.extend(u16::from(start).to_ne_bytes());
        bytes.extend(16u16.to_ne_bytes());
        bytes.extend(frame);
        (bytes, payload)
    }

    #[test]
    fn a_frame_too_long_for_its_header_leaves_as_several_that_are_whole_packets_of_the_same_bytes() {
        for (is_v6, len) in
            [(false, 65_600), (false, 180_000), (true, 65_600), (true, 180_000), (true, 524_000)]
        {
            let (bytes, payload) = jumbo(is_v6, len);
            assert!(is_jumbo(&bytes));
            let parts = cut(&bytes).unwrap();
            assert_eq!(parts.iter().map(|p| p.payload).collect::<Vec<_>>().concat(), payload);
            let mut seq = u32::MAX - 70_000;
            for (at, part) in parts.iter().enumerate() {
                let frame = [&part.headers[VNET_HEADER_BYTES..], part.payload].concat();
                let ip = Ip::parse(&frame, false).unwrap();
                assert_eq!((ip.end, ip.is_v6), (frame.len(), is_v6));
                let tcp = convey_packet::Tcp::parse(&frame, &ip).unwrap();
                assert_eq!((tcp.seq, tcp.ack, tcp.payload_len as usize), (seq, 9, part.payload.len()));
                seq = seq.wrapping_add(tcp.payload_len);
                let is_last = at + 1 == parts.len();
                assert!(is_last || part.payload.len() % usize::from(SEGMENT) == 0);
                assert_eq!((tcp.has(tcp_flags::PSH), tcp.has(CWR)), (is_last, at == 0));
                // The kernel adds the sum over everything from the TCP header on; the result is a right checksum.
                let mut finished = frame.clone();
                let sum = checksum::sum(&frame[ip.l4..]);
                put16(&mut finished, ip.l4 + 16, !sum);
                let addresses = if is_v6 { ip.l3 + 8..ip.l3 + 40 } else { ip.l3 + 12..ip.l3 + 20 };
                let mut covered = finished[addresses].to_vec();
                covered.extend([0, TCP]);
                covered.extend(((ip.end - ip.l4) as u16).to_be_bytes());
                covered.extend(&finished[ip.l4..]);
                assert_eq!(checksum::sum(&covered), 0xffff);
                let vnet = VnetHeader::parse(part.headers.first_chunk().unwrap());
                assert_eq!((vnet.segment_bytes(), vnet.has_ecn()), (Some(SEGMENT), at == 0));
            }
        }
    }

    #[test]
    fn the_identification_goes_on_where_the_part_before_ended() {
        let (bytes, _) = jumbo(false, 180_000);
        let parts = cut(&bytes).unwrap();
        let ids: Vec<u16> =
            parts.iter().map(|p| get16(&p.headers, VNET_HEADER_BYTES + 18).unwrap()).collect();
        assert_eq!(ids, [65_500, 65_500u16.wrapping_add(45), 65_500u16.wrapping_add(90)]);
    }

    #[test]
    fn what_is_no_tcp_or_has_other_extension_headers_is_not_cut() {
        let (bytes, _) = jumbo(true, 70_000);
        let mut other = bytes.clone();
        other[VNET_HEADER_BYTES + 56] = 5;
        assert!(cut(&other).is_none(), "no jumbo option");
        let mut udp = bytes.clone();
        udp[VNET_HEADER_BYTES + 54] = 17;
        assert!(cut(&udp).is_none());
        let mut plain = bytes;
        plain[1] = 0;
        assert!(cut(&plain).is_none(), "no super-frame");
        for len in 0..120 {
            assert!(cut(&plain[..len]).is_none(), "{len} bytes");
        }
    }
}
