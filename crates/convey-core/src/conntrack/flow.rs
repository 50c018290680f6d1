//! One flow: who, where to, in which state, since when.

use super::flight;

/// Coarse monotonic time: 2^24 ns (16.8 ms) a tick, 24 bits of them, which wrap after 78 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    /// A tick is two to the power of this nanoseconds.
    pub const SHIFT: u32 = 24;
    /// Bits of a tick.
    pub const BITS: u32 = 24;
    pub(super) const MASK: u32 = (1 << Self::BITS) - 1;
    /// The longest span there is: 39 hours. What seems older lies ahead: another thread has looked at the clock later.
    pub const MAX: u32 = Self::MASK >> 1;

    /// The tick of a monotonic time in nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32 & Self::MASK)
    }

    /// A span of time in ticks, at most [`Ticks::MAX`].
    pub const fn span(span: std::time::Duration) -> u32 {
        let ticks = span.as_nanos() >> Self::SHIFT;
        if ticks > Self::MAX as u128 { Self::MAX } else { ticks as u32 }
    }

    /// Ticks since `earlier`; 0 when that lies ahead.
    pub const fn since(self, earlier: Self) -> u32 {
        let span = self.0.wrapping_sub(earlier.0) & Self::MASK;
        if span > Self::MAX { 0 } else { span }
    }
}

/// Which side a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    FromClient = 0,
    /// Server to client.
    FromServer = 1,
}

/// Where a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum FlowState {
    /// No flow.
    #[default]
    Free = 0,
    /// TCP: the client's SYN was seen.
    SynSent = 1,
    /// TCP: the server's SYN-ACK was seen; in DSR: taken over in mid-flow, not confirmed yet.
    SynReceived = 2,
    /// TCP: the handshake is over.
    Established = 3,
    /// TCP: a FIN was seen from one side.
    Closing = 4,
    /// TCP: FINs from both sides, or a valid reset.
    Closed = 5,
    /// UDP: from the client only.
    UdpNew = 6,
    /// UDP: the server has answered.
    UdpReplied = 7,
    /// UDP: the conversation went on after an answer.
    UdpStream = 8,
}

impl FlowState {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All of them, by their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Free,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::UdpNew,
        Self::UdpReplied,
        Self::UdpStream,
    ];

    /// The state of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::Closed,
            6 => Self::UdpNew,
            7 => Self::UdpReplied,
            8 => Self::UdpStream,
            _ => return None,
        })
    }

    /// Whether it is a state of UDP flows.
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::UdpNew | Self::UdpReplied | Self::UdpStream)
    }

    /// Whether the conversation is still unconfirmed, so that it may give way to others.
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived | Self::UdpNew | Self::UdpReplied)
    }

    /// Its name in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::UdpNew => "udp_new",
            Self::UdpReplied => "udp_replied",
            Self::UdpStream => "udp_stream",
        }
    }
}

/// Ticks a flow lives after its last packet, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes(pub [u32; FlowState::COUNT]);

/// Bits of [`Flow::flags`]: six, as many as an entry has room for.
pub mod flags {
    /// The client's FIN was seen.
    pub const FIN_FROM_CLIENT: u8 = 1;
    /// The server's FIN was seen.
    pub const FIN_FROM_SERVER: u8 = 2;
    /// The gauges count it as open.
    pub const COUNTED: u8 = 4;
    /// A reset that seemed to come from the client has closed it.
    pub const RESET_FROM_CLIENT: u8 = 8;
    /// A reset that seemed to come from the server has closed it.
    pub const RESET_FROM_SERVER: u8 = 16;
    /// It holds a NAT port.
    pub const HAS_PORT: u8 = 32;
}

/// Everything that makes two flows different. The frontend stands for protocol and VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Client address, IPv4 mapped.
    pub client: u128,
    /// Client port.
    pub client_port: u16,
    /// Port the client talks to. In passthrough the frontend tells it, and it is not compared.
    pub port: u16,
    /// Slot of the frontend.
    pub frontend: u16,
}

impl FlowKey {
    /// Whether the client's address is IPv4.
    pub const fn is_v4(&self) -> bool {
        self.client >> 32 == 0xffff
    }
}

/// One flow, unpacked. The table keeps it in 32 bytes (IPv4) or 64: see `entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Client address, IPv4 mapped.
    pub client: u128,
    /// By [`Direction`]: the sequence number behind the last byte that side has sent. While nothing of the server was
    /// heard (TCP before its SYN-ACK; in DSR always) the second is the number of the client's SYN. UDP: the first
    /// counts datagrams.
    pub next: [u32; 2],
    /// By [`Direction`]: how many of that side's bytes the other has not acknowledged, as `flight` encodes it. Nothing
    /// in DSR.
    pub in_flight: [u8; 2],
    /// Tick of the last packet that counted, 24 bits.
    pub last_seen: u32,
    /// Client port.
    pub client_port: u16,
    /// Port the client talks to. 0 in what a table of passthrough flows gives back: the frontend tells it.
    pub port: u16,
    /// Slot of the frontend.
    pub frontend: u16,
    /// Slot of the server.
    pub server: u16,
    /// Source port towards the server, where [`flags::HAS_PORT`] is set.
    pub nat_port: u16,
    /// Pool the port is from.
    pub pool: u16,
    /// Which claim of its entry it is, 12 bits; the table's own.
    pub claim: u16,
    /// By [`Direction`]: the largest window that side has advertised is at most two to the power of this, in bytes.
    pub window: [u8; 2],
    /// By [`Direction`]: the scale of its windows, 0 to 14; 15: its SYN offered none.
    pub scale: [u8; 2],
    /// Where it stands.
    pub state: FlowState,
    /// See [`flags`].
    pub flags: u8,
}

impl Flow {
    /// Its key.
    pub const fn key(&self) -> FlowKey {
        FlowKey {
            client: self.client,
            client_port: self.client_port,
            port: self.port,
            frontend: self.frontend,
        }
    }

    /// Whether it is a flow that has not closed.
    pub const fn is_live(&self) -> bool {
        !matches!(self.state, FlowState::Free | FlowState::Closed)
    }

    /// Whether a bit of `mask` is set in its flags.
    pub const fn has(&self, mask: u8) -> bool {
        self.flags & mask != 0
    }

    /// Up to where the other side has acknowledged the bytes of side `of`, or less.
    pub(super) const fn acked(&self, of: usize) -> u32 {
        self.next[of].wrapping_sub(flight::decode(self.in_flight[of]))
    }
}
