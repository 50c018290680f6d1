//! AF_PACKET system calls. The only module of this crate where unsafe code is allowed; nothing here decides.
//!
//! A socket reads and writes whole Ethernet frames, each with the virtio_net_hdr that tells which checksum
//! is still to be filled in and where a super-frame is to be cut.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Frames a system call moves at most.
pub const BATCH: usize = 32;

/// Bytes of a virtio_net_hdr without the `num_buffers` field, as PACKET_VNET_HDR exchanges it.
pub const VNET_HEADER_BYTES: usize = 10;

/// Room for a frame: the largest GSO super-frame with its Ethernet header, and a little slack.
pub const FRAME_BYTES: usize = 65_536 + 64;

// linux/if_packet.h; absent from libc for some targets.
const PACKET_FANOUT_CBPF: u32 = 6;
const PACKET_FANOUT_FLAG_UNIQUE_ID: u32 = 0x2000;
const PACKET_FANOUT_DATA: libc::c_int = 22;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// One instruction of a classic BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Where the frame begins in a slot's buffer: behind its virtio_net_hdr, so that both move as one piece of memory.
const FRAME_AT: usize = 16;
const VNET_AT: usize = FRAME_AT - VNET_HEADER_BYTES;

/// A received frame in its buffer.
pub struct Slot {
    /// The interface it arrived on.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub len: usize,
    /// Whether the frame was longer than the buffer and lost its end.
    pub truncated: bool,
    buffer: Box<[u8]>,
}

impl Slot {
    /// An empty slot of [`FRAME_BYTES`].
    pub fn new() -> Self {
        let buffer = vec![0; FRAME_AT + FRAME_BYTES].into_boxed_slice();
        Self { ifindex: 0, len: 0, truncated: false, buffer }
    }

    /// The virtio_net_hdr that came with the frame.
    pub fn vnet(&self) -> [u8; VNET_HEADER_BYTES] {
        self.buffer[VNET_AT..].first_chunk().copied().unwrap_or_default()
    }

    /// The frame, and behind it room in which bytes of earlier ones may stand.
    pub fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[FRAME_AT..]
    }

    /// Makes the first `len` bytes of the frame ready to be sent with this header.
    pub fn depart(&mut self, vnet: [u8; VNET_HEADER_BYTES], len: usize) {
        self.buffer[VNET_AT..FRAME_AT].copy_from_slice(&vnet);
        self.len = len.min(FRAME_BYTES);
    }

    /// Puts back a frame that was received before, with its header as [`Slot::bytes`] gave both.
    pub fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        let len = bytes.len().min(self.buffer.len() - VNET_AT);
        self.buffer[VNET_AT..VNET_AT + len].copy_from_slice(&bytes[..len]);
        self.len = len.saturating_sub(VNET_HEADER_BYTES);
        self.ifindex = ifindex;
        self.truncated = false;
    }

    /// The header and the frame, as [`PacketSocket::send`] takes them.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[VNET_AT..FRAME_AT + self.len]
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame to send.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Its virtio_net_hdr, and then the frame from the Ethernet header on.
    pub bytes: &'a [u8],
}

