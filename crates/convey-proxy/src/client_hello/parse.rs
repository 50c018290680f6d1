//! Server name and protocols of a TLS ClientHello (RFC 8446 and, alike in what is read here, RFC 5246; RFC 6066 for
//! names, RFC 7301 for protocols), as a pure function over the first bytes of a connection.

/// Longest ClientHello that is read, its four bytes of header included. Hellos with post-quantum keys have about 2 KB.
pub const LONGEST_HELLO: usize = 16 * 1024;
/// Records a hello may be spread over.
pub const MOST_RECORDS: usize = 64;
/// Bytes of a connection that are looked at: a hello and the headers of its records.
pub const LONGEST: usize = LONGEST_HELLO + MOST_RECORDS * RECORD_HEADER;

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const LONGEST_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a hello; it takes this many bytes of the connection at least.
    Incomplete(usize),
    /// A whole hello.
    Hello(ClientHello),
    /// No TLS, or broken.
    Other,
    /// A longer one than may be, or in more records.
    TooLong,
}

/// What a client says that matters for its way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name it asks for, as it was said.
    pub sni: Option<Box<str>>,
    /// The protocols it offers.
    pub alpn: Alpn,
}

/// Protocols, the one that the client likes best first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Alpn(Box<[u8]>);

impl Alpn {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = Input(&self.0);
        // Checked when it was read.
        std::iter::from_fn(move || rest.vector8())
    }
}

/// What `bytes`, the first of a connection, say. Looks at no more than [`LONGEST`].
pub fn parse(bytes: &[u8]) -> Parsed {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let mut at = 0;
    // One record, as nearly all have, is read where it lies.
    let mut spread: Vec<u8> = Vec::new();
    for record in 1..=MOST_RECORDS {
        let rest = &bytes[at..];
        // What can be known of a header by its first bytes is known at once: others are not made to wait.
        let is_tls = rest.iter().zip([HANDSHAKE, 3]).all(|(byte, expected)| *byte == expected);
        if !is_tls {
            return Parsed::Other;
        }
        let Some(&[_, _, _, high, low]) = rest.first_chunk() else {
            return Parsed::Incomplete(at + RECORD_HEADER);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > LONGEST_RECORD {
            return Parsed::Other;
        }
        let body = &rest[RECORD_HEADER..];
        let there = &body[..body.len().min(length)];
        let begun: &[u8] = if at == 0 {
            there
        } else {
            spread.extend_from_slice(there);
            &spread
        };
        match message(begun) {
            Message::Short(needed) if there.len() < length => {
                // The missing bytes of this record, or less if the message ends within it.
                let missing = (needed - begun.len()).min(length - there.len());
                return Parsed::Incomplete(at + RECORD_HEADER + there.len() + missing);
            }
            Message::Short(_) => {}
            Message::Whole(hello) => return hello.map_or(Parsed::Other, Parsed::Hello),
            Message::Other => return Parsed::Other,
            Message::TooLong => return Parsed::TooLong,
        }
        if at == 0 {
            spread.extend_from_slice(there);
        }
        at += RECORD_HEADER + length;
        if at >= bytes.len() && record < MOST_RECORDS {
            return Parsed::Incomplete(at + RECORD_HEADER);
        }
    }
    Parsed::TooLong
}

enum Message {
    /// It takes this many bytes at least, more than there are.
    Short(usize),
    Whole(Option<ClientHello>),
    Other,
    TooLong,
}

/// The handshake message that `bytes` begin with.
fn message(bytes: &[u8]) -> Message {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Message::Other;
    }
    let Some(&[_, a, b, c]) = bytes.first_chunk() else { return Message::Short(4) };
    let end = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
    if end > LONGEST_HELLO {
        return Message::TooLong;
    }
    match bytes.get(4..end) {
        Some(body) => Message::Whole(hello(Input(body))),
        None => Message::Short(end),
    }
}

/// The body of a ClientHello; `None` where it is broken.
fn hello(mut body: Input<'_>) -> Option<ClientHello> {
    let mut hello = ClientHello::default();
    // Version and random.
    body.take(2 + 32)?;
    // Session, ciphers, compressions.
    body.vector8()?;
    body.vector16()?;
    body.vector8()?;
    if body.0.is_empty() {
        // Older clients have no extensions.
        return Some(hello);
    }
    let mut extensions = Input(body.vector16()?);
    let (mut has_name, mut has_protocols) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = Input(extensions.vector16()?);
        // None may come twice (RFC 8446, 4.2): servers differ in which one they believe.
        let twice = match kind {
            SERVER_NAME => std::mem::replace(&mut has_name, true),
            PROTOCOLS => std::mem::replace(&mut has_protocols, true),
            _ => continue,
        };
        if twice {
            return None;
        }
        if kind == SERVER_NAME {
            hello.sni = server_name(content)?;
        } else {
            hello.alpn = protocols(content)?;
        }
    }
    Some(hello)
}

/// The host name in a list of names, of which there is one of each type at most; none where it is no ASCII.
fn server_name(mut content: Input<'_>) -> Option<Option<Box<str>>> {
    const HOST_NAME: u8 = 0;
    let mut list = Input(content.vector16()?);
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1)?[0];
        let name = list.vector16()?;
        if kind == HOST_NAME {
            if found.is_some() || name.is_empty() {
                return None;
            }
            found = Some(name);
        }
    }
    let is_name = |name: &&[u8]| name.iter().all(u8::is_ascii_graphic);
    Some(found.filter(is_name).and_then(|name| std::str::from_utf8(name).ok()).map(Into::into))
}

fn protocols(mut content: Input<'_>) -> Option<Alpn> {
    let list = content.vector16()?;
    let mut rest = Input(list);
    while !rest.0.is_empty() {
        if rest.vector8()?.is_empty() {
            return None;
        }
    }
    Some(Alpn(list.into()))
}

/// Bytes that are read from the front.
#[derive(Clone)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}
