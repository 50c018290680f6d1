//! PROXY headers as bytes: what is read, what is refused, and what is written for the next.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use convey_core::ProxyVersion::{V1, V2};
use convey_proxy::proxy_protocol::{Header, Invalid, LONGEST_HEADER, Origin, Parsed, parse, write};
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Whole(header, length)) if length == bytes.len() => header,
        other => panic!("{other:?} of {bytes:?}"),
    }
}

fn client(source: &str, destination: &str) -> Header {
    Header::of_client(source.parse().unwrap(), destination.parse().unwrap())
}

/// 192.0.2.1:4660 to 192.0.2.2:443.
const ENDS: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 0xbb];

#[test]
fn the_lines_of_the_protocols_text_are_read() {
    for (line, expected) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            client("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP6 ::1 2001:db8::2 0 443\r\n", client("[::1]:0", "[2001:db8::2]:443")),
    ] {
        assert_eq!(whole(line.as_bytes()), expected, "{line}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
    assert_eq!(longest.len(), 107);
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 what ever\r\n", &longest] {
        assert_eq!(whole(line.as_bytes()).origin, Origin::Unknown, "{line}");
    }
}

#[test]
fn a_line_that_the_protocol_does_not_write_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY \u{fc}\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Invalid::Line), "{line:?}");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY\tTCP4", b"proxy TCP4", b"\r\n\r\n\r\n", b"\0"] {
        assert_eq!(parse(bytes), Err(Invalid::Absent), "{bytes:?}");
    }
    let overlong = format!("PROXY UNKNOWN {}\r\n", "f".repeat(108 - 16));
    assert_eq!(parse(overlong.as_bytes()), Err(Invalid::Overlong));
    assert_eq!(parse(&overlong.as_bytes()[..107]), Err(Invalid::Overlong));
    assert_eq!(parse(&overlong.as_bytes()[..106]), Ok(Parsed::Incomplete));
}

#[test]
fn every_family_of_version_2_is_read() {
    let tcp4 = client("192.0.2.1:4660", "192.0.2.2:443");
    assert_eq!(whole(&v2(0x21, 0x11, &ENDS)), tcp4);
    let mut ends6 = [0; 36];
    (ends6[15], ends6[31], ends6[33], ends6[35]) = (1, 2, 3, 4);
    assert_eq!(whole(&v2(0x21, 0x21, &ends6)), client("[::1]:3", "[::2]:4"));
    let paths = [b'x'; 216];
    assert_eq!(whole(&v2(0x21, 0x31, &paths)).origin, Origin::Unix { family: 0x31, paths: Box::new(paths) });
    assert_eq!(whole(&v2(0x21, 0x00, &[])).origin, Origin::Unknown);
    // A datagram's client is none of this stream's.
    assert_eq!(whole(&v2(0x21, 0x12, &ENDS)).origin, Origin::Unknown);
    for (family, block) in [(0, &[][..]), (0x11, &ENDS), (0xff, b"thrown away")] {
        assert_eq!(whole(&v2(0x20, family, block)).origin, Origin::Local);
    }
}

#[test]
fn version_2_that_is_impossible_is_refused() {
    for (bytes, expected) in [
        (v2(0x22, 0x11, &ENDS), Invalid::Command),
        (v2(0x11, 0x11, &ENDS), Invalid::Command),
        (v2(0x21, 0x41, &ENDS), Invalid::Family),
        (v2(0x21, 0x13, &ENDS), Invalid::Family),
        (v2(0x21, 0x10, &ENDS), Invalid::Family),
        (v2(0x21, 0x11, &ENDS[..11]), Invalid::Length),
        (v2(0x21, 0x31, &[0; 215]), Invalid::Length),
        (v2(0x20, 0x00, &vec![0; LONGEST_HEADER - 15]), Invalid::Length),
        (v2(0x21, 0x11, &[&ENDS[..], &[1]].concat()), Invalid::Tlvs),
        (v2(0x21, 0x11, &[&ENDS[..], &[1, 0, 2, 0]].concat()), Invalid::Tlvs),
        (v2(0x21, 0x11, &[&ENDS[..], &tlv(3, &[0; 3])].concat()), Invalid::Tlvs),
        (v2(0x21, 0x11, &[&ENDS[..], &tlv(3, &[0; 4])].concat()), Invalid::Checksum),
    ] {
        assert_eq!(parse(&bytes), Err(expected), "{bytes:x?}");
    }
    assert_eq!(parse(&v2(0x22, 0x11, &ENDS)[..13]), Err(Invalid::Command), "as soon as it is certain");
    let longest = v2(0x20, 0x00, &vec![0; LONGEST_HEADER - 16]);
    assert_eq!(whole(&longest).origin, Origin::Local);
}

