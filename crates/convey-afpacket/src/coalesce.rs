//! Neighbours of one flow in a batch leave as one super-frame, so that the kernel's path to the link is walked once
//! for all of them. Whoever cuts it (the kernel, the card or the receiver) makes the frames that came.
//!
//! Merged are TCP segments and UDP datagrams that differ in nothing but what cutting restores: sequence numbers,
//! lengths, checksums, PSH on the last. All are of one size; the last may be shorter. IPv4 identifications must
//! count up by one, except where DF forbids fragments and so deprives them of meaning (RFC 6864): there they count
//! up from the first. The order within a flow never changes; flows may pass each other within a batch.
//!
//! Left alone: IP options, extension headers, fragments, datagrams without a checksum, frames whose checksum is
//! wrong (merging would repair it), flags other than ACK and PSH, and super-frames. The packet path has told where
//! the headers lie; a frame whose flow it did not tell (an ICMP error, an answer of ours) joins none.

use convey_engine::Headers;
use convey_packet::bytes::{get8, get16, get32, put16};
use convey_packet::checksum::{fold, sum};
use convey_packet::{ETHERNET_LEN, UDP, tcp_flags, transport};

use crate::sys::{BATCH, VNET_HEADER_BYTES};
use crate::vnet::VnetHeader;

/// Where the IP header starts behind a virtio_net_hdr.
const IP: usize = VNET_HEADER_BYTES + ETHERNET_LEN;
const IPV6_BYTES: usize = 40;
const DONT_FRAGMENT: u8 = 0x40;

/// The longest header: virtio_net_hdr, Ethernet, IPv6, TCP with options.
const HEADER_BYTES: usize = IP + IPV6_BYTES + 60;

/// Longest IP packet.
const MAX_PACKET_BYTES: usize = 65_535;

/// UDP_MAX_SEGMENTS of kernels before 6.9.
const MAX_SEGMENTS: usize = 64;

/// Groups a frame is compared with, from the last one back.
const LOOK_BACK: usize = 16;

/// Ends the list of a group's members.
const END: u8 = u8::MAX;
const _: () = assert!(BATCH < END as usize);

/// A frame that is to leave.
#[derive(Debug, Clone, Copy)]
pub struct TxFrame<'a> {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Its virtio_net_hdr, and then the frame from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Whether its layer-4 checksum is known to be right or still to be filled in.
    pub is_checked: bool,
    /// Its flow, as [`convey_engine::Forward`] tells it.
    pub flow: Option<u32>,
    /// Its headers, likewise.
    pub headers: Option<Headers>,
}

/// A frame that may be merged. Positions count from the virtio_net_hdr on.
#[derive(Clone, Copy)]
struct Segment {
    is_v6: bool,
    protocol: u8,
    /// Where the layer-4 header begins, and where the payload.
    l4: usize,
    payload: usize,
    payload_len: usize,
    is_last: bool,
}

/// Frames that leave as one: often just one.
struct Group {
    ifindex: u32,
    flow: Option<u32>,
    /// Whether another segment may follow.
    is_open: bool,
    is_checked: bool,
    first: u8,
    last: u8,
    segments: usize,
    payload_bytes: usize,
    segment: Option<Segment>,
    header: [u8; HEADER_BYTES],
}

/// Gathers the frames of a batch into groups.
pub struct Coalescer {
    groups: Vec<Group>,
    /// The member behind each, by its number in the batch.
    next: [u8; BATCH],
    tcp: bool,
    udp: bool,
}

/// A group of frames, ready to be sent.
#[derive(Clone, Copy)]
pub struct Gathered<'a> {
    group: &'a Group,
    next: &'a [u8; BATCH],
}

impl Default for Coalescer {
    fn default() -> Self {
        Self { groups: Vec::with_capacity(BATCH), next: [END; BATCH], tcp: true, udp: true }
    }
}

impl Coalescer {
    /// Forgets the batch before.
    pub fn clear(&mut self) {
        self.groups.clear();
    }

