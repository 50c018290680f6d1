//! What may stand before a request: PROXY headers, and the records of a ClientHello.

use std::str::FromStr;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY ";

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A PROXY header, version 1 or 2.
    Proxy,
    /// TLS handshake records.
    Hello,
}

impl FromStr for Opening {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "proxy" => Ok(Self::Proxy),
            "hello" => Ok(Self::Hello),
            _ => Err(()),
        }
    }
}

/// What the first bytes of a connection, or those after an opening, are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// An opening of so many bytes; another may follow.
    Whole(Opening, usize),
    /// The beginning of one, or too little to tell.
    Partial,
    /// Something else.
    Other,
}

/// Reads what `bytes` begin with.
pub fn start(bytes: &[u8]) -> Start {
    let whole = |opening, head: usize, length: usize| {
        if bytes.len() < head + length { Start::Partial } else { Start::Whole(opening, head + length) }
    };
    match bytes {
        [] => Start::Partial,
        [0x16, _, _, high, low, ..] => {
            whole(Opening::Hello, 5, usize::from(u16::from_be_bytes([*high, *low])))
        }
        [0x16, ..] => Start::Partial,
        _ if bytes.starts_with(V2) => match bytes.get(14..16) {
            Some(&[high, low]) => whole(Opening::Proxy, 16, usize::from(u16::from_be_bytes([high, low]))),
            _ => Start::Partial,
        },
        _ if bytes.starts_with(V1) => match bytes.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => Start::Whole(Opening::Proxy, at + 2),
            // The longest line of version 1 has 107 bytes.
            None if bytes.len() < 107 => Start::Partial,
            None => Start::Other,
        },
        _ if V2.starts_with(bytes) || V1.starts_with(bytes) => Start::Partial,
        _ => Start::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_split(opening: Opening, bytes: &[u8]) {
        for at in 0..bytes.len() {
            assert_eq!(start(&bytes[..at]), Start::Partial, "cut at {at}");
        }
        let followed = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(start(&followed), Start::Whole(opening, bytes.len()));
    }

    #[test]
    fn headers_and_records_are_whole_with_their_last_byte() {
        every_split(Opening::Proxy, b"PROXY TCP4 10.77.1.2 10.77.1.1 1024 8080\r\n");
        every_split(Opening::Proxy, &[V2, &[0x21, 0x11, 0, 12], &[0; 12]].concat());
        every_split(Opening::Hello, &[0x16, 3, 1, 0, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn a_request_is_no_opening() {
        assert_eq!(start(b"GET / HTTP/1.1\r\n\r\n"), Start::Other);
        assert_eq!(start(b"POST /sink"), Start::Other);
        assert_eq!(start(&[b'P'; 200]), Start::Other);
    }
}
