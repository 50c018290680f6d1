//! Where the engine listens, in network namespaces with links of their own.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use convey_afpacket::AfPacketEngine;
use convey_core::{Protocol, Snapshot};
use convey_engine::{EngineSetup, PacketEngine, PacketOptions, PacketSnapshot};
use convey_testkit::netns::{self, Netns, link, until};
use convey_testkit::spec::passthrough;

/// Frontends on these addresses, all with the server 10.1.0.7:80.
fn snapshot(vips: &[String]) -> Arc<PacketSnapshot> {
    let listens: Vec<String> = vips.iter().map(|vip| format!("{vip}:80")).collect();
    let frontends: Vec<_> = listens.iter().map(|vip| (&**vip, &**vip, Protocol::Tcp)).collect();
    let spec = passthrough(&frontends, "10.1.0.7:80", true);
    let options = PacketOptions { capacity: 4096, workers: 2, ..PacketOptions::default() };
    Arc::new(PacketSnapshot::build(&Snapshot::first(spec, 2).unwrap(), &options, None).unwrap())
}

fn setup(vips: &[String]) -> EngineSetup {
    EngineSetup::new(snapshot(vips), Arc::new(|_| ()))
}

/// A host with the links `front` (10.0.0.1/24) and `back` (10.1.0.1/24), and who is at their other ends.
fn two_links() -> (Netns, Netns) {
    let (host, peer) = (Netns::new("host"), Netns::new("peer"));
    for (device, subnet) in [("front", 0), ("back", 1)] {
        link(&host, &peer, device, subnet, None, "");
    }
    (host, peer)
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_engine_listens_only_where_the_guard_stands_and_there_once_it_does() {
    let (ns, _peer) = two_links();
    let (front, back) = (ns.ifindex("front"), ns.ifindex("back"));
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
            netns::run("ip", &["netns", "exec", &name, "sysctl", "-qw", &key]);
        };
        set(0);
        let refused = engine.install(snapshot(&["10.0.0.1".into(), "10.0.0.2".into()]));
        assert!(matches!(&refused, Err(error) if error.cause.contains("(filter)")), "{refused:?}");
        assert_eq!(engine.user_side().interfaces().len(), 2);
        set(20480);
        engine.install(snapshot(&["10.0.0.1".into(), "10.0.0.2".into()])).unwrap();
    });
}
