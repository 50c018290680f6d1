//! Frames of clients and servers that mean something, and some that do not.

use std::collections::VecDeque;
use std::net::SocketAddr;

use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, PSH, RST, SYN};

use super::random::Random;

/// A client's conversation with a frontend.
struct Conversation {
    client: String,
    vip: String,
    is_tcp: bool,
    /// Next numbers.
    seq: [u32; 2],
    /// Passthrough: where the server sees it come from, and the server.
    nat: Option<(String, String)>,
    /// The last frame that left, to the server and to the client.
    last: [Option<Vec<u8>>; 2],
}

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Client,
    Server,
}

pub struct Traffic {
    random: Random,
    conversations: Vec<Conversation>,
    clients: Vec<String>,
    frontends: Vec<(String, bool)>,
    ports: usize,
    passthrough: bool,
    waiting: VecDeque<Vec<u8>>,
    spoke: Option<(usize, From)>,
}

impl Traffic {
    /// `frontends`: where they listen, and whether by TCP. `ports`: of each client.
    pub fn new(
        random: Random,
        clients: Vec<String>,
        frontends: Vec<(String, bool)>,
        ports: usize,
        passthrough: bool,
    ) -> Self {
        let (conversations, waiting) = (Vec::new(), VecDeque::new());
        Self { random, conversations, clients, frontends, ports, passthrough, waiting, spoke: None }
    }

    /// The next frame.
    pub fn next(&mut self) -> Vec<u8> {
        self.spoke = None;
        if let Some(frame) = self.waiting.pop_front() {
            return frame;
        }
        let at = self.conversation();
        let kind = self.random.below(40);
        let mut frame = match kind {
            0 => self.icmp(at),
            1 => self.strange(at),
            2 => self.fragments(at),
            _ => self.speak(at).build(),
        };
        if self.random.one_in(24) {
            self.mutate(&mut frame);
        }
        // What is for another host's address goes no further than the front.
        match frame.get_mut(..6) {
            Some(to) if to[0] & 1 == 0 => to.fill(0),
            _ => {}
        }
        frame
    }

    /// What left after [`Traffic::next`].
    pub fn sent(&mut self, frame: &[u8]) {
        let Some((at, from)) = self.spoke else { return };
        let Some(conversation) = self.conversations.get_mut(at) else { return };
        if from == From::Client && self.passthrough {
            let Some((source, destination)) = ends(frame) else { return };
            // A reset goes back.
            if destination != conversation.client {
                conversation.nat = Some((source, destination));
            }
        }
        conversation.last[usize::from(from == From::Server)] = Some(frame.to_vec());
    }

    fn conversation(&mut self) -> usize {
        let r = &mut self.random;
        if self.conversations.is_empty() || r.one_in(12) {
            let client = &self.clients[r.below(self.clients.len())];
            let same = |vip: &str| vip.starts_with('[') == client.contains(':');
            let fit: Vec<_> = self.frontends.iter().filter(|(vip, _)| same(vip)).collect();
            let (vip, is_tcp) = fit[r.below(fit.len())].clone();
            let port = 1024 + r.below(self.ports);
            let client =
                if client.contains(':') { format!("[{client}]:{port}") } else { format!("{client}:{port}") };
            let vip = match vip.strip_suffix(":0") {
                Some(any) => format!("{any}:{}", 80 + r.below(3)),
                None => vip,
            };
            let seq = [self.edge_number(), self.edge_number()];
            let new = Conversation { client, vip, is_tcp, seq, nat: None, last: [None, None] };
            if self.conversations.len() < 48 {
                self.conversations.push(new);
                return self.conversations.len() - 1;
            }
            let at = self.random.below(48);
            self.conversations[at] = new;
            return at;
        }
        // Some of them for a while, so that they get somewhere.
        let all = self.conversations.len();
        if r.one_in(3) { r.below(all) } else { all - 1 - r.below(all.min(4)) }
    }

