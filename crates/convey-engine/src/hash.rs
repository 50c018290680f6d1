//! A fast hasher for keys that come from the configuration, not from packets.

use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type MixBuild = BuildHasherDefault<MixHasher>;

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MixHasher(u64);

impl MixHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 ^= self.0 >> 32;
    }
}

impl Hasher for MixHasher {
    /// The last byte of an address is the top one of its word and has reached no low bit yet, by which maps choose
    /// their buckets.
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, i: u8) {
        self.add(i.into());
    }

    fn write_u16(&mut self, i: u16) {
        self.add(i.into());
    }

    fn write_u32(&mut self, i: u32) {
        self.add(i.into());
    }

    fn write_u128(&mut self, i: u128) {
        self.add(i as u64);
        self.add((i >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn addresses_that_differ_anywhere_differ_in_the_low_bits_of_their_hash() {
        let v4 = |shift: u32| move |n: u32| IpAddr::from(Ipv4Addr::from_bits(n << shift));
        let v6 = |shift: u32| move |n: u32| IpAddr::from(Ipv6Addr::from_bits(u128::from(n) << shift));
        let spread = |address: &dyn Fn(u32) -> IpAddr| {
            let low = |n| MixBuild::default().hash_one((2u32, address(n))) & 0xfff;
            (0..4096).map(low).collect::<HashSet<u64>>().len()
        };
        for shift in [0, 4, 8, 16, 20] {
            assert!(spread(&v4(shift)) > 2000, "{} of 4096, IPv4 << {shift}", spread(&v4(shift)));
        }
        for shift in [0, 8, 24, 48, 64, 96, 116] {
            assert!(spread(&v6(shift)) > 2000, "{} of 4096, IPv6 << {shift}", spread(&v6(shift)));
        }
    }
}
