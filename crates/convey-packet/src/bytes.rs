//! Big-endian words in a byte slice. Reading past the end gives `None`; writing past the end does nothing,
//! which a checked view rules out.

/// The byte at `at`.
#[inline]
pub fn get8(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The 16-bit word at `at`.
#[inline]
pub fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 32-bit word at `at`.
#[inline]
pub fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 128-bit word at `at`.
#[inline]
pub fn get128(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes `value` at `at`.
#[inline]
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..).and_then(|b| b.get_mut(..value.len())) {
        to.copy_from_slice(value);
    }
}

/// Writes a 16-bit word at `at`.
#[inline]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_be_bytes());
}

/// Writes a 32-bit word at `at`.
#[inline]
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_be_bytes());
}
