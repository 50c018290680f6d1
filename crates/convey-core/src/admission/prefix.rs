//! A network of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Bits before those of an IPv4 address that is mapped into IPv6 (`::ffff:0:0/96`).
const MAPPED_BITS: u8 = 96;

/// A network, by its first address and how many of its first bits count. IPv4 networks lie within `::ffff:0:0/96`, so
/// that one order holds both families, and an address that is written either way is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: u128,
    bits: u8,
}

/// What is wrong with the text of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// It does not begin with an address.
    #[error("is no network such as 192.0.2.0/24 or 2001:db8::/32")]
    Address,
    /// The number of bits is none, or more than the address has.
    #[error("has a prefix length that is not from 0 to the bits of its address")]
    Bits,
    /// Bits are set behind the prefix.
    #[error("has bits set behind its prefix: the network is {0}")]
    HostBits(Prefix),
}

impl Prefix {
    /// Every address of IPv6, and with [`Prefix::ALL_V4`] every address.
    pub const ALL_V6: Self = Self { first: 0, bits: 0 };
    /// Every address of IPv4.
    pub const ALL_V4: Self = Self { first: 0xffff_0000_0000, bits: MAPPED_BITS };

    /// The network of `ip` with this many bits, of 32 or 128; `None`: there are not so many.
    pub fn new(ip: IpAddr, bits: u8) -> Option<Self> {
        let bits = match ip {
            IpAddr::V4(_) if bits <= 32 => bits + MAPPED_BITS,
            IpAddr::V6(_) if bits <= 128 => bits,
            _ => return None,
        };
        Some(Self { first: mapped(ip) & Self { first: 0, bits }.mask(), bits })
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)
    }

    /// Its first address, IPv4 mapped into IPv6.
    pub fn first(self) -> u128 {
        self.first
    }

    /// Its last address, in the same way.
    pub fn last(self) -> u128 {
        self.first | !self.mask()
    }

    /// How many of the first bits of [`Prefix::first`] count.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether `ip` is in it. [`Prefix::ALL_V6`] and what else is shorter than `::ffff:0:0/96` has no IPv4 address.
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = mapped(ip);
        let is_v4 = Self::ALL_V4.first <= ip && ip <= Self::ALL_V4.last();
        (self.first..=self.last()).contains(&ip) && (!is_v4 || self.bits >= MAPPED_BITS)
    }
}

/// An address among those of IPv6.
pub(super) fn mapped(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    /// `address/bits`, or an address alone for that one.
    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| BadPrefix::Address)?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            // No sign, and no zeros in front that others read as octal.
            Some(bits) if bits.starts_with('+') || (bits.len() > 1 && bits.starts_with('0')) => {
                return Err(BadPrefix::Bits);
            }
            Some(bits) => bits.parse().map_err(|_| BadPrefix::Bits)?,
        };
        let prefix = Self::new(ip, bits).ok_or(BadPrefix::Bits)?;
        if prefix.first == mapped(ip) { Ok(prefix) } else { Err(BadPrefix::HostBits(prefix)) }
    }
}

impl fmt::Display for Prefix {
    /// As it is configured; one address without its bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = Ipv6Addr::from_bits(self.first);
        let (ip, bits) = match first.to_ipv4_mapped() {
            Some(v4) if self.bits >= MAPPED_BITS => (IpAddr::V4(v4), self.bits - MAPPED_BITS),
            _ => (IpAddr::V6(first), self.bits),
        };
        if self.bits == 128 { write!(f, "{ip}") } else { write!(f, "{ip}/{bits}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, BadPrefix> {
        text.parse::<Prefix>().map(|p| p.to_string())
    }

    #[test]
    fn networks_of_both_families_and_single_addresses_are_read_and_written_the_same() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "2001:db8::/32", "::/0", "2001:db8::1"] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        assert_eq!(parse("192.0.2.7/32").as_deref(), Ok("192.0.2.7"));
        assert_eq!(parse("::ffff:10.0.0.0/104").as_deref(), Ok("10.0.0.0/8"));
    }

    #[test]
    fn what_is_no_network_is_refused_and_host_bits_name_the_network_they_are_in() {
        for text in ["", "/8", "10.0.0", "10.0.0.0.0/8", "web", "10.0.0.0 /8", "fe80::1%eth0", "::g/1"] {
            assert_eq!(parse(text), Err(BadPrefix::Address), "{text}");
        }
        for text in
            ["10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "::/129", "10.0.0.0/8/8", "::/-1"]
        {
            assert_eq!(parse(text), Err(BadPrefix::Bits), "{text}");
        }
        let message = parse("10.0.0.1/8").unwrap_err().to_string();
        assert!(message.ends_with("the network is 10.0.0.0/8"), "{message}");
    }
}
