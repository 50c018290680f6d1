//! Threads on several CPUs that begin and end the same flows at once through the kernel programs, and the worker beside
//! them: `cargo run --release -p convey-xdp --example race -- <runs> [seed]`, as root.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "../tests/differential/mod.rs"]
mod differential;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let (Some(Ok(runs)), Ok(seed)) = (args.next(), args.next().unwrap_or(Ok(1))) else {
        eprintln!("usage: race <runs> [seed]");
        return ExitCode::FAILURE;
    };
    match differential::race::run(runs, seed) {
        Ok(reports) => {
            reports.iter().for_each(|(name, report)| println!("{name}: {report:?}"));
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::FAILURE
        }
    }
}
