//! One image after another in maps that programs work with.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "lab/bpffs.rs"]
mod bpffs;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions};
use bpffs::BpfFs;
use convey_bpf::tables::{Config, Frontend, Hop, Method, REASONS, STATES, Server, Standing};
use convey_engine::XdpMode;
use convey_testkit::{PacketBuilder, netns};
use convey_xdp::kernel::{Hook, Image, Kernel, Path, Sizes, Tables, seed_in};
use convey_xdp::pins::{self, PinFolder};

const NEXT: u32 = u32::MAX;
const REDIRECT: u32 = 7;
const HOP: Hop =
    Hop { ifindex: 1, mtu: 1500, on_link: true, destination: [2, 0, 0, 0, 2, 1], source: [2, 0, 0, 0, 2, 2] };

fn sizes() -> Sizes {
    Sizes {
        passthrough: true,
        minimal: false,
        sets4: 1 << 15,
        sets6: 1 << 16,
        nat_first: 20_000,
        nat_width: 20_000,
        paths: 64,
        frontends: 64,
        servers: 64,
        backends: 4,
        ring_bytes: 1 << 16,
    }
}

fn kernel() -> Kernel {
    Kernel::load_for_test_runs(Hook::Tc, &sizes()).unwrap()
}

/// Servers `servers` of an IPv4 and of an IPv6 backend, and frontends on these addresses.
fn image(vips: &[&str], servers: &[u16]) -> Image {
    let last = servers.iter().max().unwrap() + 1;
    let address = |v6: bool, n: u16| -> SocketAddr {
        if v6 { format!("[2001:db8:1::{}]:8080", n + 1) } else { format!("10.1.0.{}:8080", n + 1) }
            .parse()
            .unwrap()
    };
    // Even slots are IPv4.
    let slots =
        || (0..last).flat_map(|n| [false, true].map(|v6| servers.contains(&n).then(|| address(v6, n))));
    let nat = |v6: bool| if v6 { "2001:db8::9" } else { "192.0.2.9" }.parse().unwrap();
    let table = |v6: bool| {
        let of = |i: usize| servers[i % servers.len()] * 2 + u16::from(v6);
        Some((0..65_537).map(of).collect())
    };
    let (lifetimes, resets) = ([100_000; STATES], false);
    Image {
        config: Config { seed: 7, directory_seed: 3, lifetimes, resets, ..Config::default() },
        frontends: vips
            .iter()
            .map(|vip| {
                let listen: SocketAddr = vip.parse().ok()?;
                Some(Frontend {
                    listen,
                    protocol: 6,
                    left: false,
                    backend: listen.is_ipv6().into(),
                    max_connections: 0,
                    source_prefix: 0,
                    access: false,
                    nat_sources: vec![nat(listen.is_ipv6())],
                })
            })
            .collect(),
        servers: slots()
            .map(|address| {
                let (method, standing) = (Method::Nat, Standing::Up);
                Some(Server { address: address?, method, standing, max_connections: 0, hop: HOP })
            })
            .collect(),
        paths: slots()
            .map(|address| {
                let to = address?;
                Some(Path { nat: nat(to.is_ipv6()), server: to.ip(), port: to.port(), protocol: 6 })
            })
            .collect(),
        tables: vec![table(false), table(true)],
        access: Vec::new(),
    }
}

fn runs(kernel: &Kernel, frame: &[u8]) -> (u32, Vec<u8>) {
    let program: &SchedClassifier = kernel.ebpf.program("convey_tc").unwrap().try_into().unwrap();
    let mut sent = vec![0; 256];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut sent), ..TestRunOptions::new() };
    let verdict = program.test_run(options).unwrap().return_value;
    (verdict, sent)
}

fn syn(client_port: u16, vip: &str) -> Vec<u8> {
    syn_of(client_port.into(), vip)
}

