//! Two CPUs that begin one flow at once end with one flow and one port.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use aya::maps::{Array, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_bpf::tables::Method;
use convey_core::nat_ports::Partition;
use convey_testkit::PacketBuilder;
use convey_xdp::kernel::{Hook, Sizes};
use lab::tables::{assert_settles, flows, pools, read};
use lab::{Lab, at, ends, frontend, image, path, server, sizes};

const WIDTH: u16 = 8192;
/// Flows of a batch, after which everything is compared and forgotten.
const FLOWS: u32 = 4000;
const REDIRECT: u32 = 7;

fn lab(v6: bool, passthrough: bool) -> Lab {
    let (vip, to) =
        if v6 { ("[2001:db8::10]:80", "[2001:db8:1::1]:80") } else { ("192.0.2.10:80", "10.1.0.1:80") };
    let nat = at(vip).ip().to_string();
    let method = if passthrough { Method::Nat } else { Method::Rewrite };
    // Small enough that flows pass full sets.
    let sizes = Sizes { sets4: 4096, sets6: 8192, nat_width: WIDTH.into(), ..sizes(passthrough) };
    let frontends = vec![Some(frontend(vip, 0, &[&nat]))];
    let mut image = image(frontends, vec![server(to, method)], vec![path(&nat, to, 6)]);
    image.config.half_open_max = u32::MAX;
    Lab::new(Hook::Tc, &sizes, &image)
}

