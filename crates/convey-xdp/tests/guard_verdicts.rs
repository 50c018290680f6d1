//! The guard's verdict for every frame of the fixtures: what the engine handles is kept from the kernel, what
//! the engine leaves to the kernel reaches it.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::collections::BTreeMap;

use aya::maps::HashMap;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use convey_testkit::fixture::World;
use convey_testkit::{PacketBuilder, unhex};

const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Fixtures that the engine drops for being malformed, and the guard passes because it cannot read their ports; some
/// are too short for the kernel's test run. The kernel answers none of them.
const UNREADABLE: &[&str] = &[
    "a runt without an EtherType",
    "an empty frame",
    "half an IPv4 header",
    "half an IPv6 header",
    "IPv4 by EtherType, version 6 by header",
    "IPv6 by EtherType, version 4 by header",
    "ihl below 5",
    "ihl beyond the packet",
    "two bytes of TCP",
    "a chain of IPv6 extension headers without end",
    "an IPv6 extension header beyond the packet",
];

/// The guard knows addresses and ports, but no flows. The kernel ignores an ICMP error about a port that is not
/// its own.
const KNOWS_NO_FLOWS: &str = "an ICMP error about an unknown flow is the kernel's";

struct Guard(Ebpf);

impl Guard {
    fn new() -> Self {
        let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::guard()).unwrap();
        let program: &mut SchedClassifier = ebpf.program_mut("convey_guard").unwrap().try_into().unwrap();
        program.load().unwrap();
        Self(ebpf)
    }

    fn of(world: &World) -> Self {
        let mut guard = Self::new();
        let nat = world.mode == "passthrough";
        for frontend in &world.frontends {
            let protocol = if frontend.protocol == "udp" { UDP } else { TCP };
            let vip = frontend.listen.parse().unwrap();
            guard.insert("vips", vip, protocol);
            if nat {
                guard.insert_nat(vip.ip(), protocol, world.nat_ports);
                for server in &world.servers {
                    guard.insert("servers", server.addr.parse().unwrap(), protocol);
                }
            }
        }
        guard
    }

    fn insert(&mut self, map: &str, at: std::net::SocketAddr, protocol: u8) {
        let mut map: HashMap<_, [u8; 20], u32> = self.0.map_mut(map).unwrap().try_into().unwrap();
        map.insert(convey_bpf::endpoint_key(at, protocol), 1, 0).unwrap();
    }

    fn insert_nat(&mut self, ip: std::net::IpAddr, protocol: u8, ports: (u16, u16)) {
        let mut map: HashMap<_, [u8; 20], [u8; 16]> = self.0.map_mut("nat").unwrap().try_into().unwrap();
        let ranges = convey_bpf::nat_ports(&[ports.0..=ports.1]).unwrap();
        map.insert(convey_bpf::nat_key(ip, protocol), ranges, 0).unwrap();
    }

    /// The verdict on a frame that arrives for this host's own MAC: the test's device is a loopback with zeroes.
    fn verdict(&self, frame: Vec<u8>) -> u32 {
        self.try_verdict(frame).unwrap()
    }

    /// `None` for a frame too short for the kernel's test run.
    fn try_verdict(&self, mut frame: Vec<u8>) -> Option<u32> {
        if frame.first().is_some_and(|byte| byte & 1 == 0) {
            let end = frame.len().min(6);
            frame[..end].fill(0);
        }
        self.raw_verdict(&frame)
    }

    fn raw_verdict(&self, frame: &[u8]) -> Option<u32> {
        let program: &SchedClassifier = self.0.program("convey_guard").unwrap().try_into().unwrap();
        // More than a page is refused; the program reads headers only.
        let frame = &frame[..frame.len().min(1500)];
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        match program.test_run(options) {
            Ok(result) => Some(result.return_value),
            Err(_) if frame.len() < 14 + 40 => None,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn every_fixture_is_kept_from_the_kernel_or_left_to_it_as_the_engine_decides() {
    let mut failures = Vec::new();
    let mut run = 0;
    for (file, content) in convey_testkit::fixture::load_all().unwrap() {
        let guards: BTreeMap<_, _> = content.worlds.iter().map(|(name, w)| (name, Guard::of(w))).collect();
        for case in &content.cases {
            for before in &case.before {
                guards[&case.world].try_verdict(unhex(&before.frame).unwrap());
            }
            let verdict = guards[&case.world].try_verdict(unhex(&case.input.frame).unwrap());
            let reason = case.expect.reason.as_deref().unwrap_or("");
            let right = match case.expect.verdict.as_str() {
                "drop" if UNREADABLE.contains(&case.name.as_str()) => matches!(verdict, None | Some(NEXT)),
                "pass" if case.name == KNOWS_NO_FLOWS => verdict == Some(DROP),
                "pass" => verdict == Some(NEXT),
                _ => verdict == Some(DROP),
            };
            if !right {
                let engine = &case.expect.verdict;
                failures.push(format!("{file}: {}: {verdict:?}, engine {engine} {reason}", case.name));
            }
            run += 1;
        }
    }
    assert!(failures.is_empty(), "{} of {run}:\n{}", failures.len(), failures.join("\n"));
    assert!(run >= 60, "only {run} fixtures");
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn frames_for_another_mac_pass() {
    let mut guard = Guard::new();
    guard.insert("vips", "192.0.2.10:80".parse().unwrap(), TCP);
    let frame = PacketBuilder::syn("198.51.100.7:1234", "192.0.2.10:80").build();
    assert_eq!(guard.verdict(frame.clone()), DROP);
    let mut other = frame;
    other[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    assert_eq!(guard.raw_verdict(&other), Some(NEXT));
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn a_vip_with_port_0_has_every_port_of_its_protocol_and_no_other() {
    let mut guard = Guard::new();
    guard.insert("vips", "192.0.2.10:0".parse().unwrap(), TCP);
    for port in [1, 22, 65535] {
        let to = format!("192.0.2.10:{port}");
        assert_eq!(guard.verdict(PacketBuilder::syn("198.51.100.7:1234", &to).build()), DROP);
        assert_eq!(guard.verdict(PacketBuilder::udp("198.51.100.7:1234", &to).build()), NEXT);
    }
    assert_eq!(guard.verdict(PacketBuilder::syn("198.51.100.7:1234", "192.0.2.11:22").build()), NEXT);
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn later_fragments_share_the_lot_of_their_first_and_those_of_the_hosts_own_services_pass() {
    for (vip, own, client) in [
        ("192.0.2.10:53", "192.0.2.10:54", "198.51.100.7:1234"),
        ("[2001:db8:1::10]:53", "[2001:db8:1::10]:54", "[2001:db8::7]:1234"),
    ] {
        let mut guard = Guard::new();
        guard.insert("vips", vip.parse().unwrap(), UDP);
        let cut = |to: &str, id| {
            let parts = PacketBuilder::udp(client, to).payload(&[1; 3000]).id(id).cut(1200);
            parts.iter().map(PacketBuilder::build).collect::<Vec<_>>()
        };
        let verdicts = |frames: &[Vec<u8>]| -> Vec<u32> {
            frames.iter().map(|frame| guard.verdict(frame.clone())).collect()
        };
        let (ours, theirs) = (cut(vip, 7), cut(own, 8));
        assert_eq!(verdicts(&ours[1..]), [NEXT, NEXT], "before the first nobody knows");
        assert_eq!(verdicts(&ours), [DROP, DROP, DROP]);
        assert_eq!(verdicts(&theirs), [NEXT, NEXT, NEXT]);
        assert_eq!(verdicts(&cut(own, 7)), [NEXT, NEXT, NEXT], "an identification used again");
        assert_eq!(verdicts(&ours), [DROP, DROP, DROP]);
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(verdicts(&ours[1..]), [NEXT, NEXT], "forgotten");
    }
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn both_ends_of_a_nat_range_belong_to_it() {
    let mut guard = Guard::new();
    guard.insert_nat("192.0.2.10".parse().unwrap(), TCP, (33768, 61000));
    guard.insert("servers", "10.0.0.11:80".parse().unwrap(), TCP);
    for (port, verdict) in [(33767, NEXT), (33768, DROP), (61000, DROP), (61001, NEXT)] {
        let frame = PacketBuilder::tcp("10.0.0.11:80", &format!("192.0.2.10:{port}")).build();
        assert_eq!(guard.verdict(frame), verdict, "{port}");
    }
}
