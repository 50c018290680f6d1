use super::passthrough::handshake;
use super::world::*;
use super::{case, client, server};
use crate::build::{ACK, PacketBuilder as P};
use crate::fixture::Case;

const W: &str = "passthrough";
const ROUTER: &str = "203.0.113.1";
const ROUTER6: &str = "2001:db8:77::1";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = translated();
    cases.extend(own());
    cases
}

fn translated() -> Vec<Case> {
    // What the balancer had sent to the client, and to the server, as a router on the way quotes it.
    let to_client = || P::tcp(VIP, CLIENT).seq(5001, 1001).payload(&[9; 1400]).ttl(60);
    let from_server = || P::tcp(SERVER, NAT).seq(5001, 1001).payload(&[9; 1400]).ttl(60);
    let to_server = || P::tcp(NAT, SERVER).payload(&[9; 1400]).ttl(60);
    let from_client = || P::tcp(CLIENT, VIP).payload(&[9; 1400]).ttl(60);
    let syn6 = || client(P::syn(CLIENT6, VIP6));
    let syn6_ack = || server(P::tcp(SERVER6, NAT6).flags(ACK | 2).seq(5000, 1001));
    let query = || client(P::udp(CLIENT, VIP_UDP).payload(b"query"));
    let dsr = "dsr";
    let dsr_back = || P::tcp(VIP, CLIENT).seq(5001, 1001).payload(&[9; 1400]).ttl(60);
    vec![
        case(W, "ICMP v4: Fragmentation Needed about an answer, eight transport bytes quoted")
            .after(handshake())
            .reaches_server(
                client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().quoted(28))),
                P::icmp("192.0.2.10", "10.0.0.11", 3, 4, 1280, &from_server().quoted(28)).ttl(63),
            ),
        case(W, "ICMP v4: Fragmentation Needed with the whole TCP header quoted")
            .after(handshake())
            .reaches_server(
                client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().quoted(128))),
                P::icmp("192.0.2.10", "10.0.0.11", 3, 4, 1280, &from_server().quoted(128)).ttl(63),
            ),
        case(W, "ICMP v4: an error about a client's packet goes to the client")
            .after(handshake())
            .reaches_client(
                server(P::icmp("10.0.0.254", "192.0.2.10", 3, 4, 1400, &to_server().quoted(28))),
                P::icmp("192.0.2.10", "198.51.100.7", 3, 4, 1400, &from_client().quoted(28)).ttl(63),
            ),
        case(W, "ICMP v4: the server's own error comes from the VIP").after([query()]).reaches_client(
            server(P::icmp(
                "10.0.0.11",
                "192.0.2.10",
                3,
                3,
                0,
                &P::udp(NAT, SERVER).payload(b"query").quoted(28),
            )),
            P::icmp(
                "192.0.2.10",
                "198.51.100.7",
                3,
                3,
                0,
                &P::udp(CLIENT, VIP_UDP).payload(b"query").quoted(28),
            )
            .ttl(63),
        ),
        case(W, "ICMP v4: the client's own error comes from the NAT address")
            .after([query()])
            .reaches_server(
                client(P::icmp(
                    "198.51.100.7",
                    "192.0.2.10",
                    3,
                    3,
                    0,
                    &P::udp(VIP_UDP, CLIENT).payload(b"a").quoted(28),
                )),
                P::icmp("192.0.2.10", "10.0.0.11", 3, 3, 0, &P::udp(SERVER, NAT).payload(b"a").quoted(28))
                    .ttl(63),
            ),
        case(W, "ICMP v4: a quoted UDP checksum of 0 stays 0").after([query()]).reaches_server(
            client(P::icmp(
                ROUTER,
                "192.0.2.10",
                11,
                0,
                0,
                &P::udp(VIP_UDP, CLIENT).no_checksum().quoted(28),
            )),
            P::icmp("192.0.2.10", "10.0.0.11", 11, 0, 0, &P::udp(SERVER, NAT).no_checksum().quoted(28))
                .ttl(63),
        ),
        case(W, "ICMP v4: quoted IP options are kept").after(handshake()).reaches_server(
            client(P::icmp(ROUTER, "192.0.2.10", 11, 0, 0, &to_client().ip_options(&[1; 4]).quoted(32))),
            P::icmp("192.0.2.10", "10.0.0.11", 11, 0, 0, &from_server().ip_options(&[1; 4]).quoted(32))
                .ttl(63),
        ),
        case(W, "ICMP v6: Packet Too Big about an answer").after([syn6(), syn6_ack()]).reaches_server(
            client(P::icmp(
                ROUTER6,
                "2001:db8:1::10",
                2,
                0,
                1280,
                &P::tcp(VIP6, CLIENT6).payload(&[1; 99]).quoted(48),
            )),
            P::icmp(
                "2001:db8:1::10",
                "2001:db8:2::11",
                2,
                0,
                1280,
                &P::tcp(SERVER6, NAT6).payload(&[1; 99]).quoted(48),
            )
            .ttl(63),
        ),
        case(W, "ICMP v6: an error about a client's packet goes to the client")
            .after([syn6()])
            .reaches_client(
                server(P::icmp(
                    "2001:db8:2::11",
                    "2001:db8:1::10",
                    1,
                    4,
                    0,
                    &P::tcp(NAT6, SERVER6).quoted(100),
                )),
                P::icmp("2001:db8:1::10", "2001:db8:99::7", 1, 4, 0, &P::tcp(CLIENT6, VIP6).quoted(100))
                    .ttl(63),
            ),
        case(dsr, "ICMP v4 in DSR: the error goes to the server that answers")
            .after([client(P::syn(CLIENT, VIP))])
            .reaches_server(
                client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &dsr_back().quoted(28))),
                P::icmp(
                    "192.0.2.10",
                    "10.0.0.11",
                    3,
                    4,
                    1280,
                    &P::tcp("10.0.0.11:80", CLIENT).seq(5001, 1001).payload(&[9; 1400]).ttl(60).quoted(28),
                )
                .ttl(63),
            ),
        case(dsr, "ICMP v4 in DSR: an error without state goes where the hash says").reaches_server(
            client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &dsr_back().quoted(28))),
            P::icmp(
                "192.0.2.10",
                "10.0.0.11",
                3,
                4,
                1280,
                &P::tcp("10.0.0.11:80", CLIENT).seq(5001, 1001).payload(&[9; 1400]).ttl(60).quoted(28),
            )
            .ttl(63),
        ),
        case("dsr by MAC", "ICMP v4 in DSR by MAC: nothing but the MACs changes").reaches_server(
            client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &dsr_back().quoted(28))),
            P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &dsr_back().quoted(28)),
        ),
        case(W, "an ICMP error with TTL 1 is dropped, not answered").after(handshake()).drop(
            client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().quoted(28)).ttl(1)),
            "ttl_exceeded",
        ),
        case(W, "an ICMP error whose outer destination is not the quoted source is none of ours")
            .after(handshake())
            .pass(
                client(P::icmp(ROUTER, "192.0.2.99", 3, 4, 1280, &to_client().quoted(28))),
                "icmp_unrelated",
            ),
        case(W, "an ICMP error about an answer of no known flow is dropped")
            .drop(client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().quoted(28))), "no_flow"),
        case(W, "an ICMP error about a packet to a server of no known flow is dropped").drop(
            server(P::icmp("10.0.0.254", "192.0.2.10", 3, 4, 1400, &to_server().quoted(28))),
            "no_flow",
        ),
        case(W, "an ICMP error about a packet of this host's own to a server is the kernel's").pass(
            server(P::icmp(
                "10.0.0.254",
                "192.0.2.10",
                3,
                4,
                1400,
                &P::tcp("192.0.2.10:50000", SERVER).quoted(28),
            )),
            "icmp_unrelated",
        ),
        case(W, "an ICMP error that quotes fewer than eight transport bytes is the kernel's")
            .after(handshake())
            .pass(
                client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().quoted(27))),
                "icmp_unrelated",
            ),
        case(W, "an ICMP error that quotes a later fragment is the kernel's").after(handshake()).pass(
            client(P::icmp(ROUTER, "192.0.2.10", 3, 4, 1280, &to_client().fragment(1480, false).quoted(28))),
            "icmp_unrelated",
        ),
    ]
}

