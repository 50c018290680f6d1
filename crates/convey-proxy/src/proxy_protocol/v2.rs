//! Version 2: signature, version and command, family and transport, length, addresses, TLVs.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::parse::{Invalid, Parsed};
use super::{Header, Origin, tlv};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Before the addresses.
pub(super) const FIXED: usize = 16;
/// The longest header that is taken; the protocol allows 65,551 bytes, and nobody needs them.
pub const LONGEST: usize = 4096;

pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;
pub(super) const UNSPECIFIED: u8 = 0x00;
pub(super) const TCP4: u8 = 0x11;
pub(super) const UDP4: u8 = 0x12;
pub(super) const TCP6: u8 = 0x21;
pub(super) const UDP6: u8 = 0x22;
pub(super) const UNIX_STREAM: u8 = 0x31;
pub(super) const UNIX_DATAGRAM: u8 = 0x32;

/// Reads a header of which nothing speaks against [`SIGNATURE`].
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return match bytes.get(SIGNATURE.len()) {
            Some(&(LOCAL | PROXY)) | None => Ok(Parsed::Incomplete),
            Some(_) => Err(Invalid::Command),
        };
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command != LOCAL && command != PROXY {
        return Err(Invalid::Command);
    }
    if FIXED + length > LONGEST {
        return Err(Invalid::Length);
    }
    let addresses = if command == LOCAL { 0 } else { addresses_length(family).ok_or(Invalid::Family)? };
    if length < addresses {
        return Err(Invalid::Length);
    }
    let Some(block) = rest.get(..length) else { return Ok(Parsed::Incomplete) };
    let whole = FIXED + length;
    if command == LOCAL {
        // Whatever follows is to be thrown away, its family ignored.
        let header = Header { origin: Origin::Local, tlvs: Box::default(), has_checksum: false };
        return Ok(Parsed::Whole(header, whole));
    }
    let (block, tlvs) = block.split_at(addresses);
    let (tlvs, has_checksum) = tlv::check(&bytes[..whole], FIXED + addresses, tlvs)?;
    Ok(Parsed::Whole(Header { origin: origin(family, block), tlvs, has_checksum }, whole))
}

fn addresses_length(family: u8) -> Option<usize> {
    match family {
        UNSPECIFIED => Some(0),
        TCP4 | UDP4 => Some(12),
        TCP6 | UDP6 => Some(36),
        UNIX_STREAM | UNIX_DATAGRAM => Some(216),
        _ => None,
    }
}

/// `block` is as long as [`addresses_length`] says.
fn origin(family: u8, block: &[u8]) -> Origin {
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let v4 = |at: usize| block[at..].first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip));
    let v6 = |at: usize| block[at..].first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip));
    let client = match family {
        TCP4 => v4(0).zip(v4(4)).map(|(source, destination)| Origin::Client {
            source: SocketAddr::new(source.into(), port(8)),
            destination: SocketAddr::new(destination.into(), port(10)),
        }),
        TCP6 => v6(0).zip(v6(16)).map(|(source, destination)| Origin::Client {
            source: SocketAddr::new(source.into(), port(32)),
            destination: SocketAddr::new(destination.into(), port(34)),
        }),
        UNIX_STREAM | UNIX_DATAGRAM => {
            block.first_chunk::<216>().map(|paths| Origin::Unix { family, paths: Box::new(*paths) })
        }
        // A datagram's addresses are not those of this stream.
        _ => None,
    };
    client.unwrap_or(Origin::Unknown)
}
