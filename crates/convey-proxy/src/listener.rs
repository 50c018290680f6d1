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
//!
//! An address that overlaps with one of our own groups that is about to go (127.0.0.1:80 and 0.0.0.0:80) is
//! claimed beside it, through the old group's door: nothing is closed before the new group listens, and a
//! claim that fails leaves the old group as it was.
//!
//! An address on which the service manager listens already is served by its socket, which all workers share
//! ([`inherited`]).
//!
//! Where Multipath TCP is asked for and the kernel has it, the sockets are of that kind; others than ours that speak
//! plain TCP are accepted as plain TCP connections. The kind is fixed while a group lives; another one takes its place.
//!
//! A group that goes takes no new handshakes ([`ListenGroup::refuse_handshakes`]) before its sockets close:
//! closing one resets what is half open on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use convey_core::{Frontend, SocketOptions};
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::fast_open;
use crate::inherited;
use crate::published::Published;

/// Asked for; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Documentation addresses (RFC 5737, RFC 3849): nobody listens there.
const NEUTRAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Drops segments with SYN and without ACK: `ldb [13]; and #0x12; jne #0x02, pass; ret #0; pass: ret #-1`. The
/// filter of a listening socket sees SYNs before a request is made of them, and the ACKs that complete one.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// The sockets of one frontend address. They outlive a worker that panics, so that nothing in their accept
/// queues is lost; they close with the last handle to the group.
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
    sockets: Vec<Mutex<Socket>>,
    /// The workers' handles, until they take them: made with the sockets, so that a group that is bound lacks
    /// no descriptor.
    handles: Vec<Mutex<Option<TcpListener>>>,
    door: Option<Socket>,
    /// Whether the socket is the service manager's, which listens on when this group is gone.
    pub inherited: bool,
    kind: Kind,
    /// Whether it was bound to listen for Multipath TCP.
    wants_mptcp: bool,
    /// Why it does not listen for Multipath TCP though it should.
    pub no_mptcp: Option<String>,
    fast_open: AtomicU32,
    refuses_handshakes: AtomicBool,
}

/// What its sockets speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Mptcp,
}

impl Kind {
    /// What is asked for, if the kernel has it; otherwise TCP, and why.
    fn choose(ip: IpAddr, options: SocketOptions) -> (Self, Option<String>) {
        if !options.mptcp {
            return (Self::Tcp, None);
        }
        match new_socket(ip, Self::Mptcp) {
            Ok(_) => (Self::Mptcp, None),
            Err(error) => {
                (Self::Tcp, Some(format!("the kernel offers none ({error}): see net.mptcp.enabled")))
            }
        }
    }
}

impl ListenGroup {
    /// Claims `configured` and listens on it with a socket for each of `workers`.
    ///
    /// # Errors
    /// `AddrInUse` when anything else listens there.
    pub fn bind(
        frontend: Arc<str>,
        configured: SocketAddr,
        workers: usize,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let (kind, no_mptcp) = Kind::choose(configured.ip(), options);
        let mut group = Self::bind_kind(frontend, configured, workers, kind)?;
        group.wants_mptcp = options.mptcp;
        group.no_mptcp = no_mptcp;
        if group.inherited && options.mptcp {
            group.no_mptcp =
                Some("its socket is the service manager's, which makes it of the kind it has".to_owned());
        }
        Ok(group)
    }

