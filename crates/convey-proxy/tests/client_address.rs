//! Who the client is: PROXY headers taken from proxies in front and given to servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use convey_core::{AcceptProxy, FlowCursor, FlowFilter, Prefix, ProxyVersion, Reason, SnapshotSpec};
use lab::{Lab, connect, echo, handing_over, refusing, serve, spec, wait_until};

const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n";

fn accepting(servers: &[SocketAddr]) -> SnapshotSpec {
    let mut spec = spec(servers);
    spec.frontends[0].accept_proxy =
        Some(AcceptProxy { trusted: Vec::new(), timeout: Duration::from_secs(60) });
    spec
}

fn trusting(servers: &[SocketAddr], prefix: (&str, u8)) -> SnapshotSpec {
    let mut spec = accepting(servers);
    let accept = spec.frontends[0].accept_proxy.as_mut().unwrap();
    accept.trusted.push(Prefix::new(prefix.0.parse().unwrap(), prefix.1).unwrap());
    spec
}

fn sending(mut spec: SnapshotSpec, version: ProxyVersion) -> SnapshotSpec {
    spec.backends[0].servers.iter_mut().for_each(|server| server.send_proxy = Some(version));
    spec
}

fn to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn exactly(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).unwrap();
    read
}

/// Whether the peer has closed, with a FIN or a reset, and sent nothing.
fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_))
}

fn clients(lab: &Lab) -> Vec<SocketAddr> {
    let page = lab.proxy.connections(&FlowFilter::default(), FlowCursor::default(), 100);
    page.rows.iter().map(|row| row.client).collect()
}

fn line(client: SocketAddr, vip: SocketAddr) -> String {
    format!("PROXY TCP4 {} {} {} {}\r\n", client.ip(), vip.ip(), client.port(), vip.port())
}

#[test]
fn exactly_the_header_is_taken_however_it_is_cut_and_whatever_comes_with_it() {
    let lab = Lab::start(accepting(&[serve(echo)]));
    for cut in [1, 5, 6, 30, HEADER.len() - 1, HEADER.len()] {
        let mut client = lab.connect();
        client.set_nodelay(true).unwrap();
        client.write_all(&HEADER[..cut]).unwrap();
        sleep(Duration::from_millis(30));
        client.write_all(&[&HEADER[cut..], b"first words"].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(to_end(client), b"first words", "cut at {cut}");
    }
    lab.wait_idle();
    let mut client = lab.connect();
    client.set_nodelay(true).unwrap();
    let (last, before) = HEADER.split_last().unwrap();
    for byte in before {
        client.write_all(&[*byte]).unwrap();
        sleep(Duration::from_millis(1));
    }
    assert_eq!(
        clients(&lab),
        [client.local_addr().unwrap()],
        "listed as the proxy in front until it has told"
    );
    client.write_all(&[*last]).unwrap();
    client.write_all(b"later").unwrap();
    assert_eq!(exactly(&mut client, 5), b"later");
    assert_eq!(clients(&lab), ["198.51.100.7:40000".parse().unwrap()]);
    drop(client);
    lab.wait_idle();
}

#[test]
fn a_client_whose_header_names_no_address_stands_for_itself() {
    let lab = Lab::start(accepting(&[serve(echo)]));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'x'; 216]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], local, &unix] {
        let mut client = lab.connect();
        client.write_all(&[header, b"x"].concat()).unwrap();
        assert_eq!(exactly(&mut client, 1), b"x");
        assert_eq!(clients(&lab), [client.local_addr().unwrap()]);
        drop(client);
        lab.wait_idle();
    }
}

#[test]
fn what_is_no_header_closes_the_connection_and_is_counted() {
    let lab = Lab::start(accepting(&[serve(echo)]));
    let overlong = [b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat();
    let wrong_checksum = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x07\x03\0\x04\0\0\0\0";
    let hostile: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXY TCP4 1.2.3.4\r\n", &overlong, wrong_checksum];
    for (n, bytes) in (1..).zip(hostile) {
        let mut client = lab.connect();
        client.write_all(bytes).unwrap();
        assert!(is_closed(&mut client), "{bytes:?}");
        lab.wait_count(Reason::ProxyHeaderInvalid, n);
    }
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::ProxyHeaderInvalid), 5);
    for (n, bytes) in (1..).zip([&b""[..], b"PROXY TC"]) {
        let mut client = lab.connect();
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(is_closed(&mut client));
        lab.wait_count(Reason::ProxyHeaderMissing, n);
    }
    lab.wait_idle();
    assert_eq!(lab.totals()[..2], [0, 0], "none of them was a connection");
}

#[test]
fn a_header_that_does_not_come_in_time_closes_the_connection() {
    let mut spec = accepting(&[serve(echo)]);
    spec.frontends[0].accept_proxy.as_mut().unwrap().timeout = Duration::from_millis(100);
    let lab = Lab::start(spec);
    for (n, bytes) in (1..).zip([&b""[..], b"PROXY TCP4"]) {
        let mut client = lab.connect();
        client.write_all(bytes).unwrap();
        assert!(is_closed(&mut client));
        lab.wait_count(Reason::ProxyHeaderTimeout, n);
    }
    lab.wait_idle();
}

