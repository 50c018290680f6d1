//! How a backend's servers are chosen, and what a client's packets or connections are hashed by.

use std::net::SocketAddr;

use super::flow_hash::{flow_hash, flow_words};

/// How a backend's servers are chosen; every method goes by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// One after another.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections for its weight.
    LeastConnections,
    /// Of two drawn at random, the one with fewer open connections for its weight.
    RandomTwo,
    /// By a Maglev table, with the client's address alone as the key: a client stays at its server.
    SourceHash {
        /// Bits of an IPv6 address that count, 1 to 128; of an IPv4 address all do.
        ipv6_prefix: u8,
    },
    /// By a Maglev table, with addresses and ports as the key.
    Maglev,
}

impl Balance {
    /// The name, as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::RandomTwo => "random_two",
            Self::SourceHash { .. } => "source_hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether a table says which server a client gets, and nothing else while that server has room.
    pub const fn is_by_table(self) -> bool {
        matches!(self, Self::SourceHash { .. } | Self::Maglev)
    }

    /// What a client is looked up by in a Maglev table. Addresses are 16 bytes, IPv4 mapped.
    #[inline]
    pub const fn hash(self, client: u128, client_port: u16, vip: u128, port: u16, protocol: u8) -> u64 {
        match self {
            Self::SourceHash { ipv6_prefix } => {
                let client = client & source_mask(client, ipv6_prefix);
                flow_hash(0, [(client >> 64) as u64, client as u64])
            }
            _ => flow_hash(0, flow_words(client, client_port, vip, port, protocol)),
        }
    }
}

/// The bits of a client's address that count.
const fn source_mask(client: u128, ipv6_prefix: u8) -> u128 {
    let is_v4 = client >> 32 == 0xffff;
    if is_v4 || ipv6_prefix >= 128 { u128::MAX } else { !(u128::MAX >> ipv6_prefix) }
}

/// Who asks for a server, and where.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The client.
    pub client: SocketAddr,
    /// Where its frontend listens, as configured.
    pub listen: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

impl Asker {
    pub(super) fn hash(&self, balance: Balance) -> u64 {
        let (client, listen) = (bits(self.client), bits(self.listen));
        balance.hash(client, self.client.port(), listen, self.listen.port(), self.protocol)
    }
}

/// An IPv4 client is the same whether it came to an IPv4 or to an IPv6 socket.
fn bits(addr: SocketAddr) -> u128 {
    match addr.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        std::net::IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::maglev::MaglevTable;

    fn hash(prefix: u8, client: &str) -> u64 {
        let client = client.parse().unwrap();
        let listen = "[2001:db8::1]:80".parse().unwrap();
        Asker { client, listen, protocol: 6 }.hash(Balance::SourceHash { ipv6_prefix: prefix })
    }

    #[test]
    fn a_source_is_its_address_or_the_ipv6_prefix_of_it_whatever_its_port() {
        assert_eq!(hash(64, "[2001:db8::1]:1"), hash(64, "[2001:db8::ffff:2]:2"));
        assert_ne!(hash(64, "[2001:db8::1]:1"), hash(64, "[2001:db8:0:1::1]:1"));
        assert_ne!(hash(128, "[2001:db8::1]:1"), hash(128, "[2001:db8::2]:1"));
        assert_eq!(hash(1, "[8000::1]:1"), hash(1, "[ffff::1]:1"));
        assert_ne!(hash(1, "10.0.0.1:1"), hash(1, "10.0.0.2:1"), "of IPv4 every bit counts");
        assert_eq!(hash(64, "10.0.0.1:1"), hash(64, "[::ffff:10.0.0.1]:2"));
    }

    #[test]
    fn neighbouring_sources_spread_over_the_table() {
        let mut buckets = [0u32; 16];
        for n in 0..16_384u32 {
            let client = format!("10.{}.{}.{}:4000", n >> 16, n >> 8 & 255, n & 255);
            buckets[MaglevTable::slot(hash(64, &client)) * 16 / crate::selection::maglev::SLOTS] += 1;
        }
        // 1,024 expected, standard deviation 31.
        assert!(buckets.iter().all(|&n| (870..1180).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn the_hash_of_a_source_is_fixed_for_all_time_because_kernel_programs_share_it() {
        assert_eq!(hash(64, "10.0.0.1:1"), flow_hash(0, [0, 0xffff_0a00_0001]));
        assert_eq!(hash(64, "[2001:db8::1]:1"), flow_hash(0, [0x2001_0db8_0000_0000, 0]));
    }
}
