//! A frontend's listening sockets: one a worker, all on one address, shared with no other process.
//!
//! SO_REUSEPORT lets every socket of the same user join, other programs' too, so it cannot simply be set.
//! The address is claimed by an ordinary socket first: bind and listen without SO_REUSEPORT is the one step
//! at which the kernel admits a single winner, against listeners of any kind. That socket becomes the first
//! worker's. Then the door is opened for our other sockets and closed again:
//!
//! - a further socket, bound but never listening (so it gets no connections), joins the group and then drops
//!   SO_REUSEPORT and SO_REUSEADDR: whoever binds the address later conflicts with it;
//! - the kernel remembers "the last socket here had SO_REUSEPORT" for the port and skips the conflict check
//!   for the next one of the same user (`sk_reuseport_match`). A short bind without SO_REUSEPORT on the same
//!   port at an address nobody uses makes it forget.
//!
//! Where no such address is left (both wildcards of a port are taken) all workers share the first socket.
//! Only while the door is open, some microseconds at start, could another SO_REUSEPORT program of the same
//! user slip in; another Convey never can, since it begins with the exclusive step.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::shared::Published;

/// Asked for; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Documentation addresses (RFC 5737, RFC 3849): nobody listens there.
const NEUTRAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// The sockets of one frontend address. They outlive a worker that panics, so that nothing in their accept
/// queues is lost.
#[derive(Debug)]
pub(crate) struct ListenGroup {
    pub id: u64,
    /// The frontend it was bound for.
    pub frontend: Arc<str>,
    /// As configured; the port may be 0.
    pub configured: SocketAddr,
    /// As bound.
    pub local: SocketAddr,
    /// What routed its connections when it was removed, for those still in the accept queue.
    pub retired: OnceLock<Arc<Published>>,
    sockets: Vec<TcpListener>,
    _door: Option<Socket>,
}

impl ListenGroup {
    /// Claims `configured` and listens on it with a socket for each of `workers`.
    ///
    /// # Errors
    /// `AddrInUse` when anything else listens there.
    pub fn bind(frontend: Arc<str>, configured: SocketAddr, workers: usize) -> io::Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let first = open(configured.ip())?;
        first.bind(&configured.into())?;
        first.listen(BACKLOG)?;
        let local = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let (sockets, door) = if workers == 1 {
            (vec![first.into()], None)
        } else if let Some(neutral) = NEUTRAL.into_iter().find(|ip| bind_neutral(*ip, local.port()).is_ok()) {
            let (sockets, door) = multiply(first, local, workers, neutral)?;
            (sockets, Some(door))
        } else {
            let first: TcpListener = first.into();
            let copies: io::Result<Vec<_>> = (1..workers).map(|_| first.try_clone()).collect();
            (std::iter::once(first).chain(copies?).collect(), None)
        };
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            frontend,
            configured,
            local,
            retired: OnceLock::new(),
            sockets,
            _door: door,
        })
    }

    /// Whether a frontend called `name` that is to listen on `listen` can take this group over.
    pub fn serves(&self, name: &str, listen: SocketAddr) -> bool {
        self.local == listen || self.configured == listen && *self.frontend == *name
    }

    /// A handle to the socket of `worker`.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn socket(&self, worker: usize) -> io::Result<TcpListener> {
        self.sockets[worker % self.sockets.len()].try_clone()
    }
}

/// Opens the door, binds the other workers' sockets, closes it. See the module's head.
fn multiply(
    first: Socket,
    local: SocketAddr,
    workers: usize,
    neutral: IpAddr,
) -> io::Result<(Vec<TcpListener>, Socket)> {
    let join = || {
        let socket = open(local.ip())?;
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
        Ok::<_, io::Error>(socket)
    };
    first.set_reuse_port(true)?;
    let door = join()?;
    let mut sockets: Vec<TcpListener> = vec![first.into()];
    for _ in 1..workers {
        let socket = join()?;
        socket.listen(BACKLOG)?;
        sockets.push(socket.into());
    }
    door.set_reuse_port(false)?;
    door.set_reuse_address(false)?;
    bind_neutral(neutral, local.port())?;
    Ok((sockets, door))
}

/// What accepted sockets inherit is set here, once, and not on each of them.
fn open(ip: IpAddr) -> io::Result<Socket> {
    let socket = new_socket(ip)?;
    // A predecessor's connections in TIME_WAIT must not keep us from listening.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}

/// How a silent peer is found dead, on both sides.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES)
}

fn new_socket(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if ip.is_ipv6() {
        // So that 0.0.0.0 and [::] can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_neutral(ip: IpAddr, port: u16) -> io::Result<()> {
    let socket = new_socket(ip)?;
    match ip {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SocketAddr::new(ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(addr: &str, workers: usize) -> io::Result<ListenGroup> {
        ListenGroup::bind("web".into(), addr.parse().unwrap(), workers)
    }

    /// Another program of the same user that sets all that could let it in.
    fn intrude(addr: SocketAddr) -> io::Result<()> {
        let socket = new_socket(addr.ip())?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1)
    }

    fn assert_taken(addr: SocketAddr) {
        let error = intrude(addr).expect_err("an intruder listens too");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{addr}");
        let error = ListenGroup::bind("b".into(), addr, 3).expect_err("a second group listens too");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{addr}");
    }

    #[test]
    fn nobody_else_can_listen_on_an_address_of_ours_however_it_is_written() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            for workers in [1, 2, 3] {
                let group = group(addr, workers).unwrap();
                let port = group.local.port();
                assert_taken(group.local);
                let wildcard = if group.local.is_ipv4() { "0.0.0.0" } else { "::" };
                assert_taken(SocketAddr::new(wildcard.parse().unwrap(), port));
                let loopback = if group.local.is_ipv4() { "127.0.0.1" } else { "::1" };
                assert_taken(SocketAddr::new(loopback.parse().unwrap(), port));
                assert_taken(group.local);
            }
        }
    }

    #[test]
    fn both_wildcards_of_a_port_are_listened_on_side_by_side_and_both_stay_ours() {
        let four = group("0.0.0.0:0", 3).unwrap();
        let six =
            ListenGroup::bind("six".into(), SocketAddr::new("::".parse().unwrap(), four.local.port()), 3);
        let six = six.unwrap();
        assert_taken(four.local);
        assert_taken(six.local);
    }

    #[test]
    fn an_address_is_free_again_once_its_group_is_gone() {
        let first = group("127.0.0.1:0", 2).unwrap();
        let addr = first.local;
        drop(first);
        ListenGroup::bind("web".into(), addr, 2).unwrap();
    }

    #[test]
    fn of_two_groups_that_start_at_once_exactly_one_gets_the_address() {
        for _ in 0..50 {
            let free = group("127.0.0.1:0", 1).unwrap().local;
            let start = std::sync::Barrier::new(2);
            let won = std::thread::scope(|s| {
                let tries = [(); 2].map(|()| {
                    s.spawn(|| {
                        start.wait();
                        ListenGroup::bind("web".into(), free, 2)
                    })
                });
                tries.map(|t| t.join().unwrap()).into_iter().filter(Result::is_ok).count()
            });
            assert_eq!(won, 1);
        }
    }
}
