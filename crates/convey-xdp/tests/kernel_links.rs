//! The kernel engines on real links: what it takes, what it refuses and why, and where its packets go.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use convey_core::{Event, Protocol, Snapshot};
use convey_engine::{
    EngineError, EngineErrorKind, EngineSetup, FilterSink, PacketEngine, PacketOptions, PacketSnapshot,
    XdpMode,
};
use convey_testkit::netns::{Netns, link, until_some};
use convey_testkit::spec::passthrough;
use convey_xdp::interface::features;
use convey_xdp::kernel::Hook;
use convey_xdp::{KernelEngine, netlink, next_handle};

const PASS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../convey-bpf/objects/pass.o");

/// A UDP frontend on 10.0.0.1:53, whose server is 10.1.0.2:53.
fn snapshot(interfaces: &[&str], xdp_mode: XdpMode) -> Arc<PacketSnapshot> {
    let spec = passthrough(&[("f", "10.0.0.1:53", Protocol::Udp)], "10.1.0.2:53", true);
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let options = PacketOptions { capacity: 4096, interfaces, xdp_mode, ..PacketOptions::default() };
    Arc::new(PacketSnapshot::build(&Snapshot::first(spec, 1).unwrap(), &options, None).unwrap())
}

type Warnings = Arc<Mutex<Vec<String>>>;

fn setup(interfaces: &[&str], mode: XdpMode) -> (EngineSetup, Warnings) {
    let warnings = Warnings::default();
    let sink = {
        let warnings = warnings.clone();
        Arc::new(move |event| {
            if let Event::Warning { message } = event {
                warnings.lock().unwrap().push(message);
            }
        })
    };
    (EngineSetup::new(snapshot(interfaces, mode), sink), warnings)
}

fn start(interfaces: &[&str], mode: XdpMode) -> Result<(KernelEngine, Warnings), EngineError> {
    let (setup, warnings) = setup(interfaces, mode);
    Ok((KernelEngine::start(Hook::Xdp, setup, None, &[])?, warnings))
}

/// A balancer between a client (10.0.0.2, by `front`) and a server (10.1.0.2, by `back`).
struct Arms {
    host: Netns,
    client: Netns,
    server: Netns,
}

impl Arms {
    fn new() -> Self {
        let arms =
            Self { host: Netns::new("host"), client: Netns::new("client"), server: Netns::new("server") };
        link(&arms.host, &arms.client, "front", 0, Some(2), "");
        link(&arms.host, &arms.server, "back", 1, Some(2), "");
        arms.server.ip("route add 10.0.0.0/24 via 10.1.0.1");
        arms
    }

    /// The other end of a link gets a program that passes everything.
    fn program(&self, device: &str) {
        let peer = if device == "front" { &self.client } else { &self.server };
        peer.ip(&format!("link set dev {device} xdp obj {PASS} sec xdp"));
    }

