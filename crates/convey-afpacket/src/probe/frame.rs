//! The segments of a probe as bytes: a SYN, the reset that ends what it began, and the answer in between.

use std::net::{IpAddr, SocketAddr};

use convey_engine::MacAddr;
use convey_packet::checksum::{fold, pseudo_header, sum};
use convey_packet::{Addr, ETHERNET_LEN, Ip, Ports, TCP, Tcp};

use crate::sys::VNET_HEADER_BYTES;

/// What a SYN offers; probes carry no data.
const WINDOW: u16 = 64_240;
const MSS: u16 = 1_360;
const HOPS: u8 = 64;
const MSS_OPTION: u8 = 2;

/// From where to where a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    /// MAC addresses, ours first.
    pub macs: (MacAddr, MacAddr),
    /// Addresses and ports, ours first, of one family.
    pub ends: (SocketAddr, SocketAddr),
}

/// What a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words {
    pub seq: u32,
    pub flags: u8,
}

/// A segment that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub mac: MacAddr,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ack: u32,
    pub flags: u8,
}

/// The frame behind an empty virtio_net_hdr: all checksums are complete.
pub(super) fn build(course: &Course, words: Words) -> Vec<u8> {
    let (from, to) = course.ends;
    let (source, destination) = (Addr::from(from.ip()), Addr::from(to.ip()));
    let segment = segment(course.ends, words, source, destination);
    let mut bytes = vec![0; VNET_HEADER_BYTES];
    bytes.extend(course.macs.1);
    bytes.extend(course.macs.0);
    let length = segment.len() as u16;
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend(0x0800u16.to_be_bytes());
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            // Never fragmented, so that the identification may be zero.
            header[6] = 0x40;
            header[8..10].copy_from_slice(&[HOPS, TCP]);
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let check = !sum(&header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
            bytes.extend(header);
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            bytes.extend(0x86ddu16.to_be_bytes());
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([TCP, HOPS]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
        }
    }
    bytes.extend(segment);
    bytes
}

fn segment(ends: (SocketAddr, SocketAddr), words: Words, source: Addr, destination: Addr) -> Vec<u8> {
    use convey_packet::tcp_flags::SYN;
    let option = if words.flags & SYN == 0 { None } else { Some(MSS) };
    let mut segment = vec![0; if option.is_some() { 24 } else { 20 }];
    segment[0..2].copy_from_slice(&ends.0.port().to_be_bytes());
    segment[2..4].copy_from_slice(&ends.1.port().to_be_bytes());
    segment[4..8].copy_from_slice(&words.seq.to_be_bytes());
    segment[12] = (segment.len() as u8 / 4) << 4;
    segment[13] = words.flags;
    if let Some(mss) = option {
        segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        segment[20..22].copy_from_slice(&[MSS_OPTION, 4]);
        segment[22..24].copy_from_slice(&mss.to_be_bytes());
    }
    let pseudo = pseudo_header(source, destination, TCP, segment.len());
    let check = !fold(u64::from(pseudo) + u64::from(sum(&segment)));
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    segment
}

/// The TCP segment in a frame; `None` for anything else. Its checksum may still be open, so nothing is made of it.
pub(super) fn parse(frame: &[u8]) -> Option<Heard> {
    let mac = *frame.get(6..ETHERNET_LEN)?.first_chunk()?;
    let ip = Ip::parse(frame, false).ok()?;
    if ip.protocol != TCP {
        return None;
    }
    let ports = Ports::parse(frame, &ip).ok()?;
    let tcp = Tcp::parse(frame, &ip).ok()?;
    Some(Heard {
        mac,
        from: SocketAddr::new(ip.source.into(), ports.source),
        to: SocketAddr::new(ip.destination.into(), ports.destination),
        ack: tcp.ack,
        flags: tcp.flags,
    })
}
