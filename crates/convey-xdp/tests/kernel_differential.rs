//! A short run of what `examples/differential_fuzz.rs` does for as long as asked.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod differential;

use convey_testkit::is_brief;

#[test]
#[ignore = "needs root: loads kernel programs"]
fn kernel_programs_do_with_random_frames_what_the_portable_engine_does() {
    let (report, differences) = differential::run(if is_brief() { 1_000 } else { 6_000 }, 7, 1);
    println!("{report:#?}");
    assert!(differences.is_empty(), "{}", differences.concat());
    assert!(report.forwarded_by_program > report.frames / 4, "hardly anything was forwarded");
    assert!(report.denied > 20, "hardly anybody was denied");
    assert!(report.watched > report.forwarded_by_program / 4, "hardly anything was watched");
    assert!(report.by_the_clock <= report.episodes / 10, "too much differs by chance");
}
