//! The seam between a worker and its socket: a batch of frames in, frames out. The kernel's side is thin, so what a
//! worker does with frames, errors and its end is tested without root.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use convey_engine::{Decided, Loss, NextHops};

use crate::rx_batch::RxBatch;
use crate::sockets::Sockets;
use crate::sys::{Pieces, VNET_HEADER_BYTES};

/// Where a worker's frames come from and go to. One batch at a time: the next one replaces it.
pub trait FrameIo {
    /// Waits for a batch and tells how many frames it has.
    ///
    /// # Errors
    /// WouldBlock when the timeout passed, else what the kernel answers.
    fn receive(&mut self, timeout: Duration) -> io::Result<usize>;

    /// Makes a batch of one frame that was received before, with its header as [`FrameIo::bytes`] gave both.
    fn refill(&mut self, ifindex: u32, bytes: &[u8]);

    /// The interface that frame `at` of the batch arrived on, and its length in bytes.
    ///
    /// # Errors
    /// How it was lost.
    fn arrival(&self, at: usize) -> Result<(u32, usize), Loss>;

    /// Its virtio_net_hdr, the frame, and behind it room in which bytes of earlier ones may stand.
    fn buffer_mut(&mut self, at: usize) -> &mut [u8];

    /// Makes the first `len` bytes of the frame ready to be sent with this header.
    fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], len: usize);

    /// The frame goes on by this interface, as it stands in its buffer.
    fn forwards(&mut self, _at: usize, _next_hops: &NextHops) {}

    /// What others have decided on packets that somebody watches, since this was asked last.
    fn take_decided(&mut self) -> Vec<Decided> {
        Vec::new()
    }

    /// Its virtio_net_hdr and the frame.
    fn bytes(&self, at: usize) -> &[u8];

    /// Sends frames without waiting; tells how many of the first went out.
    ///
    /// # Errors
    /// What stopped the first, when none went out.
    fn send(&self, frames: &[Pieces<'_>]) -> io::Result<usize>;

    /// Frame `at` of the batch is the kernel's to deal with, and still as it was received. Where the kernel has seen it
    /// already there is nothing to do.
    fn pass(&mut self, _at: usize) {}
}

/// A worker's socket.
pub struct KernelFrames {
    rx: RxBatch,
    sockets: Arc<Sockets>,
    index: usize,
}

impl KernelFrames {
    /// Of worker `index`.
    pub fn new(rx: RxBatch, sockets: Arc<Sockets>, index: usize) -> Self {
        Self { rx, sockets, index }
    }
}

impl FrameIo for KernelFrames {
    fn receive(&mut self, timeout: Duration) -> io::Result<usize> {
        self.rx.receive(self.sockets.of(self.index), timeout)
    }

    fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        self.rx.refill(ifindex, bytes);
    }

    fn arrival(&self, at: usize) -> Result<(u32, usize), Loss> {
        self.rx.arrival(at).map(|arrival| (arrival.ifindex, arrival.len))
    }

    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        self.rx.buffer_mut(at)
    }

    fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], len: usize) {
        self.rx.prepare_tx(at, vnet, len);
    }

    fn bytes(&self, at: usize) -> &[u8] {
        self.rx.bytes(at)
    }

    fn send(&self, frames: &[Pieces<'_>]) -> io::Result<usize> {
        self.sockets.of(self.index).send_pieces(frames)
    }
}
