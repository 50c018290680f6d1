//! Neighbours of one flow in a batch leave as one super-frame, so that the kernel's path to the link is walked once
//! for all of them. Whoever cuts it (the kernel, the card or the receiver) makes the frames that came.
//!
//! Merged are TCP segments and UDP datagrams that differ in nothing but what cutting restores: sequence numbers,
//! lengths, checksums, PSH on the last. All are of one size; the last may be shorter. IPv4 identifications must
//! count up by one, except where DF forbids fragments and so deprives them of meaning (RFC 6864): there they count
//! up from the first. The order within a flow never changes; flows may pass each other within a batch.
//!
//! Left alone: IP options, extension headers, fragments, padded frames, datagrams without a checksum, frames
//! whose checksum is wrong (merging would repair it), flags other than ACK and PSH, and super-frames.

use crate::sys::{BATCH, VNET_HEADER_BYTES};
use crate::vnet::VnetHeader;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const DONT_FRAGMENT: u8 = 0x40;

/// The longest header: virtio_net_hdr, Ethernet, IPv6, TCP with options.
const HEADER_BYTES: usize = VNET_HEADER_BYTES + ETHERNET_BYTES + IPV6_BYTES + 60;

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
pub struct Departure<'a> {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Its virtio_net_hdr, and then the frame from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Whether its layer-4 checksum is known to be right or still to be filled in.
    pub is_checked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct FlowKey {
    ifindex: u32,
    is_v6: bool,
    protocol: u8,
    addresses: [u8; 32],
    ports: [u8; 4],
}

/// A frame as the rules see it.
enum Kind {
    /// Of no flow that can be told: nothing may pass it.
    Opaque,
    /// Of this flow, and to be sent as it is.
    Lone(FlowKey),
    Segment(Segment),
}

#[derive(Clone, Copy)]
struct Segment {
    flow: FlowKey,
    /// Where the layer-4 header begins, and where the payload.
    l4: usize,
    payload: usize,
    payload_len: usize,
    is_last: bool,
}

/// Frames that leave as one: often just one.
struct Group {
    flow: FlowKey,
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
    /// Groups before this one are closed to everything that follows.
    barrier: usize,
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
        Self { groups: Vec::with_capacity(BATCH), next: [END; BATCH], barrier: 0, tcp: true, udp: true }
    }
}

impl Coalescer {
    /// Forgets the batch before.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.barrier = 0;
    }

    /// Takes frame `at` of the batch, at most [`BATCH`] of them and each once; `frame` tells every one taken so far.
    pub fn add<'f>(&mut self, at: usize, frame: impl Fn(usize) -> Departure<'f>) {
        let departure = frame(at);
        let (flow, segment) = match classify(&departure) {
            Kind::Segment(segment) if self.merges(segment.flow.protocol) => (segment.flow, Some(segment)),
            Kind::Segment(Segment { flow, .. }) | Kind::Lone(flow) => (flow, None),
            Kind::Opaque => {
                self.barrier = self.groups.len() + 1;
                (FlowKey::default(), None)
            }
        };
        let from = self.barrier.max(self.groups.len().saturating_sub(LOOK_BACK));
        let latest = self.groups.get_mut(from..).and_then(|g| g.iter_mut().rev().find(|g| g.flow == flow));
        if let (Some(segment), Some(group)) = (&segment, latest)
            && group.takes(segment, departure.bytes)
            && (departure.is_checked || is_checksum_right(segment, departure.bytes))
            && group.is_sound(|first| frame(first).bytes)
        {
            self.next[usize::from(group.last)] = at as u8;
            group.append(at, segment);
        } else {
            self.groups.push(Group::new(at, flow, segment, &departure));
        }
        self.next[at] = END;
    }

    /// The groups in the order of their first frames.
    pub fn groups(&self) -> impl Iterator<Item = Gathered<'_>> {
        self.groups.iter().map(|group| Gathered { group, next: &self.next })
    }

    /// Writes the headers of the super-frames; to be called once a batch, before they are sent.
    pub fn finish<'f>(&mut self, frame: impl Fn(usize) -> Departure<'f>) {
        for group in self.groups.iter_mut().filter(|g| g.segments > 1) {
            group.write_header(frame(group.last.into()).bytes);
        }
    }

    /// No more super-frames of the protocol of this group, the `at`th: the kernel does not know them.
    pub fn refuse(&mut self, at: usize) {
        match self.groups.get(at).map(|g| g.flow.protocol) {
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
        self.group.flow.ifindex
    }

    /// Its virtio_net_hdr and headers, behind which the payloads of all members follow; `None` for a single frame,
    /// which is sent as it is.
    pub fn header(self) -> Option<&'a [u8]> {
        let segment = self.group.segment.as_ref().filter(|_| self.group.segments > 1)?;
        self.group.header.get(..segment.payload)
    }
}

