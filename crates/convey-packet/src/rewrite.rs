//! Changing addresses, ports, TTL and MACs in place, with every checksum adjusted incrementally.

use crate::addr::Addr;
use crate::bytes::{get8, get16, put, put16};
use crate::checksum::Delta;
use crate::ip::Ip;
use crate::transport::checksum_offset;
use crate::{TCP, UDP};

/// Addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: Addr,
    /// Destination port.
    pub destination_port: u16,
}

impl Tuple {
    /// The tuple of packets going the other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }

    /// A hash that tells it from most others.
    pub const fn fingerprint(&self) -> u32 {
        let addresses = self.source.bits() ^ self.destination.bits().rotate_left(64);
        let ports = (self.source_port as u64) << 16 | self.destination_port as u64;
        let word = (addresses >> 64) as u64 ^ (addresses as u64).rotate_left(17) ^ ports.rotate_left(40);
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}

/// Checksum changes that go with a change of tuple; can be computed once a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deltas {
    /// Of the addresses: for the IPv4 header.
    pub addresses: Delta,
    /// Of addresses and ports: for the transport checksum.
    pub transport: Delta,
}

impl Deltas {
    /// The changes when `old` becomes `new`, both of one family.
    pub const fn between(old: &Tuple, new: &Tuple) -> Self {
        let addresses = if old.source.is_v4() && old.destination.is_v4() {
            // What IPv4 addresses have in common as mapped ones changes nothing.
            Delta::ZERO
                .word32(old.source.bits() as u32, new.source.bits() as u32)
                .word32(old.destination.bits() as u32, new.destination.bits() as u32)
        } else {
            Delta::ZERO
                .word128(old.source.bits(), new.source.bits())
                .word128(old.destination.bits(), new.destination.bits())
        };
        let transport =
            addresses.word(old.source_port, new.source_port).word(old.destination_port, new.destination_port);
        Self { addresses, transport }
    }

    /// The changes back.
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self { addresses: self.addresses.inverse(), transport: self.transport.inverse() }
    }
}

/// Writes the tuple `new` into a TCP or UDP packet and adjusts its checksums by `deltas`.
///
/// `is_partial`: the transport field holds the uncomplemented pseudo-header sum (CHECKSUM_PARTIAL), of which
/// ports are no part.
pub fn rewrite_tuple(frame: &mut [u8], ip: &Ip, new: &Tuple, deltas: Deltas, is_partial: bool) {
    write_addresses(frame, ip.l3, ip.is_v6, new.source, new.destination);
    put16(frame, ip.l4, new.source_port);
    put16(frame, ip.l4 + 2, new.destination_port);
    if !ip.is_v6 {
        adjust(frame, ip.l3 + 10, deltas.addresses);
    }
    if let Some(offset) = checksum_offset(ip.protocol) {
        let at = ip.l4 + offset;
        if is_partial {
            let field = get16(frame, at).unwrap_or_default();
            put16(frame, at, deltas.addresses.apply_partial(field));
        } else {
            adjust_transport(frame, at, ip.protocol, deltas.transport);
        }
    }
}

/// Changes the addresses of any other IP packet; what lies in it is not touched. Gives the change of the
/// addresses, for checksums over a pseudo-header.
pub fn rewrite_addresses(frame: &mut [u8], ip: &Ip, source: Addr, destination: Addr) -> Delta {
    let delta = Delta::ZERO
        .word128(ip.source.bits(), source.bits())
        .word128(ip.destination.bits(), destination.bits());
    write_addresses(frame, ip.l3, ip.is_v6, source, destination);
    if !ip.is_v6 {
        adjust(frame, ip.l3 + 10, delta);
    }
    delta
}

/// Lowers TTL or hop limit by one; the caller has seen that it is above one.
pub fn decrement_ttl(frame: &mut [u8], ip: &Ip) {
    let at = if ip.is_v6 { ip.l3 + 7 } else { ip.l3 + 8 };
    let ttl = get8(frame, at).unwrap_or_default();
    let new = ttl.saturating_sub(1);
    put(frame, at, &[new]);
    if !ip.is_v6 {
        adjust(frame, ip.l3 + 10, Delta::ZERO.word(u16::from(ttl) << 8, u16::from(new) << 8));
    }
}

/// Writes the Ethernet addresses.
pub fn rewrite_macs(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    put(frame, 0, &destination);
    put(frame, 6, &source);
}

/// Adjusts the complete checksum at `at`.
pub(crate) fn adjust(frame: &mut [u8], at: usize, delta: Delta) {
    if let Some(field) = get16(frame, at) {
        put16(frame, at, delta.apply(field));
    }
}

/// Adjusts a complete TCP or UDP checksum. UDP: 0 means none and stays; a computed 0 is sent as ffff.
pub(crate) fn adjust_transport(frame: &mut [u8], at: usize, protocol: u8, delta: Delta) {
    debug_assert!(protocol == TCP || protocol == UDP);
    let Some(field) = get16(frame, at) else { return };
    if protocol == UDP && field == 0 {
        return;
    }
    let new = delta.apply(field);
    put16(frame, at, if protocol == UDP && new == 0 { 0xffff } else { new });
}

pub(crate) fn write_addresses(frame: &mut [u8], l3: usize, is_v6: bool, source: Addr, destination: Addr) {
    if is_v6 {
        put(frame, l3 + 8, &source.bits().to_be_bytes());
        put(frame, l3 + 24, &destination.bits().to_be_bytes());
    } else {
        put(frame, l3 + 12, &source.low32().to_be_bytes());
        put(frame, l3 + 16, &destination.low32().to_be_bytes());
    }
}
