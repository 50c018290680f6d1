use super::passthrough::handshake;
use super::world::*;
use super::{case, client, server};
use crate::build::{ACK, PacketBuilder as P, RST, SYN};
use crate::fixture::Case;

const W: &str = "passthrough";
const QUIET: &str = "passthrough, refusals dropped";
const NOBODY: &str = "passthrough, nobody up";

/// A reset of ours.
fn reset(source: &str, destination: &str) -> P {
    P::tcp(source, destination).window(0).id(0)
}

pub(super) fn cases() -> Vec<Case> {
    let other = "198.51.100.8:40001";
    vec![
        case(NOBODY, "no server: a SYN is answered with a reset, v4").reply(
            client(P::syn(CLIENT, VIP)),
            "tcp_reset.no_server",
            reset(VIP, CLIENT).flags(RST | ACK).seq(0, 1001),
        ),
        case(NOBODY, "no server: a SYN is answered with a reset, v6").reply(
            client(P::syn(CLIENT6, VIP6)),
            "tcp_reset.no_server",
            reset(VIP6, CLIENT6).flags(RST | ACK).seq(0, 1001),
        ),
        case(NOBODY, "no server: a SYN with data is acknowledged in full by the reset").reply(
            client(P::syn(CLIENT, VIP).payload(b"early")),
            "tcp_reset.no_server",
            reset(VIP, CLIENT).flags(RST | ACK).seq(0, 1006),
        ),
        case(NOBODY, "no server: a datagram is dropped").drop(client(P::udp(CLIENT, VIP_UDP)), "no_server"),
        case(W, "no flow: data is answered with a reset").reply(
            client(P::tcp(CLIENT, VIP).payload(b"data")),
            "tcp_reset.no_flow",
            reset(VIP, CLIENT).flags(RST).seq(5001, 0),
        ),
        case(W, "no flow: a reset is dropped").drop(client(P::tcp(CLIENT, VIP).flags(RST)), "no_flow"),
        case(W, "no flow: a SYN-ACK from a client is answered with a reset").reply(
            client(P::tcp(CLIENT, VIP).flags(SYN | ACK)),
            "tcp_reset.no_flow",
            reset(VIP, CLIENT).flags(RST).seq(5001, 0),
        ),
        case(W, "no flow: a server's packet to a NAT port nobody holds is answered with a reset")
            .reply_to_server(
                server(P::tcp(SERVER, NAT).seq(5001, 1001)),
                "tcp_reset.no_flow",
                reset(NAT, SERVER).flags(RST).seq(1001, 0),
            ),
        case(W, "no flow: a server's datagram to a NAT port nobody holds is dropped")
            .drop(server(P::udp(SERVER, NAT)), "no_flow"),
        case(W, "IP options are not repeated in a reset").reply(
            client(P::tcp(CLIENT, VIP).ip_options(&[1; 8])),
            "tcp_reset.no_flow",
            reset(VIP, CLIENT).flags(RST).seq(5001, 0),
        ),
        case(QUIET, "refusals dropped: no flow").drop(client(P::tcp(CLIENT, VIP)), "no_flow"),
        case(QUIET, "refusals dropped: no port")
            .after(handshake())
            .drop(client(P::syn(other, VIP)), "ports_exhausted"),
        case(W, "no port is left and every flow is a conversation").after(handshake()).reply(
            client(P::syn(other, VIP)),
            "tcp_reset.ports_exhausted",
            reset(VIP, other).flags(RST | ACK).seq(0, 1001),
        ),
        case(W, "an expired flow is no flow").after(handshake()).reply(
            client(P::tcp(CLIENT, VIP)).at(8_000_000),
            "tcp_reset.no_flow",
            reset(VIP, CLIENT).flags(RST).seq(5001, 0),
        ),
        case(W, "a handshake that was not finished in time is no flow")
            .after([client(P::syn(CLIENT, VIP))])
            .reply(
                client(P::tcp(CLIENT, VIP)).at(40_000),
                "tcp_reset.no_flow",
                reset(VIP, CLIENT).flags(RST).seq(5001, 0),
            ),
        case("passthrough, servers' MACs unknown", "the server's MAC is not known yet")
            .drop(client(P::syn(CLIENT, VIP)), "no_next_hop"),
    ]
}