impl Group {
    fn new(at: usize, flow: FlowKey, segment: Option<Segment>, departure: &Departure<'_>) -> Self {
        let mut header = [0; HEADER_BYTES];
        if let Some(segment) = &segment {
            header[..segment.payload].copy_from_slice(&departure.bytes[..segment.payload]);
        }
        Self {
            flow: FlowKey { ifindex: departure.ifindex, ..flow },
            is_open: segment.is_some_and(|s| !s.is_last),
            is_checked: departure.is_checked,
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
        let total =
            other.payload - VNET_HEADER_BYTES - ETHERNET_BYTES + self.payload_bytes + other.payload_len;
        self.is_open
            && self.segments < MAX_SEGMENTS
            && total <= MAX_PACKET_BYTES
            && other.payload_len <= first.payload_len
            && (other.l4, other.payload) == (first.l4, first.payload)
            && self.continues(other, bytes)
    }

    fn continues(&self, other: &Segment, bytes: &[u8]) -> bool {
        const ETHERNET: usize = VNET_HEADER_BYTES;
        const IP: usize = ETHERNET + ETHERNET_BYTES;
        let (ours, l4) = (&self.header, other.l4);
        let same = |from: usize, to: usize| ours[from..to] == bytes[from..to];
        let is_same_ip = if self.flow.is_v6 {
            same(IP, IP + 4) && same(IP + 6, IP + 8)
        } else {
            // Version and TOS, flags, TTL and protocol; then the identification.
            let number = u16_at(ours, IP + 4).wrapping_add(self.segments as u16);
            same(IP, IP + 2)
                && same(IP + 6, IP + 10)
                && (ours[IP + 6] & DONT_FRAGMENT != 0 || u16_at(bytes, IP + 4) == number)
        };
        is_same_ip
            && same(ETHERNET, IP)
            && (self.flow.protocol == UDP || {
                let sequence = u32_at(ours, l4 + 4).wrapping_add(self.payload_bytes as u32);
                // Acknowledgement and data offset; window; urgent pointer and options.
                u32_at(bytes, l4 + 4) == sequence
                    && same(l4 + 8, l4 + 13)
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, other.payload)
            })
    }

    /// Whether the first frame's checksum is right, found out when it matters.
    fn is_sound<'f>(&mut self, first: impl Fn(usize) -> &'f [u8]) -> bool {
        if !self.is_checked {
            self.is_checked =
                self.segment.as_ref().is_some_and(|s| is_checksum_right(s, first(self.first.into())));
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
        const IP: usize = VNET_HEADER_BYTES + ETHERNET_BYTES;
        let Some(Segment { l4, payload, payload_len, .. }) = self.segment else { return };
        let (header, is_v6, is_udp) = (&mut self.header, self.flow.is_v6, self.flow.protocol == UDP);
        let l4_len = payload - l4 + self.payload_bytes;
        if is_v6 {
            put(header, IP + 4, l4_len as u16);
        } else {
            put(header, IP + 2, (l4 - IP + l4_len) as u16);
            put(header, IP + 10, 0);
            let checksum = !sum(&header[IP..l4], 0);
            put(header, IP + 10, checksum);
        }
        if is_udp {
            put(header, l4 + 4, l4_len as u16);
        } else {
            // Cutting leaves PSH to the last.
            header[l4 + 13] = last[l4 + 13];
        }
        let field = if is_udp { 6 } else { 16 };
        let pseudo = pseudo_sum(header, l4, is_v6, self.flow.protocol, l4_len);
        put(header, l4 + field, pseudo);
        let vnet = VnetHeader::super_frame(
            (is_udp, is_v6),
            payload - VNET_HEADER_BYTES,
            payload_len,
            (l4 - VNET_HEADER_BYTES, field),
        );
        header[..VNET_HEADER_BYTES].copy_from_slice(&vnet);
    }
}