    fn edge_number(&mut self) -> u32 {
        let random = self.random.next() as u32;
        self.random.of(&[0, 1, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) - 1, 1000, random, random])
    }

    /// A number near `to`, mostly itself.
    fn near(&mut self, to: u32) -> u32 {
        if !self.random.one_in(5) {
            return to;
        }
        let any = self.random.next() as u32;
        let by = self.random.of(&[
            1,
            2,
            10,
            1460,
            65_534,
            65_535,
            65_536,
            66_000,
            66_001,
            128_480,
            1 << 20,
            1 << 24,
            (1 << 24) + 1,
            1 << 30,
            1 << 31,
            any,
        ]);
        if self.random.one_in(2) { to.wrapping_add(by) } else { to.wrapping_sub(by) }
    }

    fn speak(&mut self, at: usize) -> P {
        let nat = self.conversations[at].nat.clone();
        let server = nat.filter(|_| self.random.one_in(2));
        let from = if server.is_some() { From::Server } else { From::Client };
        self.spoke = Some((at, from));
        let conversation = &self.conversations[at];
        let (source, destination) = match server {
            Some((nat, server)) => (server, nat),
            None => (conversation.client.clone(), conversation.vip.clone()),
        };
        let packet = if conversation.is_tcp {
            self.segment(at, from, &source, &destination)
        } else {
            self.datagram(&source, &destination)
        };
        self.decorate(packet, source.starts_with('['))
    }

    fn datagram(&mut self, source: &str, destination: &str) -> P {
        let len = self.random.of(&[0, 1, 7, 64, 512]);
        let packet = P::udp(source, destination).payload(&vec![0x5a; len]);
        let packet = if self.random.one_in(6) { packet.no_checksum() } else { packet };
        let any = self.random.next() as u16;
        let len = self.random.of(&[0, 7, 8, 20, 600, any]);
        if self.random.one_in(40) { packet.udp_len(len) } else { packet }
    }

    fn segment(&mut self, at: usize, from: From, source: &str, destination: &str) -> P {
        let me = usize::from(from == From::Server);
        let [mine, theirs] = [me, 1 - me].map(|i| self.conversations[at].seq[i]);
        let len = self.random.of(&[0, 0, 0, 1, 10, 100, 1000, 1400]);
        let any = self.random.next() as u8 & 63;
        let fresh = self.conversations[at].last == [None, None];
        let flags = match self.random.below(if fresh { 3 } else { 24 }) {
            0 if from == From::Client => SYN,
            0 | 1 if from == From::Server => SYN | ACK,
            1 if fresh => SYN,
            2 if self.random.one_in(3) => any,
            3 => FIN | ACK,
            4 if self.random.one_in(2) => RST,
            4 => RST | ACK,
            5 => FIN | PSH | ACK,
            6 if self.random.one_in(6) => SYN | ACK,
            _ => ACK,
        };
        let begins = flags & SYN != 0;
        let (seq, ack) = (self.near(mine), self.near(theirs));
        if begins && self.random.one_in(8) {
            self.conversations[at].seq[me] = self.edge_number();
        }
        let window = self.random.of(&[0, 1, 10, 512, 64_240, 65_535]);
        let payload =
            vec![
                0xa5;
                if begins || flags & RST != 0 { len * usize::from(self.random.one_in(12)) } else { len }
            ];
        let mut packet =
            P::tcp(source, destination).flags(flags).seq(seq, ack).window(window).payload(&payload);
        if begins {
            let scale = self.random.of(&[0, 1, 7, 13, 14, 15, 255]);
            let options: &[u8] = match self.random.below(6) {
                0 => &[],
                1 => &[2, 4, 5, 180],
                2 => &[2, 4, 5, 180, 1, 3, 3, scale],
                3 => &[1, 1, 1, 3, 3, scale, 0, 0],
                4 => &[3, 2, scale, 0],
                _ => &[2, 0, 3, 3, scale, 0, 0, 0],
            };
            packet = packet.tcp_options(options);
        } else if self.random.one_in(8) {
            packet = packet.tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        if self.random.one_in(60) {
            packet = packet.data_offset(self.random.next() as u8 & 15);
        }
        if seq == mine && !self.random.one_in(5) {
            let ends = payload.len() as u32 + u32::from(begins) + u32::from(flags & FIN != 0);
            self.conversations[at].seq[me] = mine.wrapping_add(ends);
        }
        packet
    }

    fn decorate(&mut self, packet: P, v6: bool) -> P {
        let r = &mut self.random;
        if !r.one_in(8) {
            return packet;
        }
        match r.below(9) {
            0 => packet.ttl(r.of(&[0, 1, 2, 255])),
            1 => packet.tos(r.next() as u8),
            2 if v6 => packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]),
            2 => packet.ip_options(r.of(&[&[1, 1, 1, 0], &[7, 7, 4, 0, 0, 0, 0, 0]])),
            3 => packet.trailer(r.below(30)),
            4 => packet.corrupt(r.next() as u16),
            5 => packet.corrupt_ip(),
            6 => packet.vlan(5),
            7 if v6 => packet.extension(r.of(&[0, 43, 60, 51, 135]), &[0, 1, 4, 0, 0, 0, 0]),
            _ => packet.may_fragment(),
        }
    }

    /// An ICMP error about the last packet that left, from where it went or from a router on the way.
    fn icmp(&mut self, at: usize) -> Vec<u8> {
        let r = &mut self.random;
        let conversation = &self.conversations[at];
        let quoted = match &conversation.last[r.below(2)] {
            Some(frame) => frame.get(14..).unwrap_or_default().to_vec(),
            // DSR: the server's own packet to the client.
            None => P::tcp(&conversation.vip, &conversation.client).quoted(64),
        };
        let v6 = conversation.vip.starts_with('[');
        let kind: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let Some((from, to)) = ends(&[&[0; 12][..], &kind, &quoted].concat()) else {
            return self.strange(at);
        };
        let router = if v6 { "[2001:db8:77::1]:0" } else { "203.0.113.9:0" };
        let source = if r.one_in(2) { router.to_owned() } else { to };
        let len = r.of(&[28, 28, 48, 40, 100, 19, 500]);
        let mtu = r.of(&[0, 68, 576, 1280, 1400]);
        let (kind, code) = match v6 {
            true => r.of(&[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (128, 0), (136, 0)]),
            false => r.of(&[(3, 4), (3, 1), (3, 3), (11, 0), (12, 0), (8, 0), (5, 1)]),
        };
        let body = &quoted[..quoted.len().min(len)];
        let packet = P::icmp(&source, &from, kind, code, mtu, body);
        if r.one_in(10) { packet.corrupt(1).build() } else { packet.build() }
    }

    /// What nobody sends.
    fn strange(&mut self, at: usize) -> Vec<u8> {
        let (client, vip) = (self.conversations[at].client.clone(), self.conversations[at].vip.clone());
        let r = &mut self.random;
        match r.below(7) {
            0 => P::other(&client, &vip, r.next() as u8, &[1, 2, 3, 4, 5, 6, 7, 8]).build(),
            1 => P::tcp(&vip, &vip).build(),
            2 => P::tcp(&vip, &client).build(),
            3 => {
                let mut frame = P::tcp(&client, &vip).build();
                frame[12..14].copy_from_slice(&[8, 6]);
                frame
            }
            4 => P::udp(&vip, &client).build(),
            // An answer to a port that nobody holds, from a server.
            5 if self.passthrough => {
                let Some((nat, server)) = self.conversations[at].nat.clone() else { return vec![0; 60] };
                let ip = nat.rsplit_once(':').map_or(nat.as_str(), |(ip, _)| ip);
                let to = format!("{ip}:{}", 20_000 + r.below(64));
                P::tcp(&server, &to).flags(r.of(&[ACK, SYN | ACK, RST])).build()
            }
            _ => (0..r.below(120)).map(|_| r.next() as u8).collect(),
        }
    }

    /// A datagram in pieces, in any order, some of them lost.
    fn fragments(&mut self, at: usize) -> Vec<u8> {
        let packet = self.speak(at).id(self.random.next() as u16 & 3);
        self.spoke = None;
        let size = self.random.of(&[8, 16, 64, 512]);
        if self.conversations[at].vip.starts_with('[') {
            // A first fragment, or a later one, by its header.
            let offset = self.random.of(&[0u16, 8, 64]);
            let more = u16::from(self.random.one_in(2));
            let [high, low] = (offset | more).to_be_bytes();
            return packet.extension(44, &[0, high, low, 0, 0, 0, self.random.next() as u8 & 3]).build();
        }
        let mut parts: Vec<_> = packet.cut(size).into_iter().take(5).map(|part| part.build()).collect();
        while parts.len() > 1 && self.random.one_in(3) {
            let (a, b) = (self.random.below(parts.len()), self.random.below(parts.len()));
            parts.swap(a, b);
        }
        if parts.len() > 1 && self.random.one_in(4) {
            parts.remove(self.random.below(parts.len()));
        }
        self.waiting.extend(parts);
        self.waiting.pop_front().unwrap_or_default()
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        let r = &mut self.random;
        for _ in 0..1 + r.below(3) {
            if frame.is_empty() {
                return;
            }
            let at = if r.one_in(2) { r.below(frame.len().min(60)) } else { r.below(frame.len()) };
            match r.below(6) {
                0 => frame[at] ^= 1 << r.below(8),
                1 => frame[at] = r.of(&[0, 1, 0x7f, 0x80, 0xff]),
                2 => frame[at] = r.next() as u8,
                3 => frame.truncate(at),
                4 => frame.extend(vec![r.next() as u8; r.below(60)]),
                _ => {
                    frame.remove(at);
                }
            }
        }
        if !r.one_in(6) {
            repair(frame);
        }
    }
}

/// The IPv4 header's checksum, without which most mutants would go no further.
fn repair(frame: &mut [u8]) {
    if frame.len() < 34 || frame[14] >> 4 != 4 {
        return;
    }
    let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
    frame[24] = 0;
    frame[25] = 0;
    let words = frame[14..end].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Source and destination of a TCP or UDP frame.
pub fn ends(frame: &[u8]) -> Option<(String, String)> {
    let v4 = frame.get(12..14)? == [8, 0];
    let l4 = if v4 { 14 + usize::from(frame.get(14)? & 15) * 4 } else { 54 };
    let ip = |at: usize| -> Option<std::net::IpAddr> {
        match v4 {
            true => Some(<[u8; 4]>::try_from(frame.get(26 + at * 4..30 + at * 4)?).ok()?.into()),
            false => Some(<[u8; 16]>::try_from(frame.get(22 + at * 16..38 + at * 16)?).ok()?.into()),
        }
    };
    let port = |at: usize| {
        let bytes = frame.get(l4 + at * 2..l4 + at * 2 + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let end = |at| Some(SocketAddr::new(ip(at)?, port(at)?).to_string());
    Some((end(0)?, end(1)?))
}
