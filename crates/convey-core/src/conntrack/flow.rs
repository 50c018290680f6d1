//! One flow: who, where to, in which state, since when.

/// Coarse monotonic time: 2^20 ns (about 1.05 ms) a tick, wrapping after 52 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    const SHIFT: u32 = 20;

    /// The tick of a monotonic time in nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32)
    }

    /// A span of time in ticks, at most about 24 days, so that an age never wraps.
    pub const fn span(span: std::time::Duration) -> u32 {
        let ticks = span.as_nanos() >> Self::SHIFT;
        if ticks > (1 << 31) - 1 { (1 << 31) - 1 } else { ticks as u32 }
    }

    /// Ticks since `earlier`.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
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

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The client's FIN was seen.
    pub const FIN_FROM_CLIENT: u8 = 1;
    /// The server's FIN was seen.
    pub const FIN_FROM_SERVER: u8 = 2;
    /// The gauges count it as open.
    pub const COUNTED: u8 = 4;
    /// It holds a NAT port.
    pub const HAS_PORT: u8 = 8;
    /// The client has sent a SYN that is not the one the flow began with: see [`super::Flow::later_syn`].
    pub const LATER_SYN: u8 = 16;
    /// A reset that seemed to come from the client has closed it.
    pub const RESET_FROM_CLIENT: u8 = 32;
    /// A reset that seemed to come from the server has closed it.
    pub const RESET_FROM_SERVER: u8 = 64;
}

/// Everything that makes two flows different. The frontend stands for protocol and VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Client address, IPv4 mapped.
    pub client: u128,
    /// Client port.
    pub client_port: u16,
    /// Port the client talks to.
    pub port: u16,
    /// Slot of the frontend.
    pub frontend: u16,
}

/// One flow, a cache line. Other processes read it from memory that outlives this one: who changes what a field
/// means, or where it lies, changes the version of that memory's layout.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Flow {
    /// Client address, IPv4 mapped.
    pub client: u128,
    /// By [`Direction`]: the sequence number behind the last byte that side has sent.
    pub next: [u32; 2],
    /// By [`Direction`]: up to where the other side has acknowledged that side's bytes.
    pub acked: [u32; 2],
    /// Tick of the last packet that counted.
    pub last_seen: u32,
    /// Sequence number of a SYN sent on the live flow, where [`flags::LATER_SYN`] is set.
    pub later_syn: u32,
    /// Change of the transport checksum towards the server (`Delta::bits`); its inverse goes back.
    pub transport_delta: u16,
    /// Change of the IPv4 header checksum towards the server.
    pub addresses_delta: u16,
    /// Client port.
    pub client_port: u16,
    /// Port the client talks to.
    pub port: u16,
    /// Slot of the frontend.
    pub frontend: u16,
    /// Slot of the server.
    pub server: u16,
    /// Source port towards the server, where [`flags::HAS_PORT`] is set.
    pub nat_port: u16,
    /// Pool the port is from.
    pub pool: u16,
    /// By [`Direction`]: the largest window that side has advertised, in units of its scale.
    pub window: [u16; 2],
    /// Where it stands.
    pub state: FlowState,
    /// See [`flags`].
    pub flags: u8,
    /// By [`Direction`]: the scale of its windows.
    pub scale: [u8; 2],
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

    #[inline]
    pub(super) fn is(&self, key: &FlowKey) -> bool {
        self.client == key.client
            && self.client_port == key.client_port
            && self.port == key.port
            && self.frontend == key.frontend
            && self.state != FlowState::Free
    }

    #[inline]
    pub(super) fn is_expired(&self, lifetimes: &Lifetimes, now: Ticks) -> bool {
        now.since(Ticks(self.last_seen)) > lifetimes.0[self.state as usize]
    }
}
