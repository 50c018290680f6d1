//! TLVs: a type, a length of two bytes, a value. Which of them a next header may repeat.

use super::crc32c::crc32c;
use super::parse::Invalid;

/// The checksum of the whole header.
pub(super) const CRC32C: u8 = 0x03;
/// Padding.
const NOOP: u8 = 0x04;
/// The network namespace of the sender's socket; ours is another.
const NETNS: u8 = 0x30;
/// Type and length.
pub(super) const HEAD: usize = 3;

/// Checks the TLVs, which begin at `at` of `header`: that they fill their place, and the checksum if there is one. Gives
/// those that still hold in a next header (not checksum, padding and namespace), and whether there was a checksum.
pub(super) fn check(header: &[u8], at: usize, tlvs: &[u8]) -> Result<(Box<[u8]>, bool), Invalid> {
    let mut kept = Vec::new();
    let mut checksum = None;
    let mut rest = tlvs;
    while !rest.is_empty() {
        let Some((&[kind, high, low], after)) = rest.split_first_chunk::<HEAD>() else {
            return Err(Invalid::Tlvs);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, after)) = after.split_at_checked(length) else { return Err(Invalid::Tlvs) };
        match kind {
            CRC32C => {
                let value = u32::from_be_bytes(value.try_into().map_err(|_| Invalid::Tlvs)?);
                let place = at + tlvs.len() - rest.len() + HEAD;
                if checksum.replace((value, place)).is_some() {
                    return Err(Invalid::Tlvs);
                }
            }
            NOOP | NETNS => {}
            _ => kept.extend_from_slice(&rest[..HEAD + length]),
        }
        rest = after;
    }
    if let Some((value, place)) = checksum {
        // It is made with zeros in its own place.
        if crc32c(&[&header[..place], &[0; 4], &header[place + 4..]]) != value {
            return Err(Invalid::Checksum);
        }
    }
    Ok((kept.into(), checksum.is_some()))
}
