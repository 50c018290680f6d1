//! Values of the engine's maps as bytes: the Rust side of `engine/flow_layout.h`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Grows with every change of what lies in the maps, or of what that means: a program goes on with the maps of another
/// process only if it was of the same.
pub const LAYOUT: u32 = 3;

/// How a server is reached; the numbers of `METHOD_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Both addresses and ports are translated.
    Nat = 0,
    /// The destination address becomes the server's.
    Rewrite = 1,
    /// Only the MAC addresses change.
    L2 = 2,
}

/// What may be sent to a server; the numbers of `STANDING_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Standing {
    /// New flows.
    Up = 0,
    /// The flows it has.
    Draining = 1,
    /// Checks fail.
    Down = 2,
    /// It has left the configuration.
    Removed = 3,
}

/// An address as maps have it: IPv6, or IPv4 in the last of four words.
pub fn plain_address(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(v4) => bytes[12..].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// A key of `vips6`; port 0 stands for every port.
pub fn vip6(address: Ipv6Addr, port: u16, protocol: u8) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address.octets());
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol;
    key
}

/// Former frontends that listened on one address and port; `FORMER_MAX`.
pub const FORMER_MAX: usize = 32;

/// A key of `former_vips`; port 0 stands for every port, `number` counts those of one address from 0.
pub fn former_vip(listen: SocketAddr, protocol: u8, number: u8) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&plain_address(listen.ip()));
    key[16..18].copy_from_slice(&listen.port().to_be_bytes());
    key[18] = protocol;
    key[19] = number;
    key
}

/// A key of `paths6`.
pub fn path6(nat: Ipv6Addr, server: Ipv6Addr, port: u16, protocol: u8) -> [u8; 36] {
    let mut key = [0; 36];
    key[..16].copy_from_slice(&nat.octets());
    key[16..].copy_from_slice(&vip6(server, port, protocol));
    key
}

/// `struct hop`: where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hop {
    /// Interface; 0: not known.
    pub ifindex: u32,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether the neighbour is the destination itself.
    pub on_link: bool,
    /// MAC of the neighbour.
    pub destination: [u8; 6],
    /// MAC of the interface.
    pub source: [u8; 6],
}

impl Hop {
    const BYTES: usize = 20;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.mtu.to_ne_bytes());
        bytes[6] = self.on_link.into();
        bytes[8..14].copy_from_slice(&self.destination);
        bytes[14..20].copy_from_slice(&self.source);
        bytes
    }
}

/// Source addresses towards servers that a frontend may have.
pub const NAT_SOURCES: usize = 8;

/// `struct frontend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Where it listens; port 0: every port.
    pub listen: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// It has left the configuration and has flows.
    pub left: bool,
    /// Its Maglev table.
    pub backend: u16,
    /// 0: clients are looked up there by their flow; else by their address alone, of IPv6 so many bits.
    pub source_prefix: u8,
    /// Connections open at once; 0: no limit.
    pub max_connections: u64,
    /// Addresses towards servers.
    pub nat_sources: Vec<IpAddr>,
    /// It has lists of networks, in `access`.
    pub access: bool,
}

impl Frontend {
    /// Bytes of a value.
    pub const BYTES: usize = 32 + 16 * NAT_SOURCES;
    /// The byte that tells [`Frontend::left`].
    pub const LEFT: usize = 19;

    /// The value; addresses beyond [`NAT_SOURCES`] are left out.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&plain_address(self.listen.ip()));
        bytes[16..18].copy_from_slice(&self.listen.port().to_be_bytes());
        bytes[18] = self.protocol;
        bytes[Self::LEFT] = self.left.into();
        bytes[20..22].copy_from_slice(&self.backend.to_ne_bytes());
        bytes[22] = self.nat_sources.len().min(NAT_SOURCES) as u8 | u8::from(self.access) << 7;
        bytes[23] = self.source_prefix;
        bytes[24..32].copy_from_slice(&self.max_connections.to_ne_bytes());
        for (i, source) in self.nat_sources.iter().take(NAT_SOURCES).enumerate() {
            bytes[32 + 16 * i..48 + 16 * i].copy_from_slice(&plain_address(*source));
        }
        bytes
    }
}

/// A key of a table within `access`: the first `bits` of an address, IPv4 mapped into IPv6.
pub fn network(first: u128, bits: u8) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&u32::from(bits).to_ne_bytes());
    key[4..].copy_from_slice(&first.to_be_bytes());
    key
}