    fn bind_kind(frontend: Arc<str>, configured: SocketAddr, workers: usize, kind: Kind) -> io::Result<Self> {
        if let Some(socket) = inherited::socket_at(configured) {
            let socket = socket?;
            prepare(&socket)?;
            let mut group =
                Self::new(frontend, (configured, configured), workers, (vec![socket], None), Kind::Tcp)?;
            group.inherited = true;
            return Ok(group);
        }
        let first = open(configured.ip(), kind)?;
        first.bind(&configured.into())?;
        first.listen(BACKLOG)?;
        let local = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        if workers == 1 || !NEUTRAL.into_iter().any(|ip| bind_neutral(ip, local.port()).is_ok()) {
            return Self::new(frontend, (configured, local), workers, (vec![first], None), kind);
        }
        first.set_reuse_port(true)?;
        let door = join(local, kind)?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            let socket = join(local, kind)?;
            socket.listen(BACKLOG)?;
            sockets.push(socket);
        }
        let group = Self::new(frontend, (configured, local), workers, (sockets, Some(door)), kind)?;
        group.close_door()?;
        Ok(group)
    }

    /// Claims `configured` beside `old`, groups of ours that overlap with it and are about to go. It does not
    /// listen yet: see [`ListenGroup::listen`].
    ///
    /// # Errors
    /// `AddrInUse` when anything but `old` listens there; `old` is as before.
    pub fn bind_beside(
        frontend: Arc<str>,
        configured: SocketAddr,
        workers: usize,
        options: SocketOptions,
        old: &[Arc<Self>],
    ) -> io::Result<Self> {
        let (kind, no_mptcp) = Kind::choose(configured.ip(), options);
        let claim = || {
            old.iter().try_for_each(|group| group.open_door())?;
            let sockets = (0..workers).map(|_| join(configured, kind)).collect::<io::Result<Vec<_>>>()?;
            let door = join(configured, kind)?;
            Self::new(frontend, (configured, configured), workers, (sockets, Some(door)), kind)
        };
        let claimed = claim().map(|group| Self { no_mptcp, wants_mptcp: options.mptcp, ..group });
        if claimed.is_err() {
            for group in old {
                // As it was before; there is nobody to tell if the kernel refuses that.
                let _ = group.close_door();
            }
        }
        claimed
    }

    /// Begins to listen after [`ListenGroup::bind_beside`] and shuts the doors, its own and those of `old`.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn listen(&self, old: &[Arc<Self>]) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| lock(socket).listen(BACKLOG))?;
        for group in old {
            group.close_door()?;
        }
        self.close_door()
    }

    fn new(
        frontend: Arc<str>,
        (configured, local): (SocketAddr, SocketAddr),
        workers: usize,
        (sockets, door): (Vec<Socket>, Option<Socket>),
        kind: Kind,
    ) -> io::Result<Self> {
        let mut handles = Vec::with_capacity(workers);
        for worker in 0..workers {
            let handle = sockets[worker % sockets.len()].try_clone()?;
            handles.push(Mutex::new(Some(handle.into())));
        }
        Ok(Self {
            id: next_id(),
            frontend,
            configured,
            local,
            retired: OnceLock::new(),
            sockets: sockets.into_iter().map(Mutex::new).collect(),
            handles,
            door,
            inherited: false,
            kind,
            wants_mptcp: false,
            no_mptcp: None,
            fast_open: AtomicU32::new(0),
            refuses_handshakes: AtomicBool::new(false),
        })
    }

    /// Sets TCP Fast Open where it is another than it was; says what is in the way.
    pub fn set_fast_open(&self, pending: u32) -> Option<String> {
        if self.fast_open.swap(pending, Relaxed) == pending {
            return None;
        }
        for socket in &self.sockets {
            if let Err(error) = fast_open::set(&*lock(socket), pending) {
                return Some(format!("the kernel refuses it: {error}"));
            }
        }
        if pending == 0 { None } else { fast_open::obstacle() }
    }

    /// A handle to the socket of `worker`: the one made for it or, after a panic, another.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn handle(&self, worker: usize) -> io::Result<TcpListener> {
        let made = lock(&self.handles[worker]).take();
        made.map_or_else(|| Ok(self.socket(worker).try_clone()?.into()), Ok)
    }

    /// Whether `frontend` can take this group over for its address `listen`.
    pub fn serves(&self, frontend: &Frontend, listen: SocketAddr) -> bool {
        let is_there = self.local == listen || self.configured == listen && self.frontend == frontend.name;
        // What a service manager's socket speaks is not ours to choose.
        is_there && (self.inherited || self.wants_mptcp == frontend.sockets.mptcp)
    }

    /// Whether the kernel cannot tell the listeners of both addresses apart.
    pub fn overlaps(&self, other: SocketAddr) -> bool {
        let (a, b) = (self.local.ip(), other.ip());
        self.local.port() == other.port()
            && a.is_ipv4() == b.is_ipv4()
            && (a == b || a.is_unspecified() || b.is_unspecified())
    }

    /// Accepts a connection that waits for `worker`; it does not block.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept(&self, worker: usize) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, peer) = rustix::net::acceptfrom_with(&*self.socket(worker), flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::Unsupported)?;
        Ok((fd.into(), peer))
    }

    /// Undoes what an accepted connection inherited from a listener that goes.
    pub fn make_ordinary(&self, client: impl AsFd) {
        if !self.inherited && self.refuses_handshakes.load(Relaxed) {
            // The filter does no harm to a connection but costs a little for each segment.
            let _ = SockRef::from(&client).detach_filter();
        }
    }

    /// Takes no new handshakes from now on: SYNs get no answer, so that their clients try again (a second
    /// later) and find the next listener or none. Handshakes that have begun complete.
    pub fn refuse_handshakes(&self) {
        self.refuses_handshakes.store(true, Relaxed);
        if self.inherited {
            // Who comes from now on waits for the next process.
            return;
        }
        for socket in &self.sockets {
            // Kernels may refuse filters to whoever has no privilege; without one closing resets what is half open.
            let _ = lock(socket).attach_filter(&NO_SYN);
        }
    }

    /// Another handle for `worker`, whose socket an administrator closed from outside (`ss -K`). It is a new
    /// socket: the old one could listen again, but what it accepted would be half shut from birth.
    ///
    /// # Errors
    /// Someone else took the address meanwhile, descriptors ran out, or the group goes anyhow.
    pub fn revive(&self, worker: usize) -> io::Result<TcpListener> {
        if self.refuses_handshakes.load(Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // Another worker that shares the socket may have been faster.
        let listens = self.socket(worker).is_listener()?;
        if !listens {
            let socket = if self.door.is_some() {
                self.open_door()?;
                let joined =
                    join(self.local, self.kind).and_then(|socket| socket.listen(BACKLOG).map(|()| socket));
                self.close_door()?;
                joined?
            } else {
                let socket = open(self.local.ip(), self.kind)?;
                socket.bind(&self.local.into())?;
                socket.listen(BACKLOG)?;
                socket
            };
            if self.fast_open.load(Relaxed) != 0 {
                // It worked on the socket before, or was told not to.
                let _ = fast_open::set(&socket, self.fast_open.load(Relaxed));
            }
            *self.socket(worker) = socket;
        }
        self.handle(worker)
    }

    fn socket(&self, worker: usize) -> MutexGuard<'_, Socket> {
        lock(&self.sockets[worker % self.sockets.len()])
    }

    /// Lets sockets with SO_REUSEPORT bind the address. Someone else's could, too, until it is shut again.
    fn open_door(&self) -> io::Result<()> {
        self.door.iter().try_for_each(|door| door.set_reuse_port(true))?;
        self.sockets.iter().try_for_each(|socket| lock(socket).set_reuse_port(true))
    }

    /// See the module's head.
    fn close_door(&self) -> io::Result<()> {
        match &self.door {
            Some(door) => {
                door.set_reuse_port(false)?;
                door.set_reuse_address(false)?;
            }
            None => self.sockets.iter().try_for_each(|socket| lock(socket).set_reuse_port(false))?,
        }
        // No neutral address is left where both wildcards of the port are taken.
        NEUTRAL.into_iter().any(|ip| bind_neutral(ip, self.local.port()).is_ok());
        Ok(())
    }
}

