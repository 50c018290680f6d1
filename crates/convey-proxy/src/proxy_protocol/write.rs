//! Headers for servers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use convey_core::ProxyVersion;

use super::crc32c::crc32c;
use super::{Header, Origin, tlv, v2};

/// The addresses as one family: an IPv4 one becomes IPv6 where the other is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Both are IPv4.
    V4,
    /// One is IPv6.
    V6,
}

impl Family {
    fn of(source: IpAddr, destination: IpAddr) -> Self {
        if source.is_ipv4() && destination.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The bytes that tell a server what `header` says. What is not known stays unknown, and what a version cannot say
/// (Unix paths and TLVs in version 1) is left out.
pub fn write(version: ProxyVersion, header: &Header) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => write_line(&header.origin).into_bytes(),
        ProxyVersion::V2 => write_binary(header),
    }
}

fn write_line(origin: &Origin) -> String {
    let Origin::Client { source, destination } = origin else { return "PROXY UNKNOWN\r\n".to_owned() };
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (ports, ends) = ((source.port(), destination.port()), (from, to));
    let line = |family: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1)
    };
    match Family::of(ends.0, ends.1) {
        Family::V4 => line("TCP4", &from, &to),
        Family::V6 => line("TCP6", &as_v6(from), &as_v6(to)),
    }
}

fn write_binary(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&v2::SIGNATURE);
    let (command, family) = match &header.origin {
        Origin::Local => (v2::LOCAL, v2::UNSPECIFIED),
        Origin::Unknown => (v2::PROXY, v2::UNSPECIFIED),
        Origin::Unix { family, .. } => (v2::PROXY, *family),
        Origin::Client { source, destination } => {
            match Family::of(source.ip().to_canonical(), destination.ip().to_canonical()) {
                Family::V4 => (v2::PROXY, v2::TCP4),
                Family::V6 => (v2::PROXY, v2::TCP6),
            }
        }
    };
    bytes.extend_from_slice(&[command, family, 0, 0]);
    match &header.origin {
        Origin::Local | Origin::Unknown => {}
        Origin::Unix { paths, .. } => bytes.extend_from_slice(&**paths),
        Origin::Client { source, destination } => write_addresses(&mut bytes, *source, *destination),
    }
    bytes.extend_from_slice(&header.tlvs);
    if header.has_checksum {
        bytes.extend_from_slice(&[tlv::CRC32C, 0, 4, 0, 0, 0, 0]);
    }
    // What was read fits, and no more than the checksum's own seven bytes is added to it.
    let length = (bytes.len() - v2::FIXED) as u16;
    bytes[14..16].copy_from_slice(&length.to_be_bytes());
    if header.has_checksum {
        let place = bytes.len() - 4;
        let checksum = crc32c(&[&bytes]);
        bytes[place..].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn write_addresses(bytes: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let ends = [source.ip().to_canonical(), destination.ip().to_canonical()];
    let family = Family::of(ends[0], ends[1]);
    for ip in ends {
        match (family, ip) {
            (Family::V4, IpAddr::V4(ip)) => bytes.extend_from_slice(&ip.octets()),
            _ => bytes.extend_from_slice(&as_v6(ip).octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        bytes.extend_from_slice(&port.to_be_bytes());
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