    /// Takes frame `at` of the batch, at most [`BATCH`] of them and each once; `frame` tells every one taken so far.
    pub fn add<'f>(&mut self, at: usize, frame: impl Fn(usize) -> TxFrame<'f>) {
        let tx_frame = frame(at);
        let TxFrame { ifindex, flow, .. } = tx_frame;
        let segment = Segment::of(&tx_frame).filter(|segment| self.merges(segment.protocol));
        let from = self.groups.len().saturating_sub(LOOK_BACK);
        let is_same = |group: &&mut Group| group.flow == flow && group.ifindex == ifindex;
        let latest = match flow {
            Some(_) => self.groups.get_mut(from..).and_then(|groups| groups.iter_mut().rev().find(is_same)),
            None => None,
        };
        if let (Some(segment), Some(group)) = (&segment, latest)
            && group.takes(segment, tx_frame.bytes)
            && (tx_frame.is_checked || segment.is_checksum_right(tx_frame.bytes))
            && group.is_sound(|first| frame(first).bytes)
        {
            self.next[usize::from(group.last)] = at as u8;
            group.append(at, segment);
        } else {
            self.groups.push(Group::new(at, segment, &tx_frame));
        }
        self.next[at] = END;
    }

    /// The groups in the order of their first frames.
    pub fn groups(&self) -> impl Iterator<Item = Gathered<'_>> {
        self.groups.iter().map(|group| Gathered { group, next: &self.next })
    }

    /// Writes the headers of the super-frames; to be called once a batch, before they are sent.
    pub fn finish<'f>(&mut self, frame: impl Fn(usize) -> TxFrame<'f>) {
        for group in self.groups.iter_mut().filter(|g| g.segments > 1) {
            group.write_header(frame(group.last.into()).bytes);
        }
    }

    /// No more super-frames of the protocol of this group, the `at`th: the kernel does not know them.
    pub fn refuse(&mut self, at: usize) {
        match self.groups.get(at).and_then(|g| g.segment).map(|s| s.protocol) {
            Some(UDP) => self.udp = false,
            _ => self.tcp = false,
        }
    }

    fn merges(&self, protocol: u8) -> bool {
        if protocol == UDP { self.udp } else { self.tcp }
    }
}

impl<'a> Gathered<'a> {
    /// The numbers of its frames in the batch, in order.
    pub fn members(self) -> impl Iterator<Item = usize> + 'a {
        let mut at = self.group.first;
        std::iter::from_fn(move || {
            let here = usize::from(at);
            at = *self.next.get(here)?;
            Some(here)
        })
    }

    /// How many they are.
    pub fn len(self) -> usize {
        self.group.segments
    }

    /// The interface they leave by.
    pub fn ifindex(self) -> u32 {
        self.group.ifindex
    }

    /// Its virtio_net_hdr and headers, behind which the payloads of all members follow; `None` for a single frame,
    /// which is sent as it is.
    pub fn header(self) -> Option<&'a [u8]> {
        let segment = self.group.segment.as_ref().filter(|_| self.group.segments > 1)?;
        self.group.header.get(..segment.payload)
    }
}

impl Group {
    fn new(at: usize, segment: Option<Segment>, tx_frame: &TxFrame<'_>) -> Self {
        let mut header = [0; HEADER_BYTES];
        if let Some(segment) = &segment {
            header[..segment.payload].copy_from_slice(&tx_frame.bytes[..segment.payload]);
        }
        Self {
            ifindex: tx_frame.ifindex,
            flow: tx_frame.flow,
            is_open: segment.is_some_and(|s| !s.is_last),
            is_checked: tx_frame.is_checked,
            first: at as u8,
            last: at as u8,
            segments: 1,
            payload_bytes: segment.map_or(0, |s| s.payload_len),
            segment,
            header,
        }
    }

    /// Whether the frame continues this group so that cutting gives it back.
    fn takes(&self, other: &Segment, bytes: &[u8]) -> bool {
        let Some(first) = &self.segment else { return false };
        let total = other.payload - IP + self.payload_bytes + other.payload_len;
        self.is_open
            && self.segments < MAX_SEGMENTS
            && total <= MAX_PACKET_BYTES
            && other.payload_len <= first.payload_len
            && (other.l4, other.payload) == (first.l4, first.payload)
            && self.continues(other, bytes)
    }

