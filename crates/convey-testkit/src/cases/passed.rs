use super::world::*;
use super::{Input, case, client, server};
use crate::build::PacketBuilder as P;
use crate::fixture::Case;

const W: &str = "passthrough";

fn ethernet(destination: [u8; 6], ethertype: [u8; 2], body: &[u8]) -> Input {
    Input::raw([&destination[..], &GATEWAY[..], &ethertype[..], body].concat(), 1)
}

pub(super) fn cases() -> Vec<Case> {
    let fragment = |offset, more| P::other("198.51.100.7", "192.0.2.10", 17, &[1; 64]).fragment(offset, more);
    let fragment6 =
        |offset, more| P::other("2001:db8:99::7", "2001:db8:1::10", 17, &[1; 64]).fragment(offset, more);
    vec![
        case(W, "ARP").pass(ethernet([0xff; 6], [8, 6], &[0; 28]), "not_ip"),
        case(W, "LLDP").pass(ethernet([1, 0x80, 0xc2, 0, 0, 14], [0x88, 0xcc], &[0; 46]), "not_ip"),
        case(W, "an 802.1Q tag").pass(client(P::syn(CLIENT, VIP).vlan(7)), "vlan"),
        case(W, "another address, v4 (non-VIP)").pass(client(P::syn(CLIENT, "192.0.2.99:80")), "not_vip"),
        case(W, "another address, v6 (non-VIP)")
            .pass(client(P::syn(CLIENT6, "[2001:db8:1::99]:80")), "not_vip"),
        case(W, "ssh on the VIP's address").pass(client(P::syn(CLIENT, "192.0.2.10:22")), "not_vip"),
        case(W, "UDP to a port where TCP is served").pass(client(P::udp(CLIENT, VIP)), "not_vip"),
        case(W, "a NAT port from a host that is no server")
            .after([client(P::syn(CLIENT, VIP))])
            .pass(server(P::tcp("10.0.0.66:8080", NAT).seq(5001, 1001)), "not_vip"),
        case(W, "a NAT port from the server's other port")
            .after([client(P::syn(CLIENT, VIP))])
            .pass(server(P::tcp("10.0.0.11:22", NAT).seq(5001, 1001)), "not_vip"),
        case(W, "a NAT port by another protocol")
            .after([client(P::syn(CLIENT, VIP))])
            .pass(server(P::udp("10.0.0.11:9090", NAT)), "not_vip"),
        case(W, "the health check's own connection")
            .pass(server(P::tcp(SERVER, "192.0.2.10:32000").seq(5001, 1001)), "not_vip"),
        case(W, "echo request to the VIP, v4")
            .pass(client(P::icmp("198.51.100.7", "192.0.2.10", 8, 0, 1, b"ping")), "icmp_other"),
        case(W, "echo request to the VIP, v6")
            .pass(client(P::icmp("2001:db8:99::7", "2001:db8:1::10", 128, 0, 1, b"ping")), "icmp_other"),
        case(W, "neighbour solicitation")
            .pass(client(P::icmp("2001:db8:1::fe", "2001:db8:1::10", 135, 0, 0, &[0; 16])), "icmp_other"),
        case(W, "an ICMP redirect").pass(
            client(P::icmp("192.0.2.254", "192.0.2.10", 5, 1, 0, &P::tcp(VIP, CLIENT).quoted(28))),
            "icmp_other",
        ),
        case(W, "GRE to the VIP")
            .pass(client(P::other("198.51.100.7", "192.0.2.10", 47, &[0; 20])), "other_protocol"),
        case(W, "ESP to the VIP, v6")
            .pass(client(P::other("2001:db8:99::7", "2001:db8:1::10", 50, &[0; 20])), "other_protocol"),
        case(W, "a middle fragment, v4").pass(client(fragment(1480, true)), "fragment"),
        case(W, "the last fragment, v4").pass(client(fragment(2960, false)), "fragment"),
        case(W, "a middle fragment, v6").pass(client(fragment6(1448, true)), "fragment"),
        case(W, "the last fragment, v6").pass(client(fragment6(2896, false)), "fragment"),
        case(W, "the first fragment of a packet for the host itself")
            .pass(client(P::udp(CLIENT, "192.0.2.10:2049").payload(&[1; 1000]).fragment(0, true)), "not_vip"),
        case(W, "an authentication header, v6").pass(
            client(P::other("2001:db8:99::7", "2001:db8:1::10", 51, &[6, 4, 0, 0, 0, 0, 0, 0])),
            "opaque_extension",
        ),
        case(W, "a routing header with segments left, v6").pass(
            client(
                P::syn(CLIENT6, VIP6)
                    .extension(43, &[2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
            ),
            "opaque_extension",
        ),
        case(W, "a packet to an Ethernet multicast address").pass(
            Input::raw(P::syn(CLIENT, VIP).macs([1, 0, 0x5e, 0, 0, 1], GATEWAY).build(), 1),
            "multicast",
        ),
    ]
}
