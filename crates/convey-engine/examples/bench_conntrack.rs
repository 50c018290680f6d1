//! Prints what the packet path costs: `cargo run --release -p convey-engine --example bench_conntrack`.
//!
//! Flow-table lookup, insert and sweep at 1, 64 K and 1 M flows, in an order that no cache foresees; a whole
//! `process` of a known flow at as many, hot (a few in turn) and cold (scattered over all), and of nothing but new
//! flows; Maglev build time; memory a flow. The least of many short rounds, which other programs on the machine
//! disturb least. An argument picks measures by name: `table`, `path`, `maglev`.

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

/// Begins a flow and confirms it.
fn begin(table: &mut FlowTable, mut flow: Flow) {
    let place = table.find(&flow.key(), Ticks(1)).place;
    if let Some(claim) = table.claim(&place, true, Ticks(1), |_| {}) {
        let id = table.publish(claim, &mut flow);
        let confirmed = Flow { state: FlowState::Established, ..flow };
        black_box(table.update(id, &flow, &confirmed));
    }
}

fn slots(table: &FlowTable) -> usize {
    table.entries()
}

fn memory(table: &FlowTable) -> usize {
    table.memory_bytes()[0]
}

fn conntrack(flows: u32) {
    let mut table = FlowTable::new(flows as usize, Overflow::Refuse, LIFETIMES, 7);
    let insert = least(7, || {
        table.take_all(|_| {});
        let start = Instant::now();
        for n in 0..flows {
            begin(&mut table, flow(n));
        }
        start.elapsed().as_nanos() as f64 / f64::from(flows)
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
    let entries = slots(&table);
    let sweep = least(20, || {
        let start = Instant::now();
        table.sweep(Ticks(2), entries, |_| {});
        start.elapsed().as_nanos() as f64 / entries as f64
    });
    let bytes = memory(&table) as f64 / f64::from(flows.max(64));
    println!(
        "conntrack {flows:>8} flows: lookup {lookup:>6.1} ns, insert and confirm {insert:>6.1} ns, sweep \
         {sweep:.2} ns an entry, {bytes:.0} bytes a flow"
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
    let options =
        convey_engine::PacketOptions { capacity: flows as usize + 16_384, ..common::options(&world) };
    let mut lab = Lab::with(&world, common::spec(&world), options);
    let name = |n: u32| format!("198.51.{}.{}:{}", n >> 8 & 0xff, n & 0xff, 2000 + (n >> 16));
    let vip = "192.0.2.10:80";
    for n in 0..flows {
        let out = forward(&mut lab, &framed(P::syn(&name(n), vip)), 1000);
        let server = format!("10.0.0.{}:8080", out[33]);
        let nat = format!("192.0.2.10:{}", u16::from_be_bytes([out[34], out[35]]));
        forward(&mut lab, &framed(P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001)), 1000);
        forward(&mut lab, &framed(P::tcp(&name(n), vip)), 1000);
    }
    let frames = |which: &mut dyn Iterator<Item = u32>| -> Vec<u8> {
        which.flat_map(|n| framed(P::tcp(&name(n), vip))).collect()
    };
    let some = frames(&mut scattered(flows, 0..4096.min(flows)));
    let ns = least(if flows == 1 { 50_000 } else { 300 }, || turn(&mut lab, &some, 1001));
    println!("process, known flow of {flows:>7} (4,096 in turn): {ns:>6.1} ns");
    if flows < 1 << 16 {
        return;
    }
    let all = frames(&mut scattered(flows, 0..flows));
    let ns = least(if flows > 1 << 16 { 8 } else { 40 }, || turn(&mut lab, &all, 1002));
    println!("process, known flow of {flows:>7} (all, scattered): {ns:>6.1} ns");
    let mut now = 1002;
    let ns = least(20, || {
        // SYNs nobody answers: those of the round before have run out.
        now += 31_000;
        let fresh: Vec<u8> = (0..1u32 << 14)
            .map(|n| format!("203.0.{}.{}:4000", n >> 8, n & 0xff))
            .flat_map(|from| framed(P::syn(&from, vip)))
            .collect();
        turn(&mut lab, &fresh, now)
    });
    println!("process, new flow beside {flows:>7}:                {ns:>6.1} ns");
}

const FRAME: usize = 54;

fn framed(packet: P) -> [u8; FRAME] {
    let frame = packet.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
    frame.try_into().expect("no options and no payload")
}

/// The frame once forwarded.
fn forward(lab: &mut Lab, frame: &[u8; FRAME], now_ms: u64) -> [u8; FRAME + REPLY_HEADROOM] {
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let mut buffer = [0; FRAME + REPLY_HEADROOM];
    buffer[..FRAME].copy_from_slice(frame);
    let (hops, now) = (&lab.next_hops, Nanos::from_millis(now_ms));
    let verdict = process(&mut buffer, FRAME, &meta, &lab.snapshot, hops, &mut lab.worker, now);
    assert!(matches!(black_box(verdict), Verdict::Forward(_)));
    buffer
}

/// Nanoseconds a frame that `process` takes for all of `frames`, each of which must be forwarded.
fn turn(lab: &mut Lab, frames: &[u8], now_ms: u64) -> f64 {
    let (frames, _) = frames.as_chunks::<FRAME>();
    let start = Instant::now();
    for frame in frames {
        forward(lab, frame, now_ms);
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
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if wants("table") {
        for flows in [1, 1 << 16, 1 << 20] {
            conntrack(flows);
        }
    }
    if wants("path") {
        for flows in [1, 1 << 16, 1 << 20] {
            whole_path(flows);
        }
    }
    if wants("maglev") {
        for servers in [10, 100, 1000] {
            maglev(servers);
        }
    }
}
