//! One AF_XDP socket, of one queue of one interface.
//!
//! The first half of its frames is received into: they are in the fill ring, in the receive ring, in the worker's batch,
//! or the kernel has them. The other half is sent from: they are free, in the send ring, in the completion ring, or the
//! kernel has them. No frame ever changes halves, so neither side can starve the other.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, sockopt};

use super::checksum;
#[cfg(test)]
use super::memory::Place;
use super::memory::{Frames, Ring};

/// Frames received into, and as many sent from. Also the entries of each ring, so that none can overflow.
pub const FRAMES: usize = 2048;

/// What the kernel leaves free in front of a frame it has received.
const HEADROOM: usize = 256;

/// What is needed behind the longest frame: a VLAN tag, and room for an answer built in place.
const TAILROOM: usize = 4 + convey_engine::REPLY_HEADROOM;

/// The longest frame's MTU that a chunk of a page can take.
pub const MAX_MTU: u32 = (4096 - HEADROOM - TAILROOM - ETHERNET_BYTES) as u32;

const ETHERNET_BYTES: usize = 14;

/// Frames that one call sends at most (the kernel's budget), and how often it is called for one batch.
const KICKS: usize = 8;

/// A frame that was received.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Where it begins in the socket's memory.
    pub address: usize,
    /// Its length.
    pub len: usize,
}

/// An AF_XDP socket with its frames.
#[derive(Debug)]
pub struct Xsk {
    fd: Arc<OwnedFd>,
    frames: Frames,
    fill: Ring<u64>,
    received: Ring<XdpDesc>,
    sending: RefCell<Sending>,
    is_zero_copy: bool,
}

#[derive(Debug)]
struct Sending {
    ring: Ring<XdpDesc>,
    completed: Ring<u64>,
    free: Vec<usize>,
}

/// Where the frames of a socket are.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Received into: with the kernel, and in the worker's batch.
    pub receive: [usize; 2],
    /// Sent from: with the kernel, and free.
    pub send: [usize; 2],
}

