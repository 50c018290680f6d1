//! Whose address a connection comes from and goes out with: what a frontend takes from a PROXY header, what a server is
//! told in one, and the addresses that connections to servers start from.

use std::net::IpAddr;
use std::time::Duration;

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The first `bits` of `address`; `None` where it has not as many. An IPv4 address written as IPv6 is IPv4.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let (canonical, longest) = (address.to_canonical(), if address.is_ipv4() { 32 } else { 128 });
        let mapped = if canonical.is_ipv4() && longest == 128 { 96 } else { 0 };
        let is_prefix = bits <= longest && bits >= mapped;
        is_prefix.then(|| Self { address: canonical, bits: bits - mapped })
    }

    /// Whether `address` is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differing = u32::from(a) ^ u32::from(b);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differing = u128::from(a) ^ u128::from(b);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

/// A frontend whose clients are told by PROXY headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptProxy {
    /// Whose headers are believed; nobody else may connect. Empty: everybody's.
    pub trusted: Vec<Prefix>,
    /// How long a header may take from the accept on.
    pub timeout: Duration,
}

impl AcceptProxy {
    /// Whether `peer` may say who its client is.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusted.iter().any(|prefix| prefix.contains(peer))
    }
}

/// Where connections to the servers of a backend start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// The address and port that the kernel chooses.
    #[default]
    Kernel,
    /// The client's address.
    Client,
    /// These addresses in turn; for a server of whose family there is none the kernel chooses.
    Pool(Vec<IpAddr>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Option<Prefix> {
        let (address, bits) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), bits.parse().unwrap())
    }

    #[test]
    fn a_prefix_holds_the_addresses_that_share_its_bits_and_no_others() {
        for (within, address, expected) in [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.2.3/16", "10.1.9.9", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "::ffff:192.0.2.1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::/0", "fe80::1", true),
        ] {
            let is_within = prefix(within).unwrap().contains(address.parse().unwrap());
            assert_eq!(is_within, expected, "{address} in {within}");
        }
        assert_eq!([prefix("10.0.0.0/33"), prefix("::/129"), prefix("::ffff:10.0.0.0/8")], [None; 3]);
    }
}
