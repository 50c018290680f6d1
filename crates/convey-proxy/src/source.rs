//! Where a connection to a server starts from: the kernel's choice, the client's address, or one of a pool.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::time::Instant;

use convey_core::{Snapshot, Source, SourcePool, Sources};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::bind_no_port::bind_no_port;
use crate::error::ProxyError;

/// The cause of an error that is no fault of the server: the source address could not be had.
#[derive(Debug)]
pub(crate) struct SourceUnavailable {
    source: IpAddr,
    cause: io::Error,
}

impl fmt::Display for SourceUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source address {}: {}", self.source, self.cause)
    }
}

impl std::error::Error for SourceUnavailable {}

impl SourceUnavailable {
    /// Whether it is what `error` is about.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

/// A server as it is connected to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    pub addr: SocketAddr,
    /// Bytes wait to be sent as soon as the connection stands: the acknowledgement that ends the handshake is to travel
    /// with them and needs no packet of its own. Once they are sent, [`acknowledge_at_once`] has to follow.
    pub holds_ack: bool,
}

/// Starts a connect. The socket enters the reactor only afterwards: one that has not begun to connect hangs up at once.
pub(crate) fn begin(to: Destination, sources: &Sources, client: IpAddr) -> io::Result<TcpStream> {
    let socket = match sources {
        Sources::Kernel => connect(open(to.addr)?, to)?,
        Sources::Client => connect_from(to, client.to_canonical(), true)?,
        Sources::Pool(pool) => connect_from_pool(to, pool)?,
    };
    TcpStream::from_std(socket.into())
}

/// Another address is tried where one has no port left or is not there (any more).
fn connect_from_pool(to: Destination, pool: &SourcePool) -> io::Result<Socket> {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let now_ms = START.elapsed().as_millis() as u64;
    let mut last = None;
    for source in pool.turn(to.addr.is_ipv4(), now_ms) {
        match connect_from(to, source.ip, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                source.is_full(now_ms);
                last = Some(error);
            }
            // That ports ran out elsewhere says more than this.
            Err(error) if SourceUnavailable::is(&error) => {
                source.is_full(now_ms);
                last.get_or_insert(error);
            }
            outcome => return outcome,
        }
    }
    match last {
        Some(error) => Err(error),
        None => connect(open(to.addr)?, to),
    }
}

fn connect_from(to: Destination, source: IpAddr, transparent: bool) -> io::Result<Socket> {
    let addr = to.addr;
    let unavailable = |cause| io::Error::other(SourceUnavailable { source, cause });
    if source.is_ipv4() != addr.is_ipv4() {
        return Err(unavailable(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the server {addr} is of the other address family"),
        )));
    }
    let socket = open(addr)?;
    if transparent {
        make_transparent(&socket, addr.is_ipv4()).map_err(unavailable)?;
    }
    bind_no_port(&socket, source).map_err(unavailable)?;
    connect(socket, to)
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))
}

fn connect(socket: Socket, to: Destination) -> io::Result<Socket> {
    if to.holds_ack {
        // A refusal costs a packet.
        let _ = set_tcp_quickack(&socket, false);
    }
    match socket.connect(&to.addr.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Has the kernel acknowledge what the server sends as on any new connection, now that the first bytes have gone out. A
/// server whose second small write waits for the first to be acknowledged would be held up otherwise.
pub(crate) fn acknowledge_at_once(server: &TcpStream) {
    // Fails on no open TCP socket.
    let _ = set_tcp_quickack(server, true);
}

fn make_transparent(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// A socket that will connect from `source`, for health checks that are to take the way of clients.
///
/// # Errors
/// The host has no such address, or no descriptors.
pub fn source_socket(source: IpAddr) -> io::Result<OwnedFd> {
    let socket = open(SocketAddr::new(source, 0))?;
    bind_no_port(&socket, source)?;
    Ok(socket.into())
}

/// Checks that sources which `before` did not have can be had on this host.
///
/// # Errors
/// [`ProxyError::Source`] names backend and address, [`ProxyError::Transparent`] the backend.
pub(crate) fn check(snapshot: &Snapshot, before: Option<&Snapshot>) -> Result<(), ProxyError> {
    for backend in &snapshot.spec().backends {
        let had = before.and_then(|s| s.spec().backends.iter().find(|b| b.name == backend.name));
        if had.is_some_and(|had| had.source == backend.source) {
            // What was there and has gone must not keep other changes out.
            continue;
        }
        let of_backend = || backend.name.clone();
        match &backend.source {
            Source::Kernel => {}
            Source::Client => {
                let any = SocketAddr::from(([0, 0, 0, 0], 0));
                let transparent = open(any).and_then(|socket| make_transparent(&socket, true));
                transparent.map_err(|source| ProxyError::Transparent { backend: of_backend(), source })?;
            }
            Source::Pool(addresses) => {
                for &address in addresses {
                    let wanted = SocketAddr::new(address, 0);
                    open(wanted)
                        .and_then(|socket| socket.bind(&wanted.into()))
                        .map_err(|source| ProxyError::Source { backend: of_backend(), address, source })?;
                }
            }
        }
    }
    Ok(())
}
