//! Ethernet and IP: from a frame to a view whose offsets are within bounds.

use crate::addr::Addr;
use crate::bytes::{get8, get16, get32, get128};
use crate::checksum;
use crate::{ETHERNET_LEN, ICMP, ICMPV6};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// IPv6 extension headers walked before giving up. The kernel guard and the steering of workers walk as many.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Whether a packet is a fragment, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet (IPv6 atomic fragments, RFC 6946, count as whole).
    No,
    /// The first fragment: it has the ports.
    First,
    /// A later one: no ports.
    Later,
}

/// Why a frame has no [`Ip`] view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpError {
    /// Another EtherType.
    NotIp,
    /// An 802.1Q or 802.1ad tag.
    Vlan,
    /// A multicast or broadcast Ethernet destination.
    Multicast,
    /// Shorter than the headers it announces.
    Truncated,
    /// A header length or version that cannot be.
    BadHeader,
    /// The IPv4 header checksum is wrong.
    BadChecksum,
    /// More IPv6 extension headers than are walked.
    ExtensionChain,
    /// IPv6 extension headers that hide the transport, or change the destination.
    OpaqueExtension,
}

/// An IP packet within a frame. All offsets are from the first byte of the frame and within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the transport header starts.
    pub l4: usize,
    /// Where the packet ends; the frame may go on with Ethernet padding.
    pub end: usize,
    /// Transport protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv6 rather than IPv4.
    pub is_v6: bool,
    /// Whether it is a fragment.
    pub fragment: Fragment,
}

impl Ip {
    /// Reads Ethernet and IP headers. `is_gso` tells that the frame stands for several segments, whose total
    /// length may not fit the header's field (then 0).
    ///
    /// # Errors
    /// What the frame is instead, or how it is broken.
    pub fn parse(frame: &[u8], is_gso: bool) -> Result<Self, IpError> {
        let first = get8(frame, 0).ok_or(IpError::Truncated)?;
        let ethertype = get16(frame, 12).ok_or(IpError::Truncated)?;
        let parse = match ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4,
            ETHERTYPE_IPV6 => Self::parse_v6,
            other if ETHERTYPE_VLAN.contains(&other) => return Err(IpError::Vlan),
            _ => return Err(IpError::NotIp),
        };
        if first & 1 != 0 {
            return Err(IpError::Multicast);
        }
        parse(frame, ETHERNET_LEN, is_gso)
    }

    /// Bytes of the IP packet.
    pub const fn len(&self) -> usize {
        self.end - self.l3
    }

    /// Whether the packet has no byte; a parsed one never has none.
    pub const fn is_empty(&self) -> bool {
        self.end == self.l3
    }

    /// Whether the protocol is that family's ICMP.
    pub const fn is_icmp(&self) -> bool {
        if self.is_v6 { self.protocol == ICMPV6 } else { self.protocol == ICMP }
    }

    fn parse_v4(frame: &[u8], l3: usize, is_gso: bool) -> Result<Self, IpError> {
        let header = frame.get(l3..).and_then(|b| b.get(..20)).ok_or(IpError::Truncated)?;
        let header_len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || header_len < 20 {
            return Err(IpError::BadHeader);
        }
        let total = match u16::from_be_bytes([header[2], header[3]]) {
            0 if is_gso => frame.len() - l3,
            total => usize::from(total),
        };
        if total < header_len {
            return Err(IpError::BadHeader);
        }
        let end = l3 + total;
        let l4 = l3 + header_len;
        if end > frame.len() {
            return Err(IpError::Truncated);
        }
        if checksum::sum(frame.get(l3..l4).ok_or(IpError::Truncated)?) != 0xffff {
            return Err(IpError::BadChecksum);
        }
        let fragment = match u16::from_be_bytes([header[6], header[7]]) & 0x3fff {
            0 => Fragment::No,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Self {
            source: Addr::v4(get32(header, 12).unwrap_or_default()),
            destination: Addr::v4(get32(header, 16).unwrap_or_default()),
            l3,
            l4,
            end,
            protocol: header[9],
            ttl: header[8],
            is_v6: false,
            fragment,
        })
    }

    fn parse_v6(frame: &[u8], l3: usize, is_gso: bool) -> Result<Self, IpError> {
        let header = frame.get(l3..).and_then(|b| b.get(..40)).ok_or(IpError::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(IpError::BadHeader);
        }
        let end = match u16::from_be_bytes([header[4], header[5]]) {
            0 if is_gso => frame.len(),
            payload => l3 + 40 + usize::from(payload),
        };
        let packet = frame.get(..end).ok_or(IpError::Truncated)?;
        let (protocol, l4, fragment) = walk_extensions(packet, header[6], l3 + 40)?;
        let source = Addr::v6(get128(header, 8).unwrap_or_default());
        let destination = Addr::v6(get128(header, 24).unwrap_or_default());
        if source.is_v4() || destination.is_v4() {
            return Err(IpError::BadHeader);
        }
        Ok(Self { source, destination, l3, l4, end, protocol, ttl: header[7], is_v6: true, fragment })
    }
}

/// Finds the transport header behind IPv6 extension headers: its protocol, offset and the fragment state.
pub(crate) fn walk_extensions(
    packet: &[u8],
    mut next: u8,
    mut at: usize,
) -> Result<(u8, usize, Fragment), IpError> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut fragment = Fragment::No;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let len = (usize::from(get8(packet, at + 1).ok_or(IpError::Truncated)?) + 1) * 8;
                // With segments left the destination is not the final one, nor is the checksum over it.
                if next == ROUTING && get8(packet, at + 3).ok_or(IpError::Truncated)? != 0 {
                    return Err(IpError::OpaqueExtension);
                }
                next = get8(packet, at).ok_or(IpError::Truncated)?;
                at += len;
            }
            FRAGMENT => {
                let word = get16(packet, at + 2).ok_or(IpError::Truncated)?;
                next = get8(packet, at).ok_or(IpError::Truncated)?;
                at += 8;
                fragment = match (word & 0xfff8, word & 1) {
                    (0, 0) => fragment,
                    (0, _) => Fragment::First,
                    _ => return Ok((next, at.min(packet.len()), Fragment::Later)),
                };
            }
            AUTHENTICATION => return Err(IpError::OpaqueExtension),
            protocol if at <= packet.len() => return Ok((protocol, at, fragment)),
            _ => return Err(IpError::Truncated),
        }
    }
    Err(IpError::ExtensionChain)
}