/// `struct server`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its address and port.
    pub address: SocketAddr,
    /// How it is reached.
    pub method: Method,
    /// What may be sent to it.
    pub standing: Standing,
    /// Connections open at once; 0: no limit.
    pub max_connections: u64,
    /// The way there.
    pub hop: Hop,
}

impl Server {
    /// Bytes of a value.
    pub const BYTES: usize = 64;

    /// The value.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&plain_address(self.address.ip()));
        bytes[16..18].copy_from_slice(&self.address.port().to_be_bytes());
        bytes[18] = self.method as u8;
        bytes[19] = self.standing as u8;
        bytes[24..32].copy_from_slice(&self.max_connections.to_ne_bytes());
        bytes[32..32 + Hop::BYTES].copy_from_slice(&self.hop.to_bytes());
        bytes
    }
}

/// States a control word has room for.
pub const STATES: usize = 16;

/// `struct config`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Config {
    /// Seed of the flow table's hash.
    pub seed: u64,
    /// Seed of the directory's hash.
    pub directory_seed: u64,
    /// Connections open at once; 0: no limit.
    pub max_connections: u64,
    /// Ticks a flow lives after its last packet, by state.
    pub lifetimes: [u32; STATES],
    /// Half-open flows at once.
    pub half_open_max: u32,
    /// Next hops of another generation are asked for anew.
    pub hop_generation: u32,
    /// Whether a frontend has every port.
    pub any_port: bool,
    /// Whether refused TCP is answered with a reset.
    pub resets: bool,
    /// Whether a frontend has left and has flows.
    pub former: bool,
}

impl Config {
    /// Bytes of the value.
    pub const BYTES: usize = 112;
    /// Where it says whether anything is watched, in words of eight bytes: that is not written with the rest.
    pub const WATCHED: usize = 13;

    /// What the bytes of a value say.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        let long = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        Self {
            seed: long(0),
            directory_seed: long(8),
            max_connections: long(16),
            lifetimes: std::array::from_fn(|i| word(24 + 4 * i)),
            half_open_max: word(88),
            hop_generation: word(92),
            any_port: bytes[96] != 0,
            resets: bytes[97] != 0,
            former: bytes[99] != 0,
        }
    }

    /// The value.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.seed.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.directory_seed.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.max_connections.to_ne_bytes());
        for (i, ticks) in self.lifetimes.iter().enumerate() {
            bytes[24 + 4 * i..28 + 4 * i].copy_from_slice(&ticks.to_ne_bytes());
        }
        bytes[88..92].copy_from_slice(&self.half_open_max.to_ne_bytes());
        bytes[92..96].copy_from_slice(&self.hop_generation.to_ne_bytes());
        bytes[96] = self.any_port.into();
        bytes[97] = self.resets.into();
        bytes[98] = 1;
        bytes[99] = self.former.into();
        bytes
    }
}

/// Bytes of a Maglev table as a map's value.
pub const MAGLEV_BYTES: usize = (65_537 + 7) * 2;
/// Bytes of one with minimal tracking: of each slot server and previous server, 0xffff: none, or it has settled.
pub const PLACES_BYTES: usize = MAGLEV_BYTES * 2;

/// Lines of `slot_uses`.
pub const USE_LINES: u32 = 16_384;

/// Where in `slot_uses`, in entries of 16 bits, the last use of a frontend's slot stands; two may stand in one place.
pub const fn use_of_slot(frontend: u16, slot: usize) -> usize {
    (frontend as usize * 65_537 + slot) % (USE_LINES as usize * 64)
}

/// Names of `enum reason` in order: those of the portable engine, then the kernel's own.
pub const REASONS: &[&str] = &[
    "not_ip",
    "vlan",
    "not_vip",
    "other_protocol",
    "icmp_other",
    "icmp_unrelated",
    "fragment",
    "opaque_extension",
    "multicast",
    "truncated",
    "bad_ip_header",
    "bad_tcp_header",
    "bad_udp_length",
    "bad_ip_checksum",
    "extension_chain",
    "fragment_refused",
    "fragment_overlap",
    "fragment_bad",
    "denied",
    "bad_source",
    "bad_tcp_flags",
    "ttl_exceeded",
    "too_big",
    "no_server",
    "frontend_left",
    "no_flow",
    "flow_table_full",
    "ports_exhausted",
    "limit_total",
    "limit_frontend",
    "limit_server",
    "no_next_hop",
    "route_rejected",
    "server_not_on_link",
    "server_is_client",
    "no_room",
    "flow_begun",
    "hash_routed",
    "out_of_window",
    "half_open_evicted",
    "flow_evicted",
    "port_taken_over",
    "handed_up",
    "ring_full",
    "twin",
];