/// From one of 2^24 clients.
fn syn_of(client: u32, vip: &str) -> Vec<u8> {
    let (high, port) = (client >> 14, 1024 + client % (1 << 14));
    let ip = if vip.starts_with('[') {
        format!("[2001:db8:c::{high:x}]")
    } else {
        format!("198.51.{}.{}", high >> 8 & 0xff, high & 0xff)
    };
    PacketBuilder::syn(&format!("{ip}:{port}"), vip).build()
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn an_image_takes_the_place_of_the_one_before_and_leaves_nothing_of_it() {
    let mut kernel = kernel();
    let vips = ["192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.11:80", "[2001:db8::11]:80"];
    kernel.install(&image(&vips, &[0])).unwrap();
    for (i, vip) in (1..).zip(&vips) {
        assert_eq!(runs(&kernel, &syn(i, vip)).0, REDIRECT, "{vip}");
    }
    assert_eq!(runs(&kernel, &syn(9, "192.0.2.12:80")).0, NEXT);
    // Slots 2 and 3 go, others come; servers are others.
    let others = ["192.0.2.10:80", "[2001:db8::10]:80", "", "", "192.0.2.12:80", "[2001:db8::12]:0"];
    kernel.install(&image(&others, &[1, 2])).unwrap();
    for vip in &vips[2..] {
        assert_eq!(runs(&kernel, &syn(20, vip)).0, NEXT, "{vip}");
    }
    for vip in ["192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.12:80", "[2001:db8::12]:4711"] {
        let (verdict, sent) = runs(&kernel, &syn(30, vip));
        assert_eq!(verdict, REDIRECT, "{vip}");
        let last = if vip.starts_with('[') { sent[53] } else { sent[33] };
        assert!([2, 3].contains(&last), "{vip}: server {last}");
    }
    for (map, len) in [("vips6", 2), ("paths6", 2)] {
        let keys = match map {
            "vips6" => {
                HashMap::<_, [u8; 20], u32>::try_from(kernel.ebpf.map(map).unwrap()).unwrap().keys().count()
            }
            _ => HashMap::<_, [u8; 36], u32>::try_from(kernel.ebpf.map(map).unwrap()).unwrap().keys().count(),
        };
        assert_eq!(keys, len, "{map}");
    }
    kernel.install(&image(&vips, &[0])).unwrap();
    assert_eq!(runs(&kernel, &syn(40, "[2001:db8::12]:4711")).0, NEXT);
    assert_eq!(runs(&kernel, &syn(41, "192.0.2.11:80")).0, REDIRECT);
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn an_image_that_does_not_fit_is_refused_and_what_worked_goes_on() {
    let mut kernel = kernel();
    kernel.install(&image(&["192.0.2.10:80"], &[0])).unwrap();
    let error = kernel.install(&image(&["192.0.2.10:80"], &[0, 40])).unwrap_err().to_string();
    assert!(error.contains("servers"), "{error}");
    assert_eq!(runs(&kernel, &syn(1, "192.0.2.10:80")).0, REDIRECT);
    kernel.install(&image(&["192.0.2.10:80", "192.0.2.11:80"], &[1])).unwrap();
    assert_eq!(runs(&kernel, &syn(2, "192.0.2.11:80")).0, REDIRECT);
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn pinned_tables_are_gone_on_with_by_another_process_which_leaves_nothing_of_what_it_does_not_know() {
    let bpffs = BpfFs::mount("adopt");
    let folder = bpffs.0.join("convey/here_balancer_1_0");
    let vips = ["192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.11:80", "[2001:db8::11]:80"];
    let hop_generation = 41;
    {
        let pins = Arc::new(PinFolder::create(&folder).unwrap());
        let mut first = Kernel::load_with(Hook::Tc, &sizes(), &Tables::Pinned(pins)).unwrap();
        let mut first_image = image(&vips, &[0, 1]);
        first_image.config.hop_generation = hop_generation;
        first.install(&first_image).unwrap();
        for (i, vip) in (1..).zip(&vips) {
            assert_eq!(runs(&first, &syn(i, vip)).0, REDIRECT, "{vip}");
        }
    }
    let pins = Arc::new(PinFolder::hold(&folder).unwrap());
    assert!(PinFolder::hold(&folder).is_err(), "it is held");
    assert_eq!(seed_in(&pins).unwrap(), 7);
    let other = Sizes { sets4: 1 << 14, ..sizes() };
    let refused =
        Kernel::load_with(Hook::Tc, &other, &Tables::Adopted(pins.clone())).unwrap_err().to_string();
    assert!(refused.contains("flows4") && refused.contains("32768"), "{refused}");

    let mut second = Kernel::load_with(Hook::Tc, &sizes(), &Tables::Adopted(pins.clone())).unwrap();
    assert_eq!(second.hop_generation(), hop_generation);
    // As the first has written it, until there is another image.
    for (i, vip) in (20..).zip(&vips) {
        assert_eq!(runs(&second, &syn(i, vip)).0, REDIRECT, "{vip}");
    }
    second.install(&image(&["", "", "192.0.2.11:80", "[2001:db8::11]:80"], &[1])).unwrap();
    for vip in &vips[..2] {
        assert_eq!(runs(&second, &syn(40, vip)).0, NEXT, "{vip}");
    }
    for vip in &vips[2..] {
        let (verdict, sent) = runs(&second, &syn(50, vip));
        assert_eq!(verdict, REDIRECT, "{vip}");
        assert_eq!(if vip.starts_with('[') { sent[53] } else { sent[33] }, 2, "{vip}");
    }
    let paths: HashMap<_, [u8; 36], u32> = second.ebpf.map("paths6").unwrap().try_into().unwrap();
    assert_eq!(paths.keys().count(), 1);
    drop(second);
    pins::remove_held(&pins).unwrap();
    assert!(!bpffs.0.join("convey").exists());
}

fn attached(interface: &str) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap();
    programs.iter().map(|program| program.id()).collect()
}

/// Whether no program is there any more: of a pin that is gone the kernel lets go in its own time.
fn is_left(interface: &str) -> bool {
    (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        attached(interface).is_empty()
    })
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_link_that_was_left_goes_to_the_next_program_and_is_made_anew_where_its_interface_was() {
    let bpffs = BpfFs::mount("links");
    let folder = bpffs.0.join("convey/here_balancer_1_0");
    let ns = netns::Netns::new("pins");
    let make = "link add veth7 index 77 type veth peer name peer7 index 78";
    ns.ip(make);
    let name = ns.name.clone();
    let ip = move |words: &str| {
        let mut args = vec!["-n", name.as_str()];
        args.extend(words.split_whitespace());
        netns::run("ip", &args);
    };
    let pins = Arc::new(PinFolder::create(&folder).unwrap());
    let held = pins.clone();
    ns.enter(move || {
        let load = |tables| Kernel::load_with(Hook::Tc, &sizes(), &tables).unwrap();
        let id = |kernel: &Kernel| {
            let program: &SchedClassifier = kernel.ebpf.program("convey_tc").unwrap().try_into().unwrap();
            program.info().unwrap().id()
        };
        let mut first = load(Tables::Pinned(pins.clone()));
        for ifindex in [77, 78] {
            first.attach(ifindex, XdpMode::Native).unwrap();
        }
        let was = id(&first);
        drop(first);
        assert_eq!((attached("veth7"), attached("peer7")), (vec![was], vec![was]), "nobody lives");

        let mut second = load(Tables::Adopted(pins.clone()));
        second.attach(77, XdpMode::Native).unwrap();
        assert_eq!(attached("veth7"), [id(&second)]);
        assert_eq!(attached("peer7"), [was]);
        second.detach_strays();
        assert!(is_left("peer7"));
        drop(second);

        ip("link del veth7");
        ip(make);
        assert!(is_left("veth7"));
        let mut third = load(Tables::Adopted(pins.clone()));
        third.attach(77, XdpMode::Native).unwrap();
        assert_eq!(attached("veth7"), [id(&third)]);
        third.detach(77);
        assert!(is_left("veth7"));
        assert!(pins.links().is_empty());
    });
    pins::remove_held(&held).unwrap();
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn an_xdp_program_that_was_left_makes_way_for_one_with_other_tables_and_nobody_elses_does() {
    let bpffs = BpfFs::mount("xdp");
    let ns = netns::Netns::new("xdp");
    ns.ip("link add veth7 index 77 type veth peer name peer7");
    let folder = |n| bpffs.0.join(format!("convey/here_balancer_{n}_0"));
    let [old, new] = [1, 2].map(|n| Arc::new(PinFolder::create(&folder(n)).unwrap()));
    let held = [old.clone(), new.clone()];
    ns.enter(move || {
        let load = |folder: &Arc<PinFolder>| {
            Kernel::load_with(Hook::Xdp, &sizes(), &Tables::Pinned(folder.clone())).unwrap()
        };
        load(&old).attach(77, XdpMode::Native).unwrap();
        let mut stranger = load(&new);
        assert!(stranger.attach(77, XdpMode::Native).is_err(), "one is there");
        stranger.replaces(vec![old.path().to_owned()]);
        stranger.attach(77, XdpMode::Native).unwrap();
        assert_eq!(new.links().len(), 1);
        stranger.detach(77);
        // It is in the other folder still.
        assert!(stranger.attach(77, XdpMode::Native).is_ok());
    });
    for folder in held {
        pins::remove_held(&folder).unwrap();
    }
}

#[test]
#[ignore = "needs root: makes a folder of a BPF file system"]
fn a_folder_of_pins_is_made_in_a_bpf_file_system_alone_and_not_in_somebody_elses() {
    let error = PinFolder::create(&std::env::temp_dir().join("convey/x")).unwrap_err().to_string();
    assert!(error.contains("is no BPF file system") && error.contains("CONVEY_BPFFS"), "{error}");
    let bpffs = BpfFs::mount("owner");
    let parent = bpffs.0.join("convey");
    std::fs::create_dir(&parent).unwrap();
    std::os::unix::fs::chown(&parent, Some(65_534), None).unwrap();
    let error = PinFolder::create(&parent.join("x")).unwrap_err().to_string();
    assert!(error.contains("another user's"), "{error}");
}

/// The program by a handle of its own: maps are written through the other.
fn another_handle(kernel: &mut Kernel) -> SchedClassifier {
    let bpffs = BpfFs::mount("bpf");
    let program: &mut SchedClassifier = kernel.ebpf.program_mut("convey_tc").unwrap().try_into().unwrap();
    program.pin(bpffs.0.join("program")).unwrap();
    SchedClassifier::from_pin(bpffs.0.join("program")).unwrap()
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn packets_never_miss_a_frontend_while_images_follow_each_other() {
    let mut kernel = kernel();
    let few = image(&["192.0.2.10:80", "[2001:db8::10]:80"], &[0, 1]);
    let more: Vec<String> = (11..60).map(|n| format!("192.0.2.{n}:80")).collect();
    let mut vips = vec!["192.0.2.10:80", "[2001:db8::10]:80"];
    vips.extend(more.iter().map(String::as_str));
    let many = image(&vips, &[0, 1, 2, 3, 4, 5]);
    kernel.install(&few).unwrap();
    let done = AtomicBool::new(false);
    let program = another_handle(&mut kernel);
    std::thread::scope(|scope| {
        let done = &done;
        let runs = scope.spawn(move || {
            let (mut runs, mut client) = (0u32, 0u32);
            while !done.load(Relaxed) {
                // Always another client: flows of servers that have left would be in the way.
                client += 1;
                for vip in ["192.0.2.10:80", "[2001:db8::10]:80"] {
                    let frame = syn_of(client, vip);
                    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
                    let verdict = program.test_run(options).unwrap().return_value;
                    assert_eq!(verdict, REDIRECT, "{vip} after {runs}");
                    runs += 1;
                }
            }
            runs
        });
        for _ in 0..30 {
            kernel.install(&many).unwrap();
            kernel.install(&few).unwrap();
        }
        done.store(true, Relaxed);
        assert!(runs.join().unwrap() > 100);
    });
    let reasons: PerCpuArray<_, u64> = kernel.ebpf.map("reasons").unwrap().try_into().unwrap();
    for (i, name) in (0..).zip(REASONS).filter(|(_, name)| ["not_vip", "no_next_hop"].contains(name)) {
        assert_eq!(reasons.get(&i, 0).unwrap().iter().sum::<u64>(), 0, "{name}");
    }
}
