//! Which part of which datagram a fragment is.

use crate::bytes::{get8, get16, get32, put16, put32};
use crate::checksum::Delta;
use crate::ip::{Fragment, Ip, MAX_EXTENSION_HEADERS};
use crate::rewrite::adjust;

/// The longest datagram that fragments may make up, its IP header not counted.
const MAX_DATAGRAM_BYTES: usize = 65_535;
const FRAGMENT_HEADER: u8 = 44;

/// A fragment's part of its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What tells its datagram from others between the same two addresses; 16 bits in IPv4.
    pub id: u32,
    /// First byte, behind the IP header (IPv6: behind the fragment header); a multiple of eight.
    pub begin: usize,
    /// Behind its last byte.
    pub end: usize,
    /// Whether more fragments follow it.
    pub has_more: bool,
    /// Where the identification stands in the frame.
    id_at: usize,
}

impl Part {
    /// Reads which part a fragment is; `None` for a whole packet.
    pub fn parse(frame: &[u8], ip: &Ip) -> Option<Self> {
        if ip.fragment == Fragment::No {
            return None;
        }
        let (id_at, id, word, payload) = if ip.is_v6 {
            let at = fragment_header(frame, ip)?;
            (at + 4, get32(frame, at + 4)?, get16(frame, at + 2)?, at + 8)
        } else {
            let id = u32::from(get16(frame, ip.l3 + 4)?);
            (ip.l3 + 4, id, get16(frame, ip.l3 + 6)?, ip.l4)
        };
        let (begin, has_more) = if ip.is_v6 {
            (usize::from(word & 0xfff8), word & 1 != 0)
        } else {
            (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0)
        };
        Some(Self { id, begin, end: begin + ip.end.checked_sub(payload)?, has_more, id_at })
    }

    /// Whether a datagram can have such a part: some bytes, not beyond its largest length, and full words of eight
    /// where more follow (RFC 791, RFC 8200 4.5).
    pub const fn is_possible(&self) -> bool {
        self.end > self.begin
            && self.end <= MAX_DATAGRAM_BYTES
            && (!self.has_more || self.end.is_multiple_of(8))
    }

    /// Writes another identification, of which IPv4 takes the lower 16 bits.
    pub fn write_id(&self, frame: &mut [u8], ip: &Ip, id: u32) {
        if ip.is_v6 {
            put32(frame, self.id_at, id);
        } else {
            put16(frame, self.id_at, id as u16);
            adjust(frame, ip.l3 + 10, Delta::ZERO.word(self.id as u16, id as u16));
        }
    }
}

/// Where the fragment header of a parsed IPv6 fragment stands.
fn fragment_header(frame: &[u8], ip: &Ip) -> Option<usize> {
    let (mut next, mut at) = (get8(frame, ip.l3 + 6)?, ip.l3 + 40);
    for _ in 0..=MAX_EXTENSION_HEADERS {
        // An atomic fragment's header may stand before that of a fragment.
        let is_atomic = get16(frame, at + 2)? & 0xfff9 == 0;
        if next == FRAGMENT_HEADER && !is_atomic {
            return Some(at);
        }
        let len = if next == FRAGMENT_HEADER { 8 } else { (usize::from(get8(frame, at + 1)?) + 1) * 8 };
        next = get8(frame, at)?;
        at += len;
    }
    None
}
