//! Datagrams received and sent many at a time (recvmmsg, sendmmsg), with the addresses they came to and go from.
//!
//! The one module of UDP with unsafe code: message headers hold pointers into memory that a [`Batch`] owns.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams at a time.
pub(super) const SLOTS: usize = 32;
/// Room for the longest datagram there is (65,527 bytes over IPv6); only a jumbogram is longer.
const ROOM: usize = 1 << 16;
/// Room for what the kernel tells beside a datagram: a `in6_pktinfo` (20 bytes), a count of those it lost (4) and the
/// length of those it put together (4), each after a header.
const CONTROL: usize = 96;

/// An address of this host to which a datagram came and from which the answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Local {
    pub ip: IpAddr,
    /// The interface, where the address is link-local; else 0: routing may change.
    pub interface: u32,
}

/// What is known of a datagram that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// It was longer than there was room.
    pub truncated: bool,
    /// Who sent it; `None`: of a family that is not IP.
    pub peer: Option<SocketAddr>,
    /// Where it came to, if the socket asks for that.
    pub local: Option<Local>,
    /// How many the socket has lost for want of room since it was made, if any.
    pub lost: Option<u32>,
}

/// What the kernel tells beside a datagram.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    local: Option<Local>,
    lost: Option<u32>,
    /// Datagrams of this length, the last of at most that, were put together; 0: it is one.
    segment: u16,
}

/// Aligned as `cmsghdr` is.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Room for [`SLOTS`] datagrams, their addresses and headers. Pages that no datagram was long enough for are never
/// touched. Not `Send`: the headers point into the other fields, which are on the heap and never move.
pub(super) struct Batch {
    bytes: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    lengths: [usize; SLOTS],
    told: [Told; SLOTS],
}

impl Batch {
    pub fn new() -> Self {
        // SAFETY: all three are plain C structures, for which zeros are valid.
        let (name, piece, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            bytes: vec![0; SLOTS * ROOM].into(),
            names: vec![name; SLOTS].into(),
            controls: vec![Control([0; CONTROL]); SLOTS].into(),
            pieces: vec![piece; SLOTS].into(),
            headers: vec![header; SLOTS].into(),
            lengths: [0; SLOTS],
            told: [Told::default(); SLOTS],
        }
    }

    /// Bytes of the datagram in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Receives what waits on `socket`, with addresses, into the slots from the first on; tells how many came. It does
    /// not block.
    ///
    /// # Errors
    /// As recvmmsg(2); `WouldBlock` when nothing waits.
    pub fn receive_from(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive(socket, 0, true)
    }

