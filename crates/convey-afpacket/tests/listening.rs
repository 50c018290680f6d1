//! Where the engine listens, in network namespaces with links of their own.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "../../convey-xdp/tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Netns;
use convey_afpacket::AfPacketEngine;
use convey_core::{BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec};
use convey_engine::{EngineSetup, PacketEngine, PacketOptions, PacketSnapshot};

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Frontends on these addresses, all with the server 10.1.0.7:80.
fn snapshot(vips: &[String]) -> Arc<PacketSnapshot> {
    let server = ServerSpec {
        name: "s".into(),
        addr: "10.1.0.7:80".parse().unwrap(),
        weight: 1,
        max_connections: 0,
        up: true,
        draining: false,
    };
    let backend = BackendSpec {
        name: "b".into(),
        connect_timeout: Duration::from_secs(3),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        servers: vec![server],
    };
    let frontend = |vip: &String| FrontendSpec {
        name: vip.clone(),
        listen: format!("{vip}:80").parse().unwrap(),
        protocol: Protocol::Tcp,
        backend: "b".into(),
        max_connections: 0,
    };
    let frontends = vips.iter().map(frontend).collect();
    let spec = SnapshotSpec {
        mode: Mode::Passthrough,
        limits: Limits::default(),
        frontends,
        backends: vec![backend],
    };
    let options = PacketOptions { capacity: 4096, workers: 2, ..PacketOptions::default() };
    Arc::new(PacketSnapshot::build(&Snapshot::first(spec, 2).unwrap(), &options, None).unwrap())
}

fn setup(vips: &[String]) -> EngineSetup {
    EngineSetup::new(snapshot(vips), Arc::new(|_| ()))
}

/// A host with the links `front` (10.0.0.1/24) and `back` (10.1.0.1/24), and who is at their other ends.
fn two_links() -> (Netns, Netns) {
    let (host, peer) = (Netns::new("host"), Netns::new("peer"));
    for (name, subnet) in [("front", 0), ("back", 1)] {
        host.ip(&format!("link add {name} type veth peer name {name} netns {}", peer.name));
        host.ip(&format!("addr add 10.{subnet}.0.1/24 dev {name}"));
        peer.ip(&format!("link set {name} up"));
        host.ip(&format!("link set {name} up"));
    }
    (host, peer)
}

fn index(ns: &Netns, name: &str) -> u32 {
    ns.exec(&format!("cat /sys/class/net/{name}/ifindex")).trim().parse().unwrap()
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_engine_listens_only_where_the_guard_stands_and_there_once_it_does() {
    let (ns, _peer) = two_links();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    ns.enter(move || {
        let may = Arc::new(AtomicBool::new(false));
        let listening_when_asked = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let (may, asked) = (may.clone(), listening_when_asked.clone());
            Arc::new(move |wanted: &[u32]| {
                asked.lock().unwrap().push(wanted.to_vec());
                wanted.iter().filter(|i| **i != back || may.load(Relaxed)).copied().collect()
            })
        };
        let setup = EngineSetup { on_interfaces: Some(sink), ..setup(&["10.0.0.1".into()]) };
        let engine = AfPacketEngine::start(setup, Vec::new(), &[]).unwrap();
        assert_eq!(engine.user_side().interfaces(), [front]);
        assert_eq!(listening_when_asked.lock().unwrap()[0], [front, back], "the guard is asked first");
        may.store(true, Relaxed);
        until("it listens where the guard has come to stand", || {
            engine.user_side().interfaces() == [front, back]
        });
    });
}

#[test]
#[ignore = "needs root, ip, sysctl: makes network namespaces"]
fn a_thousand_scattered_addresses_are_served_where_the_kernel_has_little_room_for_filters() {
    let (ns, _peer) = two_links();
    // As before Linux 6.8.
    ns.exec("sysctl -qw net.core.optmem_max=20480");
    ns.enter(|| {
        let vips = |n: u32| -> Vec<String> {
            (0..n)
                .map(|i| {
                    std::net::Ipv4Addr::from_bits(0x0a00_0000 | (i * 977 % 65_000 + 2) << 8 | 1).to_string()
                })
                .collect()
        };
        let engine = AfPacketEngine::start(setup(&vips(1000)), Vec::new(), &[]);
        let engine = engine.unwrap();
        engine.install(snapshot(&vips(1100))).unwrap();
        engine.install(snapshot(&vips(100))).unwrap();
    });
}

#[test]
#[ignore = "needs root, ip, sysctl: makes network namespaces"]
fn a_reload_whose_filter_the_kernel_does_not_take_fails_and_the_former_one_serves_on() {
    let (ns, _peer) = two_links();
    let name = ns.name.clone();
    ns.enter(move || {
        let engine = AfPacketEngine::start(setup(&["10.0.0.1".into()]), Vec::new(), &[]).unwrap();
        let set = |bytes| {
            let key = format!("net.core.optmem_max={bytes}");
            common::run("ip", &["netns", "exec", &name, "sysctl", "-qw", &key]);
        };
        set(0);
        let refused = engine.install(snapshot(&["10.0.0.1".into(), "10.0.0.2".into()]));
        assert!(matches!(&refused, Err(error) if error.cause.contains("(filter)")), "{refused:?}");
        assert_eq!(engine.user_side().interfaces().len(), 2);
        set(20480);
        engine.install(snapshot(&["10.0.0.1".into(), "10.0.0.2".into()])).unwrap();
    });
}
