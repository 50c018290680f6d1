use super::world::*;
use super::{case, client, server};
use crate::build::PacketBuilder as P;
use crate::fixture::Case;

const W: &str = "passthrough";
const DSR: &str = "dsr";
const L2: &str = "dsr by MAC";
/// A VIP with every port, behind which the DSR server is 10.0.0.11.
const ANY: &str = "192.0.2.11:53";
const BEHIND: &str = "10.0.0.11:53";

/// Bytes of a datagram in each fragment.
const SIZE: usize = 1448;

/// A datagram of three fragments, each datagram with an identification of its own.
fn cut(from: &str, to: &str, id: u16) -> [P; 3] {
    let payload: Vec<u8> = (0..3500u32).map(|i| (i * 7 + i / 256) as u8).collect();
    whole(P::udp(from, to).payload(&payload).id(id))
}

fn whole(packet: P) -> [P; 3] {
    packet.cut(SIZE).try_into().unwrap_or_else(|_| unreachable!("3508 bytes are three fragments"))
}

/// As it leaves: one hop less, and in passthrough with the first identification of ours.
fn sent(from: &str, to: &str, id: u16) -> [P; 3] {
    cut(from, to, id).map(|part| part.ttl(63))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let names = [
        ["the first fragment of a datagram", "the first fragment of a datagram, v6"],
        ["a middle fragment follows the first", "a middle fragment follows the first, v6"],
        ["the last fragment follows the first", "the last fragment follows the first, v6"],
    ];
    for (part, names) in names.into_iter().enumerate() {
        for (name, from, to, nat, server) in [
            (names[0], CLIENT, VIP_UDP, NAT, "10.0.0.11:8080"),
            (names[1], CLIENT6, VIP6_UDP, NAT6, "[2001:db8:2::11]:8080"),
        ] {
            let [first, ..] = cut(from, to, 101 + part as u16);
            let before = if part == 0 { vec![] } else { vec![client(first)] };
            cases.push(case(W, name).after(before).reaches_server(
                client(cut(from, to, 101 + part as u16)[part].clone()),
                sent(nat, server, 1)[part].clone(),
            ));
        }
    }
    let answer = || cut("10.0.0.11:8080", NAT, 104);
    let asked = || [client(P::udp(CLIENT, VIP_UDP).payload(b"?"))];
    let [first_answer, _, last_answer] = answer();
    cases.extend([
        case(W, "the first fragment of an answer")
            .after(asked())
            .reaches_client(server(first_answer.clone()), sent(VIP_UDP, CLIENT, 1)[0].clone()),
        case(W, "the last fragment of an answer, before the middle one")
            .after(asked().into_iter().chain([server(first_answer)]))
            .reaches_client(server(last_answer), sent(VIP_UDP, CLIENT, 1)[2].clone()),
        case(W, "a datagram in fragments without a checksum has none afterwards").reaches_server(
            client(cut_without_checksum(CLIENT, VIP_UDP, 105)),
            cut_without_checksum(NAT, "10.0.0.11:8080", 1).ttl(63),
        ),
    ]);
    let about = |from: &str, to: &str| sent(from, to, 1)[0].quoted(28);
    let [first_asked, ..] = cut(CLIENT, VIP_UDP, 113);
    cases.push(
        case(W, "an ICMP error that quotes a first fragment follows its flow")
            .after([client(first_asked)])
            .reaches_client(
                server(P::icmp("10.0.0.254", "192.0.2.10", 11, 1, 0, &about(NAT, "10.0.0.11:8080"))),
                P::icmp("192.0.2.10", "198.51.100.7", 11, 1, 0, &about(CLIENT, VIP_UDP)).ttl(63),
            ),
    );
    for (world, name, id, server) in [
        (DSR, "DSR rewrite: a later fragment follows the first, with its identification", 106, BEHIND),
        (L2, "DSR by MAC: a later fragment follows the first", 107, ANY),
    ] {
        let [first, middle, _] = cut(CLIENT, ANY, id);
        let [_, expected, _] = cut(CLIENT, server, id);
        let expected = if world == DSR { expected.ttl(63) } else { expected };
        cases.push(case(world, name).after([client(first)]).reaches_server(client(middle), expected));
    }
    let [first, middle, last] = cut(CLIENT, VIP_UDP, 108);
    let overlap = middle.clone().fragment(1440, true);
    let short = cut(CLIENT, VIP_UDP, 109);
    let beyond = last.clone().fragment(65_528, false);
    let odd = P::other("198.51.100.7", "192.0.2.10", 17, &[1; 101]).id(108).fragment(1448, true);
    cases.extend([
        case(W, "a later fragment for which the first has not come")
            .pass(client(short[1].clone()), "fragment"),
        case(W, "a fragment that overlaps the first (teardrop)")
            .after([client(first.clone())])
            .drop(client(overlap), "fragment_overlap"),
        case(W, "a fragment that came before")
            .after([client(first.clone()), client(middle.clone())])
            .drop(client(middle.clone()), "fragment_overlap"),
        case(W, "another first fragment of the same datagram")
            .after([client(first.clone())])
            .drop(client(first.clone()), "fragment_overlap"),
        case(W, "a fragment beyond the longest datagram")
            .after([client(first.clone())])
            .drop(client(beyond), "fragment_bad"),
        case(W, "a middle fragment that ends within a word of eight bytes")
            .after([client(first.clone())])
            .drop(client(odd), "fragment_bad"),
        case(W, "a fragment with TTL 1")
            .after([client(first.clone())])
            .drop(client(middle.clone().ttl(1)), "ttl_exceeded"),
        case(W, "a first fragment that ends within a word of eight bytes").drop(
            client(P::udp(CLIENT, VIP_UDP).payload(&[1; 101]).udp_len(2000).id(110).fragment(0, true)),
            "fragment_bad",
        ),
        case(W, "a first fragment of a datagram that would end with it").drop(
            client(P::udp(CLIENT, VIP_UDP).payload(&[1; 1000]).id(111).fragment(0, true)),
            "bad_udp_length",
        ),
        case(W, "the first fragment of a TCP segment").drop(
            client(P::tcp(CLIENT, VIP).payload(&[1; 1004]).id(112).fragment(0, true)),
            "fragment_refused",
        ),
        case(W, "the first fragment of a TCP segment, v6").drop(
            client(P::tcp(CLIENT6, VIP6).payload(&[1; 1004]).id(112).fragment(0, true)),
            "fragment_refused",
        ),
    ]);
    cases
}

fn cut_without_checksum(from: &str, to: &str, id: u16) -> P {
    let [first, ..] = whole(P::udp(from, to).no_checksum().payload(&[7; 3500]).id(id));
    first
}