/// All positions count from the virtio_net_hdr on.
fn classify(departure: &Departure<'_>) -> Kind {
    let bytes = departure.bytes;
    let Some((flow, l4)) = flow_of(departure) else { return Kind::Opaque };
    segment_of(flow, l4, bytes).map_or(Kind::Lone(flow), Kind::Segment)
}

/// Flow and beginning of layer 4 of a packet without options, extension headers and fragments.
fn flow_of(departure: &Departure<'_>) -> Option<(FlowKey, usize)> {
    let ip = departure.bytes.get(VNET_HEADER_BYTES + ETHERNET_BYTES..)?;
    let (is_v6, protocol, sources, l3_bytes) = match departure.bytes[VNET_HEADER_BYTES + 12..][..2] {
        // Neither an offset nor "more fragments".
        [0x08, 0x00] if ip.len() >= IPV4_BYTES && ip[0] == 0x45 && u16_at(ip, 6) & 0x3fff == 0 => {
            (false, ip[9], &ip[12..20], IPV4_BYTES)
        }
        [0x86, 0xdd] if ip.len() >= IPV6_BYTES && ip[0] >> 4 == 6 => (true, ip[6], &ip[8..40], IPV6_BYTES),
        _ => return None,
    };
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let ports = *ip.get(l3_bytes..)?.first_chunk()?;
    let mut addresses = [0; 32];
    addresses[..sources.len()].copy_from_slice(sources);
    let flow = FlowKey { ifindex: departure.ifindex, is_v6, protocol, addresses, ports };
    Some((flow, VNET_HEADER_BYTES + ETHERNET_BYTES + l3_bytes))
}

fn segment_of(flow: FlowKey, l4: usize, bytes: &[u8]) -> Option<Segment> {
    const IP: usize = VNET_HEADER_BYTES + ETHERNET_BYTES;
    let field = if flow.protocol == UDP { 6 } else { 16 };
    let vnet = VnetHeader::parse(bytes.first_chunk()?);
    let has_own_checksum = vnet.is_plain_with_checksum_at(l4 - VNET_HEADER_BYTES, field);
    let is_whole = if flow.is_v6 {
        usize::from(u16_at(bytes, IP + 4)) == bytes.len() - l4
    } else {
        usize::from(u16_at(bytes, IP + 2)) == bytes.len() - IP && sum(&bytes[IP..l4], 0) == 0xffff
    };
    if !has_own_checksum || !is_whole {
        return None;
    }
    let (payload, is_last) = if flow.protocol == UDP {
        let header = bytes.get(l4..l4 + UDP_BYTES)?;
        let is_plain = usize::from(u16_at(header, 4)) == bytes.len() - l4 && u16_at(header, 6) != 0;
        (is_plain.then_some(l4 + UDP_BYTES)?, false)
    } else {
        let header = bytes.get(l4..l4 + 20)?;
        let flags = header[13];
        let is_plain = flags & !PSH == ACK && u16_at(header, 18) == 0 && header[12] & 15 == 0;
        let header_bytes = usize::from(header[12] >> 4) * 4;
        ((is_plain && header_bytes >= 20).then_some(l4 + header_bytes)?, flags & PSH != 0)
    };
    let payload_len = bytes.len().checked_sub(payload)?;
    (payload_len > 0).then_some(Segment { flow, l4, payload, payload_len, is_last })
}

fn is_checksum_right(segment: &Segment, bytes: &[u8]) -> bool {
    let Segment { flow, l4, .. } = segment;
    let pseudo = pseudo_sum(bytes, *l4, flow.is_v6, flow.protocol, bytes.len() - l4);
    sum(&bytes[*l4..], pseudo.into()) == 0xffff
}

fn pseudo_sum(bytes: &[u8], l4: usize, is_v6: bool, protocol: u8, l4_len: usize) -> u16 {
    let addresses = if is_v6 { 32 } else { 8 };
    sum(&bytes[l4 - addresses..l4], u64::from(protocol) + l4_len as u64)
}

/// The one's complement sum of big-endian words, `start` included.
fn sum(bytes: &[u8], start: u64) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = words.iter().fold(start, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_be_bytes(tail));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
