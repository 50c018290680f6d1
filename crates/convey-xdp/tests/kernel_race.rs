//! A short run of what `examples/race.rs` does for as long as asked.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod differential;

#[test]
#[ignore = "needs root: loads kernel programs"]
fn flows_that_cpus_and_the_worker_begin_and_end_at_once_are_there_once_and_counted_right() {
    let reports = differential::race::run(40_000, 1).unwrap_or_else(|wrong| panic!("{wrong}"));
    for (name, report) in reports {
        println!("{name}: {report:?}");
        assert!(report.begun > 100 && report.by_worker > 100, "{name}: hardly a flow began");
    }
}