#[test]
fn a_peer_that_is_not_trusted_is_closed_and_counted_whatever_it_says() {
    let lab = Lab::start(trusting(&[serve(echo)], ("10.0.0.0", 8)));
    let mut client = lab.connect();
    let _ = client.write_all(HEADER);
    assert!(is_closed(&mut client));
    lab.wait_count(Reason::ProxyUntrusted, 1);
    lab.install(trusting(&[serve(echo)], ("127.0.0.0", 8)));
    let mut client = lab.connect();
    client.write_all(&[HEADER, b"x"].concat()).unwrap();
    assert_eq!(exactly(&mut client, 1), b"x");
}

#[test]
fn limits_of_a_client_count_the_told_one_and_those_of_a_frontend_whoever_waits() {
    let mut spec = accepting(&[serve(echo)]);
    spec.limits.max_connections_per_client = 1;
    spec.frontends[0].max_connections = 3;
    let lab = Lab::start(spec);
    let open = |header: &[u8]| {
        let mut client = lab.connect();
        client.write_all(&[header, b"x"].concat()).unwrap();
        client
    };
    let mut one = open(HEADER);
    assert_eq!(exactly(&mut one, 1), b"x");
    assert!(is_closed(&mut open(HEADER)));
    lab.wait_count(Reason::LimitClient, 1);
    let mut other = open(b"PROXY TCP4 198.51.100.8 203.0.113.9 40000 443\r\n");
    assert_eq!(exactly(&mut other, 1), b"x");
    let waiting = lab.connect();
    wait_until("the one that waits is counted", || lab.gauges()[0] == 3);
    assert!(is_closed(&mut lab.connect()));
    lab.wait_count(Reason::LimitFrontend, 1);
    drop((one, other, waiting));
    lab.wait_idle();
}

#[test]
fn a_client_that_is_gone_before_its_header_gives_its_place_back() {
    let lab = Lab::start(accepting(&[serve(echo)]));
    let client = lab.connect();
    (&client).write_all(b"PROXY ").unwrap();
    wait_until("it is counted", || lab.gauges()[0] == 1);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
}

#[test]
fn a_server_is_told_who_the_client_is_before_anybody_speaks() {
    let (addr, taken) = handing_over();
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let lab = Lab::start(sending(spec(&[addr]), version));
        // Nobody has said a word, so a server that speaks first can.
        let mut client = lab.connect();
        let mut server = taken.recv().unwrap();
        let local = client.local_addr().unwrap();
        let expected = match version {
            ProxyVersion::V1 => line(local, lab.addr()).into_bytes(),
            ProxyVersion::V2 => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
                header.extend_from_slice(&local.port().to_be_bytes());
                header.extend_from_slice(&lab.addr().port().to_be_bytes());
                header
            }
        };
        assert_eq!(exactly(&mut server, expected.len()), expected);
        server.write_all(b"220 ready").unwrap();
        assert_eq!(exactly(&mut client, 9), b"220 ready");
        client.write_all(b"HELO").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(to_end(server), b"HELO");
        lab.wait_idle();
        let counters = &lab.snapshot().backends[0].counters;
        assert_eq!(
            (counters.bytes_tx(), counters.bytes_rx()),
            (4, 9),
            "the header is none of the client's bytes"
        );
    }
}

#[test]
fn a_server_that_is_tried_after_another_is_told_too() {
    let (addr, taken) = handing_over();
    let lab = Lab::start(sending(spec(&[refusing(), addr]), ProxyVersion::V1));
    for _ in 0..2 {
        let mut client = lab.connect();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let told = line(client.local_addr().unwrap(), lab.addr());
        assert_eq!(to_end(taken.recv().unwrap()), [told.as_bytes(), b"hello"].concat());
    }
}

#[test]
fn what_was_told_is_told_on_with_its_destination_and_tlvs() {
    let (addr, taken) = handing_over();
    let lab = Lab::start(sending(accepting(&[addr]), ProxyVersion::V2));
    let alpn = b"\x01\0\x02h2";
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
    let ends = b"\xc6\x33\x64\x07\xcb\0\x71\x09\x9c\x40\x01\xbb";
    let sent = [&head[..], b"\0\x18", ends, alpn, b"\x30\0\x01n", b"\x04\0\0"].concat();
    let passed = [&head[..], b"\0\x11", ends, alpn].concat();
    let mut client = lab.connect();
    client.write_all(&[&*sent, b"x"].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(to_end(taken.recv().unwrap()), [&*passed, b"x"].concat());

    lab.install(sending(accepting(&[addr]), ProxyVersion::V1));
    let mut client = lab.connect();
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(to_end(taken.recv().unwrap()), HEADER);
}

#[test]
fn a_second_header_is_the_clients_own_and_passed_on_as_bytes() {
    let lab = Lab::start(accepting(&[serve(echo)]));
    let mut client = lab.connect();
    client.write_all(&[HEADER, HEADER].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(to_end(client), HEADER);
}

#[test]
fn a_client_on_ipv6_is_told_as_such() {
    let (addr, taken) = handing_over();
    let mut spec = sending(spec(&[addr]), ProxyVersion::V1);
    spec.frontends[0].listen = vec!["[::1]:0".parse().unwrap()];
    let lab = Lab::start(spec);
    let client = connect(lab.addr());
    client.shutdown(Shutdown::Write).unwrap();
    let (from, to) = (client.local_addr().unwrap(), lab.addr());
    assert_eq!(from.ip(), "::1".parse::<IpAddr>().unwrap());
    let told = format!("PROXY TCP6 ::1 ::1 {} {}\r\n", from.port(), to.port());
    assert_eq!(to_end(taken.recv().unwrap()), told.as_bytes());
}
