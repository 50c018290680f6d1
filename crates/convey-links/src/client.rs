//! rtnetlink requests: one socket a request, in the network namespace of the calling thread, so that what an
//! interrupted or failed answer leaves behind is never taken for the answer to the next.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// The request wants an acknowledgement.
pub const ACK: u16 = 4;
/// The request is for everything there is.
pub const DUMP: u16 = 0x300;
/// What is asked for is made, if it is not there.
pub const CREATE: u16 = 0x400;
/// What is asked for must not be there yet.
pub const EXCLUSIVE: u16 = 0x200;
/// What is there is replaced.
pub const REPLACE: u16 = 0x100;

const REQUEST: u16 = 1;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;

/// More than the kernel puts into one datagram.
const BUFFER_BYTES: usize = 128 << 10;

/// How often a dump is asked for anew when what it lists changed meanwhile.
const ATTEMPTS: usize = 5;

/// A message: type, sequence number, body.
pub type Message<'a> = (u16, u32, &'a [u8]);

/// Sends one request and hands every answer (type and body) to `each`, up to the acknowledgement or the end of the
/// dump. Without [`ACK`] and [`DUMP`] there is one answer.
///
/// # Errors
/// What the kernel answers.
pub fn request(kind: u16, flags: u16, body: &[u8], each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    exchange(kind, flags, body, each).map(drop)
}

/// Everything there is, as far as `parse` knows it. What changed while it was listed is listed again.
///
/// # Errors
/// What the kernel answers.
pub fn dump<T>(kind: u16, body: &[u8], mut parse: impl FnMut(u16, &[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut attempt = 1;
    loop {
        let mut found = Vec::new();
        let whole = exchange(kind, DUMP, body, |kind, body| found.extend(parse(kind, body)))?;
        // In a restless network the last attempt has to do: the change behind it is news, which comes next.
        if whole || attempt == ATTEMPTS {
            return Ok(found);
        }
        attempt += 1;
    }
}

/// Hands everything there is to `each` as it comes. Tells whether it is of one moment.
///
/// # Errors
/// What the kernel answers.
pub fn dump_once(kind: u16, body: &[u8], each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
    exchange(kind, DUMP, body, each)
}

/// A request to a family of generic netlink, with its attributes; hands the attributes of each answer to `each`.
///
/// # Errors
/// What the kernel answers; ENOENT when it has no such family.
pub fn generic(family: &str, command: u8, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    const CONTROL: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    /// Command, version and two bytes of nothing come first.
    const HEAD_BYTES: usize = 4;
    let socket = open_by(Some(netlink::GENERIC), 0)?;
    let with_head = |command: u8, body: &[u8]| [&[command, 1, 0, 0], body].concat();
    let mut name = Vec::new();
    attribute(&mut name, FAMILY_NAME, &[family.as_bytes(), &[0]].concat());
    let mut id = None;
    exchange_by(&socket, CONTROL, ACK, &with_head(GET_FAMILY, &name), |_, answer| {
        let all = attributes(answer.get(HEAD_BYTES..).unwrap_or_default());
        let found = all.into_iter().find(|(kind, _)| *kind == FAMILY_ID);
        id = found.and_then(|(_, value)| value.first_chunk().copied()).map(u16::from_ne_bytes);
    })?;
    let id = id.ok_or_else(|| io::Error::from(rustix::io::Errno::NOENT))?;
    let socket = open_by(Some(netlink::GENERIC), 0)?;
    exchange_by(&socket, id, ACK, &with_head(command, body), |_, answer| {
        each(answer.get(HEAD_BYTES..).unwrap_or_default());
    })
    .map(drop)
}

/// Adds an attribute to a message.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Tells whether the answer is of one moment.
fn exchange(kind: u16, flags: u16, body: &[u8], each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
    exchange_by(&open(0)?, kind, flags, body, each)
}

fn exchange_by(
    socket: &OwnedFd,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<bool> {
    const SEQUENCE: u32 = 1;
    rustix::net::send(socket, &encode(kind, flags, SEQUENCE, body), SendFlags::empty())?;
    let one_answer = flags & (ACK | DUMP) == 0;
    let (mut end, mut whole) = (None, true);
    let mut buffer = vec![0; BUFFER_BYTES];
    while end.is_none() {
        let received = receive(socket, &mut buffer)?;
        each_message(&buffer[..received], |(kind, sequence, body), flags| {
            if sequence != SEQUENCE || end.is_some() {
                return;
            }
            whole &= flags & DUMP_INTERRUPTED == 0;
            match kind {
                // The end of a dump carries its own error.
                DONE | ERROR => {
                    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    end = Some(if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) });
                }
                _ => each(kind, body),
            }
            if one_answer && end.is_none() {
                end = Some(Ok(()));
            }
        });
    }
    end.unwrap_or(Ok(())).map(|()| whole)
}

/// A socket that receives the news of these multicast groups, as bits.
pub(crate) fn open(groups: u32) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is protocol 0.
    open_by(None, groups)
}

fn open_by(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let family = AddressFamily::NETLINK;
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// One datagram; interrupted calls are repeated.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => (),
            other => return Ok(other?.0),
        }
    }
}

/// A request, ready to be sent.
pub(crate) fn encode(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// Calls `each` for every message in a datagram, with its flags.
pub(crate) fn each_message(datagram: &[u8], mut each: impl FnMut(Message<'_>, u16)) {
    let mut rest = datagram;
    while let Some(&[a, b, c, d, k0, k1, f0, f1, s0, s1, s2, s3]) = rest.first_chunk() {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(body) = rest.get(HEADER_BYTES..length) else { return };
        let sequence = u32::from_ne_bytes([s0, s1, s2, s3]);
        each((u16::from_ne_bytes([k0, k1]), sequence, body), u16::from_ne_bytes([f0, f1]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The attributes (type and value) in the rest of a message.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    /// NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of the type.
    const TYPE: u16 = 0x3fff;
    let mut found = Vec::new();
    while let Some(&[l0, l1, k0, k1]) = bytes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push((u16::from_ne_bytes([k0, k1]) & TYPE, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTM_GETLINK: u16 = 18;

    #[test]
    fn a_dump_ends_and_an_error_is_told_and_leaves_nothing_for_the_next_request() {
        let links = || dump(RTM_GETLINK, &[0; 16], |kind, _| (kind == 16).then_some(())).unwrap().len();
        let before = links();
        assert!(before > 0, "there is a loopback device at least");
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = request(RTM_GETLINK, 0, &body, |_, _| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(19), "{error}");
        assert_eq!(links(), before);
    }

    #[test]
    fn messages_that_are_cut_short_end_the_datagram() {
        let message = encode(18, 0, 7, &[1, 2, 3]);
        let mut seen = Vec::new();
        let mut datagram = message.clone();
        datagram.resize(message.len().next_multiple_of(4), 0);
        datagram.extend(&message[..message.len() - 1]);
        each_message(&datagram, |(kind, sequence, body), _| seen.push((kind, sequence, body.to_vec())));
        assert_eq!(seen, [(18, 7, vec![1, 2, 3])]);
        each_message(&[0; 40], |_, _| panic!("a length of 0 is none"));
    }
}
