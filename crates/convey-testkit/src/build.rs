//! Frames built from what they should say.

use std::net::{IpAddr, SocketAddr};

/// TCP flags as letters are written: see [`PacketBuilder::flags`].
pub const SYN: u8 = 2;
/// See [`SYN`].
pub const ACK: u8 = 16;
/// See [`SYN`].
pub const FIN: u8 = 1;
/// See [`SYN`].
pub const RST: u8 = 4;
/// See [`SYN`].
pub const PSH: u8 = 8;

#[derive(Debug, Clone)]
enum Transport {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
        window: u16,
        options: Vec<u8>,
        offset: Option<u8>,
    },
    Udp {
        checksum: bool,
        len: Option<u16>,
    },
    /// Protocol number, and a message whose bytes 2 and 3 become the ICMP checksum where it is ICMP.
    Other(u8, Vec<u8>),
}

/// A TCP, UDP, ICMP or other IP packet in an Ethernet frame. Addresses must be of one family.
#[derive(Debug, Clone)]
pub struct PacketBuilder {
    source: SocketAddr,
    destination: SocketAddr,
    transport: Transport,
    payload: Vec<u8>,
    macs: ([u8; 6], [u8; 6]),
    ttl: u8,
    tos: u8,
    id: u16,
    dont_fragment: bool,
    fragment: Option<(u16, bool)>,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    trailer: usize,
    partial: bool,
    corrupt: u16,
    corrupt_ip: bool,
    vlan: Option<u16>,
}

impl PacketBuilder {
    fn new(source: &str, destination: &str, transport: Transport) -> Self {
        Self {
            source: socket(source),
            destination: socket(destination),
            transport,
            payload: Vec::new(),
            macs: ([0; 6], [0; 6]),
            ttl: 64,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            fragment: None,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            trailer: 0,
            partial: false,
            corrupt: 0,
            corrupt_ip: false,
            vlan: None,
        }
    }

    /// A TCP segment with ACK set, `ip:port` to `ip:port`.
    pub fn tcp(source: &str, destination: &str) -> Self {
        let (options, offset) = (Vec::new(), None);
        let tcp = Transport::Tcp { flags: ACK, seq: 1001, ack: 5001, window: 64240, options, offset };
        Self::new(source, destination, tcp)
    }

    /// A TCP SYN with sequence number 1000 and an MSS option.
    pub fn syn(source: &str, destination: &str) -> Self {
        Self::tcp(source, destination).flags(SYN).seq(1000, 0).tcp_options(&[2, 4, 5, 180])
    }

    /// A UDP datagram.
    pub fn udp(source: &str, destination: &str) -> Self {
        Self::new(source, destination, Transport::Udp { checksum: true, len: None })
    }

