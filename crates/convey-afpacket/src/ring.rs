//! The memory in which the kernel hands over small frames without a system call (TPACKET_V2). Beside `sys`, the
//! only module of this crate where unsafe code is allowed; nothing here decides.
//!
//! The kernel fills slots in order and marks each as ours; it leaves a slot alone until it is given back. A frame
//! too long for a slot is cut there, and waits whole in the socket's queue if there was room.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{VNET_HEADER_BYTES, map_ring, unmap_ring};

/// Bytes of a slot: a full Ethernet frame with what the kernel writes before it.
pub const SLOT_BYTES: usize = 2048;

/// Memory is had in pieces of this size, each contiguous.
pub const BLOCK_BYTES: usize = 64 << 10;

/// What the kernel tells of the frame in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingFrame {
    /// The interface it arrived on.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub len: usize,
    /// Where it is.
    pub place: FramePlace,
}

/// Where a frame is that the ring announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramePlace {
    /// In the slot.
    InSlot,
    /// In the socket's queue.
    InQueue,
    /// Cut off: the queue was full.
    Lost,
}

/// A receive ring. Slots are named by their distance from the oldest one not given back.
#[derive(Debug)]
pub struct Ring {
    base: NonNull<u8>,
    slots: usize,
    head: usize,
}

// SAFETY: the memory belongs to this value alone and is tied to no thread.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring of `bytes`, rounded to whole blocks, for a socket that is not bound yet.
    ///
    /// # Errors
    /// ENOMEM, or what else the kernel answers.
    pub fn new(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let blocks = (bytes / BLOCK_BYTES).max(1);
        let base = map_ring(socket, blocks)?;
        Ok(Self { base, slots: blocks * (BLOCK_BYTES / SLOT_BYTES), head: 0 })
    }

    /// The frame in slot `at`, once the kernel has finished it.
    pub fn arrived(&self, at: usize) -> Option<RingFrame> {
        let slot = self.slot(at);
        // The kernel writes everything else before the status.
        let status = self.status(slot).load(Ordering::Acquire);
        if at >= self.slots || status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let header = self.header(slot);
        let place = if status & libc::TP_STATUS_COPY != 0 {
            FramePlace::InQueue
        } else if header.tp_snaplen < header.tp_len || self.frame_at(slot).is_none() {
            FramePlace::Lost
        } else {
            FramePlace::InSlot
        };
        Some(RingFrame { ifindex: self.ifindex(slot), len: header.tp_len as usize, place })
    }

    /// The virtio_net_hdr, the frame and the room behind it in slot `at`, which [`Ring::arrived`] said is here.
    pub fn bytes(&self, at: usize) -> &[u8] {
        let slot = self.slot(at);
        let Some(from) = self.frame_at(slot).filter(|_| self.is_ours(slot)) else { return &[] };
        // SAFETY: `from` lies within the slot (checked by frame_at), so the range ends with it; the slot is ours,
        // so the kernel does not write, and `&self` keeps others from writing.
        unsafe { std::slice::from_raw_parts(slot.as_ptr().add(from), SLOT_BYTES - from) }
    }

    /// [`Ring::bytes`], to be changed.
    pub fn bytes_mut(&mut self, at: usize) -> &mut [u8] {
        let slot = self.slot(at);
        let Some(from) = self.frame_at(slot).filter(|_| self.is_ours(slot)) else { return &mut [] };
        // SAFETY: as in `bytes`, and `&mut self` keeps others from reading. The header stays outside the range.
        unsafe { std::slice::from_raw_parts_mut(slot.as_ptr().add(from), SLOT_BYTES - from) }
    }

    /// Gives the oldest `count` slots back to the kernel.
    pub fn give_back(&mut self, count: usize) {
        for at in 0..count {
            let slot = self.slot(at);
            self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.head = (self.head + count) % self.slots;
    }

    fn slot(&self, at: usize) -> NonNull<u8> {
        let index = (self.head + at) % self.slots;
        // SAFETY: the index is below the number of slots, all of which lie in the mapping.
        unsafe { self.base.add(index * SLOT_BYTES) }
    }

    fn status(&self, slot: NonNull<u8>) -> &AtomicU32 {
        // SAFETY: a slot begins with tp_status, aligned as slots are, shared with the kernel, which writes it
        // as one word.
        unsafe { slot.cast::<AtomicU32>().as_ref() }
    }

    fn is_ours(&self, slot: NonNull<u8>) -> bool {
        self.status(slot).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    fn header(&self, slot: NonNull<u8>) -> libc::tpacket2_hdr {
        // SAFETY: a slot begins with this structure of integers, aligned to 16.
        unsafe { slot.cast::<libc::tpacket2_hdr>().read() }
    }

    fn ifindex(&self, slot: NonNull<u8>) -> u32 {
        // SAFETY: the kernel puts the address behind the header, aligned to 16; both lie well within the slot.
        let address = unsafe { slot.add(size_of::<libc::tpacket2_hdr>()).cast::<libc::sockaddr_ll>().read() };
        address.sll_ifindex as u32
    }

    /// Where in a slot the virtio_net_hdr begins; `None` when that or the frame's end is beyond the slot.
    fn frame_at(&self, slot: NonNull<u8>) -> Option<usize> {
        let header = self.header(slot);
        let mac = usize::from(header.tp_mac);
        let first = size_of::<libc::tpacket2_hdr>() + size_of::<libc::sockaddr_ll>();
        let from = mac.checked_sub(VNET_HEADER_BYTES).filter(|from| *from >= first)?;
        (mac + header.tp_snaplen as usize <= SLOT_BYTES).then_some(from)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        unmap_ring(self.base, self.slots * SLOT_BYTES);
    }
}
