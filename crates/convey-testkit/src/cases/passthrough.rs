use super::world::*;
use super::{Input, case, client, server};
use crate::build::{ACK, FIN, PSH, PacketBuilder as P, RST, SYN};
use crate::fixture::Case;

const W: &str = "passthrough";

/// Client and server have shaken hands: client bytes from 1001, server bytes from 5001.
pub(super) fn handshake() -> [Input; 3] {
    [
        client(P::syn(CLIENT, VIP)),
        server(P::tcp(SERVER, NAT).flags(SYN | ACK).seq(5000, 1001)),
        client(P::tcp(CLIENT, VIP).seq(1001, 5001)),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tcp();
    cases.extend(udp());
    cases.extend(offloads());
    cases.extend(headers());
    cases.extend(flow_state());
    cases
}

fn tcp() -> Vec<Case> {
    vec![
        case(W, "TCP v4: a SYN begins a flow")
            .reaches_server(client(P::syn(CLIENT, VIP)), P::syn(NAT, SERVER).ttl(63)),
        case(W, "TCP v4: the SYN-ACK goes back from the VIP")
            .after([client(P::syn(CLIENT, VIP))])
            .reaches_client(
                server(P::tcp(SERVER, NAT).flags(SYN | ACK).seq(5000, 1001)),
                P::tcp(VIP, CLIENT).flags(SYN | ACK).seq(5000, 1001).ttl(63),
            ),
        case(W, "TCP v4: data of a known flow (flow-table hit)").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).flags(ACK | PSH).payload(b"GET / HTTP/1.0\r\n\r\n")),
            P::tcp(NAT, SERVER).flags(ACK | PSH).payload(b"GET / HTTP/1.0\r\n\r\n").ttl(63),
        ),
        case(W, "TCP v4: an odd number of payload bytes").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).payload(b"odd")),
            P::tcp(NAT, SERVER).payload(b"odd").ttl(63),
        ),
        case(W, "TCP v4: the server's data").after(handshake()).reaches_client(
            server(P::tcp(SERVER, NAT).seq(5001, 1001).payload(b"HTTP/1.0 200 OK\r\n\r\n")),
            P::tcp(VIP, CLIENT).seq(5001, 1001).payload(b"HTTP/1.0 200 OK\r\n\r\n").ttl(63),
        ),
        case(W, "TCP v4: the client's FIN").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).flags(FIN | ACK)),
            P::tcp(NAT, SERVER).flags(FIN | ACK).ttl(63),
        ),
        case(W, "TCP v6: a SYN begins a flow")
            .reaches_server(client(P::syn(CLIENT6, VIP6)), P::syn(NAT6, SERVER6).ttl(63)),
        case(W, "TCP v6: the SYN-ACK goes back from the VIP")
            .after([client(P::syn(CLIENT6, VIP6))])
            .reaches_client(
                server(P::tcp(SERVER6, NAT6).flags(SYN | ACK).seq(5000, 1001)),
                P::tcp(VIP6, CLIENT6).flags(SYN | ACK).seq(5000, 1001).ttl(63),
            ),
    ]
}

fn udp() -> Vec<Case> {
    vec![
        case(W, "UDP v4").reaches_server(
            client(P::udp(CLIENT, VIP_UDP).payload(b"query")),
            P::udp(NAT, SERVER).payload(b"query").ttl(63),
        ),
        case(W, "UDP v4: the answer")
            .after([client(P::udp(CLIENT, VIP_UDP).payload(b"query"))])
            .reaches_client(
                server(P::udp(SERVER, NAT).payload(b"answer")),
                P::udp(VIP_UDP, CLIENT).payload(b"answer").ttl(63),
            ),
        case(W, "UDP v4: no payload")
            .reaches_server(client(P::udp(CLIENT, VIP_UDP)), P::udp(NAT, SERVER).ttl(63)),
        case(W, "UDP v4: checksum 0 stays 0").reaches_server(
            client(P::udp(CLIENT, VIP_UDP).no_checksum().payload(b"query")),
            P::udp(NAT, SERVER).no_checksum().payload(b"query").ttl(63),
        ),
        case(W, "UDP v4: a checksum computed as 0 leaves as ffff").reaches_server(
            client(P::udp(CLIENT, VIP_UDP).payload(&zero_sum_payload(NAT, SERVER))),
            P::udp(NAT, SERVER).payload(&zero_sum_payload(NAT, SERVER)).ttl(63),
        ),
        case(W, "UDP v4: a checksum that came as ffff is adjusted").reaches_server(
            client(P::udp(CLIENT, VIP_UDP).payload(&zero_sum_payload(CLIENT, VIP_UDP))),
            P::udp(NAT, SERVER).payload(&zero_sum_payload(CLIENT, VIP_UDP)).ttl(63),
        ),
        case(W, "UDP v6").reaches_server(
            client(P::udp(CLIENT6, VIP6_UDP).payload(b"query")),
            P::udp(NAT6, SERVER6).payload(b"query").ttl(63),
        ),
        case(W, "UDP v6: the answer")
            .after([client(P::udp(CLIENT6, VIP6_UDP).payload(b"q"))])
            .reaches_client(
                server(P::udp(SERVER6, NAT6).payload(b"answer")),
                P::udp(VIP6_UDP, CLIENT6).payload(b"answer").ttl(63),
            ),
    ]
}