fn forget(lab: &Lab) {
    for map in ["flows4", "flows6", "spills4", "spills6", "nat_ports", "shared"] {
        lab.kernel.memory(map).unwrap().words64().iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// Two threads send the same SYNs at the same time; by thread, where each went from.
fn race(lab: &Lab, frames: &[Vec<u8>]) -> [Vec<Vec<u8>>; 2] {
    let program: &SchedClassifier = lab.kernel.ebpf.program("convey_tc").unwrap().try_into().unwrap();
    let arrived = AtomicU32::new(0);
    let send = || {
        let mut sent = Vec::with_capacity(frames.len());
        for (round, frame) in (1u32..).zip(frames) {
            arrived.fetch_add(1, SeqCst);
            let mut spins = 0u32;
            while arrived.load(SeqCst) < 2 * round {
                spins += 1;
                // The other may want this CPU.
                if spins.is_multiple_of(1 << 12) {
                    std::thread::yield_now();
                }
            }
            let mut out = vec![0; 128];
            let options =
                TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
            assert_eq!(program.test_run(options).unwrap().return_value, REDIRECT);
            sent.push(out);
        }
        sent
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(send);
        let mine = send();
        [mine, other.join().unwrap()]
    })
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_packet_of_a_flow_that_two_cpus_begin_at_once_goes_by_the_flow_that_stays() {
    let thousands = 16;
    let (mut twins, mut astray) = (0, 0);
    for (v6, passthrough) in [(false, true), (true, true), (false, false), (true, false)] {
        let lab = lab(v6, passthrough);
        let vip = if v6 { "[2001:db8::10]:80" } else { "192.0.2.10:80" };
        for batch in 0..(thousands * 1000 / FLOWS / 4).max(1) {
            let client = |n: u32| {
                let host = batch % 250 + 1;
                if v6 {
                    format!("[2001:db8:c::{host:x}]:{}", 1024 + n)
                } else {
                    format!("198.51.100.{host}:{}", 1024 + n)
                }
            };
            let frames: Vec<Vec<u8>> =
                (0..FLOWS).map(|n| PacketBuilder::syn(&client(n), vip).seq(1000, 0).build()).collect();
            let [a, b] = race(&lab, &frames);
            let flows = flows(&lab.kernel, passthrough);
            assert_eq!(flows.len(), FLOWS as usize, "IPv6 {v6}, passthrough {passthrough}: one a key");
            let shared: [u8; 24] = read(&lab.kernel, "shared")[0];
            assert_eq!(u64::from_ne_bytes(shared[16..].try_into().unwrap()), u64::from(FLOWS), "half-open");
            let mut keys = HashSet::new();
            let mut held = HashSet::new();
            flows.take_all(|flow| {
                assert!(keys.insert((flow.client, flow.client_port)));
                held.insert(flow.nat_port);
            });
            if passthrough {
                let partition =
                    Partition { first: 20_000, last: 20_000 + WIDTH - 1, stride: 1, remainder: 0 };
                let [pool] = pools::<1>(&lab.kernel, partition);
                assert_eq!(pool.held(), FLOWS as usize, "IPv6 {v6}: one port a flow");
                for (a, b) in a.iter().zip(&b) {
                    // One may have left before the other's flow was there, which stays.
                    let ports = [a, b].map(|sent| ends(sent).0.port());
                    assert!(ports.iter().any(|port| held.contains(port)), "{ports:?}");
                    astray += u32::from(ports[0] != ports[1]);
                }
            }
            assert_settles(flows);
            forget(&lab);
        }
        twins += lab.counted("twin");
    }
    println!("{twins} flows were begun twice, {astray} packets left by another port");
    assert!(u64::from(astray) <= twins, "{astray} of {twins}");
}

/// The benchmark's wrapper: SYNs of one client after the other, without leaving the kernel.
fn wrapper(engine: &Xdp) -> Ebpf {
    let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::wrapper()).unwrap();
    let program: &mut Xdp = ebpf.program_mut("wrapper").unwrap().try_into().unwrap();
    program.load().unwrap();
    let mut programs: ProgramArray<_> = ebpf.map_mut("program").unwrap().try_into().unwrap();
    programs.set(0, engine.fd().unwrap(), 0).unwrap();
    ebpf
}

/// Clients from `position` on: see `struct pattern`.
fn set_pattern(wrapper: &mut Ebpf, position: u32) {
    let frame = PacketBuilder::syn("10.0.0.1:1024", "192.0.2.10:80").seq(1000, 0).build();
    let words = frame[14..34].chunks(2).enumerate().filter(|(i, _)| !matches!(i, 5..=7));
    let sum: u32 = words.map(|(_, word)| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
    let mut value = [0; 88];
    for (i, word) in [1, 0, position, sum].into_iter().enumerate() {
        value[8 + 4 * i..12 + 4 * i].copy_from_slice(&u32::to_ne_bytes(word));
    }
    value[24..78].copy_from_slice(&frame[..54]);
    let mut pattern: Array<_, [u8; 88]> = wrapper.map_mut("pattern").unwrap().try_into().unwrap();
    pattern.set(0, value, 0).unwrap();
}

/// `CONVEY_TWIN_ROUNDS` thousands of rounds in each mode, 150 unless told otherwise.
#[test]
#[ignore = "needs root: loads kernel programs"]
fn two_cpus_that_begin_the_same_flows_at_once_end_with_one_flow_and_one_port_each() {
    const FLOWS: u32 = 30_000;
    const PORTS: Partition = Partition { first: 20_000, last: 59_999, stride: 1, remainder: 0 };
    let thousands: u32 =
        std::env::var("CONVEY_TWIN_ROUNDS").ok().map_or(150, |rounds| rounds.parse().expect("a number"));
    for passthrough in [true, false] {
        let method = if passthrough { Method::Nat } else { Method::Rewrite };
        let sizes = Sizes { sets4: 1 << 15, nat_width: 40_000, ..sizes(passthrough) };
        let mut image = image(
            vec![Some(frontend("192.0.2.10:80", 0, &["192.0.2.10"]))],
            vec![server("10.1.0.1:80", method)],
            vec![path("192.0.2.10", "10.1.0.1:80", 6)],
        );
        image.config.half_open_max = u32::MAX;
        let lab = Lab::new(Hook::Xdp, &sizes, &image);
        let engine: &Xdp = lab.kernel.ebpf.program("convey_xdp").unwrap().try_into().unwrap();
        let mut wrappers = [wrapper(engine), wrapper(engine)];
        for batch in 0..(thousands * 1000 / FLOWS).max(1) {
            wrappers.iter_mut().for_each(|wrapper| set_pattern(wrapper, batch % 500 * FLOWS));
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                for wrapper in &wrappers {
                    let program: &Xdp = wrapper.program("wrapper").unwrap().try_into().unwrap();
                    let start = &start;
                    scope.spawn(move || {
                        let frame = [0; 64];
                        let all =
                            TestRunOptions { data_in: Some(&frame), repeat: FLOWS, ..TestRunOptions::new() };
                        start.wait();
                        let last = program.test_run(all).unwrap().return_value;
                        assert!([3, 4].contains(&last), "{last}");
                    });
                }
            });
            let flows = flows(&lab.kernel, passthrough);
            assert_eq!(flows.len(), FLOWS as usize, "passthrough {passthrough}: one flow a key");
            if passthrough {
                let [pool] = pools::<1>(&lab.kernel, PORTS);
                assert_eq!(pool.held(), FLOWS as usize, "one port a flow");
            }
            let mut keys = HashSet::new();
            flows.take_all(|flow| assert!(keys.insert((flow.client, flow.client_port))));
            assert_settles(flows);
            forget(&lab);
        }
        println!("passthrough {passthrough}: {} flows were begun twice", lab.counted("twin"));
    }
}