/// Bytes of a frame that a short record has room for; `UP_SHORT`.
pub const UP_SHORT: usize = 2048;
/// Bytes of a frame that a long record has room for; `UP_LONG`.
pub const UP_LONG: usize = 9728;

/// `struct handed_up`: a frame that user space decides, a record of the ring `slow_path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedUp<'a> {
    /// Interface it came in on.
    pub ingress: u32,
    /// Bytes of the whole frame, of which [`HandedUp::frame`] may be the beginning.
    pub len: u32,
    /// Payload of a segment where the frame stands for several; 0: it does not.
    pub gso_size: u32,
    /// Why it was handed up, by its place in [`REASONS`].
    pub reason: u32,
    /// From the Ethernet header on.
    pub frame: &'a [u8],
}

impl<'a> HandedUp<'a> {
    /// Reads a record; `None`: it is none.
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let (header, room) = record.split_at_checked(16)?;
        let word = |i: usize| Some(u32::from_ne_bytes(header.get(4 * i..4 * i + 4)?.try_into().ok()?));
        let len = word(1)?;
        let frame = room.get(..room.len().min(len as usize))?;
        Some(Self { ingress: word(0)?, len, gso_size: word(2)?, reason: word(3)?, frame })
    }
}

/// Watches at a time; `WATCHES`.
pub const WATCHES: usize = 4;

/// `struct watch`: packets of which the programs tell. Of what goes the other way they tell, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watch {
    /// An address of the client, and how many of its first bits count.
    pub client: Option<(IpAddr, u8)>,
    /// Its port; 0: any.
    pub client_port: u16,
    /// What it talks to.
    pub vip: Option<IpAddr>,
    /// The port it talks to; 0: any.
    pub vip_port: u16,
    /// IP protocol number; 0: any.
    pub protocol: u8,
}

impl Watch {
    /// Bytes of a value.
    pub const BYTES: usize = 72;

    /// The value.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut families = 3;
        let nets = [self.client, self.vip.map(|ip| (ip, u8::MAX))];
        for (net, to) in nets.into_iter().zip(bytes.chunks_exact_mut(32)) {
            let Some((ip, bits)) = net else { continue };
            let (width, family) = if ip.is_ipv4() { (32, 1) } else { (128, 2) };
            families &= family;
            // Addresses of IPv4 lie in the last word.
            let rest = width - u32::from(bits).min(width);
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0) & (u128::MAX >> (128 - width));
            to[..16].copy_from_slice(&plain_address(ip));
            to[16..].copy_from_slice(&mask.to_be_bytes());
        }
        bytes[64..66].copy_from_slice(&self.client_port.to_be_bytes());
        bytes[66..68].copy_from_slice(&self.vip_port.to_be_bytes());
        bytes[68] = self.protocol;
        bytes[69] = families;
        bytes
    }
}

/// `struct watches`, in words of eight bytes: see there.
pub mod watches {
    use super::{WATCHES, Watch};

    /// Bytes of the value.
    pub const BYTES: usize = 48 + WATCHES * Watch::BYTES;
    /// How many records may be written.
    pub const LEAVE: usize = 0;
    /// The tick when that was given.
    pub const RENEWED: usize = 1;
    /// By watch, of how many there was no room to tell.
    pub const LOST: usize = 2;
    /// By watch, [`Watch`]: none that says no family.
    pub const FILTERS: usize = 6;
    /// Words of one.
    pub const FILTER: usize = Watch::BYTES / 8;
}

/// In place of a reason in a record of the ring: it is no frame, but a [`Decided`]; `UP_DECIDED`.
pub const UP_DECIDED: u32 = u32::MAX;

/// `struct decided`: what a program decided on a packet that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// IP protocol number.
    pub protocol: u8,
    /// Where it came from, and what it was sent to.
    pub from_to: [SocketAddr; 2],
    /// What was decided.
    pub fate: Fate,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was sent on.
    Forwarded {
        /// Slots of its frontend and server.
        slots: [u16; 2],
        /// Number of the state its flow was in; 0: it belonged to none.
        met: u8,
        /// Whether it comes from the server.
        is_reply: bool,
        /// What its addresses and ports have become.
        from_to: [SocketAddr; 2],
    },
    /// It was dropped, for the reason at this place in [`REASONS`].
    Dropped(u32),
}

