//! Answers of ours, built in the buffer of the packet they answer: TCP resets and ICMP errors. They come
//! from the address the packet was sent to and go back to its sender, MACs swapped.

use crate::addr::Addr;
use crate::bytes::{put, put16, put32};
use crate::checksum::{self, fold};
use crate::ip::Ip;
use crate::rewrite::write_addresses;
use crate::transport::{Ports, Tcp, tcp_flags};
use crate::{ICMP, ICMPV6, TCP};

const TTL: u8 = 64;

/// An ICMP error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// TTL or hop limit used up on the way.
    TimeExceeded,
    /// The packet is larger than the next hop takes; its MTU in bytes.
    TooBig {
        /// Largest packet that would have gone on.
        mtu: u32,
    },
    /// A route says that the destination cannot be reached.
    Unreachable,
    /// A route says that the destination may not be reached.
    Prohibited,
}

/// Turns a TCP packet into the reset that refuses it (RFC 9293, 3.10.7.1). Gives the length of the frame, or
/// `None` when the packet is a reset itself.
pub fn build_tcp_reset(buffer: &mut [u8], ip: &Ip, ports: Ports, tcp: &Tcp) -> Option<usize> {
    if tcp.has(tcp_flags::RST) {
        return None;
    }
    let (seq, ack, flags) = if tcp.has(tcp_flags::ACK) {
        (tcp.ack, 0, tcp_flags::RST)
    } else {
        (0, tcp.end_seq(), tcp_flags::RST | tcp_flags::ACK)
    };
    let l4 = ip.l3 + if ip.is_v6 { 40 } else { 20 };
    let end = l4 + 20;
    buffer.get(..end)?;
    swap_macs(buffer);
    write_ip_header(buffer, ip, TCP, 20);
    let segment = buffer.get_mut(l4..end)?;
    segment.fill(0);
    put16(segment, 0, ports.destination);
    put16(segment, 2, ports.source);
    put32(segment, 4, seq);
    put32(segment, 8, ack);
    put(segment, 12, &[5 << 4, flags]);
    let sum = transport_sum(segment, ip.destination, ip.source, TCP);
    put16(segment, 16, !sum);
    Some(end)
}

/// Turns a packet into an ICMP error that quotes it: at most 576 bytes of IPv4 packet, 1280 of IPv6. Gives the
/// length of the frame, or `None` when the buffer has no room for the error with the packet's headers.
pub fn build_icmp_error(buffer: &mut [u8], ip: &Ip, error: Error) -> Option<usize> {
    let header_len = if ip.is_v6 { 40 } else { 20 };
    let limit = if ip.is_v6 { 1280 } else { 576 };
    let icmp = ip.l3 + header_len;
    let quote = icmp + 8;
    let room = buffer.len().checked_sub(quote)?;
    let quoted = ip.len().min(limit - header_len - 8).min(room);
    if quoted < (ip.l4 + 8).min(ip.end) - ip.l3 {
        return None;
    }
    buffer.copy_within(ip.l3..ip.l3 + quoted, quote);
    swap_macs(buffer);
    let protocol = if ip.is_v6 { ICMPV6 } else { ICMP };
    write_ip_header(buffer, ip, protocol, 8 + quoted);
    let end = quote + quoted;
    let message = buffer.get_mut(icmp..end)?;
    let (kind, code, rest) = match (error, ip.is_v6) {
        (Error::TimeExceeded, false) => (11, 0, 0),
        (Error::TimeExceeded, true) => (3, 0, 0),
        (Error::TooBig { mtu }, false) => (3, 4, mtu.min(0xffff)),
        (Error::TooBig { mtu }, true) => (2, 0, mtu),
        (Error::Unreachable, false) => (3, 1, 0),
        (Error::Unreachable, true) => (1, 0, 0),
        (Error::Prohibited, false) => (3, 13, 0),
        (Error::Prohibited, true) => (1, 1, 0),
    };
    put(message, 0, &[kind, code, 0, 0]);
    put32(message, 4, rest);
    let sum = if ip.is_v6 {
        transport_sum(message, ip.destination, ip.source, ICMPV6)
    } else {
        checksum::sum(message)
    };
    put16(message, 2, !sum);
    Some(end)
}

fn transport_sum(bytes: &[u8], source: Addr, destination: Addr, protocol: u8) -> u16 {
    let pseudo = checksum::pseudo_header(source, destination, protocol, bytes.len());
    fold(u64::from(pseudo) + u64::from(checksum::sum(bytes)))
}

fn swap_macs(buffer: &mut [u8]) {
    if let Some((destination, rest)) = buffer.split_at_mut_checked(6)
        && let Some(source) = rest.get_mut(..6)
    {
        destination.swap_with_slice(source);
    }
}

/// Writes a plain header from the packet's destination to its source.
fn write_ip_header(buffer: &mut [u8], ip: &Ip, protocol: u8, payload_len: usize) {
    let l3 = ip.l3;
    if ip.is_v6 {
        put32(buffer, l3, 6 << 28);
        put16(buffer, l3 + 4, payload_len as u16);
        put(buffer, l3 + 6, &[protocol, TTL]);
    } else {
        put(buffer, l3, &[0x45, 0]);
        put16(buffer, l3 + 2, (20 + payload_len) as u16);
        put32(buffer, l3 + 4, 0x4000);
        put(buffer, l3 + 8, &[TTL, protocol, 0, 0]);
    }
    write_addresses(buffer, l3, ip.is_v6, ip.destination, ip.source);
    if !ip.is_v6 {
        let sum = buffer.get(l3..l3 + 20).map_or(0, checksum::sum);
        put16(buffer, l3 + 10, !sum);
    }
}
