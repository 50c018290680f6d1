//! Prints what a NAT port costs: `cargo run --release -p convey-core --example bench_nat_ports`.
//!
//! A port is given back and another taken, in turn, with so many of the ports of one server held; and one is taken over
//! when all are held. The least of many rounds, which other programs on the machine disturb least.

use std::hint::black_box;
use std::time::Instant;

use convey_core::conntrack::Ticks;
use convey_core::nat_ports::{Partition, PortPool};

const PARTITION: Partition = Partition { first: 33768, last: 61000, stride: 1, remainder: 0 };

fn least(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn turn(held: usize) -> f64 {
    let pool = PortPool::new(PARTITION);
    let (mut state, mut now) = (99, 1000);
    let mut ports: Vec<u16> = Vec::new();
    while ports.len() < held {
        let taken = pool.take(1, random(&mut state) as u32, Ticks(now), |_| true).expect("a free port");
        ports.push(taken.port);
    }
    let mut round = || {
        let start = Instant::now();
        for _ in 0..20_000 {
            // A new flow each millisecond.
            now += 1;
            let number = random(&mut state);
            let i = number as usize % ports.len();
            pool.release(ports[i], 1, Ticks(now));
            let taken = pool.take(1, (number >> 32) as u32, Ticks(now), |_| true);
            ports[i] = black_box(taken).expect("a free port").port;
        }
        start.elapsed().as_nanos() as f64 / 20_000.0
    };
    least(100, &mut round)
}

fn take_over() -> f64 {
    let pool = PortPool::new(PARTITION);
    let (mut state, mut now) = (99, 1000);
    while pool.take(1, random(&mut state) as u32, Ticks(now), |_| true).is_some() {
        now += 1;
    }
    let mut round = || {
        let start = Instant::now();
        for _ in 0..20_000 {
            now += 1;
            let number = random(&mut state) as u32;
            let victim = pool.victim(number, Ticks(now), |_| Some(2000)).expect("a victim");
            pool.release(victim.port, victim.owner, Ticks(now));
            black_box(pool.take_over(&victim, 1, Ticks(now)));
        }
        start.elapsed().as_nanos() as f64 / 20_000.0
    };
    least(100, &mut round)
}

fn main() {
    for percent in [1, 50, 90, 99] {
        println!(
            "give back and take, {percent:>2} % held: {:>6.1} ns",
            turn(PARTITION.len() * percent / 100)
        );
    }
    println!("give back and take, all but 1: {:>6.1} ns", turn(PARTITION.len() - 1));
    println!("take over, all held:           {:>6.1} ns", take_over());
    let pool = PortPool::new(PARTITION);
    println!("memory a port: {:.2} bytes", pool.memory_bytes() as f64 / PARTITION.len() as f64);
}