#[test]
fn a_next_header_repeats_tlvs_but_those_that_no_longer_hold_and_makes_a_checksum_of_its_own() {
    let (alpn, unique, unknown) = (tlv(1, b"h2"), tlv(5, b"id"), tlv(0xee, b""));
    let block = [&ENDS[..], &alpn, &tlv(4, b"padding"), &unique, &tlv(0x30, b"ns"), &unknown].concat();
    let header = whole(&v2(0x21, 0x11, &block));
    assert_eq!((&*header.tlvs, header.has_checksum), (&*[&*alpn, &unique, &unknown].concat(), false));
    assert_eq!(write(V2, &header), v2(0x21, 0x11, &[&ENDS[..], &alpn, &unique, &unknown].concat()));

    let with_checksum = write(V2, &Header { has_checksum: true, ..header.clone() });
    let again = whole(&with_checksum);
    assert!(again.has_checksum);
    assert_eq!(again.tlvs, header.tlvs);
    // The flip of any bit behind the fixed part is noticed: by the checksum, or because it makes another header.
    for at in 16..with_checksum.len() {
        let mut damaged = with_checksum.clone();
        damaged[at] ^= 1;
        assert!(parse(&damaged) != Ok(Parsed::Whole(again.clone(), damaged.len())), "byte {at}");
    }
    assert_eq!(write(V1, &header), b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 443\r\n");
}

#[test]
fn what_is_not_known_stays_unknown_and_a_unix_client_keeps_its_paths() {
    let of = |origin| Header { origin, tlvs: Box::default(), has_checksum: false };
    let unix = Origin::Unix { family: 0x31, paths: Box::new([b'x'; 216]) };
    assert_eq!(write(V2, &of(unix.clone())), v2(0x21, 0x31, &[b'x'; 216]));
    assert_eq!(write(V2, &of(Origin::Unknown)), v2(0x21, 0, &[]));
    assert_eq!(write(V2, &of(Origin::Local)), v2(0x20, 0, &[]));
    for origin in [unix, Origin::Unknown, Origin::Local] {
        assert_eq!(write(V1, &of(origin)), b"PROXY UNKNOWN\r\n");
    }
    let mixed = client("192.0.2.1:1", "[2001:db8::2]:2");
    assert_eq!(write(V1, &mixed), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
    let mapped = client("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
    assert_eq!(write(V1, &mapped), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
}

fn origin() -> impl Strategy<Value = Origin> {
    let v4 = (any::<[u8; 4]>(), any::<u16>(), any::<[u8; 4]>(), any::<u16>())
        .prop_map(|(a, p, b, q)| Origin::Client { source: (a, p).into(), destination: (b, q).into() });
    let v6 = (any::<[u16; 8]>(), any::<u16>(), any::<[u16; 8]>(), any::<u16>())
        .prop_map(|(a, p, b, q)| Origin::Client { source: (a, p).into(), destination: (b, q).into() });
    let unix = (prop_oneof![Just(0x31u8), Just(0x32)], any::<u8>())
        .prop_map(|(family, byte)| Origin::Unix { family, paths: Box::new([byte; 216]) });
    prop_oneof![v4, v6, unix, Just(Origin::Unknown), Just(Origin::Local)]
}

fn tlvs() -> impl Strategy<Value = Vec<u8>> {
    let kind = any::<u8>().prop_filter("not repeated", |kind| ![3, 4, 0x30].contains(kind));
    let one =
        (kind, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, value)| tlv(kind, &value));
    proptest::collection::vec(one, 0..5).prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_whatever_follows_and_wherever_it_is_cut(
        origin in origin(),
        tlvs in tlvs(),
        has_checksum: bool,
        rest in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let is_local = origin == Origin::Local;
        let header = Header {
            origin,
            tlvs: if is_local { Box::default() } else { tlvs.into() },
            has_checksum: has_checksum && !is_local,
        };
        for version in [V1, V2] {
            let bytes = write(version, &header);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Incomplete));
            }
            let read = parse(&[&*bytes, &*rest].concat());
            let Ok(Parsed::Whole(read, length)) = read else { panic!("{read:?}") };
            prop_assert_eq!(length, bytes.len());
            match (version, &header.origin) {
                (V2, _) => prop_assert_eq!(&read, &header),
                (V1, Origin::Client { .. }) => prop_assert_eq!(&read.origin, &header.origin),
                (V1, _) => prop_assert_eq!(read.origin, Origin::Unknown),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_alike_whole_and_piece_by_piece(
        begin in prop_oneof![
            Just(b"PROXY ".to_vec()),
            Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
            Just([SIGNATURE, &[0x21, 0x11, 0, 30]].concat()),
            Just([SIGNATURE, &[0x21]].concat()),
            Just(SIGNATURE.to_vec()),
            Just(vec![]),
        ],
        more in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [begin, more].concat();
        let whole = parse(&bytes);
        // The first piece about which anything is certain decides, and more bytes do not change it.
        let first = (0..=bytes.len()).map(|cut| parse(&bytes[..cut])).find(|p| *p != Ok(Parsed::Incomplete));
        match first {
            None => prop_assert_eq!(whole, Ok(Parsed::Incomplete)),
            Some(Ok(Parsed::Whole(header, length))) => {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(whole, Ok(Parsed::Whole(header, length)));
            }
            Some(first) => prop_assert_eq!(first.is_err(), whole.is_err()),
        }
    }
}
