//! ICMP and ICMPv6 errors and the packet they quote, of which eight bytes of transport may be all there is.

use crate::addr::Addr;
use crate::bytes::{get8, get16, get32, get128, put16};
use crate::checksum::Delta;
use crate::ip::{Fragment, Ip, walk_extensions};
use crate::rewrite::{Tuple, adjust, adjust_transport, write_addresses};
use crate::transport::checksum_offset;
use crate::{TCP, UDP};

/// Bytes before the quoted packet.
const ICMP_HEADER_LEN: usize = 8;

/// An ICMP error about a TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the ICMP header starts.
    pub icmp: usize,
    /// The packet it is about.
    pub quoted: Quoted,
}

/// The packet an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Where its IP header starts.
    pub l3: usize,
    /// Where its transport header starts; eight bytes of it are there.
    pub l4: usize,
    /// TCP or UDP.
    pub protocol: u8,
    /// Its addresses and ports, as they were on the wire when the error arose.
    pub tuple: Tuple,
}

/// Whether an ICMP packet is an error that quotes a packet. Redirects, which name a router, are not.
pub fn is_error(frame: &[u8], ip: &Ip) -> bool {
    match get8(frame, ip.l4) {
        Some(kind) if ip.is_v6 => (1..=4).contains(&kind),
        Some(kind) => matches!(kind, 3 | 11 | 12),
        None => false,
    }
}

impl IcmpError {
    /// Reads an ICMP error about a TCP or UDP packet of the same family; `None` for any other.
    pub fn parse(frame: &[u8], ip: &Ip) -> Option<Self> {
        if !ip.is_icmp() || ip.fragment != Fragment::No || !is_error(frame, ip) {
            return None;
        }
        let packet = frame.get(..ip.end)?;
        let l3 = ip.l4 + ICMP_HEADER_LEN;
        let (source, destination, protocol, l4, fragment) = if ip.is_v6 {
            if get8(packet, l3)? >> 4 != 6 {
                return None;
            }
            let (protocol, l4, fragment) = walk_extensions(packet, get8(packet, l3 + 6)?, l3 + 40).ok()?;
            let (source, destination) = (get128(packet, l3 + 8)?, get128(packet, l3 + 24)?);
            (Addr::v6(source), Addr::v6(destination), protocol, l4, fragment)
        } else {
            let first = get8(packet, l3)?;
            let header_len = usize::from(first & 15) * 4;
            if first >> 4 != 4 || header_len < 20 {
                return None;
            }
            let later = get16(packet, l3 + 6)? & 0x1fff != 0;
            let fragment = if later { Fragment::Later } else { Fragment::No };
            let (source, destination) = (get32(packet, l3 + 12)?, get32(packet, l3 + 16)?);
            (Addr::v4(source), Addr::v4(destination), get8(packet, l3 + 9)?, l3 + header_len, fragment)
        };
        packet.get(l4..l4 + 8)?;
        if fragment == Fragment::Later || (protocol != TCP && protocol != UDP) {
            return None;
        }
        let tuple = Tuple {
            source,
            source_port: get16(packet, l4)?,
            destination,
            destination_port: get16(packet, l4 + 2)?,
        };
        Some(Self { icmp: ip.l4, quoted: Quoted { l3, l4, protocol, tuple } })
    }

    /// Puts the tuple `new` into the quoted packet and adjusts its checksums, as far as they are quoted, and the
    /// ICMP checksum. `pseudo_header` is the change of the outer addresses, which ICMPv6 sums too.
    pub fn rewrite_quoted(&self, frame: &mut [u8], ip: &Ip, new: &Tuple, pseudo_header: Delta) {
        let Quoted { l3, l4, protocol, tuple: old } = self.quoted;
        let addresses = Delta::ZERO
            .word128(old.source.bits(), new.source.bits())
            .word128(old.destination.bits(), new.destination.bits());
        let ports = Delta::ZERO
            .word(old.source_port, new.source_port)
            .word(old.destination_port, new.destination_port);
        let mut icmp = addresses.plus(ports);

        write_addresses(frame, l3, ip.is_v6, new.source, new.destination);
        put16(frame, l4, new.source_port);
        put16(frame, l4 + 2, new.destination_port);
        if ip.is_v6 {
            icmp = icmp.plus(pseudo_header);
        } else {
            icmp = icmp.plus(changed_word(frame, l3 + 10, |f| adjust(f, l3 + 10, addresses)));
        }
        if let Some(offset) = checksum_offset(protocol)
            && l4 + offset + 2 <= ip.end
        {
            let at = l4 + offset;
            let delta = addresses.plus(ports);
            icmp = icmp.plus(changed_word(frame, at, |f| adjust_transport(f, at, protocol, delta)));
        }
        adjust(frame, self.icmp + 2, icmp);
    }
}

/// Runs `change` and gives the checksum change of the word at `at`.
fn changed_word(frame: &mut [u8], at: usize, change: impl FnOnce(&mut [u8])) -> Delta {
    let old = get16(frame, at).unwrap_or_default();
    change(frame);
    Delta::ZERO.word(old, get16(frame, at).unwrap_or_default())
}
