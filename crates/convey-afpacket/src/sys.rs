//! AF_PACKET system calls. Besides `ring` and `shared_memory` the only module of this crate where unsafe code is
//! allowed; nothing here decides.
//!
//! A socket reads and writes whole Ethernet frames, each with the virtio_net_hdr that tells which checksum
//! is still to be filled in and where a super-frame is to be cut.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use crate::ring::{BLOCK_BYTES, Ring, SLOT_BYTES};
use crate::slot::Slot;

/// Frames a system call moves at most.
pub const BATCH: usize = 64;

/// Bytes of a virtio_net_hdr without the `num_buffers` field, as PACKET_VNET_HDR exchanges it.
pub const VNET_HEADER_BYTES: usize = 10;

/// Room for a frame: the largest super-frame there is (GSO_MAX_SIZE of BIG TCP) with its Ethernet header, and a little
/// slack. Memory of a buffer is taken as longer frames come.
pub const FRAME_BYTES: usize = 8 * 65_535 + 64;

// linux/if_packet.h; absent from libc for some targets.
const PACKET_FANOUT_CBPF: u32 = 6;
const PACKET_FANOUT_FLAG_UNIQUE_ID: u32 = 0x2000;
const PACKET_FANOUT_DATA: libc::c_int = 22;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_COPY_THRESH: libc::c_int = 7;

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

/// A frame to send.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Its virtio_net_hdr, and then the frame from the Ethernet header on.
    pub bytes: &'a [u8],
}

/// A frame to send, in pieces.
#[derive(Clone, Copy)]
pub struct Pieces<'a> {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Its virtio_net_hdr and all headers in the first, then the rest.
    pub pieces: &'a [IoSlice<'a>],
}

