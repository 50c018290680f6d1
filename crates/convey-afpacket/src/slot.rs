//! Memory for one frame that is too long for the ring.

use crate::sys::{FRAME_BYTES, VNET_HEADER_BYTES};

/// Where the frame begins in a slot's buffer: behind its virtio_net_hdr, so that both move as one piece of memory.
const FRAME_AT: usize = 16;
const VNET_AT: usize = FRAME_AT - VNET_HEADER_BYTES;

/// A long frame in its buffer.
pub struct Slot {
    /// Bytes of the frame.
    pub len: usize,
    /// Whether the frame was longer than the buffer and lost its end.
    pub is_truncated: bool,
    buffer: Box<[u8]>,
}

impl Slot {
    /// An empty slot of [`FRAME_BYTES`].
    pub fn new() -> Self {
        let buffer = vec![0; FRAME_AT + FRAME_BYTES].into_boxed_slice();
        Self { len: 0, is_truncated: false, buffer }
    }

    /// The virtio_net_hdr that came with the frame, the frame, and behind it room in which bytes of earlier ones
    /// may stand.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer[VNET_AT..]
    }

    /// [`Slot::buffer`], to be changed.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[VNET_AT..]
    }

    /// Puts back a frame that was received before, behind its header.
    pub fn refill(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.buffer.len() - VNET_AT);
        self.buffer[VNET_AT..VNET_AT + len].copy_from_slice(&bytes[..len]);
        self.len = len.saturating_sub(VNET_HEADER_BYTES);
        self.is_truncated = false;
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}
