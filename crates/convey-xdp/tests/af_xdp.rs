//! The AF_XDP engine in network namespaces with links of their own.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::IoSlice;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use convey_afpacket::workers::{PacketSocket, Pieces, VNET_HEADER_BYTES};
use convey_core::{Event, Protocol, Snapshot};
use convey_engine::{
    EngineError, EngineErrorKind, EngineSetup, Keep, PacketEngine, PacketOptions, PacketSnapshot, XdpMode,
};
use convey_testkit::PacketBuilder;
use convey_testkit::netns::{Netns, link, ping, run, until};
use convey_testkit::spec::passthrough;
use convey_xdp::af_xdp::AfXdpEngine;

const PASS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../convey-bpf/objects/pass.o");

/// A frontend for TCP and UDP on 10.0.0.1:53, whose server is down unless its address is told.
fn snapshot(interfaces: &[&str], server: Option<&str>) -> Arc<PacketSnapshot> {
    snapshot_in(interfaces, server, XdpMode::Native)
}

fn snapshot_in(interfaces: &[&str], server: Option<&str>, xdp_mode: XdpMode) -> Arc<PacketSnapshot> {
    let frontends = [("tcp", "10.0.0.1:53", Protocol::Tcp), ("udp", "10.0.0.1:53", Protocol::Udp)];
    let spec = passthrough(&frontends, server.unwrap_or("10.1.0.7:53"), server.is_some());
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let options = PacketOptions { capacity: 4096, interfaces, xdp_mode, ..PacketOptions::default() };
    Arc::new(PacketSnapshot::build(&Snapshot::first(spec, 1).unwrap(), &options, None).unwrap())
}

type Warnings = Arc<Mutex<Vec<String>>>;

fn setup(interfaces: &[&str]) -> (EngineSetup, Warnings) {
    let warnings = Warnings::default();
    let sink = {
        let warnings = warnings.clone();
        Arc::new(move |event| {
            if let Event::Warning { message } = event {
                warnings.lock().unwrap().push(message);
            }
        })
    };
    (EngineSetup::new(snapshot(interfaces, None), sink), warnings)
}

fn start(interfaces: &[&str]) -> Result<(AfXdpEngine, Warnings), EngineError> {
    let (setup, warnings) = setup(interfaces);
    Ok((AfXdpEngine::start(setup, Vec::new(), &[])?, warnings))
}

/// A host with the link `front` (10.0.0.1/24), and who is at its other end (10.0.0.2).
fn one_link(more: &str) -> (Netns, Netns) {
    let (host, peer) = (Netns::new("host"), Netns::new("peer"));
    link(&host, &peer, "front", 0, Some(2), more);
    (host, peer)
}

