use super::world::*;
use super::{Input, case, client};
use crate::build::{FIN, PacketBuilder as P, RST, SYN};
use crate::fixture::Case;
use crate::unhex;

const W: &str = "passthrough";

/// The frame with one byte replaced.
fn with(input: Input, at: usize, byte: u8) -> Input {
    let mut frame = unhex(&input.frame).unwrap_or_default();
    frame[at] = byte;
    Input::raw(frame, input.ingress)
}

/// The first bytes of the frame.
fn cut(input: Input, len: usize) -> Input {
    let mut frame = unhex(&input.frame).unwrap_or_default();
    frame.truncate(len);
    Input::raw(frame, input.ingress)
}

pub(super) fn cases() -> Vec<Case> {
    let syn = || client(P::syn(CLIENT, VIP));
    let syn6 = || client(P::syn(CLIENT6, VIP6));
    let mut long_chain = P::syn(CLIENT6, VIP6);
    for _ in 0..12 {
        long_chain = long_chain.extension(60, &[0, 1, 4, 0, 0, 0, 0]);
    }
    vec![
        case(W, "a runt without an EtherType").drop(cut(syn(), 13), "truncated"),
        case(W, "an empty frame").drop(cut(syn(), 0), "truncated"),
        case(W, "half an IPv4 header").drop(cut(syn(), 24), "truncated"),
        case(W, "half an IPv6 header").drop(cut(syn6(), 40), "truncated"),
        case(W, "an IPv4 packet cut short").drop(cut(syn(), 50), "truncated"),
        case(W, "an IPv6 packet cut short").drop(cut(syn6(), 70), "truncated"),
        case(W, "IPv4 by EtherType, version 6 by header").drop(with(syn(), 14, 0x65), "bad_ip_header"),
        case(W, "IPv6 by EtherType, version 4 by header").drop(with(syn6(), 14, 0x45), "bad_ip_header"),
        case(W, "ihl below 5").drop(with(syn(), 14, 0x44), "bad_ip_header"),
        case(W, "ihl beyond the packet")
            .drop(with(client(P::udp(CLIENT, VIP_UDP)), 14, 0x4f), "bad_ip_header"),
        case(W, "total length below the header").drop(with(syn(), 17, 19), "bad_ip_header"),
        case(W, "total length 0 without GSO").drop(with(syn(), 17, 0), "bad_ip_header"),
        case(W, "a wrong IPv4 header checksum")
            .drop(client(P::syn(CLIENT, VIP).corrupt_ip()), "bad_ip_checksum"),
        case(W, "a TCP data offset below 5")
            .drop(client(P::tcp(CLIENT, VIP).data_offset(4)), "bad_tcp_header"),
        case(W, "a TCP data offset beyond the packet")
            .drop(client(P::tcp(CLIENT, VIP).data_offset(15)), "bad_tcp_header"),
        case(W, "half a TCP header").drop(
            client(P::other("198.51.100.7", "192.0.2.10", 6, &[0x9c, 0x41, 0, 80, 0, 0, 0, 0])),
            "truncated",
        ),
        case(W, "two bytes of TCP")
            .drop(client(P::other("198.51.100.7", "192.0.2.10", 6, &[0x9c, 0x41])), "truncated"),
        case(W, "no TCP flag at all").drop(client(P::tcp(CLIENT, VIP).flags(0)), "bad_tcp_flags"),
        case(W, "SYN with FIN").drop(client(P::tcp(CLIENT, VIP).flags(SYN | FIN)), "bad_tcp_flags"),
        case(W, "SYN with RST").drop(client(P::tcp(CLIENT, VIP).flags(SYN | RST)), "bad_tcp_flags"),
        case(W, "a UDP length below 8").drop(client(P::udp(CLIENT, VIP_UDP).udp_len(7)), "bad_udp_length"),
        case(W, "a UDP length beyond the packet")
            .drop(client(P::udp(CLIENT, VIP_UDP).udp_len(9)), "bad_udp_length"),
        case(W, "a chain of IPv6 extension headers without end").drop(client(long_chain), "extension_chain"),
        case(W, "an IPv6 extension header beyond the packet")
            .drop(client(P::other("2001:db8:99::7", "2001:db8:1::10", 60, &[6, 9, 0, 0])), "truncated"),
        case(W, "an IPv4 address in IPv6 clothes")
            .drop(client(P::syn("[::ffff:198.51.100.7]:9", VIP6)), "bad_ip_header"),
        case(W, "the VIP as its own client (LAND)").drop(client(P::syn(VIP, VIP)), "bad_source"),
        case(W, "a multicast source").drop(client(P::syn("224.0.0.1:9", VIP)), "bad_source"),
        case(W, "a broadcast source").drop(client(P::syn("255.255.255.255:9", VIP)), "bad_source"),
        case(W, "a loopback source").drop(client(P::syn("127.0.0.1:9", VIP)), "bad_source"),
        case(W, "an unspecified source, v6").drop(client(P::syn("[::]:9", VIP6)), "bad_source"),
    ]
}
