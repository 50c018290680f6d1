//! Prints what the packet path costs: `cargo run --release -p convey-engine --example bench_conntrack`.
//!
//! Flow-table lookup and insert at 1, 64 K and 1 M flows, in an order that no cache foresees; a whole `process`
//! of a known flow, hot (a few in turn) and cold (scattered over all), and of nothing but new flows; Maglev build
//! time; memory a flow. The least of many short rounds, which other
//! programs on the machine disturb least.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use common::Lab;
use convey_core::conntrack::{Flow, FlowState, FlowTable, Lifetimes, Overflow, Ticks};
use convey_core::selection::{MaglevTable, Member, member_seed};
use convey_engine::{FrameMeta, Nanos, REPLY_HEADROOM, Verdict, process};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, SYN};

const LIFETIMES: Lifetimes =
    Lifetimes([0, 30_000, 30_000, 7_000_000, 100_000, 60_000, 30_000, 30_000, 300_000]);

fn least(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// The indices below `n` that `range` stands for, in an order that visits all of them far apart.
fn scattered(n: u32, range: Range<u32>) -> impl Iterator<Item = u32> {
    range.map(move |i| ((u64::from(i.wrapping_mul(2_654_435_761)) * u64::from(n)) >> 32) as u32)
}

fn flow(n: u32) -> Flow {
    Flow {
        client: (0xffff << 32) | (0x0a00_0000 + u128::from(n >> 10)),
        client_port: 1024 + (n & 1023) as u16,
        port: 80,
        state: FlowState::SynSent,
        last_seen: 1,
        ..Flow::default()
    }
}

fn conntrack(flows: u32) {
    let mut table = FlowTable::new(flows as usize, Overflow::Refuse, LIFETIMES, 7);
    let fill = |table: &mut FlowTable| {
        let start = Instant::now();
        for n in 0..flows {
            if let Some(stored) = table.insert(flow(n), Ticks(1)) {
                if let Some(f) = table.get_mut(stored.id) {
                    f.state = FlowState::Established;
                }
                black_box(table.promote(stored.id, Ticks(1)));
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(flows)
    };
    let insert = least(7, || {
        table.take_all(|_| {});
        fill(&mut table)
    });
    let count = 20_000;
    let mut first = 0;
    let lookup = least(200, || {
        first += count;
        let start = Instant::now();
        for n in scattered(flows, first..first + count) {
            black_box(table.lookup(&flow(n).key(), Ticks(2)));
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    });
    let bytes = table.memory_bytes() as f64 / f64::from(flows.max(64));
    println!(
        "conntrack {flows:>8} flows: lookup {lookup:>6.1} ns, insert and promote {insert:>6.1} ns, {bytes:.0} bytes a flow"
    );
}

fn whole_path(flows: u32) {
    let mut world = common::world("passthrough");
    world.nat_ports = (1024, 65535);
    world.servers = (0..20u8)
        .map(|i| convey_testkit::fixture::WorldServer {
            name: format!("s{i}"),
            addr: format!("10.0.0.{}:8080", i + 11),
            weight: 1,
            up: true,
        })
        .collect();
    world.neighbours.extend((0..20u8).map(|i| convey_testkit::fixture::WorldNeighbour {
        ifindex: 2,
        ip: format!("10.0.0.{}", i + 11),
        mac: format!("0200000002{:02x}", i + 11),
    }));
    let options = convey_engine::PacketOptions { capacity: 2 * flows as usize, ..common::options(&world) };
    let mut lab = Lab::with(&world, common::spec(&world), options);
    let name = |n: u32| format!("198.51.{}.{}:{}", n >> 8 & 0xff, n & 0xff, 2000 + (n >> 16));
    let run = |lab: &mut Lab, packet: P| {
        let frame = packet.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
        lab.run_bytes(&frame, &FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() }, 1000)
    };
    let vip = "192.0.2.10:80";
    for n in 0..flows {
        let out = run(&mut lab, P::syn(&name(n), vip)).frame();
        let server = format!("10.0.0.{}:8080", out[33]);
        let nat = format!("192.0.2.10:{}", u16::from_be_bytes([out[34], out[35]]));
        run(&mut lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001));
        run(&mut lab, P::tcp(&name(n), vip));
    }
    let frames: Vec<Vec<u8>> = scattered(flows, 0..4096)
        .map(|n| P::tcp(&name(n), vip).macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build())
        .collect();
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let mut buffer = vec![0; 54 + REPLY_HEADROOM];
    let ns = least(500, || {
        let start = Instant::now();
        for frame in &frames {
            buffer[..54].copy_from_slice(frame);
            let now = Nanos::from_millis(1001);
            let hops = &lab.next_hops;
            let verdict = process(&mut buffer, 54, &meta, &lab.snapshot, hops, &mut lab.worker, now);
            assert!(matches!(black_box(verdict), Verdict::Forward(_)));
        }
        start.elapsed().as_nanos() as f64 / frames.len() as f64
    });
    println!("process, known flow of {flows:>7} (4,096 in turn): {ns:>6.1} ns");
    if flows < 1 << 16 {
        return;
    }
    let all: Vec<Vec<u8>> = scattered(flows, 0..flows)
        .map(|n| P::tcp(&name(n), vip).macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build())
        .collect();
    let ns = least(20, || turn(&mut lab, &all, 1002));
    println!("process, known flow of {flows:>7} (all, scattered): {ns:>6.1} ns");
    let mut now = 1002;
    let ns = least(20, || {
        // SYNs nobody answers: those of the round before have run out.
        now += 31_000;
        let fresh: Vec<Vec<u8>> = (0..1u32 << 14)
            .map(|n| format!("203.0.{}.{}:4000", n >> 8, n & 0xff))
            .map(|from| P::syn(&from, vip).macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build())
            .collect();
        turn(&mut lab, &fresh, now)
    });
    println!("process, new flow beside {flows:>7}:                {ns:>6.1} ns");
}

/// Nanoseconds a frame that `process` takes for all of `frames`, each of which must be forwarded.
fn turn(lab: &mut Lab, frames: &[Vec<u8>], now_ms: u64) -> f64 {
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let mut buffer = vec![0; 128 + REPLY_HEADROOM];
    let start = Instant::now();
    for frame in frames {
        buffer[..frame.len()].copy_from_slice(frame);
        let (hops, now) = (&lab.next_hops, Nanos::from_millis(now_ms));
        let verdict = process(&mut buffer, frame.len(), &meta, &lab.snapshot, hops, &mut lab.worker, now);
        assert!(matches!(black_box(verdict), Verdict::Forward(_)));
    }
    start.elapsed().as_nanos() as f64 / frames.len() as f64
}

fn maglev(servers: u16) {
    let members: Vec<Member> = (0..servers)
        .map(|i| Member { seed: member_seed(&i.to_be_bytes()), weight: 1 + i % 10, value: i })
        .collect();
    let ms = least(20, || {
        let start = Instant::now();
        black_box(MaglevTable::build(black_box(&members)));
        start.elapsed().as_nanos() as f64 / 1e6
    });
    println!("Maglev table of {servers:>4} servers: {ms:.2} ms");
}

fn main() {
    for flows in [1, 1 << 16, 1 << 20] {
        conntrack(flows);
    }
    for flows in [1, 1 << 12, 1 << 16] {
        whole_path(flows);
    }
    for servers in [10, 100, 1000] {
        maglev(servers);
    }
}