    /// Answers whatever comes.
    fn serve(&self) {
        self.server.spawn(|| {
            let socket = UdpSocket::bind("10.1.0.2:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
    }

    /// Whether a client's question is answered, asked again for a while.
    fn is_answered(&self) -> bool {
        self.client.enter(|| {
            let socket = UdpSocket::bind("10.0.0.2:0").unwrap();
            socket.connect("10.0.0.1:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            (0..40).any(|_| {
                let _ = socket.send(b"question");
                socket.recv(&mut [0; 64]).is_ok()
            })
        })
    }
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_foreign_xdp_program_is_refused_with_its_remedy_and_stays() {
    let arms = Arms::new();
    arms.program("front");
    arms.host.ip(&format!("link set dev front xdp obj {PASS} sec xdp"));
    let error = arms.host.enter(|| start(&["front"], XdpMode::Native).unwrap_err());
    assert_eq!((error.kind, error.errno()), (EngineErrorKind::Unsupported, Some(16)), "{error}");
    let text = error.to_string();
    assert!(text.contains("front") && text.contains("ip link set dev front xdp off"), "{text}");
    assert!(arms.host.exec("ip link show front").contains("prog/xdp"), "it is still there");
    arms.host.ip("link set dev front xdp off");
    arms.host.enter(|| drop(start(&["front"], XdpMode::Native).unwrap()));
    assert!(!arms.host.exec("ip link show front").contains("prog/xdp"), "ours is gone");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_long_mtu_is_refused_with_the_one_that_does() {
    let arms = Arms::new();
    arms.program("front");
    arms.client.ip("link set dev front xdp off");
    for ns in [&arms.host, &arms.client] {
        ns.ip("link set dev front mtu 9000");
    }
    let error = arms.host.enter(|| start(&["front"], XdpMode::Native).unwrap_err());
    let text = error.to_string();
    assert!(text.contains("MTU is 9000") && text.contains("ERANGE") && text.contains("mtu 3498"), "{text}");
}

#[test]
#[ignore = "needs root, ip, ethtool: makes network namespaces"]
fn a_veth_whose_other_end_takes_nothing_from_xdp_is_refused_and_one_with_gro_or_a_program_is_not() {
    let arms = Arms::new();
    let error = arms.host.enter(|| start(&[], XdpMode::Native).unwrap_err());
    assert_eq!((error.kind, error.errno()), (EngineErrorKind::Unsupported, Some(95)), "{error}");
    assert!(error.to_string().contains("the other end of the veth"), "{error}");
    assert!(!arms.host.exec("ip link show front").contains("prog/xdp"), "nothing is left");
    arms.program("front");
    // Of those that nobody has named, the one that will not do is passed over.
    let (of_all, told) = arms.host.enter(|| {
        let (engine, warnings) = start(&[], XdpMode::Native).unwrap();
        (engine.user_side().interfaces().len(), warnings.lock().unwrap().clone())
    });
    assert_eq!(of_all, 1);
    assert!(told.iter().any(|message| message.contains("veth back")), "{told:?}");
    let named = arms.host.enter(|| start(&["front", "back"], XdpMode::Native).unwrap_err());
    assert!(named.to_string().contains("veth back"), "{named}");
    arms.server.exec("ethtool -K back gro on");
    arms.host.enter(|| assert_eq!(start(&[], XdpMode::Native).unwrap().0.user_side().interfaces().len(), 2));
}

#[test]
#[ignore = "needs root, ip, ethtool: makes network namespaces"]
fn packets_are_redirected_from_one_interface_to_another() {
    let arms = Arms::new();
    for device in ["front", "back"] {
        arms.program(device);
        let peer = if device == "front" { &arms.client } else { &arms.server };
        peer.exec(&format!("ethtool -K {device} tx off"));
    }
    arms.serve();
    let engine = arms.host.enter(|| start(&[], XdpMode::Native).unwrap().0);
    assert!(arms.is_answered());
    let handed_up = |engine: &KernelEngine| noted(engine, "handed_up");
    engine.collect();
    let before = handed_up(&engine);
    let forwarded = engine.stats().forwarded;
    assert!(arms.is_answered() && arms.is_answered());
    engine.collect();
    assert!(engine.stats().forwarded >= forwarded + 4);
    assert_eq!(handed_up(&engine), before, "none took the way through user space");
}

fn noted(engine: &KernelEngine, name: &str) -> u64 {
    engine.stats().noted.iter().find(|(known, _)| *known == name).map_or(0, |(_, n)| *n)
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn what_leaves_by_an_interface_that_xdp_cannot_send_by_takes_the_way_through_user_space() {
    let arms = Arms::new();
    arms.program("front");
    arms.serve();
    let (engine, warnings) = arms.host.enter(|| start(&["front"], XdpMode::Native).unwrap());
    assert!(!arms.is_answered(), "answers come by an interface that is not listened on");
    let forwarded = engine.stats().forwarded;
    assert!(forwarded >= 10, "{forwarded}");
    assert!(noted(&engine, "handed_up") >= 10);
    let told = warnings.lock().unwrap().clone();
    assert!(told.iter().any(|message| message.contains("XDP cannot send by back")), "{told:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn open_checksums_are_completed_counted_and_told_with_the_remedy() {
    let arms = Arms::new();
    arms.program("front");
    arms.program("back");
    arms.serve();
    let (engine, warnings) = arms.host.enter(|| start(&[], XdpMode::Native).unwrap());
    assert!(arms.is_answered(), "the kernels of client and server leave checksums open");
    assert!(noted(&engine, "open_checksum") >= 2);
    let engine = Arc::new(engine);
    arms.host.enter({
        let engine = engine.clone();
        move || (0..2).for_each(|_| engine.collect())
    });
    let told = warnings.lock().unwrap().clone();
    let of_checksums: Vec<_> = told.iter().filter(|message| message.contains("ethtool -K")).collect();
    assert_eq!(of_checksums.len(), 1, "{told:?}");
    assert!(of_checksums[0].contains("tx off") && of_checksums[0].contains("front"), "{told:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn generic_mode_is_taken_when_asked_for_and_needs_nothing_of_the_other_end() {
    let arms = Arms::new();
    arms.serve();
    let engine = arms.host.enter(|| start(&[], XdpMode::Generic).unwrap().0);
    assert!(arms.host.exec("ip link show front").contains("xdpgeneric"));
    assert!(arms.is_answered());
    drop(engine);
    assert!(!arms.host.exec("ip link show front").contains("xdp"));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_driver_without_native_xdp_is_named_with_what_to_do() {
    let host = Netns::new("host");
    host.ip("link add front type bridge");
    host.ip("link add port type veth peer name end");
    for end in ["port", "end"] {
        host.ip(&format!("link set {end} up"));
    }
    host.ip("link set port master front");
    host.ip("addr add 10.0.0.1/24 dev front");
    host.ip("link set front up");
    let error = host.enter(|| start(&["front"], XdpMode::Native).unwrap_err());
    let text = error.to_string();
    assert_eq!(error.errno(), Some(95), "{text}");
    assert!(text.contains("no native XDP (EOPNOTSUPP)") && text.contains("xdp.mode = \"generic\""), "{text}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_kernel_tells_what_a_veth_can_do() {
    let arms = Arms::new();
    let ask = || {
        arms.host.enter(|| {
            let index = netlink::interface_index("front").unwrap().unwrap();
            features(index)
        })
    };
    let Some(before) = ask() else { return };
    assert!(before.native && !before.sends, "{before:?}");
    arms.program("front");
    let after = until_some("the other end has a program", || ask().filter(|features| features.sends));
    assert!(after.native);
}

#[test]
#[ignore = "needs root, ip, tc: makes network namespaces"]
fn where_there_is_no_tcx_engine_tc_forwards_from_clsact_and_leaves_no_filter() {
    let arms = Arms::new();
    arms.serve();
    let engine = arms.host.enter(|| {
        let (setup, _) = setup(&[], XdpMode::Native);
        let on_filter: FilterSink = Arc::new(|index| {
            netlink::add_clsact(index).map_err(|error| error.to_string())?;
            next_handle(index, netlink::Hook::Ingress).map_err(|error| error.to_string())
        });
        let setup = EngineSetup { on_filter: Some(on_filter), tcx: false, ..setup };
        KernelEngine::start(Hook::Tc, setup, None, &[]).unwrap()
    });
    let filters = || arms.host.exec("tc filter show dev front ingress");
    assert!(filters().contains("convey_tc"));
    assert!(arms.is_answered());
    arms.host.enter(move || drop(engine));
    assert!(!filters().contains("convey_tc"));
    let refused = arms.host.enter(|| {
        let (setup, _) = setup(&["front"], XdpMode::Native);
        let on_filter: FilterSink = Arc::new(|_| Err("the state folder is full".to_owned()));
        let setup = EngineSetup { on_filter: Some(on_filter), tcx: false, ..setup };
        KernelEngine::start(Hook::Tc, setup, None, &[]).unwrap_err().to_string()
    });
    assert!(
        refused.contains("before Linux 6.6") && refused.contains("the state folder is full"),
        "{refused}"
    );
}