    fn continues(&self, other: &Segment, bytes: &[u8]) -> bool {
        let (ours, l4) = (&self.header[..], other.l4);
        let same = |from: usize, to: usize| ours.get(from..to) == bytes.get(from..to);
        let is_same_ip = if other.is_v6 {
            same(IP, IP + 4) && same(IP + 6, l4)
        } else {
            // Version and TOS; flags, TTL and protocol; addresses; then the identification.
            let number = get16(ours, IP + 4).map(|first| first.wrapping_add(self.segments as u16));
            same(IP, IP + 2)
                && same(IP + 6, IP + 10)
                && same(IP + 12, l4)
                && (ours[IP + 6] & DONT_FRAGMENT != 0 || get16(bytes, IP + 4) == number)
        };
        // MACs and EtherType; ports.
        same(VNET_HEADER_BYTES, IP)
            && is_same_ip
            && same(l4, l4 + 4)
            && (other.protocol == UDP || {
                let sequence = get32(ours, l4 + 4).map(|first| first.wrapping_add(self.payload_bytes as u32));
                // Acknowledgement and data offset; window; urgent pointer and options.
                get32(bytes, l4 + 4) == sequence
                    && same(l4 + 8, l4 + 13)
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, other.payload)
            })
    }

    /// Whether the first frame's checksum is right, found out when it matters.
    fn is_sound<'f>(&mut self, first: impl Fn(usize) -> &'f [u8]) -> bool {
        if !self.is_checked {
            self.is_checked =
                self.segment.as_ref().is_some_and(|s| s.is_checksum_right(first(self.first.into())));
            self.is_open = self.is_checked;
        }
        self.is_checked
    }

    fn append(&mut self, at: usize, segment: &Segment) {
        self.is_open = !segment.is_last && self.segment.is_some_and(|s| s.payload_len == segment.payload_len);
        self.last = at as u8;
        self.segments += 1;
        self.payload_bytes += segment.payload_len;
    }

    fn write_header(&mut self, last: &[u8]) {
        let Some(segment) = self.segment else { return };
        let Segment { is_v6, protocol, l4, payload, payload_len, .. } = segment;
        let (header, is_udp) = (&mut self.header[..], protocol == UDP);
        let l4_len = payload - l4 + self.payload_bytes;
        if is_v6 {
            put16(header, IP + 4, l4_len as u16);
        } else {
            put16(header, IP + 2, (l4 - IP + l4_len) as u16);
            put16(header, IP + 10, 0);
            let checksum = !sum(&header[IP..l4]);
            put16(header, IP + 10, checksum);
        }
        if is_udp {
            put16(header, l4 + 4, l4_len as u16);
        } else {
            // Cutting leaves PSH to the last.
            header[l4 + 13] = last[l4 + 13];
        }
        let field = transport::checksum_offset(protocol).unwrap_or_default();
        let pseudo = segment.pseudo_sum(header, l4_len);
        put16(header, l4 + field, pseudo);
        let vnet = VnetHeader::super_frame(
            (is_udp, is_v6),
            payload - VNET_HEADER_BYTES,
            payload_len,
            (l4 - VNET_HEADER_BYTES, field),
        );
        header[..VNET_HEADER_BYTES].copy_from_slice(&vnet);
    }
}

impl Segment {
    /// The frame, if it may be merged at all.
    fn of(tx_frame: &TxFrame<'_>) -> Option<Self> {
        let Headers { is_v6, protocol, l4, payload } = tx_frame.headers?;
        let (l4, payload) = (usize::from(l4), usize::from(payload));
        let bytes = tx_frame.bytes;
        let vnet = VnetHeader::parse(bytes.first_chunk()?);
        if !vnet.is_plain_with_checksum_at(l4, transport::checksum_offset(protocol)?) {
            return None;
        }
        let (l4, payload) = (l4 + VNET_HEADER_BYTES, payload + VNET_HEADER_BYTES);
        let payload_len = bytes.len().checked_sub(payload).filter(|len| *len > 0)?;
        let is_last = if protocol == UDP {
            let is_whole = usize::from(get16(bytes, l4 + 4)?) == bytes.len() - l4;
            (is_whole && get16(bytes, l4 + 6)? != 0).then_some(false)?
        } else {
            let flags = get8(bytes, l4 + 13)?;
            let is_plain = flags & !tcp_flags::PSH == tcp_flags::ACK
                && get16(bytes, l4 + 18)? == 0
                && get8(bytes, l4 + 12)? & 15 == 0;
            is_plain.then_some(flags & tcp_flags::PSH != 0)?
        };
        Some(Self { is_v6, protocol, l4, payload, payload_len, is_last })
    }

    fn is_checksum_right(&self, bytes: &[u8]) -> bool {
        let pseudo = self.pseudo_sum(bytes, bytes.len() - self.l4);
        fold(u64::from(pseudo) + u64::from(sum(&bytes[self.l4..]))) == 0xffff
    }

    /// Over the addresses, which end where layer 4 begins.
    fn pseudo_sum(&self, bytes: &[u8], l4_len: usize) -> u16 {
        let addresses = if self.is_v6 { 32 } else { 8 };
        let addresses = sum(&bytes[self.l4 - addresses..self.l4]);
        fold(u64::from(addresses) + u64::from(self.protocol) + l4_len as u64)
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