/// Two payload bytes that make the checksum of a datagram between these addresses come out as 0.
fn zero_sum_payload(source: &str, destination: &str) -> Vec<u8> {
    let at = P::udp(source, destination).transport_offset() + 6;
    let frame = P::udp(source, destination).payload(&[0, 0]).build();
    // The checksum is the complement of the rest: adding it as data makes the sum ffff.
    frame[at..at + 2].to_vec()
}

fn offloads() -> Vec<Case> {
    let data = vec![0x5a; 4000];
    let into = P::tcp(CLIENT, VIP).payload(&data).partial();
    let back = P::tcp(SERVER, NAT).seq(5001, 1001).payload(&data).partial();
    let into6 = P::tcp(CLIENT6, VIP6).flags(SYN).seq(1000, 0).partial();
    let udp = P::udp(CLIENT, VIP_UDP).payload(b"query").partial();
    vec![
        case(W, "CHECKSUM_PARTIAL: a SYN").reaches_server(
            client(P::syn(CLIENT, VIP).partial()).partial(&P::syn(CLIENT, VIP)),
            P::syn(NAT, SERVER).partial().ttl(63),
        ),
        case(W, "CHECKSUM_PARTIAL: a SYN, v6").reaches_server(
            client(into6.clone()).partial(&into6),
            P::tcp(NAT6, SERVER6).flags(SYN).seq(1000, 0).partial().ttl(63),
        ),
        case(W, "CHECKSUM_PARTIAL: a datagram").reaches_server(
            client(udp.clone()).partial(&udp),
            P::udp(NAT, SERVER).payload(b"query").partial().ttl(63),
        ),
        case(W, "GSO: a super-frame longer than the MTU goes on whole").after(handshake()).reaches_server(
            client(into.clone()).partial(&into).gso(1, 1448),
            P::tcp(NAT, SERVER).payload(&data).partial().ttl(63),
        ),
        case(W, "GSO: a super-frame from the server goes back whole").after(handshake()).reaches_client(
            server(back.clone()).partial(&back).gso(1, 1448),
            P::tcp(VIP, CLIENT).seq(5001, 1001).payload(&data).partial().ttl(63),
        ),
        case(W, "a corrupted TCP checksum leaves corrupted by as much").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).payload(b"data").flags(ACK)).corrupted(0x0400),
            corrupted_like(
                P::tcp(CLIENT, VIP).payload(b"data"),
                P::tcp(NAT, SERVER).payload(b"data").ttl(63),
                0x0400,
            ),
        ),
    ]
}

impl Input {
    /// The TCP checksum of an option-less v4 frame with `mask` flipped.
    fn corrupted(mut self, mask: u16) -> Self {
        let mut frame = crate::unhex(&self.frame).unwrap_or_default();
        let field = u16::from_be_bytes([frame[50], frame[51]]) ^ mask;
        frame[50..52].copy_from_slice(&field.to_be_bytes());
        self.frame = crate::hex(&frame);
        self
    }
}

/// `output` with its checksum as far from right as that of `input` with `mask` flipped.
fn corrupted_like(input: P, output: P, mask: u16) -> P {
    let field = |p: &P| {
        let frame = p.build();
        u32::from(u16::from_be_bytes([frame[50], frame[51]]))
    };
    // In one's complement arithmetic: wrong' = right' + (wrong - right).
    let (right, wrong) = (field(&input), field(&input) ^ u32::from(mask));
    let shifted = (field(&output) + wrong + 0xffff - right) % 0xffff;
    let flip = field(&output) ^ shifted;
    output.corrupt(flip as u16)
}

