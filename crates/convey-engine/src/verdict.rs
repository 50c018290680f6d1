//! What is to become of a frame, and why. Every reason has a counter in [`crate::WorkerCounters`].

use std::net::IpAddr;

/// What the I/O side does with the buffer after [`crate::process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send the first `len` bytes out; checksum state and GSO of the received frame still hold.
    Forward(Forward),
    /// Send the first `len` bytes, an answer of ours, back out of the ingress interface; its checksum is
    /// complete and it is no GSO frame, whatever the received frame was.
    Reply(Reply),
    /// Not ours: the kernel deals with it. The bytes are untouched.
    Pass(PassReason),
    /// Send nothing. The bytes may have been changed.
    Drop(DropReason),
    /// Send nothing: the next hop's link-layer address is not known. Counted as `no_next_hop`.
    Unresolved {
        /// Whose neighbour entry to resolve (server, client or gateway).
        address: IpAddr,
        /// The interface to resolve it on; `None`: there is no route to `address`.
        ifindex: Option<u32>,
    },
}

/// A frame rewritten in place, to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The interface to send it on.
    pub egress_ifindex: u32,
    /// Bytes to send, from the start of the buffer; Ethernet padding has been cut off.
    pub len: usize,
    /// Tells its flow and direction from most others, where it has one: frames of one must keep their order.
    pub flow: Option<u32>,
    /// Set for a whole packet without IP options and extension headers.
    pub headers: Option<Headers>,
}

/// Where the headers of a plain TCP or UDP packet lie, from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// IPv6 rather than IPv4.
    pub is_v6: bool,
    /// Transport protocol number.
    pub protocol: u8,
    /// Where the transport header starts.
    pub l4: u16,
    /// Where the payload starts.
    pub payload: u16,
}

/// An answer of ours built in place of the received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The interface to send it on: the one the frame came in on.
    pub egress_ifindex: u32,
    /// Bytes to send, from the start of the buffer.
    pub len: usize,
    /// What it is.
    pub kind: ReplyKind,
    /// Why the packet could not go on.
    pub reason: DropReason,
}

