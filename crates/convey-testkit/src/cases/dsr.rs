use super::world::*;
use super::{case, client};
use crate::build::{ACK, FIN, PacketBuilder as P, RST};
use crate::fixture::Case;

const REWRITE: &str = "dsr";
const L2: &str = "dsr by MAC";
const SERVER: &str = "10.0.0.11:80";
const SERVER6: &str = "[2001:db8:2::11]:80";

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(REWRITE, "DSR rewrite: only the destination address changes")
            .reaches_server(client(P::syn(CLIENT, VIP)), P::syn(CLIENT, SERVER).ttl(63)),
        case(REWRITE, "DSR rewrite, v6")
            .reaches_server(client(P::syn(CLIENT6, VIP6)), P::syn(CLIENT6, SERVER6).ttl(63)),
        case(REWRITE, "DSR rewrite: a known flow").after([client(P::syn(CLIENT, VIP))]).reaches_server(
            client(P::tcp(CLIENT, VIP).payload(b"GET /")),
            P::tcp(CLIENT, SERVER).payload(b"GET /").ttl(63),
        ),
        case(REWRITE, "DSR rewrite: a packet in mid-flow after a restart goes where its hash says")
            .reaches_server(
                client(P::tcp(CLIENT, VIP).payload(b"on")),
                P::tcp(CLIENT, SERVER).payload(b"on").ttl(63),
            ),
        case(REWRITE, "DSR rewrite: a FIN without state goes where its hash says").reaches_server(
            client(P::tcp(CLIENT, VIP).flags(FIN | ACK)),
            P::tcp(CLIENT, SERVER).flags(FIN | ACK).ttl(63),
        ),
        case(REWRITE, "DSR rewrite: a reset without state goes where its hash says").reaches_server(
            client(P::tcp(CLIENT, VIP).flags(RST).seq(1001, 0)),
            P::tcp(CLIENT, SERVER).flags(RST).seq(1001, 0).ttl(63),
        ),
        case(REWRITE, "DSR rewrite: any-port VIP, UDP: the port stays").reaches_server(
            client(P::udp(CLIENT, "192.0.2.11:5353").payload(b"q")),
            P::udp(CLIENT, "10.0.0.11:5353").payload(b"q").ttl(63),
        ),
        case(REWRITE, "DSR rewrite: any-port VIP, TCP").reaches_server(
            client(P::syn(CLIENT, "192.0.2.11:8443")),
            P::syn(CLIENT, "10.0.0.11:8443").ttl(63),
        ),
        case(REWRITE, "DSR rewrite: UDP checksum 0 stays 0").reaches_server(
            client(P::udp(CLIENT, "192.0.2.11:53").no_checksum().payload(b"q")),
            P::udp(CLIENT, "10.0.0.11:53").no_checksum().payload(b"q").ttl(63),
        ),
        case(REWRITE, "DSR rewrite: CHECKSUM_PARTIAL").reaches_server(
            client(P::syn(CLIENT, VIP).partial()).partial(&P::syn(CLIENT, VIP)),
            P::syn(CLIENT, SERVER).partial().ttl(63),
        ),
        case(REWRITE, "DSR: an answer that comes by is none of ours")
            .pass(super::server(P::tcp(VIP, CLIENT).seq(5001, 1001)), "not_vip"),
        case(REWRITE, "DSR rewrite: TTL 1 is answered").reply(
            client(P::syn(CLIENT, VIP).ttl(1)),
            "time_exceeded.ttl_exceeded",
            P::icmp("192.0.2.10", "198.51.100.7", 11, 0, 0, &P::syn(CLIENT, VIP).ttl(1).quoted(548)).id(0),
        ),
        case(L2, "DSR by MAC: nothing but the MACs changes")
            .reaches_server(client(P::syn(CLIENT, VIP)), P::syn(CLIENT, VIP)),
        case(L2, "DSR by MAC, v6").reaches_server(client(P::syn(CLIENT6, VIP6)), P::syn(CLIENT6, VIP6)),
        case(L2, "DSR by MAC: TTL 1 goes on, as through a switch")
            .reaches_server(client(P::syn(CLIENT, VIP).ttl(1)), P::syn(CLIENT, VIP).ttl(1)),
        case(L2, "DSR by MAC: a corrupted checksum stays as it is")
            .reaches_server(client(P::tcp(CLIENT, VIP).corrupt(0x0400)), P::tcp(CLIENT, VIP).corrupt(0x0400)),
        case(L2, "DSR by MAC: any-port VIP").reaches_server(
            client(P::udp(CLIENT, "192.0.2.11:5353").payload(b"q")),
            P::udp(CLIENT, "192.0.2.11:5353").payload(b"q"),
        ),
        case(L2, "DSR by MAC: padding is cut off")
            .reaches_server(client(P::tcp(CLIENT, VIP).trailer(6)), P::tcp(CLIENT, VIP)),
    ]
}