impl Xsk {
    /// Opens a socket for this queue, zero-copy if the driver can and is asked to. Nothing comes to it before it is in the
    /// program's map.
    ///
    /// # Errors
    /// What the kernel answers. From bind, EINVAL: no such queue; EBUSY: another socket has it; EOPNOTSUPP: no zero-copy.
    pub fn open(ifindex: u32, queue: u32, mtu: u32, zero_copy: bool) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let needed = HEADROOM + ETHERNET_BYTES + mtu as usize + TAILROOM;
        let chunk = if needed <= 2048 { 2048 } else { 4096 };
        let mut frames = Frames::new(2 * FRAMES, chunk)?;
        let (addr, len) = frames.region();
        let flags = XdpUmemRegFlags::empty();
        let umem = XdpUmemReg { addr, len, chunk_size: chunk as u32, headroom: 0, flags, tx_metadata_len: 0 };
        sockopt::set_xdp_umem_reg(&fd, umem)?;
        let entries = FRAMES as u32;
        sockopt::set_xdp_umem_fill_ring_size(&fd, entries)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, entries)?;
        sockopt::set_xdp_rx_ring_size(&fd, entries)?;
        sockopt::set_xdp_tx_ring_size(&fd, entries)?;
        let offsets = sockopt::xdp_mmap_offsets(&fd)?;
        let mut fill = Ring::map(fd.as_fd(), offsets.fr, entries, XDP_UMEM_PGOFF_FILL_RING)?;
        let completed = Ring::map(fd.as_fd(), offsets.cr, entries, XDP_UMEM_PGOFF_COMPLETION_RING)?;
        let received = Ring::map(fd.as_fd(), offsets.rx, entries, XDP_PGOFF_RX_RING)?;
        let ring = Ring::map(fd.as_fd(), offsets.tx, entries, XDP_PGOFF_TX_RING)?;
        for frame in 0..FRAMES {
            if let Some(address) = frames.give(frame) {
                fill.push(address);
            }
        }
        fill.publish();
        let copying = if zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
        bind(&fd, &SocketAddrXdp::new(copying | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP, ifindex, queue))?;
        let sending = RefCell::new(Sending { ring, completed, free: (FRAMES..2 * FRAMES).collect() });
        Ok(Self { fd: Arc::new(fd), frames, fill, received, sending, is_zero_copy: zero_copy })
    }

    /// The descriptor, for those who ask the kernel about the socket.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Whether the driver uses the frames without copying them.
    pub fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    /// Takes a frame that has come.
    pub fn receive(&mut self) -> Option<Received> {
        while let Some(XdpDesc { addr, len, .. }) = self.received.pop() {
            self.received.release();
            // A frame the kernel cannot have is passed over: it is in another place already.
            let Some(frame) = self.frames.take(addr) else { continue };
            let (address, chunk) = (addr as usize, self.frames.chunk());
            let len = (len as usize).min((frame + 1) * chunk - address);
            return Some(Received { address, len });
        }
        None
    }

    /// The bytes from `address` to the end of its frame; [`HEADROOM`] of them lie in front of a frame received.
    pub fn bytes(&self, address: usize) -> &[u8] {
        self.frames.bytes(address)
    }

    /// [`Xsk::bytes`], to be changed.
    pub fn bytes_mut(&mut self, address: usize) -> &mut [u8] {
        self.frames.bytes_mut(address)
    }

    /// Gives the kernel back a frame that it may receive into again.
    pub fn give_back(&mut self, address: usize) {
        let frame = address / self.frames.chunk();
        // The ring has room for all frames there are.
        if let Some(address) = self.frames.give(frame) {
            self.fill.push(address);
        }
    }

    /// Shows the kernel what was given back.
    pub fn refill(&self) {
        self.fill.publish();
        if self.fill.needs_wakeup() {
            // Only drivers that have run out of frames ask for it.
            let _ = rustix::net::recv(&self.fd, &mut [0; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Queues a frame, made of these pieces without their first `skipped` bytes; `open` tells where its checksum, still to
    /// be completed, lies (see [`checksum::complete`]). It leaves with [`Xsk::kick`].
    ///
    /// # Errors
    /// EMSGSIZE: it does not fit; EAGAIN: every frame is on its way.
    pub fn queue(
        &self,
        skipped: usize,
        pieces: &[IoSlice<'_>],
        open: Option<(usize, usize)>,
    ) -> io::Result<()> {
        let mut sending = self.sending.borrow_mut();
        let Sending { ring, completed, free } = &mut *sending;
        if free.is_empty() {
            reap(&self.frames, completed, free);
        }
        let finish = |bytes: &mut [u8]| {
            if let Some((start, offset)) = open {
                checksum::complete(bytes, start, offset);
            }
        };
        let frame = free.pop().ok_or(rustix::io::Errno::AGAIN)?;
        let Some((addr, len)) = self.frames.write(frame, skipped, pieces, finish) else {
            free.push(frame);
            return Err(rustix::io::Errno::MSGSIZE.into());
        };
        // The ring has room for all frames there are.
        ring.push(XdpDesc { addr, len, options: XdpDescOptions::empty() });
        Ok(())
    }

    /// Has what is queued sent, as far as it goes without waiting.
    ///
    /// # Errors
    /// Why the kernel sends nothing (ENETDOWN, ENXIO); what is queued leaves with a later call.
    pub fn kick(&self) -> io::Result<()> {
        let mut sending = self.sending.borrow_mut();
        let Sending { ring, completed, free } = &mut *sending;
        ring.publish();
        for _ in 0..KICKS {
            if ring.unread() == 0 || !ring.needs_wakeup() {
                break;
            }
            match rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT) {
                Ok(_) => (),
                // The budget of one call is used up, or the device's queue is full, or a neighbour holds its lock.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::BUSY | rustix::io::Errno::NOBUFS) => (),
                Err(error) => {
                    reap(&self.frames, completed, free);
                    return Err(error.into());
                }
            }
        }
        reap(&self.frames, completed, free);
        Ok(())
    }

    /// Whether frames wait in the send ring for another [`Xsk::kick`].
    pub fn is_sending(&self) -> bool {
        self.sending.borrow().ring.unread() != 0
    }

    #[cfg(test)]
    /// Where all frames are. One that the kernel sends is with it until its receiver has taken it.
    pub fn census(&self) -> Census {
        let mut sending = self.sending.borrow_mut();
        let Sending { completed, free, .. } = &mut *sending;
        reap(&self.frames, completed, free);
        let receive = [Place::Kernel, Place::Here].map(|place| self.frames.count(0..FRAMES, place));
        Census { receive, send: [self.frames.count(FRAMES..2 * FRAMES, Place::Kernel), free.len()] }
    }
}

/// Frames that have left are free again.
fn reap(frames: &Frames, completed: &mut Ring<u64>, free: &mut Vec<usize>) {
    let before = free.len();
    while let Some(address) = completed.pop() {
        free.extend(frames.take(address));
    }
    if free.len() != before {
        completed.release();
    }
}
