//! Hellos of real clients and of strangers: what is read of them, and where it leads.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{AcceptProxy, HelloRoutesSpec, Reason, SnapshotSpec};
use convey_proxy::client_hello::{LONGEST, LONGEST_HELLO, MOST_RECORDS, Parsed, parse};
use lab::{Lab, PATIENCE, connect, echo, frontend, serve, spec, wait_until};
use proptest::prelude::*;

/// What it is, its bytes, its name and protocols.
type Fixture = (&'static str, &'static [u8], Option<&'static str>, &'static [&'static str]);

const FIXTURES: [Fixture; 6] = [
    ("curl", include_bytes!("fixtures/client_hello/curl.bin"), Some("app.example.com"), &["h2", "http/1.1"]),
    ("node", include_bytes!("fixtures/client_hello/node.bin"), Some("app.example.com"), &["http/1.1"]),
    (
        "chromium",
        include_bytes!("fixtures/client_hello/chromium.bin"),
        Some("app.example.com"),
        &["h2", "http/1.1"],
    ),
    (
        "alpn",
        include_bytes!("fixtures/client_hello/openssl-alpn.bin"),
        Some("App.Example.COM"),
        &["h2", "http/1.1"],
    ),
    ("tls 1.2", include_bytes!("fixtures/client_hello/openssl-tls12.bin"), Some("app.example.com"), &[]),
    ("no name", include_bytes!("fixtures/client_hello/openssl-noservername.bin"), None, &[]),
];
const RECORDS: &[u8] = include_bytes!("fixtures/client_hello/openssl-records.bin");
const CHROMIUM: &[u8] = FIXTURES[2].1;

/// The same hello in records of at most `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
    hello[5..].chunks(size).flat_map(record).collect()
}

/// A hello of `length` bytes that names nothing.
fn padded(length: usize) -> Vec<u8> {
    let body = length - 4;
    let extensions = body - (2 + 32 + 1 + 2 + 1 + 2);
    let mut hello = vec![1];
    hello.extend(&(body as u32).to_be_bytes()[1..]);
    hello.extend([3, 3]);
    hello.extend([0; 32 + 1 + 2 + 1]);
    hello.extend((extensions as u16).to_be_bytes());
    hello.extend([0, 21]);
    hello.extend((extensions as u16 - 4).to_be_bytes());
    hello.resize(length, 0);
    hello
}

#[test]
fn names_and_protocols_of_real_clients_are_read() {
    for (what, bytes, sni, alpn) in FIXTURES {
        let Parsed::Hello(hello) = parse(bytes) else { panic!("{what}: {:?}", parse(bytes)) };
        assert_eq!(hello.sni.as_deref(), sni, "{what}");
        let protocols: Vec<_> = hello.alpn.iter().map(|p| std::str::from_utf8(p).unwrap()).collect();
        assert_eq!(protocols, alpn, "{what}");
    }
    let Parsed::Hello(hello) = parse(RECORDS) else { panic!("{:?}", parse(RECORDS)) };
    assert_eq!((hello.sni.as_deref(), hello.alpn.iter().count()), (Some("app.example.com"), 30));
}

#[test]
fn every_beginning_of_a_hello_is_incomplete_and_promises_no_more_than_it_takes() {
    for bytes in FIXTURES.iter().map(|f| f.1.to_vec()).chain([RECORDS.to_vec(), in_records(CHROMIUM, 40)]) {
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Parsed::Incomplete(needs) => assert!(cut < needs && needs <= bytes.len(), "{cut}: {needs}"),
                other => panic!("{cut} of {}: {other:?}", bytes.len()),
            }
        }
    }
}