fn headers() -> Vec<Case> {
    vec![
        case(W, "ToS is kept")
            .reaches_server(client(P::syn(CLIENT, VIP).tos(0xb8)), P::syn(NAT, SERVER).tos(0xb8).ttl(63)),
        case(W, "traffic class is kept, v6")
            .reaches_server(client(P::syn(CLIENT6, VIP6).tos(0xb8)), P::syn(NAT6, SERVER6).tos(0xb8).ttl(63)),
        case(W, "IP options are kept and TCP is found behind them").reaches_server(
            client(P::syn(CLIENT, VIP).ip_options(&[1, 1, 1, 0])),
            P::syn(NAT, SERVER).ip_options(&[1, 1, 1, 0]).ttl(63),
        ),
        case(W, "the longest IP options (ihl 15)").reaches_server(
            client(P::syn(CLIENT, VIP).ip_options(&[1; 40])),
            P::syn(NAT, SERVER).ip_options(&[1; 40]).ttl(63),
        ),
        case(W, "hop-by-hop and destination options are walked, v6").reaches_server(
            client(
                P::syn(CLIENT6, VIP6)
                    .extension(0, &[0, 1, 4, 0, 0, 0, 0])
                    .extension(60, &[0, 1, 4, 0, 0, 0, 0]),
            ),
            P::syn(NAT6, SERVER6)
                .extension(0, &[0, 1, 4, 0, 0, 0, 0])
                .extension(60, &[0, 1, 4, 0, 0, 0, 0])
                .ttl(63),
        ),
        case(W, "eight IPv6 extension headers are walked, as many as any program here walks").reaches_server(
            client(eight_extensions(P::syn(CLIENT6, VIP6))),
            eight_extensions(P::syn(NAT6, SERVER6)).ttl(63),
        ),
        case(W, "an atomic fragment counts as whole, v6").reaches_server(
            client(P::syn(CLIENT6, VIP6).extension(44, &[0, 0, 0, 0, 0, 0, 9])),
            P::syn(NAT6, SERVER6).extension(44, &[0, 0, 0, 0, 0, 0, 9]).ttl(63),
        ),
        case(W, "Ethernet padding is cut off and does not become payload")
            .after(handshake())
            .reaches_server(client(P::tcp(CLIENT, VIP).trailer(6)), P::tcp(NAT, SERVER).ttl(63)),
        case(W, "TTL 2 goes on with TTL 1")
            .reaches_server(client(P::syn(CLIENT, VIP).ttl(2)), P::syn(NAT, SERVER).ttl(1)),
        case(W, "a full-sized packet fits").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).payload(&[7; 1460])),
            P::tcp(NAT, SERVER).payload(&[7; 1460]).ttl(63),
        ),
    ]
}

fn flow_state() -> Vec<Case> {
    let fin = || P::tcp(CLIENT, VIP).flags(FIN | ACK).seq(1001, 5001);
    let server_fin = || P::tcp(SERVER, NAT).flags(FIN | ACK).seq(5001, 1002);
    let other = "198.51.100.8:40001";
    vec![
        case(W, "half-closed: the server still sends")
            .after(handshake())
            .after([client(fin())])
            .reaches_client(
                server(P::tcp(SERVER, NAT).seq(5001, 1002).payload(b"more")),
                P::tcp(VIP, CLIENT).seq(5001, 1002).payload(b"more").ttl(63),
            ),
        case(W, "a SYN on a closed tuple begins anew without waiting")
            .after(handshake())
            .after([client(fin()), server(server_fin())])
            .reaches_server(
                client(P::syn(CLIENT, VIP).seq(900_000, 0)),
                P::syn(NAT, SERVER).seq(900_000, 0).ttl(63),
            ),
        case(W, "the last acknowledgement of a closed flow still goes on")
            .after(handshake())
            .after([client(fin()), server(server_fin())])
            .reaches_server(
                client(P::tcp(CLIENT, VIP).seq(1002, 5002)),
                P::tcp(NAT, SERVER).seq(1002, 5002).ttl(63),
            ),
        case(W, "a closed flow's port is taken over when no other is free")
            .after(handshake())
            .after([client(fin()), server(server_fin())])
            .reaches_server(client(P::syn(other, VIP)), P::syn(NAT, SERVER).ttl(63)),
        case(W, "a flood's port is taken over when no other is free")
            .after([client(P::syn(other, VIP))])
            .reaches_server(client(P::syn(CLIENT, VIP)), P::syn(NAT, SERVER).ttl(63)),
        case(W, "a blind reset is passed on").after(handshake()).reaches_server(
            client(P::tcp(CLIENT, VIP).flags(RST).seq(77, 0)),
            P::tcp(NAT, SERVER).flags(RST).seq(77, 0).ttl(63),
        ),
        case(W, "a flow stands after a blind reset from the client and one from the server")
            .after(handshake())
            .after([
                client(P::tcp(CLIENT, VIP).flags(RST).seq(77, 0)),
                server(P::tcp(SERVER, NAT).flags(RST).seq(77, 0)),
            ])
            .reaches_server(
                client(P::tcp(CLIENT, VIP).payload(b"on")).at(100_000),
                P::tcp(NAT, SERVER).payload(b"on").ttl(63),
            ),
        case(W, "a flow lives while packets come").after(handshake()).reaches_client(
            server(P::tcp(SERVER, NAT).seq(5001, 1001)).at(7_000_000),
            P::tcp(VIP, CLIENT).seq(5001, 1001).ttl(63),
        ),
        case("passthrough, first server weighs nothing", "zero weight gets no new flow")
            .reaches_second(client(P::syn(CLIENT, VIP)), P::syn(NAT, "10.0.0.12:8080").ttl(63)),
    ]
}

fn eight_extensions(packet: P) -> P {
    (0..8).fold(packet, |packet, _| packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]))
}