/// A raw packet socket that sees every interface of the namespace it was opened in.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket that receives nothing yet, in virtio_net_hdr mode and blind to what this host sends.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; ENOPROTOOPT on kernels older than 4.20.
    pub fn open(receive_buffer_bytes: usize, receive_timeout: Duration) -> io::Result<Self> {
        // SAFETY: socket() takes no pointers; protocol 0 keeps it from receiving before it is set up.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just returned by socket() and nobody else knows it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
        let bytes = i32::try_from(receive_buffer_bytes).unwrap_or(i32::MAX);
        // Forcing past rmem_max wants CAP_NET_ADMIN; without it the kernel's limit has to do.
        if socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes).is_err() {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)?;
        }
        if socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
            socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes)?;
        }
        socket.wait_at_most(receive_timeout)?;
        Ok(socket)
    }

    /// Changes how long [`PacketSocket::receive`] waits.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn wait_at_most(&self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timeval {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_usec: timeout.subsec_micros() as libc::suseconds_t,
        };
        self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)
    }

    /// Begins to receive frames of every protocol from every interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn bind_all(&self) -> io::Result<()> {
        // ETH_P_ALL taps the frame before tc ingress; a single protocol would see it only after a drop there.
        let address = link_address(0);
        // SAFETY: `address` is a live sockaddr_ll and the length is its own.
        let result = unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast::<libc::sockaddr>(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Starts a fan-out group of a fresh id, steered by a program, and returns the id.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn start_fanout(&self) -> io::Result<u16> {
        self.set(
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            &((PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_UNIQUE_ID) << 16),
        )?;
        let mut value = 0u32;
        self.get(libc::SOL_PACKET, libc::PACKET_FANOUT, &mut value)?;
        Ok((value & 0xffff) as u16)
    }

    /// Joins the fan-out group `id`; the order of joining is the number the program steers by.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn join_fanout(&self, id: u16) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT, &(u32::from(id) | PACKET_FANOUT_CBPF << 16))
    }

    /// Replaces the program that steers the whole fan-out group.
    ///
    /// # Errors
    /// EINVAL when the kernel refuses the program.
    pub fn steer(&self, program: &[Instruction]) -> io::Result<()> {
        self.set_program(libc::SOL_PACKET, PACKET_FANOUT_DATA, program)
    }

    /// Replaces the filter that decides which frames are copied to this socket.
    ///
    /// # Errors
    /// EINVAL when the kernel refuses the program.
    pub fn filter(&self, program: &[Instruction]) -> io::Result<()> {
        self.set_program(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
    }

    /// Frames the kernel dropped since the last call because the receive buffer was full.
    pub fn take_kernel_drops(&self) -> u64 {
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Statistics {
            packets: u32,
            drops: u32,
        }
        let mut statistics = Statistics { packets: 0, drops: 0 };
        match self.get(libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut statistics) {
            Ok(()) => u64::from(statistics.drops),
            Err(_) => 0,
        }
    }

    /// Waits for a frame and takes it with those already behind it; returns how many slots were filled.
    ///
    /// # Errors
    /// WouldBlock when the timeout passed, else what the kernel answers.
    pub fn receive(&self, slots: &mut [Slot]) -> io::Result<usize> {
        let count = slots.len().min(BATCH);
        // SAFETY: these are C structures for which all zeros is a valid value.
        let (mut headers, mut vectors, mut addresses): (
            [libc::mmsghdr; BATCH],
            [libc::iovec; BATCH],
            [libc::sockaddr_ll; BATCH],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        for (i, slot) in slots.iter_mut().take(count).enumerate() {
            let room = &mut slot.buffer[VNET_AT..];
            vectors[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers point at vectors, addresses and slots that outlive the call, each
        // with its true length, and no two share memory.
        let received = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        let received = received as usize;
        for (i, slot) in slots.iter_mut().take(received).enumerate() {
            slot.len = (headers[i].msg_len as usize).saturating_sub(VNET_HEADER_BYTES).min(FRAME_BYTES);
            slot.truncated = headers[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            slot.ifindex = addresses[i].sll_ifindex as u32;
        }
        Ok(received)
    }

    /// Sends frames (at most [`BATCH`]) without waiting; returns how many of the first went out.
    ///
    /// # Errors
    /// What stopped the first frame, when none went out.
    pub fn send(&self, frames: &[Outgoing<'_>]) -> io::Result<usize> {
        let count = frames.len().min(BATCH);
        // SAFETY: these are C structures for which all zeros is a valid value.
        let (mut headers, mut vectors, mut addresses): (
            [libc::mmsghdr; BATCH],
            [libc::iovec; BATCH],
            [libc::sockaddr_ll; BATCH],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        for (i, outgoing) in frames.iter().take(count).enumerate() {
            // sendmmsg only reads through this pointer; iovec has no const form.
            vectors[i] = libc::iovec {
                iov_base: outgoing.bytes.as_ptr().cast_mut().cast(),
                iov_len: outgoing.bytes.len(),
            };
            addresses[i] = link_address(outgoing.ifindex);
            let ethertype = outgoing.bytes.get(VNET_HEADER_BYTES + 12..).and_then(|rest| rest.first_chunk());
            addresses[i].sll_protocol = ethertype.copied().map_or(0, u16::from_ne_bytes);
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers point at vectors, addresses and frames that outlive the call, each
        // with its true length; the kernel writes only msg_len.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    fn set_program(&self, level: libc::c_int, name: libc::c_int, program: &[Instruction]) -> io::Result<()> {
        let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // The kernel copies the instructions during the call and only reads them.
        let program =
            libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
        self.set(level, name, &program)
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live T and the length is its own; callers pass the type the option takes, and
        // the one option with a pointer inside (`set_program`) keeps its target alive for the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                (&raw const *value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn get<T: Copy>(&self, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into a live T; callers pass integers and C structures
        // of integers, valid for every bit pattern.
        let result = unsafe {
            libc::getsockopt(self.0.as_raw_fd(), level, name, (&raw mut *value).cast(), &raw mut len)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn link_address(ifindex: u32) -> libc::sockaddr_ll {
    // SAFETY: a sockaddr_ll is integers only; all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex as i32;
    address.sll_halen = 6;
    address
}
