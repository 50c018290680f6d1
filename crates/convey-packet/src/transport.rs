//! TCP and UDP headers.

use crate::bytes::{get8, get16, get32};
use crate::ip::{Fragment, Ip};
use crate::{TCP, UDP};

/// Bits of the TCP flags byte.
pub mod tcp_flags {
    /// The sender is done sending.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends a connection at once.
    pub const RST: u8 = 4;
    /// Deliver at once.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// How a transport header is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportError {
    /// Shorter than the header.
    Truncated,
    /// A TCP data offset below 20 or beyond the packet.
    BadTcpHeader,
    /// TCP flags no stack sends.
    BadTcpFlags,
    /// A UDP length below 8 or beyond the packet.
    BadUdpLength,
}

/// Source and destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

impl Ports {
    /// The ports of a TCP or UDP packet that is no later fragment.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn parse(frame: &[u8], ip: &Ip) -> Result<Self, TransportError> {
        let packet = frame.get(..ip.end).ok_or(TransportError::Truncated)?;
        Ok(Self {
            source: get16(packet, ip.l4).ok_or(TransportError::Truncated)?,
            destination: get16(packet, ip.l4 + 2).ok_or(TransportError::Truncated)?,
        })
    }
}

/// The parts of a TCP header that a flow's state goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number of the first payload byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`tcp_flags`].
    pub flags: u8,
    /// Payload bytes.
    pub payload_len: u32,
    /// Window as it stands in the header, not scaled.
    pub window: u16,
    /// Of a SYN: the window scale it offers (RFC 7323), at most 14.
    pub window_scale: Option<u8>,
}

impl Tcp {
    /// Reads and checks a TCP header.
    ///
    /// # Errors
    /// How it is broken.
    pub fn parse(frame: &[u8], ip: &Ip) -> Result<Self, TransportError> {
        let segment = frame.get(ip.l4..ip.end).ok_or(TransportError::Truncated)?;
        if segment.len() < 20 {
            return Err(TransportError::Truncated);
        }
        let header_len = usize::from(get8(segment, 12).unwrap_or_default() >> 4) * 4;
        if header_len < 20 || header_len > segment.len() {
            return Err(TransportError::BadTcpHeader);
        }
        use tcp_flags::{ACK, FIN, RST, SYN};
        let flags = get8(segment, 13).unwrap_or_default();
        if flags & (FIN | SYN | RST | ACK) == 0 || flags & SYN != 0 && flags & (FIN | RST) != 0 {
            return Err(TransportError::BadTcpFlags);
        }
        Ok(Self {
            seq: get32(segment, 4).unwrap_or_default(),
            ack: get32(segment, 8).unwrap_or_default(),
            flags,
            payload_len: (segment.len() - header_len) as u32,
            window: get16(segment, 14).unwrap_or_default(),
            window_scale: if flags & SYN == 0 {
                None
            } else {
                window_scale(segment.get(20..header_len).unwrap_or_default())
            },
        })
    }

    /// Whether a flag of `mask` is set.
    pub const fn has(&self, mask: u8) -> bool {
        self.flags & mask != 0
    }

    /// The sequence number behind this segment: payload, SYN and FIN counted.
    pub const fn end_seq(&self) -> u32 {
        let control = self.has(tcp_flags::SYN) as u32 + self.has(tcp_flags::FIN) as u32;
        self.seq.wrapping_add(self.payload_len).wrapping_add(control)
    }
}

/// The window scale among the options of a SYN. Options that make no sense end the search.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    const LARGEST: u8 = 14;
    loop {
        options = match *options {
            [] | [END, ..] => return None,
            [NOTHING, ..] => options.get(1..)?,
            [WINDOW_SCALE, 3, shift, ..] => return Some(shift.min(LARGEST)),
            [_, len, ..] if len >= 2 => options.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

/// Checks a UDP header and gives its payload bytes in this packet.
///
/// # Errors
/// How it is broken.
pub fn parse_udp(frame: &[u8], ip: &Ip, is_gso: bool) -> Result<u32, TransportError> {
    let datagram = frame.get(ip.l4..ip.end).ok_or(TransportError::Truncated)?;
    if datagram.len() < 8 {
        return Err(TransportError::Truncated);
    }
    let len = usize::from(get16(datagram, 4).unwrap_or_default());
    if ip.fragment == Fragment::First {
        // More of it is to come.
        return if len > datagram.len() {
            Ok((datagram.len() - 8) as u32)
        } else {
            Err(TransportError::BadUdpLength)
        };
    }
    // Of a GSO frame the field may hold one segment's length, or what is left of a longer one.
    if is_gso {
        return Ok((datagram.len() - 8) as u32);
    }
    if len < 8 || len > datagram.len() {
        return Err(TransportError::BadUdpLength);
    }
    Ok((len - 8) as u32)
}

/// Where the checksum field lies within the transport header, for TCP and UDP.
pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_scale_is_found_among_other_options_and_nonsense_has_none() {
        assert_eq!(window_scale(&[2, 4, 5, 180, 1, 3, 3, 7]), Some(7));
        assert_eq!(window_scale(&[3, 3, 200]), Some(14), "RFC 7323 2.3: more counts as 14");
        let nonsense: [&[u8]; 8] =
            [&[], &[1, 1], &[0, 3, 3, 7], &[3, 4, 7, 0], &[3, 3], &[8], &[8, 0, 3, 3, 7], &[8, 200, 3, 3, 7]];
        assert_eq!(nonsense.map(window_scale), [None; 8]);
    }
}