impl Decided {
    const BYTES: usize = 88;

    /// Whether a record of the ring is one, and no frame.
    pub fn is_one(record: &[u8]) -> bool {
        record.get(12..16) == Some(&UP_DECIDED.to_ne_bytes())
    }

    /// Reads a record; `None`: it is none.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let bytes = record.first_chunk::<{ Self::BYTES }>().filter(|bytes| Self::is_one(*bytes))?;
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        let [protocol, v6, met] = [bytes[8], bytes[9], bytes[10]];
        let socket = |address: usize, port: usize| {
            let at: [u8; 16] = bytes[address..].first_chunk().copied().unwrap_or_default();
            let ip = match at {
                [_, _, _, _, _, _, _, _, _, _, _, _, v4 @ ..] if v6 == 0 => IpAddr::from(v4),
                v6 => IpAddr::from(v6),
            };
            SocketAddr::new(ip, u16::from_be_bytes([bytes[port], bytes[port + 1]]))
        };
        let fate = match word(0) & 0xff {
            // FORWARD
            0 => Fate::Forwarded {
                slots: [word(4) as u16, (word(4) >> 16) as u16],
                met: met & 0x7f,
                is_reply: met & 0x80 != 0,
                from_to: [socket(48, 84), socket(64, 86)],
            },
            _ => Fate::Dropped(word(0) >> 8),
        };
        Some(Self { protocol, from_to: [socket(16, 80), socket(32, 82)], fate })
    }
}

/// Next hops remembered by client address; `CLIENT_HOPS`.
pub const CLIENT_HOPS: u32 = 4096;
/// Bytes of `struct client_hop`.
pub const CLIENT_HOP_BYTES: usize = 40;

/// Whose next hop a value of `client_hops` is, and of which generation.
pub fn client_of_hop(value: &[u8; CLIENT_HOP_BYTES]) -> (IpAddr, u32) {
    let address: [u8; 16] = value.first_chunk().copied().unwrap_or_default();
    let client = match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, v4 @ ..] => IpAddr::from(v4),
        v6 => IpAddr::from(v6),
    };
    let generation = value.last_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    (client, generation)
}

/// Bytes of `struct link`.
pub const LINK_BYTES: usize = 12;

/// Where the program at XDP looks for the address of an interface, and the value.
pub fn link(ifindex: u32, mac: [u8; 6]) -> (u32, [u8; LINK_BYTES]) {
    let mut value = [0; LINK_BYTES];
    value[..4].copy_from_slice(&ifindex.to_ne_bytes());
    value[4..10].copy_from_slice(&mac);
    (ifindex % 1024, value)
}

/// Where the next hop towards a client is remembered, and its value.
pub fn client_hop(client: IpAddr, hop: Hop, generation: u32) -> (u32, [u8; CLIENT_HOP_BYTES]) {
    let mix = |h: u64, word: u64| {
        let h = (h ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^ (h >> 32)
    };
    let hash = match client {
        IpAddr::V4(v4) => mix(0, u64::from(u32::from_ne_bytes(v4.octets()))),
        IpAddr::V6(v6) => mix(v6.to_bits() as u64, (v6.to_bits() >> 64) as u64),
    };
    let mut value = [0; CLIENT_HOP_BYTES];
    value[..16].copy_from_slice(&plain_address(client));
    value[16..36].copy_from_slice(&hop.to_bytes());
    value[36..].copy_from_slice(&generation.to_ne_bytes());
    ((hash % u64::from(CLIENT_HOPS)) as u32, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_back_from_its_bytes() {
        let config = Config {
            seed: 1 << 40 | 1,
            directory_seed: 2 << 40 | 3,
            max_connections: 4 << 33,
            lifetimes: std::array::from_fn(|i| i as u32 + 5),
            half_open_max: 70,
            hop_generation: u32::MAX,
            any_port: true,
            resets: false,
            former: true,
        };
        assert_eq!(Config::from_bytes(&config.to_bytes()), config);
        assert_eq!(Config::from_bytes(&Config::default().to_bytes()), Config::default());
    }
}
