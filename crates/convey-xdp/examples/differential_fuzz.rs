//! Random frames through the portable engine and through the kernel programs, which must do the same with them:
//! `cargo run --release -p convey-xdp --example differential_fuzz -- <frames> [seed]`, as root.
//!
//! What differs is told with the steps that lead to it, and ends in a non-zero exit.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "../tests/differential/mod.rs"]
mod differential;

use std::process::ExitCode;
use std::time::Instant;

/// Differences that are told.
const MOST: usize = 8;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let (Some(Ok(frames)), Ok(seed)) = (args.next(), args.next().unwrap_or(Ok(1))) else {
        eprintln!("usage: differential_fuzz <frames> [seed]");
        return ExitCode::FAILURE;
    };
    let begun = Instant::now();
    let (report, differences) = differential::run(frames, seed, MOST);
    for difference in &differences {
        println!("{difference}\n");
    }
    println!(
        "{report:#?}\n{} differences in {} s, seed {seed}",
        differences.len(),
        begun.elapsed().as_secs()
    );
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