#[test]
fn a_hello_may_be_16_kib_and_lie_in_64_records_and_no_more() {
    let hello = |length| [&[22, 3, 1, 0, 0], &padded(length)[..]].concat();
    let whole = hello(LONGEST_HELLO);
    for size in [LONGEST_HELLO, LONGEST_HELLO / MOST_RECORDS] {
        let bytes = in_records(&whole, size);
        assert!(bytes.len() <= LONGEST && matches!(parse(&bytes), Parsed::Hello(_)), "{size}");
    }
    assert_eq!(parse(&in_records(&hello(LONGEST_HELLO + 1), 1000)), Parsed::TooLong);
    assert_eq!(parse(&in_records(&whole, LONGEST_HELLO / MOST_RECORDS - 1)), Parsed::TooLong);
    assert_eq!(parse(&in_records(CHROMIUM, 1)), Parsed::TooLong);
}

#[test]
fn what_is_no_tls_is_known_by_its_first_bytes() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n", b"SSH-2.0-", b"\x16\x02", b"\x15\x03\x01\0\x02", b"\0"] {
        assert_eq!(parse(bytes), Parsed::Other, "{bytes:?}");
    }
    // Records without content, other handshake messages.
    for bytes in [&b"\x16\x03\x01\0\0"[..], b"\x16\x03\x01\x40\x01", b"\x16\x03\x01\0\x04\x02\0\0\0"] {
        assert_eq!(parse(bytes), Parsed::Other, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn a_piece_is_never_judged_otherwise_than_the_whole(
        fixture in 0..6_usize,
        size in 30..600_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = in_records(FIXTURES[fixture].1, size);
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let piece = parse(&bytes[..cut.index(bytes.len())]);
        if !matches!(piece, Parsed::Incomplete(_)) {
            prop_assert_eq!(piece, parse(&bytes));
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..2000), size in 1..300_usize) {
        let _ = parse(&bytes);
        let message = [&[22, 3, 1, 0, 0, 1, 0, (bytes.len() >> 8) as u8, bytes.len() as u8], &bytes[..]].concat();
        let _ = parse(&in_records(&message, size));
    }
}

/// Says `name`, then what it gets.
fn named(name: &'static str) -> SocketAddr {
    serve(move |mut stream: TcpStream| {
        let _ = stream.write_all(format!("{name}:").as_bytes());
        echo(stream);
    })
}

fn routed(timeout: Duration) -> SnapshotSpec {
    let mut spec = spec(&[named("pool")]);
    for name in ["app", "wild", "h2"] {
        let mut backend = spec.backends[0].clone();
        backend.name = name.to_owned();
        backend.servers[0].addr = named(name).into();
        spec.backends.push(backend);
    }
    let owned = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    spec.frontends[0].hello_routes = Some(HelloRoutesSpec {
        sni: owned(&[("app.example.com", "app"), ("*.example.com", "wild")]),
        alpn: owned(&[("h2", "h2")]),
        timeout,
    });
    spec
}

/// Sends `bytes` in pieces of `size`, and reads who answers and whether exactly that came to him.
fn served_by(lab: &Lab, bytes: &[u8], size: usize) -> String {
    let mut client = lab.connect();
    client.set_nodelay(true).unwrap();
    for piece in bytes.chunks(size) {
        client.write_all(piece).unwrap();
        if size < 100 {
            thread::sleep(Duration::from_micros(200));
        }
    }
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    let colon = got.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("got {got:?}"));
    assert_eq!(&got[colon + 1..], bytes, "every byte comes, once");
    String::from_utf8(got[..colon].to_vec()).unwrap()
}

#[test]
fn a_hello_goes_to_the_backend_of_its_name_however_it_is_cut_and_whole() {
    let lab = Lab::start(routed(PATIENCE));
    for size in [1, 7, 1400, 1 << 20] {
        assert_eq!(served_by(&lab, CHROMIUM, size), "app", "{size}");
    }
    assert_eq!(served_by(&lab, RECORDS, 300), "app");
    assert_eq!(served_by(&lab, &in_records(CHROMIUM, 100), 1 << 20), "app");
    let other = |from: &[u8], to: &[u8]| -> Vec<u8> {
        let at = CHROMIUM.windows(from.len()).position(|w| w == from).unwrap();
        [&CHROMIUM[..at], to, &CHROMIUM[at + from.len()..]].concat()
    };
    assert_eq!(served_by(&lab, &other(b"app.example", b"APq.example"), 500), "wild");
    assert_eq!(served_by(&lab, &other(b"example.com", b"example.org"), 500), "h2");
    assert_eq!(served_by(&lab, FIXTURES[5].1, 500), "pool", "neither name nor protocol");
    // Something behind the hello, as with early data.
    assert_eq!(served_by(&lab, &[CHROMIUM, &[23; 5000]].concat(), 700), "app");
    let counted = |i: usize| lab.snapshot().backends[i].counters.total();
    assert_eq!([counted(0), counted(1), counted(2), counted(3)], [1, 7, 1, 1]);
}

