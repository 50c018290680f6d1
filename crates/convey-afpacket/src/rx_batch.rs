//! The frames of a batch: small ones where the ring has them, long ones in buffers of their own.

use std::io;
use std::time::Duration;

use convey_engine::Loss;

use crate::ring::{FramePlace, Ring, RingFrame};
use crate::slot::Slot;
use crate::sys::{BATCH, FRAME_BYTES, PacketSocket, VNET_HEADER_BYTES};

/// Long frames taken at once: 256 KB of super-frames, which second-level caches hold.
const LONG_FRAMES: usize = 4;

/// A frame of the batch.
#[derive(Debug, Clone, Copy)]
pub struct RxFrame {
    /// The interface it arrived on.
    pub ifindex: u32,
    /// Bytes of the frame; changed by [`RxBatch::prepare_tx`].
    pub len: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Ring(usize),
    Long(usize),
    Nowhere,
}

/// Receives batches for one worker.
pub struct RxBatch {
    ring: Ring,
    long: Vec<Slot>,
    arrivals: Vec<RxFrame>,
    /// Slots of the ring that the batch holds.
    held: usize,
    /// Whether the queue may hold frames whose announcement is past.
    is_out_of_step: bool,
}

impl RxBatch {
    /// Takes frames from this ring and its socket's queue.
    pub fn new(ring: Ring) -> Self {
        let long = (0..LONG_FRAMES).map(|_| Slot::new()).collect();
        Self { ring, long, arrivals: Vec::with_capacity(BATCH), held: 0, is_out_of_step: false }
    }

    /// Waits for a frame and takes it with those already behind it; returns how many. The batch before is gone.
    ///
    /// # Errors
    /// WouldBlock when the timeout passed, else what the kernel answers.
    pub fn receive(&mut self, socket: &PacketSocket, timeout: Duration) -> io::Result<usize> {
        self.give_back();
        if self.ring.arrived(0).is_none() {
            if self.is_out_of_step {
                while socket.receive(&mut self.long).is_ok() {}
                self.is_out_of_step = false;
            }
            socket.wait(timeout)?;
        }
        let mut long = 0;
        while let Some(RingFrame { ifindex, len, place }) =
            self.ring.arrived(self.held).filter(|_| self.held < BATCH)
        {
            let place = match place {
                FramePlace::InSlot => Place::Ring(self.held),
                FramePlace::InQueue if long == LONG_FRAMES => break,
                FramePlace::InQueue => {
                    long += 1;
                    Place::Long(long - 1)
                }
                FramePlace::Lost => Place::Nowhere,
            };
            self.arrivals.push(RxFrame { ifindex, len, place });
            self.held += 1;
        }
        if long > 0 {
            self.fetch(socket, long);
        }
        Ok(self.arrivals.len())
    }

    /// Makes a batch of one frame that was received before, with its header as [`RxBatch::bytes`] gave both.
    pub fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        self.give_back();
        self.long[0].refill(bytes);
        self.arrivals.push(RxFrame { ifindex, len: self.long[0].len, place: Place::Long(0) });
    }

    /// Frame `at` of the batch, below what [`RxBatch::receive`] returned.
    ///
    /// # Errors
    /// How the frame was lost, when nobody had room for all of it.
    pub fn arrival(&self, at: usize) -> Result<RxFrame, Loss> {
        match self.arrivals[at] {
            RxFrame { place: Place::Nowhere, len, .. } if len > FRAME_BYTES => Err(Loss::RxTooLong),
            RxFrame { place: Place::Nowhere, .. } => Err(Loss::RxQueueFull),
            arrival => Ok(arrival),
        }
    }

    /// Its virtio_net_hdr, the frame, and behind it room in which bytes of earlier ones may stand.
    pub fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        match self.arrivals[at].place {
            Place::Ring(slot) => self.ring.bytes_mut(slot),
            Place::Long(slot) => self.long[slot].buffer_mut(),
            Place::Nowhere => &mut [],
        }
    }

    /// Makes the first `len` bytes of the frame ready to be sent with this header.
    pub fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], len: usize) {
        let buffer = self.buffer_mut(at);
        let len = len.min(buffer.len().saturating_sub(VNET_HEADER_BYTES));
        if let Some(header) = buffer.first_chunk_mut() {
            *header = vnet;
        }
        self.arrivals[at].len = len;
    }

    /// Its virtio_net_hdr and the frame.
    pub fn bytes(&self, at: usize) -> &[u8] {
        let RxFrame { len, place, .. } = self.arrivals[at];
        let buffer = match place {
            Place::Ring(slot) => self.ring.bytes(slot),
            Place::Long(slot) => self.long[slot].buffer(),
            Place::Nowhere => &[],
        };
        buffer.get(..VNET_HEADER_BYTES + len).unwrap_or_default()
    }

    fn give_back(&mut self) {
        self.arrivals.clear();
        self.ring.give_back(std::mem::take(&mut self.held));
    }

    /// Takes the batch's long frames out of the socket's queue, where the kernel put them in the ring's order.
    fn fetch(&mut self, socket: &PacketSocket, count: usize) {
        let mut fetched = 0;
        // An error of the link may wait in the socket, and is told once before the frames are.
        for _ in 0..2 {
            fetched += socket.receive(&mut self.long[fetched..count]).unwrap_or(0);
            if fetched == count {
                break;
            }
        }
        for arrival in &mut self.arrivals {
            if let Place::Long(slot) = arrival.place {
                let slot_len =
                    self.long.get(slot).filter(|s| slot < fetched && !s.is_truncated).map(|s| s.len);
                if slot_len != Some(arrival.len) {
                    arrival.place = Place::Nowhere;
                    self.is_out_of_step = true;
                }
            }
        }
    }
}
