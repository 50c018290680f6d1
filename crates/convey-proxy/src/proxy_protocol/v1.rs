//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::parse::{Invalid, Parsed};
use super::{Header, Origin};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// The longest line, with its end.
const LONGEST: usize = 107;

/// Reads a line of which nothing speaks against [`SIGNATURE`].
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let line = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = line.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        return if line.len() < LONGEST { Ok(Parsed::Incomplete) } else { Err(Invalid::Overlong) };
    };
    match line.get(end..end + 2) {
        Some(b"\r\n") => {}
        None if line[end] == b'\r' && end + 2 <= LONGEST => return Ok(Parsed::Incomplete),
        None if line[end] == b'\r' => return Err(Invalid::Overlong),
        _ => return Err(Invalid::Line),
    }
    let origin = line.get(SIGNATURE.len()..end).and_then(origin).ok_or(Invalid::Line)?;
    Ok(Parsed::Whole(Header { origin, tlvs: Box::default(), has_checksum: false }, end + 2))
}

fn origin(words: &[u8]) -> Option<Origin> {
    // Whatever follows UNKNOWN is to be ignored.
    if let Some(rest) = words.strip_prefix(b"UNKNOWN") {
        return (rest.is_empty() || rest[0] == b' ').then_some(Origin::Unknown);
    }
    let mut words = std::str::from_utf8(words).ok()?.split(' ');
    let addresses: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => address::<Ipv4Addr>,
        "TCP6" => address::<Ipv6Addr>,
        _ => return None,
    };
    let (source, destination) = (addresses(words.next()?)?, addresses(words.next()?)?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| Origin::Client {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<A>().ok().map(Into::into)
}

/// Decimal, without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || text.bytes().next().is_some_and(|first| matches!(first, b'1'..=b'9'));
    if is_plain { text.parse().ok() } else { None }
}