    /// Receives what waits on a connected `socket` into the slots from `first` on; tells how many came.
    ///
    /// # Errors
    /// As recvmmsg(2), with what the peer's host answered; `WouldBlock` when nothing waits.
    pub fn receive_connected(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        self.receive(socket, first, false)
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, first: usize, addressed: bool) -> io::Result<usize> {
        for slot in first..SLOTS {
            self.prepare(slot, 0..ROOM);
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_control = self.controls[slot].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            if addressed {
                header.msg_name = ptr::from_mut(&mut self.names[slot]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            }
        }
        let headers = &mut self.headers[first..];
        // SAFETY: each header was pointed above at memory of ours of the lengths it names, which outlives the call.
        let came = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let came = usize::try_from(came).map_err(|_| io::Error::last_os_error())?;
        for slot in first..first + came {
            self.lengths[slot] = (self.headers[slot].msg_len as usize).min(ROOM);
            self.told[slot] = told(&self.headers[slot].msg_hdr);
        }
        Ok(came)
    }

    /// What [`Batch::receive_from`] was told of the datagram in `slot`.
    pub fn arrival(&self, slot: usize) -> Arrival {
        let Told { local, lost, .. } = self.told[slot];
        let peer = address(&self.names[slot], self.headers[slot].msg_hdr.msg_namelen as usize);
        Arrival { truncated: self.is_truncated(slot), peer, local, lost }
    }

    /// How many datagrams of one sender `slot` holds: the kernel puts together those that came in a row.
    pub fn datagrams(&self, slot: usize) -> u64 {
        match self.told[slot].segment {
            0 => 1,
            segment => self.lengths[slot].div_ceil(segment.into()).max(1) as u64,
        }
    }

    /// Whether the datagram received into `slot` was longer than there was room.
    pub fn is_truncated(&self, slot: usize) -> bool {
        self.headers[slot].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Has the datagram in `slot` go to `peer`, from `local` if that is given, by the next [`Batch::send`].
    pub fn address(&mut self, slot: usize, peer: SocketAddr, local: Option<Local>) {
        self.told[slot].local = local;
        self.prepare(slot, 0..self.lengths[slot]);
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_namelen = write_address(&mut self.names[slot], peer);
        header.msg_name = ptr::from_mut(&mut self.names[slot]).cast();
        self.control(slot, self.told[slot].segment);
    }

    /// Has the datagram in `slot` go to the peer of the socket by the next [`Batch::send`].
    pub fn unaddressed(&mut self, slot: usize) {
        self.told[slot].local = None;
        self.prepare(slot, 0..self.lengths[slot]);
        self.control(slot, self.told[slot].segment);
    }

    /// Sends one by one the datagrams that `slot` holds, for a way on which they cannot go together. Gives how many
    /// went, and what became of the rest.
    pub fn send_apart(&mut self, socket: BorrowedFd<'_>, slot: usize) -> (u64, io::Result<()>) {
        let segment = usize::from(self.told[slot].segment).max(1);
        let (name, len) = (self.headers[slot].msg_hdr.msg_name, self.headers[slot].msg_hdr.msg_namelen);
        let mut sent = 0;
        for from in (0..self.lengths[slot]).step_by(segment) {
            self.prepare(slot, from..self.lengths[slot].min(from + segment));
            let header = &mut self.headers[slot].msg_hdr;
            (header.msg_name, header.msg_namelen) = (name, len);
            self.control(slot, 0);
            if let Err(error) = self.send(socket, slot..slot + 1) {
                return (sent, Err(error));
            }
            sent += 1;
        }
        (sent, Ok(()))
    }

    /// Whether `slot` holds several datagrams.
    pub fn is_several(&self, slot: usize) -> bool {
        self.datagrams(slot) > 1
    }

    /// Says where the datagram comes from and, unless `segment` is 0, into pieces of what length it is to be cut.
    fn control(&mut self, slot: usize, segment: u16) {
        let local = self.told[slot].local;
        let is_cut = segment > 0 && self.lengths[slot] > segment.into();
        if local.is_none() && !is_cut {
            return;
        }
        let mut data = ControlData { room: &mut self.controls[slot], len: 0 };
        if let Some(local) = local {
            data.put_source(local);
        }
        if is_cut {
            data.put(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        let len = data.len;
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_control = self.controls[slot].0.as_mut_ptr().cast();
        header.msg_controllen = len as _;
    }

    /// Sends the datagrams in `slots` as they were addressed; tells how many of the first went. It does not block.
    ///
    /// # Errors
    /// As sendmmsg(2), about the first; none went then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, slots: Range<usize>) -> io::Result<usize> {
        let headers = &mut self.headers[slots];
        // SAFETY: each header was pointed by `prepare` and `address` at memory of ours, which outlives the call.
        let went = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(went).map_err(|_| io::Error::last_os_error())
    }

    /// Points the header of `slot` at that part of its bytes, with neither address nor control data.
    fn prepare(&mut self, slot: usize, part: Range<usize>) {
        let room = &mut self.bytes[slot * ROOM..][..ROOM][part];
        self.pieces[slot] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_name = ptr::null_mut();
        header.msg_namelen = 0;
        header.msg_iov = ptr::from_mut(&mut self.pieces[slot]);
        header.msg_iovlen = 1;
        header.msg_control = ptr::null_mut();
        header.msg_controllen = 0;
        header.msg_flags = 0;
    }
}

/// Control data as they are put together.
struct ControlData<'a> {
    room: &'a mut Control,
    len: usize,
}

impl ControlData<'_> {
    fn put<T>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as u32;
        // SAFETY: both only calculate.
        let (space, len) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        assert!(self.len + space <= CONTROL, "what is put here has a known, small size");
        // SAFETY: `space` bytes from `len` on are in the room, as was asserted, and aligned for a header: the room is,
        // and every space is a multiple of that. The data behind the header may lie unaligned.
        unsafe {
            let header = self.room.0.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), value);
        }
        self.len += space;
    }

    fn put_source(&mut self, local: Local) {
        // SAFETY: plain C structures, for which zeros are valid.
        let (mut four, mut six): (libc::in_pktinfo, libc::in6_pktinfo) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        match local.ip {
            IpAddr::V4(ip) => {
                four.ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, four);
            }
            IpAddr::V6(ip) => {
                six.ipi6_addr.s6_addr = ip.octets();
                six.ipi6_ifindex = local.interface as _;
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, six);
            }
        }
    }
}

