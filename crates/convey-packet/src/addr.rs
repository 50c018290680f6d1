//! An address of either family in one comparable word.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 (as ::ffff:a.b.c.d) or IPv6 address.
///
/// IPv6 packets that carry mapped addresses on the wire are refused while parsing, so that no IPv6 packet
/// can pass for an IPv4 one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Addr(u128);

const MAPPED: u128 = 0xffff << 32;

impl Addr {
    /// The IPv4 address with these bits.
    pub const fn v4(bits: u32) -> Self {
        Self(MAPPED | bits as u128)
    }

    /// The IPv6 address with these bits.
    pub const fn v6(bits: u128) -> Self {
        Self(bits)
    }

    /// All 128 bits.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The address with these 128 bits, see [`Addr::bits`].
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Whether it is an IPv4 address.
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// The low 32 bits: the whole of an IPv4 address.
    pub const fn low32(self) -> u32 {
        self.0 as u32
    }

    /// Whether a packet may come from it: neither unspecified, loopback, multicast nor broadcast.
    pub const fn is_valid_source(self) -> bool {
        if self.is_v4() {
            let first = (self.low32() >> 24) as u8;
            first != 0 && first != 127 && first < 224 || (first >= 240 && first != 255)
        } else {
            self.0 > 1 && (self.0 >> 120) as u8 != 0xff
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => Self::v4(a.to_bits()),
            IpAddr::V6(a) => Self::v6(a.to_bits()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> Self {
        if a.is_v4() { Ipv4Addr::from_bits(a.low32()).into() } else { Ipv6Addr::from_bits(a.0).into() }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