#[test]
fn what_is_no_tls_or_broken_goes_to_the_default_at_once() {
    let lab = Lab::start(routed(PATIENCE * 10));
    assert_eq!(served_by(&lab, b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n", 1 << 20), "pool");
    assert_eq!(served_by(&lab, b"\x16\x03\x01\0\x04\x02\0\0\0", 1 << 20), "pool");
    let mut broken = CHROMIUM.to_vec();
    // Its session has more bytes than the hello.
    broken[5 + 4 + 2 + 32] = 255;
    assert_eq!(served_by(&lab, &broken, 1 << 20), "pool");
}

#[test]
fn a_silent_client_goes_to_the_default_when_its_time_is_over() {
    let lab = Lab::start(routed(Duration::from_millis(300)));
    let begun = Instant::now();
    let mut client = lab.connect();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"pool:");
    assert!(begun.elapsed() >= Duration::from_millis(290));
}

/// Reads to the end, which may be a reset.
fn is_closed(mut client: TcpStream) -> bool {
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => rest.is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_hello_that_stays_away_or_is_too_long_closes_its_client_and_is_counted_by_cause() {
    let lab = Lab::start(routed(Duration::from_millis(500)));
    let mut halted = lab.connect();
    halted.write_all(&CHROMIUM[..1000]).unwrap();
    assert!(is_closed(halted));
    lab.wait_count(Reason::ClientHelloTimeout, 1);

    let mut ended = lab.connect();
    ended.write_all(&CHROMIUM[..1000]).unwrap();
    ended.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(ended));
    let nothing = lab.connect();
    nothing.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(nothing));
    lab.wait_count(Reason::ClientHelloMissing, 2);

    let mut long = lab.connect();
    long.write_all(b"\x16\x03\x01\x40\0\x01\0\x40\0").unwrap();
    assert!(is_closed(long));
    lab.wait_count(Reason::ClientHelloTooLong, 1);
    lab.wait_idle();
}

#[test]
fn a_client_that_resets_amid_its_hello_gives_its_place_back_at_once() {
    let lab = Lab::start(routed(PATIENCE * 10));
    let mut client = lab.connect();
    client.write_all(&CHROMIUM[..1000]).unwrap();
    wait_until("it is open", || lab.gauges()[0] == 1);
    let socket = socket2::SockRef::from(&client);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
}

#[test]
fn a_frontend_without_routes_looks_at_nothing() {
    let mut spec = routed(PATIENCE);
    spec.frontends.push(frontend("plain", "127.0.0.2:0"));
    let lab = Lab::start(spec);
    let mut client = connect(lab.addr_of("plain"));
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"pool:", "the server speaks first, without waiting");
}

#[test]
fn a_hello_behind_a_proxy_header_is_read_after_it() {
    let mut spec = routed(PATIENCE);
    spec.frontends[0].accept_proxy = Some(AcceptProxy { trusted: Vec::new(), timeout: PATIENCE });
    let lab = Lab::start(spec);
    for size in [1 << 20, 700, 20] {
        let mut client = lab.connect();
        client.set_nodelay(true).unwrap();
        let bytes = [b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", CHROMIUM].concat();
        for piece in bytes.chunks(size) {
            client.write_all(piece).unwrap();
            thread::sleep(Duration::from_micros(200));
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == [b"app:", CHROMIUM].concat(), "{size}: {} bytes", got.len());
    }
}