/// Names a listener, of either protocol, for the life of the process.
pub(crate) fn next_id() -> u64 {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.fetch_add(1, Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sockets and handles are replaced whole, so they are valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A further socket on an address whose door is open.
fn join(local: SocketAddr, kind: Kind) -> io::Result<Socket> {
    let socket = open(local.ip(), kind)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// What accepted sockets inherit is set here, once, and not on each of them.
fn open(ip: IpAddr, kind: Kind) -> io::Result<Socket> {
    let socket = new_socket(ip, kind)?;
    // A predecessor's connections in TIME_WAIT must not keep us from listening.
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())
}

/// How a silent peer is found dead, on both sides.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES)
}

fn new_socket(ip: IpAddr, kind: Kind) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = match kind {
        Kind::Tcp => Protocol::TCP,
        Kind::Mptcp => Protocol::MPTCP,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(protocol))?;
    if ip.is_ipv6() {
        // So that 0.0.0.0 and [::] can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_neutral(ip: IpAddr, port: u16) -> io::Result<()> {
    let socket = new_socket(ip, Kind::Tcp)?;
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
        group_of(addr, workers, SocketOptions::default())
    }

    fn group_of(addr: &str, workers: usize, options: SocketOptions) -> io::Result<ListenGroup> {
        ListenGroup::bind("web".into(), addr.parse().unwrap(), workers, options)
    }

    fn bind(addr: SocketAddr, workers: usize) -> io::Result<ListenGroup> {
        ListenGroup::bind("b".into(), addr, workers, SocketOptions::default())
    }

    /// Another program of the same user that sets all that could let it in.
    fn intrude(addr: SocketAddr) -> io::Result<()> {
        let socket = new_socket(addr.ip(), Kind::Tcp)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1)
    }

    fn assert_taken(addr: SocketAddr) {
        let error = intrude(addr).expect_err("an intruder listens too");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{addr}");
        let error = bind(addr, 3).expect_err("a second group listens too");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{addr}");
    }

    #[test]
    fn nobody_else_can_listen_on_an_address_of_ours_however_it_is_written() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            for workers in [1, 2, 3] {
                assert_ours(&group(addr, workers).unwrap());
            }
        }
    }

    /// Whether the kernel has Multipath TCP, of which a test that needs it says so otherwise.
    fn has_mptcp() -> bool {
        let has = new_socket("127.0.0.1".parse().unwrap(), Kind::Mptcp).is_ok();
        if !has {
            eprintln!("skipped: this kernel has no Multipath TCP, or net.mptcp.enabled is 0");
        }
        has
    }

    #[test]
    fn nobody_else_can_listen_where_we_listen_for_multipath_tcp() {
        if !has_mptcp() {
            return;
        }
        let options = SocketOptions { mptcp: true, ..SocketOptions::default() };
        for addr in ["127.0.0.1:0", "[::]:0"] {
            for workers in [1, 3] {
                let group = group_of(addr, workers, options).unwrap();
                assert_eq!((group.kind, &group.no_mptcp), (Kind::Mptcp, &None));
                assert_ours(&group);
            }
        }
    }

    fn assert_ours(group: &ListenGroup) {
        let port = group.local.port();
        assert_taken(group.local);
        let wildcard = if group.local.is_ipv4() { "0.0.0.0" } else { "::" };
        assert_taken(SocketAddr::new(wildcard.parse().unwrap(), port));
        let loopback = if group.local.is_ipv4() { "127.0.0.1" } else { "::1" };
        assert_taken(SocketAddr::new(loopback.parse().unwrap(), port));
        assert_taken(group.local);
    }

    #[test]
    fn both_wildcards_of_a_port_are_listened_on_side_by_side_and_both_stay_ours() {
        let four = group("0.0.0.0:0", 3).unwrap();
        let six = bind(SocketAddr::new("::".parse().unwrap(), four.local.port()), 3);
        let six = six.unwrap();
        assert_taken(four.local);
        assert_taken(six.local);
    }

    #[test]
    fn an_address_is_free_again_once_its_group_is_gone() {
        let first = group("127.0.0.1:0", 2).unwrap();
        let addr = first.local;
        drop(first);
        bind(addr, 2).unwrap();
    }

    #[test]
    fn of_two_groups_that_start_at_once_exactly_one_gets_the_address() {
        for _ in 0..50 {
            // Of an address that no other test binds, or one could take the port meanwhile.
            let free = group("127.77.66.55:0", 1).unwrap().local;
            let start = std::sync::Barrier::new(2);
            let won = std::thread::scope(|s| {
                let tries = [(); 2].map(|()| {
                    s.spawn(|| {
                        start.wait();
                        bind(free, 2)
                    })
                });
                tries.map(|t| t.join().unwrap()).into_iter().filter(Result::is_ok).count()
            });
            assert_eq!(won, 1);
        }
    }
}
