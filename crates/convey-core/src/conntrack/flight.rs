//! Bytes in flight in eight bits: a float of five bits exponent and three bits mantissa, rounded up.
//!
//! 0 to 15 are exact; above, a number grows by an eighth at most and never shrinks. So the range of numbers at which
//! a reset counts may be wider than what is in flight, and for an idle flow, with nothing in flight, it is exactly one.

/// The eight bits of `bytes`, rounded up.
pub(super) const fn encode(bytes: u32) -> u8 {
    let significant = 32 - bytes.leading_zeros();
    if significant <= 4 {
        return bytes as u8;
    }
    // The upper four bits, the first of which is always set and left out.
    let shift = significant - 4;
    let rounded_up = (bytes as u64 + (1 << shift) - 1) >> shift;
    // A carry out of the mantissa moves the exponent on, as it should.
    ((shift << 3) as u64 + rounded_up) as u8
}

/// The number that eight bits stand for, at most 2^32 − 1.
pub(super) const fn decode(bits: u8) -> u32 {
    if bits < 16 {
        return bits as u32;
    }
    let shift = (bits as u32 >> 3) - 1;
    let bytes = (8 + (bits as u64 & 7)) << shift;
    if bytes > u32::MAX as u64 { u32::MAX } else { bytes as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_little_are_exact_and_no_number_shrinks_or_grows_by_more_than_an_eighth() {
        for n in 0..=15 {
            assert_eq!((encode(n), decode(n as u8)), (n as u8, n));
        }
        let powers = (4..32).flat_map(|p| (0..4000).map(move |d| (1u32 << p).wrapping_add(d * 7919) - d % 3));
        for n in powers.chain(0..200_000).chain([u32::MAX, u32::MAX - 1, u32::MAX >> 1]) {
            let decoded = decode(encode(n));
            assert!(decoded >= n, "{n} became {decoded}");
            assert!(u64::from(decoded - n) * 8 <= u64::from(n), "{n} became {decoded}");
        }
    }

    #[test]
    fn what_eight_bits_stand_for_is_encoded_as_those_bits_and_in_order() {
        let known: Vec<u32> = (0..=u8::MAX).map(decode).collect();
        for (bits, n) in (0u8..).zip(&known).take_while(|(_, n)| **n < u32::MAX) {
            assert_eq!(encode(*n), bits);
        }
        assert!(known.is_sorted());
    }
}
