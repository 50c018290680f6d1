//! The virtio_net_hdr in front of every frame: which checksum is open, and how a super-frame is cut.

use convey_engine::{Checksum, FrameMeta, Gso};

use crate::sys::VNET_HEADER_BYTES;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// In the GSO type: CWR is set in the first segment alone.
const GSO_ECN: u8 = 0x80;

/// Longest header part worth keeping linear: Ethernet, IPv6 with options, TCP with options.
const MAX_LINEAR_BYTES: u16 = 256;

/// A virtio_net_hdr (native byte order, no `num_buffers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHeader {
    /// Reads a header as the kernel wrote it.
    pub fn parse(bytes: &[u8; VNET_HEADER_BYTES]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// What the packet path wants to know.
    pub fn meta(&self, ingress_ifindex: u32) -> FrameMeta {
        let checksum = if self.flags & NEEDS_CSUM != 0 {
            Checksum::Partial { start: self.csum_start, offset: self.csum_offset }
        } else {
            Checksum::Complete
        };
        let gso = (self.gso_type != 0).then_some(Gso { kind: self.gso_type, size: self.gso_size });
        FrameMeta { ingress_ifindex, checksum, gso }
    }

    /// The header to send the rewritten frame with: open checksum and segment size as they came, and nothing
    /// that the rewrite may have made untrue (DATA_VALID).
    pub fn forwarded(&self) -> [u8; VNET_HEADER_BYTES] {
        let mut out = Self { flags: self.flags & NEEDS_CSUM, ..*self };
        if out.flags == 0 {
            (out.csum_start, out.csum_offset) = (0, 0);
        }
        if out.gso_type == 0 {
            (out.gso_size, out.header_len) = (0, 0);
        } else {
            // The sender's kernel allocates this much in one piece; GRO may have left the payload in it.
            out.header_len = out.header_len.min(MAX_LINEAR_BYTES);
        }
        out.bytes()
    }

    /// The header of a plain frame whose layer-4 checksum is still open: `offset` behind `start`, over everything from
    /// there on.
    pub fn with_open_checksum(start: u16, offset: u16) -> [u8; VNET_HEADER_BYTES] {
        Self { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Self::default() }.bytes()
    }

    /// Where summing starts, from the first byte of the frame, and how far behind the open checksum is.
    pub fn open_checksum(&self) -> Option<(usize, usize)> {
        (self.flags & NEEDS_CSUM != 0).then_some((self.csum_start.into(), self.csum_offset.into()))
    }

    /// Whether the frame stands for several.
    pub fn is_super_frame(&self) -> bool {
        self.gso_type != 0
    }

    /// The header of a plain frame whose checksums are whole.
    pub fn plain() -> [u8; VNET_HEADER_BYTES] {
        [0; VNET_HEADER_BYTES]
    }

    /// The header of a plain frame whose checksum is open: `offset` behind `start`.
    pub fn open(start: usize, offset: usize) -> [u8; VNET_HEADER_BYTES] {
        Self { flags: NEEDS_CSUM, csum_start: start as u16, csum_offset: offset as u16, ..Self::default() }
            .bytes()
    }

    /// Of a super-frame: payload bytes of one segment.
    pub fn segment_bytes(&self) -> Option<u16> {
        (self.gso_type != 0 && self.gso_size != 0).then_some(self.gso_size)
    }

    /// Whether its first segment tells that the congestion window was reduced.
    pub fn has_ecn(&self) -> bool {
        self.gso_type & GSO_ECN != 0
    }

    /// Has the header at the beginning of `bytes` say so.
    pub fn set_ecn(bytes: &mut [u8]) {
        if let Some(gso_type) = bytes.get_mut(1) {
            *gso_type |= GSO_ECN;
        }
    }

    /// Whether the layer-4 checksum needs no look: still to be filled in, or found right on the way here.
    pub fn is_checked(&self) -> bool {
        self.flags & (NEEDS_CSUM | DATA_VALID) != 0
    }

    /// Whether this is no super-frame, and its checksum, if it is open, is the one at `offset` behind `start`.
    pub fn is_plain_with_checksum_at(&self, start: usize, offset: usize) -> bool {
        self.gso_type == 0
            && (self.flags & NEEDS_CSUM == 0
                || (usize::from(self.csum_start), usize::from(self.csum_offset)) == (start, offset))
    }

    /// The header of a super-frame of UDP or TCP, to be cut into segments of `segment_bytes` behind
    /// `header_bytes` of headers, its checksum open `checksum.1` behind `checksum.0`.
    pub fn super_frame(
        (is_udp, is_v6): (bool, bool),
        header_bytes: usize,
        segment_bytes: usize,
        checksum: (usize, usize),
    ) -> [u8; VNET_HEADER_BYTES] {
        Self {
            flags: NEEDS_CSUM,
            gso_type: match (is_udp, is_v6) {
                (true, _) => GSO_UDP_L4,
                (false, true) => GSO_TCPV6,
                (false, false) => GSO_TCPV4,
            },
            header_len: header_bytes as u16,
            gso_size: segment_bytes as u16,
            csum_start: checksum.0 as u16,
            csum_offset: checksum.1 as u16,
        }
        .bytes()
    }

    fn bytes(&self) -> [u8; VNET_HEADER_BYTES] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_frame_with_an_open_checksum_keeps_both() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: 1,
            header_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        let meta = header.meta(7);
        assert_eq!(meta.ingress_ifindex, 7);
        assert_eq!(meta.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert_eq!(meta.gso, Some(Gso { kind: 1, size: 1448 }));
        assert_eq!(VnetHeader::parse(&header.forwarded()), header);
    }

    #[test]
    fn data_valid_is_not_passed_on() {
        let header = VnetHeader { flags: DATA_VALID, ..VnetHeader::default() };
        assert_eq!(header.meta(1).checksum, Checksum::Complete);
        assert_eq!(header.forwarded(), VnetHeader::plain());
    }

    #[test]
    fn a_linear_part_that_holds_payload_is_cut_to_the_headers() {
        let header = VnetHeader { gso_type: 4, header_len: 9000, gso_size: 1428, ..VnetHeader::default() };
        assert_eq!(VnetHeader::parse(&header.forwarded()).header_len, MAX_LINEAR_BYTES);
    }
}
