//! What the I/O side knows about a frame besides its bytes.

/// Monotonic time in nanoseconds since any fixed moment. Never wall-clock time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This many milliseconds since the fixed moment.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// This many seconds since the fixed moment.
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000_000)
    }
}

/// State of the layer-4 checksum in the frame (`virtio_net_hdr.flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The field holds a whole checksum, right or wrong.
    #[default]
    Complete,
    /// VIRTIO_NET_HDR_F_NEEDS_CSUM: the field holds the uncomplemented pseudo-header sum; whoever sends the
    /// frame completes it over everything from `start`.
    Partial {
        /// Where summing starts, from the first byte of the frame.
        start: u16,
        /// Where the checksum field lies, from `start`.
        offset: u16,
    },
}

/// A frame that stands for several segments (GRO, GSO, UFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// `virtio_net_hdr.gso_type`, handed through untouched.
    pub kind: u8,
    /// Layer-4 payload bytes of one segment.
    pub size: u16,
}

/// What the I/O side knows about a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Index of the interface the frame came in on.
    pub ingress_ifindex: u32,
    /// State of the layer-4 checksum.
    pub checksum: Checksum,
    /// Set when the frame stands for several segments.
    pub gso: Option<Gso>,
}
