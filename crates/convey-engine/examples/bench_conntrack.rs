//! Prints what the tables cost: `cargo run --release -p convey-engine --example bench_conntrack`.
//!
//! Flow-table lookup, insert and sweep at 1, 64 K and 1 M flows, in an order that no cache foresees; memory a flow;
//! Maglev build time. The least of many short rounds, which other programs on the machine disturb least. What a packet
//! costs tells `bench_process`.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use convey_core::conntrack::{Flow, FlowState, FlowTable, Lifetimes, Overflow, Ticks};
use convey_core::selection::{MaglevTable, Member, member_seed};

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
fn begin(table: &FlowTable, mut flow: Flow) {
    let found = table.find(&flow.key(), Ticks(1));
    if let Some(claim) = table.claim(&found, true, Ticks(1), |_| {})
        && let Ok(id) = table.publish(claim, &mut flow, |_| {})
    {
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
    let table = FlowTable::new(flows as usize, Overflow::Refuse, LIFETIMES, 7);
    let insert = least(7, || {
        table.take_all(|_| {});
        let start = Instant::now();
        for n in 0..flows {
            begin(&table, flow(n));
        }
        start.elapsed().as_nanos() as f64 / f64::from(flows)
    });
    let count = 20_000;
    let mut first = 0;
    let lookup = least(200, || {
        first += count;
        let start = Instant::now();
        let (mut last, nothing) = (0, black_box(0));
        for n in scattered(flows, first..first + count) {
            // Each waits for the one before, as a packet's does.
            let id = table.lookup(&flow(n ^ (last & nothing)).key(), Ticks(2));
            last = id.map_or(0, |id| id.bits());
        }
        black_box(last);
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

fn maglev(servers: u16) {
    let members: Vec<Member> = (0..servers)
        .map(|i| Member { seed: member_seed(&i.to_be_bytes()), weight: 1 + u32::from(i % 10), value: i })
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
    for servers in [10, 100, 1000] {
        maglev(servers);
    }
}
