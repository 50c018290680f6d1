//! The Internet checksum: in full for what we build, incremental (RFC 1624, equation 3) for what we change,
//! so that a corrupted packet leaves as corrupted as it came.

/// A one's complement sum of `new - old` over the 16-bit words that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// The delta with this sum, see [`Delta::bits`].
    pub const fn from_bits(sum: u16) -> Self {
        Self(sum)
    }

    /// The folded sum, to be stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// With the change of one word from `old` to `new`.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u64 + !old as u64 + new as u64))
    }

    /// With the change of eight words.
    #[must_use]
    pub const fn word128(self, old: u128, new: u128) -> Self {
        Self(fold(self.0 as u64 + fold128(!old) as u64 + fold128(new) as u64))
    }

    /// With the change of two words.
    #[must_use]
    pub const fn word32(self, old: u32, new: u32) -> Self {
        Self(fold(self.0 as u64 + fold(!old as u64) as u64 + fold(new as u64) as u64))
    }

    /// Both changes.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(fold(self.0 as u64 + other.0 as u64))
    }

    /// The change back.
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// `field` as it is after the change, where it holds a complete (complemented) checksum.
    pub const fn apply(self, field: u16) -> u16 {
        !fold(!field as u64 + self.0 as u64)
    }

    /// `field` as it is after the change, where it holds the uncomplemented pseudo-header sum
    /// (CHECKSUM_PARTIAL): no inversion.
    pub const fn apply_partial(self, field: u16) -> u16 {
        fold(field as u64 + self.0 as u64)
    }
}

/// Folds carries until 16 bits are left.
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

const fn fold128(x: u128) -> u16 {
    fold((x as u64 & 0xffff_ffff) + (x as u64 >> 32) + ((x >> 64) as u64 & 0xffff_ffff) + (x >> 96) as u64)
}

/// The folded one's complement sum over `bytes`, an odd last byte padded with zero; not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|w| u64::from(u32::from_be_bytes(*w))).sum();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    fold(sum + u64::from(u32::from_be_bytes(tail)))
}

/// The folded sum of the pseudo-header of either family; not complemented.
pub fn pseudo_header(source: crate::Addr, destination: crate::Addr, protocol: u8, len: usize) -> u16 {
    let of = |a: crate::Addr| {
        if a.is_v4() { fold(u64::from(a.low32())) } else { fold128(a.bits()) }
    };
    fold(u64::from(of(source)) + u64::from(of(destination)) + u64::from(protocol) + len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1624_gives_zero_not_ffff() {
        // Section 4: HC = DD2F, m = 5555, m' = 3285, and the sum of the rest is CD7A.
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn a_change_and_its_inverse_leave_the_field_as_it_was() {
        let d = Delta::ZERO.word128(7 << 90, 0x1234_5678 << 33).word(80, 8080).word32(1, u32::MAX);
        for field in [0, 1, 0x7fff, 0x8000, 0xfffe] {
            assert_eq!(d.inverse().apply(d.apply(field)), field);
        }
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_high_one() {
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }
}
