//! From the first bytes of a connection to the header in them.

use super::{Header, v1, v2};

/// What the bytes so far make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header and its length in bytes; what follows is the client's.
    Whole(Header, usize),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither version begins like this.
    #[error("no PROXY header")]
    Absent,
    /// Version 1 without an end within 107 bytes.
    #[error("a PROXY line of more than 107 bytes")]
    Overlong,
    /// Version 1 that is not as the protocol writes it.
    #[error("a malformed PROXY line")]
    Line,
    /// Version 2 with a version or command that does not exist.
    #[error("a PROXY header of an unknown version or command")]
    Command,
    /// Version 2 with a family or transport that does not exist.
    #[error("a PROXY header of an unknown address family or transport")]
    Family,
    /// Version 2 too short for its addresses or longer than what is taken.
    #[error("a PROXY header of an impossible length")]
    Length,
    /// TLVs that do not fill their place exactly.
    #[error("a PROXY header with malformed TLVs")]
    Tlvs,
    /// The checksum is not that of the header.
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
}

/// Reads the header at the beginning of `bytes`. Never needs more than [`super::LONGEST_HEADER`] of them.
///
/// # Errors
/// What is wrong, as soon as that is certain.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    if begins(&v2::SIGNATURE) {
        v2::parse(bytes)
    } else if begins(v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(Invalid::Absent)
    }
}