fn mac(ns: &Netns) -> [u8; 6] {
    let text = ns.exec("cat /sys/class/net/front/address");
    let bytes: Vec<u8> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Puts frames on the peer's end of the link.
fn send(peer: &Netns, host: &Netns, packets: Vec<PacketBuilder>) {
    let (to, from, ifindex) = (mac(host), mac(peer), peer.ifindex("front"));
    peer.enter(move || {
        let socket = PacketSocket::open(1 << 20).unwrap();
        for packet in packets {
            let frame = packet.macs(to, from).build();
            let header = [0; VNET_HEADER_BYTES];
            let pieces = [IoSlice::new(&header), IoSlice::new(&frame)];
            assert_eq!(socket.send_pieces(&[Pieces { ifindex, pieces: &pieces }]).unwrap(), 1);
        }
    });
}

fn count(counters: &[(&'static str, u64)], name: &str) -> u64 {
    counters.iter().find(|(known, _)| *known == name).map(|(_, n)| *n).unwrap()
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_foreign_xdp_program_is_refused_and_stays() {
    let (host, _peer) = one_link("");
    host.ip(&format!("link set dev front xdp obj {PASS} sec xdp"));
    let error = host.enter(|| start(&[]).unwrap_err());
    assert_eq!((error.kind, error.errno()), (EngineErrorKind::Unsupported, Some(16)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("front") && text.contains("EBUSY") && text.contains("ip link set dev front xdp off")
    );
    assert!(host.exec("ip link show front").contains("prog/xdp"), "it is still there");
    host.ip("link set dev front xdp off");
    host.enter(|| drop(start(&[]).unwrap()));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn what_is_too_long_or_lacks_native_xdp_is_refused_with_the_remedy() {
    let (host, _peer) = one_link("");
    host.ip("link add bridge type bridge");
    host.ip("link set bridge up");
    let error = host.enter(|| start(&["bridge"]).unwrap_err());
    assert_eq!((error.kind, error.errno()), (EngineErrorKind::Unsupported, Some(95)), "{error}");
    assert!(error.to_string().contains("bridge: its driver has no native XDP (EOPNOTSUPP)"), "{error}");
    // Where none is named, others do.
    let front = host.ifindex("front");
    host.enter(move || {
        let (engine, warnings) = start(&[]).unwrap();
        assert_eq!(engine.user_side().interfaces(), [front]);
        until("the bridge is told", || warnings.lock().unwrap().iter().any(|w| w.contains("bridge")));
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(warnings.lock().unwrap().len(), 1, "and told once");
    });
    host.ip("link set front mtu 9000");
    let error = host.enter(|| start(&["front"]).unwrap_err());
    assert!(error.to_string().contains("front: its MTU is 9000, AF_XDP takes 3758 at most"), "{error}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn generic_mode_takes_an_interface_without_native_xdp() {
    let (host, peer) = one_link("");
    host.ip("link add bridge type bridge");
    host.ip("link set front master bridge");
    host.ip("addr del 10.0.0.1/24 dev front");
    host.ip("addr add 10.0.0.1/24 dev bridge");
    host.ip("link set bridge up");
    let engine = host.enter(|| {
        let (setup, _) = setup(&["bridge"]);
        let setup = EngineSetup {
            snapshot: snapshot_in(&["bridge"], Some("10.1.0.7:53"), XdpMode::Generic),
            ..setup
        };
        AfXdpEngine::start(setup, Vec::new(), &[]).unwrap()
    });
    assert!(host.exec("ip link show bridge").contains("xdpgeneric"));
    until("a question is taken", || {
        peer.enter(|| {
            let socket = std::net::UdpSocket::bind("10.0.0.2:0").unwrap();
            socket.send_to(b"question", "10.0.0.1:53").unwrap();
        });
        let stats = engine.stats();
        // There is no way to its server.
        count(&stats.dropped, "no_next_hop") + count(&stats.dropped, "route_rejected") > 0
    });
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn interfaces_come_and_go_and_nothing_is_left_in_the_end() {
    let (host, peer) = one_link("");
    until("the link is up", || host.exec("ip link show front").contains("state UP"));
    let before = host.exec("ip -d link");
    let name = host.name.clone();
    let front = host.ifindex("front");
    host.enter(move || {
        let ip =
            |words: &str| run("ip", &[&["-n", &name], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        let (engine, _) = start(&[]).unwrap();
        assert_eq!(engine.user_side().interfaces(), [front]);
        for _ in 0..3 {
            ip("link add back type veth peer name behind");
            ip("link set back up");
            ip("link set behind up");
            until("both ends are listened on", || engine.user_side().interfaces().len() == 3);
            assert!(ip("link show back").contains("prog/xdp"));
            ip("link delete back");
            until("they are let go", || engine.user_side().interfaces() == [front]);
        }
        ip("link set front down");
        until("a link that is down is let go", || engine.user_side().interfaces().is_empty());
        ip("link set front up");
        until("and served again", || engine.user_side().interfaces() == [front]);
        assert_eq!(engine.close(Keep::Nothing), [""; 0]);
    });
    assert_eq!(host.exec("ip -d link"), before);
    drop(peer);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn what_is_not_the_engines_reaches_the_kernel_also_a_fragment_that_came_before_its_first() {
    let (host, peer) = one_link("");
    let (engine, socket) = host.enter(|| {
        let (engine, _) = start(&[]).unwrap();
        let socket = UdpSocket::bind("10.0.0.1:7").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (engine, socket)
    });
    assert!(peer.enter(|| ping("10.0.0.1")), "echo");
    let mut buffer = [0; 4096];
    let mut receive = || socket.recv(&mut buffer).map(|len| buffer[..len].to_vec()).unwrap();

    let datagram = |payload: &[u8]| PacketBuilder::udp("10.0.0.2:7777", "10.0.0.1:7").payload(payload);
    send(&peer, &host, vec![datagram(b"whole")]);
    assert_eq!(receive(), b"whole");

    let payload: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
    let mut fragments = datagram(&payload).may_fragment().id(77).cut(800);
    fragments.reverse();
    let later = fragments.len() as u64 - 1;
    send(&peer, &host, fragments);
    assert_eq!(receive(), payload);
    assert_eq!(count(&engine.stats().passed, "fragment"), later);

    // Ours: the kernel sees nothing of it, and has nothing to answer.
    let syn = |port: u16| PacketBuilder::syn(&format!("10.0.0.2:{port}"), "10.0.0.1:53");
    send(&peer, &host, vec![syn(1024)]);
    until("it is reset by the engine", || count(&engine.stats().replied, "tcp_reset") == 1);
}

#[test]
#[ignore = "needs root, ip, ethtool: makes network namespaces"]
fn every_queue_is_served() {
    let (host, peer) = one_link("numrxqueues 3 numtxqueues 3");
    for ns in [&host, &peer] {
        ns.exec("ethtool -L front rx 3 tx 3");
    }
    let (engine, _) = host.enter(|| start(&[]).unwrap());
    let syns =
        (0..300).map(|n| PacketBuilder::syn(&format!("10.0.0.2:{}", 2000 + n), "10.0.0.1:53")).collect();
    send(&peer, &host, syns);
    until("all are reset", || count(&engine.stats().replied, "tcp_reset") == 300);
    let statistics = host.exec("ethtool -S front");
    let used = |queue: usize| {
        let name = format!("rx_queue_{queue}_xdp_packets: ");
        statistics.lines().find_map(|line| line.trim().strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
    };
    assert!((0..3).filter(|queue| used(*queue) > 0).count() > 1, "one queue had them all: {statistics}");
    assert!(engine.stats().dropped.iter().all(|(_, n)| *n == 0), "{:?}", engine.stats().dropped);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn an_interface_that_changes_its_mac_address_is_served_on() {
    let (host, peer) = one_link("");
    let (engine, _) = host.enter(|| start(&[]).unwrap());
    host.ip("link set front address 02:00:00:00:00:77");
    let mut sent = 0u16;
    until("packets to the new address are answered", || {
        sent += 1;
        send(&peer, &host, vec![PacketBuilder::syn(&format!("10.0.0.2:{}", 2000 + sent), "10.0.0.1:53")]);
        count(&engine.stats().replied, "tcp_reset") > 0
    });
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn checksums_that_a_sender_left_open_are_completed_and_told_once() {
    let (host, peer) = one_link("");
    // The server is on the link, too.
    peer.ip("addr add 10.0.0.7/24 dev front");
    let (engine, warnings) = host.enter(|| start(&[]).unwrap());
    engine.install(snapshot(&[], Some("10.0.0.7:53"))).unwrap();
    peer.enter(move || {
        let server = UdpSocket::bind("10.0.0.7:53").unwrap();
        let client = UdpSocket::bind("10.0.0.2:7777").unwrap();
        client.connect("10.0.0.1:53").unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        let mut buffer = [0; 2048];
        for len in [1, 700, 1400] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            // The kernel drops what has a wrong checksum.
            until("it arrives and is answered", || {
                client.send(&payload).unwrap();
                let Ok((got, from)) = server.recv_from(&mut buffer) else { return false };
                assert_eq!(buffer[..got], payload);
                assert_eq!(from.ip().to_string(), "10.0.0.1");
                server.send_to(&buffer[..got], from).unwrap();
                client.recv(&mut buffer).is_ok_and(|got| buffer[..got] == payload)
            });
        }
    });
    for _ in 0..3 {
        assert!(count(&engine.stats().noted, "flow_begun") > 0);
    }
    let warnings = warnings.lock().unwrap();
    let told = warnings.iter().filter(|w| w.contains("ethtool -K <device> tx off") && w.contains("front"));
    assert_eq!(told.count(), 1, "{warnings:?}");
}