/// Reads what the kernel has told beside a datagram.
fn told(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: msg_control points at memory of ours whose first msg_controllen bytes the kernel has written.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie in the written part as a whole.
        let (level, kind, data) = unsafe { ((*next).cmsg_level, (*next).cmsg_type, libc::CMSG_DATA(next)) };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel puts a whole `in_pktinfo` there; it may lie unaligned.
                let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
                // Where a broadcast came to, this is the address of the interface.
                let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                told.local = Some(Local { ip: ip.into(), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: as above, an `in6_pktinfo`.
                let info: libc::in6_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                // A group is no source.
                let is_source = !ip.is_multicast();
                told.local = is_source.then_some(Local { ip: ip.into(), interface: interface as u32 });
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                // SAFETY: as above, a 32-bit count.
                told.lost = Some(unsafe { ptr::read_unaligned(data.cast()) });
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: as above, an int.
                let size: libc::c_int = unsafe { ptr::read_unaligned(data.cast()) };
                told.segment = u16::try_from(size).unwrap_or(0);
            }
            _ => {}
        }
        // SAFETY: `next` came from the same header.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    told
}

/// Has the kernel tell, for each datagram, where it came to.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn ask_where_to(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        switch_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    }
}

/// Has the kernel tell how many datagrams found no room in the socket.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn ask_for_losses(socket: BorrowedFd<'_>) -> io::Result<()> {
    switch_on(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)
}

/// Has the kernel put together datagrams of one sender that come in a row, or not.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn put_together(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    switch(socket, libc::SOL_UDP, libc::UDP_GRO, on)
}

fn switch_on(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    switch(socket, level, option, true)
}

