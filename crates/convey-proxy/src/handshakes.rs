//! How many handshakes of a listener are under way, asked of the kernel over sock_diag(7).

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// TCP_SYN_RECV and TCP_NEW_SYN_RECV (include/net/tcp_states.h).
const HALF_OPEN: u32 = 1 << 3 | 1 << 12;
/// From the start of `struct inet_diag_msg` to `id.idiag_src`.
const SOURCE: usize = 8;

/// Connections to `listener` whose SYN was answered and whose client has not confirmed yet.
///
/// # Errors
/// The kernel does not tell (no sock_diag, a sandbox, no descriptor left).
pub(crate) fn half_open(listener: SocketAddr) -> io::Result<usize> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::send(&socket, &request(listener), SendFlags::empty())?;
    let mut found = 0;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                SOCK_DIAG_BY_FAMILY => found += usize::from(is_at(body, listener.ip())),
                NLMSG_ERROR => return Err(error(body)),
                NLMSG_DONE => return Ok(found),
                _ => {}
            }
            rest = next;
        }
    }
}

fn request(listener: SocketAddr) -> Vec<u8> {
    let family = if listener.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    // sdiag_family, sdiag_protocol, idiag_ext, pad.
    bytes.extend([family.as_raw() as u8, 6, 0, 0]);
    bytes.extend(HALF_OPEN.to_ne_bytes());
    bytes.extend(listener.port().to_be_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// The first netlink message of `bytes`: its type, its body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Whether an `inet_diag_msg` is about a socket whose own address is `ip`, which may be the wildcard.
fn is_at(body: &[u8], ip: IpAddr) -> bool {
    let own = match ip {
        _ if ip.is_unspecified() => return true,
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    body.get(SOURCE..SOURCE + own.len()) == Some(&own[..])
}

fn error(body: &[u8]) -> io::Error {
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    Errno::from_raw_os_error(-code).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, SockFilter, Socket, Type};

    /// Keeps a client from completing its handshake: its socket takes no segment with SYN.
    fn deaf_client(to: SocketAddr) -> Socket {
        let client = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None).unwrap();
        client.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
        let _ = client.connect(&to.into());
        client
    }

    #[test]
    #[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
    fn handshakes_under_way_are_counted_by_address() {
        for (at, elsewhere) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "::2")] {
            let listener = std::net::TcpListener::bind(at).unwrap();
            let at = listener.local_addr().unwrap();
            assert_eq!(half_open(at).unwrap(), 0);
            let _complete = std::net::TcpStream::connect(at).unwrap();
            assert_eq!(half_open(at).unwrap(), 0);
            let _clients = [deaf_client(at), deaf_client(at)];
            assert_eq!(half_open(at).unwrap(), 2);
            let wildcard: IpAddr = if at.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            assert_eq!(half_open(SocketAddr::new(wildcard, at.port())).unwrap(), 2);
            assert_eq!(half_open(SocketAddr::new(elsewhere.parse().unwrap(), at.port())).unwrap(), 0);
        }
    }
}