fn own() -> Vec<Case> {
    let narrow = "passthrough, servers behind MTU 1280";
    let big = || P::tcp(CLIENT, VIP).payload(&[7; 1400]);
    let big6 = || P::udp(CLIENT6, VIP6_UDP).payload(&[7; 1400]);
    let back = || P::tcp(SERVER, NAT).seq(5001, 1001).payload(&[7; 1400]);
    let gso = || P::tcp(CLIENT, VIP).payload(&[7; 4000]).partial();
    vec![
        case(W, "TTL 1 is answered with Time Exceeded, v4").reply(
            client(P::syn(CLIENT, VIP).ttl(1)),
            "time_exceeded.ttl_exceeded",
            P::icmp("192.0.2.10", "198.51.100.7", 11, 0, 0, &P::syn(CLIENT, VIP).ttl(1).quoted(548)).id(0),
        ),
        case(W, "hop limit 1 is answered with Time Exceeded, v6").reply(
            client(P::syn(CLIENT6, VIP6).ttl(1)),
            "time_exceeded.ttl_exceeded",
            P::icmp("2001:db8:1::10", "2001:db8:99::7", 3, 0, 0, &P::syn(CLIENT6, VIP6).ttl(1).quoted(1232)),
        ),
        case(W, "a server's packet with TTL 1 is answered to the server").after(handshake()).reply_to_server(
            server(P::tcp(SERVER, NAT).seq(5001, 1001).ttl(1)),
            "time_exceeded.ttl_exceeded",
            P::icmp(
                "192.0.2.10",
                "10.0.0.11",
                11,
                0,
                0,
                &P::tcp(SERVER, NAT).seq(5001, 1001).ttl(1).quoted(548),
            )
            .id(0),
        ),
        case(narrow, "too big for the next hop: Fragmentation Needed, quoting 576 bytes at most")
            .after(handshake())
            .reply(
                client(big()),
                "packet_too_big.too_big",
                P::icmp("192.0.2.10", "198.51.100.7", 3, 4, 1280, &big().quoted(548)).id(0),
            ),
        case(narrow, "too big for the next hop: Packet Too Big, v6, quoting 1280 bytes at most").reply(
            client(big6()),
            "packet_too_big.too_big",
            P::icmp("2001:db8:1::10", "2001:db8:99::7", 2, 0, 1280, &big6().quoted(1232)),
        ),
        case("passthrough, clients behind MTU 1280", "too big for the client's side: the server is told")
            .after(handshake())
            .reply_to_server(
                server(back()),
                "packet_too_big.too_big",
                P::icmp("192.0.2.10", "10.0.0.11", 3, 4, 1280, &back().quoted(548)).id(0),
            ),
        case(narrow, "GSO: segments too big for the next hop are answered").after(handshake()).reply(
            client(gso()).partial(&gso()).gso(1, 1448),
            "packet_too_big.too_big",
            P::icmp("192.0.2.10", "198.51.100.7", 3, 4, 1280, &gso().quoted(548)).id(0),
        ),
        case(narrow, "GSO: segments that fit go on in one frame").after(handshake()).reaches_server(
            client(gso()).partial(&gso()).gso(1, 1240),
            P::tcp(NAT, SERVER).payload(&[7; 4000]).partial().ttl(63),
        ),
        case("dsr, servers behind MTU 1280", "DSR: too big for the next hop is answered").reply(
            client(big()),
            "packet_too_big.too_big",
            P::icmp("192.0.2.10", "198.51.100.7", 3, 4, 1280, &big().quoted(548)).id(0),
        ),
    ]
}
