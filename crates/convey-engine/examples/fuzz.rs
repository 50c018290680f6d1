//! Mutates the fixtures' frames for as long as asked and watches that every packet is accounted for:
//! `cargo run --release -p convey-engine --example fuzz -- --seconds 600 [--seed N]`.
//!
//! Runs on stable Rust. The corpus is the fixtures and 256 frames at most that led to a verdict not seen before.
//! A panic, a changed passed frame, a miscounted packet or a gauge out of step ends it with a non-zero exit.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::Lab;
use convey_engine::{Checksum, FrameMeta, Gso};
use convey_testkit::unhex;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let seconds = value("--seconds").unwrap_or(10);
    let mut random = Random(value("--seed").unwrap_or(1) | 1);

    let files = convey_testkit::fixture::load_all().expect("fixtures");
    let mut labs: Vec<Lab> = files.iter().flat_map(|(_, f)| f.worlds.values()).map(Lab::new).collect();
    let mut corpus: Vec<Vec<u8>> = files
        .iter()
        .flat_map(|(_, f)| &f.cases)
        .flat_map(|c| c.before.iter().chain([&c.input]))
        .filter_map(|i| unhex(&i.frame))
        .collect();
    corpus.sort();
    corpus.dedup();
    let fixed = corpus.len();
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut runs = vec![0u64; labs.len()];
    let mut now_ms = 1000;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut total = 0u64;
    while !total.is_multiple_of(1024) || Instant::now() < end {
        let frame = mutate(&corpus, &mut random);
        let meta = meta(&mut random);
        now_ms += if random.one_in(1000) { random.next() % 100_000 } else { random.next() % 4 };
        let lab_index = random.below(labs.len());
        let lab = &mut labs[lab_index];
        let out = lab.run_bytes(&frame, &meta, now_ms);
        runs[lab_index] += 1;
        total += 1;
        if random.one_in(64) {
            let now = convey_engine::Nanos::from_millis(now_ms);
            let snapshot = lab.snapshot.clone();
            lab.worker.tick(&snapshot, now);
        }
        if random.one_in(4096) {
            let up = random.one_in(2);
            lab.reload(|spec| {
                for server in spec.backends.iter_mut().flat_map(|b| &mut b.servers) {
                    server.draining = up;
                }
            });
        }
        assert_eq!(lab.worker.counters().packets(), runs[lab_index], "a packet was not accounted for");
        assert!(lab.config.totals.open() <= lab.worker.flows() as u64, "the gauge exceeds the flows");
        let outcome = format!("{} {}", out.verdict, out.reason.unwrap_or_default());
        if !seen.contains_key(&outcome) && corpus.len() < fixed + 256 {
            corpus.push(frame);
        }
        *seen.entry(outcome).or_default() += 1;
    }
    for lab in &mut labs {
        let snapshot = lab.snapshot.clone();
        lab.worker.end_all(&snapshot);
        assert_eq!(lab.config.totals.open(), 0, "a gauge did not return to zero");
    }
    let mut outcomes: Vec<_> = seen.into_iter().collect();
    outcomes.sort();
    for (outcome, count) in outcomes {
        println!("{count:>12} {outcome}");
    }
    println!("{total} frames in {seconds} s, no panic, every packet accounted for");
}

fn meta(random: &mut Random) -> FrameMeta {
    let checksum = if random.one_in(4) {
        let start = if random.one_in(4) { random.next() as u16 } else { 34 };
        Checksum::Partial { start, offset: [6, 16, random.next() as u16][random.below(3)] }
    } else {
        Checksum::Complete
    };
    let gso = random.one_in(8).then(|| Gso { kind: random.next() as u8, size: random.next() as u16 });
    FrameMeta { ingress_ifindex: 1, checksum, gso }
}

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = corpus[random.below(corpus.len())].clone();
    for _ in 0..random.below(4) {
        if frame.is_empty() {
            break;
        }
        let at = if random.one_in(2) { random.below(frame.len().min(80)) } else { random.below(frame.len()) };
        match random.below(7) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => frame[at] = random.next() as u8,
            3 => frame.truncate(at),
            4 => frame.extend(vec![random.next() as u8; random.below(100)]),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let len = random.below(40).min(other.len() - from).min(frame.len() - at);
                frame[at..at + len].copy_from_slice(&other[from..from + len]);
            }
            _ => {
                frame.remove(at);
            }
        }
    }
    if !random.one_in(8) {
        repair_ip_checksum(&mut frame);
    }
    frame
}

/// Without this most mutants would end at the IPv4 header checksum.
fn repair_ip_checksum(frame: &mut [u8]) {
    if frame.len() < 34 || frame[14] >> 4 != 4 {
        return;
    }
    let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
    frame[24] = 0;
    frame[25] = 0;
    let mut sum: u32 =
        frame[14..end].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let field = !(sum as u16);
    frame[24..26].copy_from_slice(&field.to_be_bytes());
}
