//! Every fixture through this engine: verdict, reason, interface and bytes.

mod common;

use common::{Lab, Out};

#[test]
fn every_fixture_ends_with_its_verdict_reason_and_bytes() {
    let files = convey_testkit::fixture::load_all().unwrap();
    let mut failures = Vec::new();
    let mut run = 0;
    for (file, content) in &files {
        for case in &content.cases {
            let mut lab = Lab::new(&content.worlds[&case.world]);
            for before in &case.before {
                let out = lab.run(before);
                assert_eq!(out.verdict, "forward", "{file}: {}: a frame before: {out:?}", case.name);
            }
            let expect = Out {
                verdict: case.expect.verdict.clone(),
                reason: case.expect.reason.clone(),
                egress: case.expect.egress,
                frame: case.expect.frame.clone(),
            };
            let out = lab.run(&case.input);
            if out != expect {
                failures.push(format!("{file}: {}\n  want {expect:?}\n  have {out:?}", case.name));
            }
            assert_eq!(lab.worker.counters().packets(), case.before.len() as u64 + 1, "{}", case.name);
            run += 1;
        }
    }
    assert!(failures.is_empty(), "{} of {run}:\n{}", failures.len(), failures.join("\n"));
    assert!(run >= 60, "only {run} fixtures");
}