/// A raw packet socket that sees every interface of the namespace it was opened in.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PacketSocket {
    /// Opens a socket that receives nothing yet, in virtio_net_hdr mode and blind to what this host sends.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; ENOPROTOOPT on kernels older than 4.20.
    pub fn open(buffer_bytes: usize) -> io::Result<Self> {
        // SAFETY: socket() takes no pointers; protocol 0 keeps it from receiving before it is set up.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just returned by socket() and nobody else knows it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
        let bytes = i32::try_from(buffer_bytes).unwrap_or(i32::MAX);
        // Forcing past rmem_max wants CAP_NET_ADMIN; without it the kernel's limit has to do.
        if socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes).is_err() {
            socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes)?;
        }
        if socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
            socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes)?;
        }
        Ok(socket)
    }

    /// Begins to receive frames of every protocol from every interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn bind_all(&self) -> io::Result<()> {
        // ETH_P_ALL taps the frame before tc ingress; a single protocol would see it only after a drop there.
        self.bind_to(libc::ETH_P_ALL as u16)
    }

    /// Begins to receive frames of this protocol (an EtherType) from every interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn bind_to(&self, protocol: u16) -> io::Result<()> {
        let mut address = link_address(0);
        address.sll_protocol = protocol.to_be();
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

    /// Has small frames handed over in a ring of this size from now on, and copies of longer ones in the queue.
    /// To be called before the socket is bound.
    ///
    /// # Errors
    /// ENOMEM when there is no memory for it.
    pub fn ring(&self, bytes: usize) -> io::Result<Ring> {
        self.set(libc::SOL_PACKET, PACKET_COPY_THRESH, &1i32)?;
        Ring::new(self.0.as_fd(), bytes)
    }

    /// Waits until there is a frame in the ring or the queue.
    ///
    /// # Errors
    /// WouldBlock when the timeout passed, else what the kernel answers.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one live pollfd, and the count says so.
        match unsafe { libc::poll(&raw mut poll, 1, timeout) } {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ if poll.revents & libc::POLLERR != 0 => {
                let mut error = 0i32;
                self.get(libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
                Err(io::Error::from_raw_os_error(error))
            }
            n if n < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Takes frames that are in the queue already; returns how many slots were filled.
    ///
    /// # Errors
    /// WouldBlock when there is none, else what the kernel answers.
    pub fn receive(&self, slots: &mut [Slot]) -> io::Result<usize> {
        let count = slots.len().min(BATCH);
        // SAFETY: these are C structures for which all zeros is a valid value.
        let (mut headers, mut vectors): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for (i, slot) in slots.iter_mut().take(count).enumerate() {
            let room = slot.buffer_mut();
            vectors[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            headers[i].msg_hdr.msg_iov = &raw mut vectors[i];
            headers[i].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers point at vectors and slots that outlive the call, each with its true
        // length, and no two share memory.
        let received = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        let received = received as usize;
        for (i, slot) in slots.iter_mut().take(received).enumerate() {
            slot.len = (headers[i].msg_len as usize).saturating_sub(VNET_HEADER_BYTES).min(FRAME_BYTES);
            slot.is_truncated = headers[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        }
        Ok(received)
    }

    /// Sends frames (at most [`BATCH`]) without waiting; returns how many of the first went out.
    ///
    /// # Errors
    /// What stopped the first frame, when none went out.
    pub fn send(&self, frames: &[Outgoing<'_>]) -> io::Result<usize> {
        let count = frames.len().min(BATCH);
        let mut bytes = [IoSlice::new(&[]); BATCH];
        for (piece, outgoing) in bytes.iter_mut().zip(frames) {
            *piece = IoSlice::new(outgoing.bytes);
        }
        let mut pieces = [Pieces { ifindex: 0, pieces: &[] }; BATCH];
        for (i, outgoing) in frames.iter().take(count).enumerate() {
            pieces[i] = Pieces { ifindex: outgoing.ifindex, pieces: &bytes[i..=i] };
        }
        self.send_pieces(&pieces[..count])
    }

    /// Sends frames (at most [`BATCH`]) without waiting; returns how many of the first went out.
    ///
    /// # Errors
    /// What stopped the first frame, when none went out.
    pub fn send_pieces(&self, frames: &[Pieces<'_>]) -> io::Result<usize> {
        let count = frames.len().min(BATCH);
        // SAFETY: these are C structures for which all zeros is a valid value.
        let (mut headers, mut addresses): ([libc::mmsghdr; BATCH], [libc::sockaddr_ll; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for (i, outgoing) in frames.iter().take(count).enumerate() {
            addresses[i] = link_address(outgoing.ifindex);
            let ethertype = outgoing
                .pieces
                .first()
                .and_then(|first| first.get(VNET_HEADER_BYTES + 12..))
                .and_then(|rest| rest.first_chunk());
            addresses[i].sll_protocol = ethertype.copied().map_or(0, u16::from_ne_bytes);
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // IoSlice has the layout of iovec, and sendmmsg only reads through this pointer.
            header.msg_iov = outgoing.pieces.as_ptr().cast_mut().cast();
            header.msg_iovlen = outgoing.pieces.len() as _;
        }
        // SAFETY: the first `count` headers point at pieces and addresses that outlive the call, each
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
        set_option(self.0.as_fd(), level, name, value)
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

/// Asks for a receive ring of TPACKET_V2 with `blocks` of [`BLOCK_BYTES`] and slots of [`SLOT_BYTES`], and maps it.
pub(crate) fn map_ring(socket: BorrowedFd<'_>, blocks: usize) -> io::Result<NonNull<u8>> {
    let count = |n: usize| libc::c_uint::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
    let request = libc::tpacket_req {
        tp_block_size: count(BLOCK_BYTES)?,
        tp_block_nr: count(blocks)?,
        tp_frame_size: count(SLOT_BYTES)?,
        tp_frame_nr: count(blocks * (BLOCK_BYTES / SLOT_BYTES))?,
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
    set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
    // SAFETY: a new mapping at an address of the kernel's choice, exactly as long as the ring just made.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            blocks * BLOCK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            socket.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Unmaps what [`map_ring`] mapped.
pub(crate) fn unmap_ring(base: NonNull<u8>, bytes: usize) {
    // SAFETY: only the ring's owner calls this, once, with the mapping's own address and length.
    unsafe {
        libc::munmap(base.as_ptr().cast(), bytes);
    }
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live T and the length is its own; callers pass the type the option takes, and
    // the one option with a pointer inside (`set_program`) keeps its target alive for the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