fn switch(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, on: bool) -> io::Result<()> {
    let on = libc::c_int::from(on);
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is an int of that length, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&on).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn address(storage: &libc::sockaddr_storage, len: usize) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says what it is, and a sockaddr_storage is long and aligned enough for it.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Gives its length.
fn write_address(storage: &mut libc::sockaddr_storage, address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: a sockaddr_storage is long and aligned enough for every address; zeros are valid in one.
            let raw = unsafe { &mut *ptr::from_mut(storage).cast::<libc::sockaddr_in>() };
            raw.sin_family = libc::AF_INET as _;
            raw.sin_port = address.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            size_of::<libc::sockaddr_in>() as u32
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let raw = unsafe { &mut *ptr::from_mut(storage).cast::<libc::sockaddr_in6>() };
            raw.sin6_family = libc::AF_INET6 as _;
            raw.sin6_port = address.port().to_be();
            raw.sin6_flowinfo = 0;
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>() as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    fn socket(at: &str) -> UdpSocket {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// What comes, up to `count` datagrams.
    fn take(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; ROOM];
        let mut one = || socket.recv(&mut buffer).map(|len| buffer[..len].to_vec()).unwrap();
        (0..count).map(|_| one()).collect()
    }

    /// Five datagrams of 100 bytes and one of 7, sent as one to `to`; the kernel cuts them or not.
    fn send_together(from: &UdpSocket, to: SocketAddr) -> Vec<Vec<u8>> {
        let pieces: Vec<Vec<u8>> = (0..6u8).map(|n| vec![n; if n == 5 { 7 } else { 100 }]).collect();
        let mut batch = Batch::new();
        let all = pieces.concat();
        batch.bytes[..all.len()].copy_from_slice(&all);
        batch.lengths[0] = all.len();
        batch.told[0].segment = 100;
        batch.address(0, to, None);
        assert_eq!(batch.send(from.as_fd(), 0..1).unwrap(), 1);
        pieces
    }

    fn wait(batch: &mut Batch, socket: &UdpSocket) -> usize {
        loop {
            match batch.receive_from(socket.as_fd()) {
                Ok(came) => return came,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn datagrams_that_came_together_go_on_together_or_one_by_one_and_arrive_the_same() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let [client, middle, server] = [socket(at), socket(at), socket(at)];
            put_together(middle.as_fd(), true).unwrap();
            let to = server.local_addr().unwrap();
            let mut batch = Batch::new();
            for apart in [false, true] {
                let pieces = send_together(&client, middle.local_addr().unwrap());
                assert_eq!(wait(&mut batch, &middle), 1);
                assert_eq!((batch.datagrams(0), batch.len(0)), (6, 507));
                assert_eq!(batch.arrival(0).peer, Some(client.local_addr().unwrap()));
                batch.address(0, to, None);
                if apart {
                    let (sent, rest) = batch.send_apart(middle.as_fd(), 0);
                    assert!(sent == 6 && rest.is_ok(), "{rest:?}");
                } else {
                    assert_eq!(batch.send(middle.as_fd(), 0..1).unwrap(), 1);
                }
                assert_eq!(take(&server, 6), pieces);
            }
        }
    }

    #[test]
    fn an_answer_goes_from_the_address_that_was_asked() {
        for (at, asked) in [("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1")] {
            let middle = socket(at);
            ask_where_to(middle.as_fd(), at.starts_with('0')).unwrap();
            let asked = SocketAddr::new(asked.parse().unwrap(), middle.local_addr().unwrap().port());
            let client = socket(if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
            let mut batch = Batch::new();
            // An empty one, too.
            for datagram in [&b"ask"[..], b""] {
                client.send_to(datagram, asked).unwrap();
                assert_eq!(wait(&mut batch, &middle), 1);
                let arrival = batch.arrival(0);
                assert_eq!(arrival.local, Some(Local { ip: asked.ip(), interface: 0 }));
                batch.address(0, arrival.peer.unwrap(), arrival.local);
                batch.send(middle.as_fd(), 0..1).unwrap();
                let mut buffer = [0; 8];
                assert_eq!(client.recv_from(&mut buffer).unwrap(), (datagram.len(), asked));
            }
        }
    }

    #[test]
    fn datagrams_that_found_no_room_are_told_of() {
        let (client, server) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        ask_for_losses(server.as_fd()).unwrap();
        socket2::SockRef::from(&server).set_recv_buffer_size(4096).unwrap();
        for _ in 0..200 {
            client.send_to(&[0; 1000], server.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        let came = wait(&mut batch, &server);
        // The loss is told with what comes afterwards.
        client.send_to(b"after", server.local_addr().unwrap()).unwrap();
        wait(&mut batch, &server);
        assert_eq!(batch.arrival(0).lost, Some(200 - came as u32));
    }
}