macro_rules! reasons {
    ($(#[doc = $top:literal])+ $ty:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[doc = $top])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $ty { $($(#[doc = $doc])+ $variant,)+ }

        impl $ty {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [$ty] = &[$($ty::$variant,)+];

            /// The name used in statistics and fixtures.
            pub const fn name(self) -> &'static str {
                match self { $($ty::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Why a frame was left to the kernel.
    PassReason {
        /// Neither IPv4 nor IPv6 (ARP, LLDP, 802.1Q-tagged and other frames).
        NotIp = "not_ip",
        /// An 802.1Q or 802.1ad tag in the frame.
        Vlan = "vlan",
        /// No frontend listens there and no flow of ours answers to it.
        NotVip = "not_vip",
        /// Neither TCP, UDP nor ICMP.
        OtherProtocol = "other_protocol",
        /// ICMP that is no error: echo, neighbour discovery and the like.
        IcmpOther = "icmp_other",
        /// An ICMP error about a packet that is none of ours.
        IcmpUnrelated = "icmp_unrelated",
        /// A later fragment, which has no ports to go by, of a datagram whose first one was not seen: it may come yet.
        Fragment = "fragment",
        /// Encrypted or otherwise opaque IPv6 extension headers.
        OpaqueExtension = "opaque_extension",
        /// An Ethernet multicast or broadcast destination.
        Multicast = "multicast",
    }
}

reasons! {
    /// Why a frame was dropped.
    DropReason {
        /// Shorter than the headers it announces.
        Truncated = "truncated",
        /// An IPv4 header length below 20 or beyond the packet.
        BadIpHeader = "bad_ip_header",
        /// A TCP data offset below 20 or beyond the packet.
        BadTcpHeader = "bad_tcp_header",
        /// A UDP length below 8 or beyond the packet.
        BadUdpLength = "bad_udp_length",
        /// The IPv4 header checksum is wrong.
        BadIpChecksum = "bad_ip_checksum",
        /// More IPv6 extension headers than are walked.
        ExtensionChain = "extension_chain",
        /// A fragment of a TCP packet, or of a datagram whose first fragment was dropped.
        FragmentRefused = "fragment_refused",
        /// A fragment that covers bytes of its datagram that came before.
        FragmentOverlap = "fragment_overlap",
        /// A fragment that no datagram can have: of an impossible length, or a first one too short for its header.
        FragmentBad = "fragment_bad",
        /// The frontend's lists of networks deny the client's address.
        Denied = "denied",
        /// A source address no packet may have (multicast, broadcast, unspecified, loopback), or the VIP itself.
        BadSource = "bad_source",
        /// Flags no TCP stack sends (none, SYN with FIN, SYN with RST).
        BadTcpFlags = "bad_tcp_flags",
        /// TTL or hop limit used up, and the ICMP budget too.
        TtlExceeded = "ttl_exceeded",
        /// Larger than the next hop takes, and the ICMP budget is used up.
        TooBig = "too_big",
        /// No server of the backend is up with a weight above zero.
        NoServer = "no_server",
        /// The frontend has left the configuration: the flows it has go on, this would be another.
        FrontendLeft = "frontend_left",
        /// Passthrough: a packet of no known flow that cannot begin one, or an ICMP error about one.
        NoFlow = "no_flow",
        /// Passthrough: no room for another flow.
        FlowTableFull = "flow_table_full",
        /// Passthrough: every port towards the chosen server is in use.
        PortsExhausted = "ports_exhausted",
        /// The total connection limit.
        LimitTotal = "limit_total",
        /// The frontend's connection limit.
        LimitFrontend = "limit_frontend",
        /// The server's connection limit.
        LimitServer = "limit_server",
        /// The next hop's link-layer address is not known.
        NoNextHop = "no_next_hop",
        /// A blackhole route leads there, or an unreachable or prohibit route and the ICMP budget is used up.
        RouteRejected = "route_rejected",
        /// DSR by MAC address: the server is behind a router, which would send the packet back.
        ServerNotOnLink = "server_not_on_link",
        /// DSR by rewriting: the server is its own client, and would take the packet for a forged one.
        ServerIsClient = "server_is_client",
        /// The buffer had no room for the answer.
        NoRoom = "no_room",
    }
}

reasons! {
    /// An answer of ours.
    ReplyKind {
        /// A TCP reset: refused.
        TcpReset = "tcp_reset",
        /// ICMP Time Exceeded.
        TimeExceeded = "time_exceeded",
        /// ICMP Fragmentation Needed or ICMPv6 Packet Too Big.
        TooBig = "packet_too_big",
        /// ICMP Destination Unreachable: a route says so.
        Unreachable = "unreachable",
    }
}

reasons! {
    /// Something worth counting that is no verdict.
    Note {
        /// A flow was begun.
        FlowBegun = "flow_begun",
        /// DSR: a packet that begins no flow went to the server its hash names.
        HashRouted = "hash_routed",
        /// A segment outside of what the flow has seen was passed on without counting for it.
        OutOfWindow = "out_of_window",
        /// An unconfirmed flow gave way to a newer one.
        HalfOpenEvicted = "half_open_evicted",
        /// A flow gave up its place for a newer one: in DSR, where its packets go by their hash again, or an idle UDP
        /// conversation.
        FlowEvicted = "flow_evicted",
        /// The port of a closed or unconfirmed flow, or of an idle UDP conversation, was taken over.
        PortTakenOver = "port_taken_over",
        /// The first fragment of a datagram was sent on; the later ones follow it.
        DatagramBegun = "datagram_begun",
        /// A datagram of which not all fragments had come gave way to newer ones.
        DatagramEvicted = "datagram_evicted",
        /// A worker has found no shared memory for IPv6 flows: they end with the process.
        FlowsNotShared = "flows_not_shared",
        /// An ICMP error was translated and sent on.
        IcmpTranslated = "icmp_translated",
    }
}