    /// An ICMP (or ICMPv6) message: type, code, the four bytes after the checksum and what follows.
    pub fn icmp(source: &str, destination: &str, kind: u8, code: u8, rest: u32, body: &[u8]) -> Self {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.to_be_bytes());
        message.extend(body);
        let protocol = if socket(source).is_ipv4() { 1 } else { 58 };
        Self::new(source, destination, Transport::Other(protocol, message))
    }

    /// A packet of another protocol with these bytes.
    pub fn other(source: &str, destination: &str, protocol: u8, bytes: &[u8]) -> Self {
        Self::new(source, destination, Transport::Other(protocol, bytes.to_vec()))
    }

    /// Destination and source MAC.
    #[must_use]
    pub fn macs(mut self, destination: [u8; 6], source: [u8; 6]) -> Self {
        self.macs = (destination, source);
        self
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = new;
        }
        self
    }

    /// TCP sequence and acknowledgement number.
    #[must_use]
    pub fn seq(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Transport::Tcp { seq, ack, .. } = &mut self.transport {
            *seq = new_seq;
            *ack = new_ack;
        }
        self
    }

    /// TCP window.
    #[must_use]
    pub fn window(mut self, new: u16) -> Self {
        if let Transport::Tcp { window, .. } = &mut self.transport {
            *window = new;
        }
        self
    }

    /// TCP options; a multiple of four bytes.
    #[must_use]
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = bytes.to_vec();
        }
        self
    }

    /// A TCP data offset that lies, in 32-bit words.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        if let Transport::Tcp { offset, .. } = &mut self.transport {
            *offset = Some(words);
        }
        self
    }

    /// A UDP length that lies.
    #[must_use]
    pub fn udp_len(mut self, new: u16) -> Self {
        if let Transport::Udp { len, .. } = &mut self.transport {
            *len = Some(new);
        }
        self
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        if let Transport::Udp { checksum, .. } = &mut self.transport {
            *checksum = false;
        }
        self
    }

    /// What follows the transport header.
    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Type of service or traffic class.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// IPv4 identification.
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// A fragment: offset in bytes, and whether more follow.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self.dont_fragment = false;
        self
    }

    /// The packet in fragments of at most `size` bytes, a multiple of eight.
    pub fn cut(&self, size: usize) -> Vec<Self> {
        let (protocol, bytes) = self.build_transport();
        let parts = bytes.chunks(size).count();
        let part = |(i, bytes): (usize, &[u8])| Self {
            transport: Transport::Other(protocol, bytes.to_vec()),
            payload: Vec::new(),
            ..self.clone().fragment((i * size) as u16, i + 1 < parts)
        };
        bytes.chunks(size).enumerate().map(part).collect()
    }

    /// Lets routers fragment the packet.
    #[must_use]
    pub fn may_fragment(mut self) -> Self {
        self.dont_fragment = false;
        self
    }

    /// IPv4 options; a multiple of four bytes.
    #[must_use]
    pub fn ip_options(mut self, bytes: &[u8]) -> Self {
        self.ip_options = bytes.to_vec();
        self
    }

    /// An IPv6 extension header of this kind: its bytes after the next-header byte.
    #[must_use]
    pub fn extension(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.extensions.push((kind, bytes.to_vec()));
        self
    }

    /// Ethernet padding behind the packet.
    #[must_use]
    pub fn trailer(mut self, len: usize) -> Self {
        self.trailer = len;
        self
    }

    /// The transport checksum holds only the pseudo-header sum (CHECKSUM_PARTIAL).
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// The transport checksum is off by this (one's complement).
    #[must_use]
    pub fn corrupt(mut self, by: u16) -> Self {
        self.corrupt = by;
        self
    }

    /// The IPv4 header checksum is wrong.
    #[must_use]
    pub fn corrupt_ip(mut self) -> Self {
        self.corrupt_ip = true;
        self
    }

    /// An 802.1Q tag.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// Offset of the transport header in the frame.
    pub fn transport_offset(&self) -> usize {
        let ip = if self.source.is_ipv4() {
            20 + self.ip_options.len()
        } else {
            40 + self.extensions.iter().map(|(_, b)| b.len() + 1).sum::<usize>()
        };
        14 + if self.vlan.is_some() { 4 } else { 0 } + ip
    }

    /// Offset of the checksum field in the transport header.
    pub fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp { .. } => 6,
            Transport::Other(..) => 2,
        }
    }

    /// The IP packet without Ethernet, as an ICMP error quotes it; at most `limit` bytes.
    pub fn quoted(&self, limit: usize) -> Vec<u8> {
        let mut bytes = self.build().split_off(14);
        bytes.truncate(limit);
        bytes
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let (protocol, transport) = self.build_transport();
        let mut frame = Vec::new();
        frame.extend(self.macs.0);
        frame.extend(self.macs.1);
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(id.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                frame.extend([8, 0]);
                let mut header = vec![0x45 + (self.ip_options.len() / 4) as u8, self.tos];
                header.extend(((20 + self.ip_options.len() + transport.len()) as u16).to_be_bytes());
                header.extend(self.id.to_be_bytes());
                let (offset, more) = self.fragment.unwrap_or_default();
                let flags = (u16::from(self.dont_fragment) << 14) | (u16::from(more) << 13) | (offset / 8);
                header.extend(flags.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(s.octets());
                header.extend(d.octets());
                header.extend(&self.ip_options);
                let sum = !full_sum(&header) ^ if self.corrupt_ip { 0x0101 } else { 0 };
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                frame.extend([0x86, 0xdd]);
                let mut chain = self.extensions.clone();
                if let Some((offset, more)) = self.fragment {
                    let mut bytes = vec![0];
                    bytes.extend((offset | u16::from(more)).to_be_bytes());
                    bytes.extend(u32::from(self.id).to_be_bytes());
                    chain.push((44, bytes));
                }
                let len: usize = chain.iter().map(|(_, b)| b.len() + 1).sum::<usize>() + transport.len();
                frame.extend((6 << 28 | u32::from(self.tos) << 20).to_be_bytes());
                frame.extend((len as u16).to_be_bytes());
                frame.extend([chain.first().map_or(protocol, |(kind, _)| *kind), self.ttl]);
                frame.extend(s.octets());
                frame.extend(d.octets());
                for (i, (_, bytes)) in chain.iter().enumerate() {
                    frame.push(chain.get(i + 1).map_or(protocol, |(kind, _)| *kind));
                    frame.extend(bytes);
                }
            }
            _ => unreachable!("both addresses are of one family"),
        }
        frame.extend(transport);
        frame.extend(vec![0; self.trailer]);
        frame
    }

    fn build_transport(&self) -> (u8, Vec<u8>) {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let (protocol, at, mut bytes) = match &self.transport {
            Transport::Tcp { flags, seq, ack, window, options, offset } => {
                let mut b = ports;
                b.extend(seq.to_be_bytes());
                b.extend(ack.to_be_bytes());
                let words = offset.unwrap_or(5 + (options.len() / 4) as u8);
                b.extend([words << 4, *flags]);
                b.extend(window.to_be_bytes());
                b.extend([0; 4]);
                b.extend(options);
                (6, Some(16), b)
            }
            Transport::Udp { checksum, len } => {
                let mut b = ports;
                b.extend(len.unwrap_or((8 + self.payload.len()) as u16).to_be_bytes());
                b.extend([0, 0]);
                (17, checksum.then_some(6), b)
            }
            Transport::Other(protocol @ (1 | 58), message) => (*protocol, Some(2), message.clone()),
            Transport::Other(protocol, bytes) => (*protocol, None, bytes.clone()),
        };
        bytes.extend(&self.payload);
        // A later fragment starts in the middle of the transport: its bytes are its own.
        if let Some(at) = at.filter(|_| self.fragment.is_none_or(|(offset, _)| offset == 0)) {
            let pseudo = if protocol == 1 { Vec::new() } else { self.pseudo_header(protocol, bytes.len()) };
            let field = if self.partial {
                full_sum(&pseudo)
            } else {
                let field = !full_sum(&[pseudo, bytes.clone()].concat());
                if protocol == 17 && field == 0 { 0xffff } else { field }
            };
            bytes[at..at + 2].copy_from_slice(&(field ^ self.corrupt).to_be_bytes());
        }
        (protocol, bytes)
    }

    fn pseudo_header(&self, protocol: u8, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ip in [self.source.ip(), self.destination.ip()] {
            match ip {
                IpAddr::V4(a) => bytes.extend(a.octets()),
                IpAddr::V6(a) => bytes.extend(a.octets()),
            }
        }
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
        bytes
    }
}

/// The one's complement sum, by the book: word after word with an end-around carry.
fn full_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for pair in bytes.chunks(2) {
        let word = u16::from(pair[0]) << 8 | u16::from(pair.get(1).copied().unwrap_or(0));
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u16::from(carry);
    }
    sum
}

fn socket(text: &str) -> SocketAddr {
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)));
    parsed.unwrap_or_else(|_| unreachable!("{text} is an address in a test's own source"))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes that hexadecimal digits stand for; `None` when they are no digits or an odd number.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
