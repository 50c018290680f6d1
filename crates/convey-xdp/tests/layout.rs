//! What C and Rust both write down is the same.

use convey_bpf::{directory, tables};
use convey_engine::{DropReason, Note, PassReason};

const HEADER: &str = include_str!("../../convey-bpf/src/engine/flow_layout.h");

fn defined(name: &str) -> u64 {
    let line = HEADER.lines().find_map(|l| l.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("{name} is not defined"));
    value.parse().unwrap_or_else(|e| panic!("{name} {value}: {e}"))
}

#[test]
fn the_reasons_of_the_programs_are_those_of_the_portable_engine_and_in_the_order_of_their_names() {
    let start = HEADER.find("enum reason {").expect("the enum");
    let body = HEADER[start..].split_once('{').and_then(|(_, b)| b.split_once('}')).expect("its braces").0;
    let names: Vec<String> = body
        .split(',')
        .map(|n| n.trim().to_lowercase())
        .filter(|n| !n.is_empty() && n != "reasons")
        .map(|n| n.split_once('_').expect("a prefix").1.to_owned())
        .collect();
    assert_eq!(names, tables::REASONS);
    let ours = PassReason::ALL.iter().map(|r| r.name()).chain(DropReason::ALL.iter().map(|r| r.name()));
    assert_eq!(names[..36], ours.collect::<Vec<_>>());
    for name in ["flow_begun", "hash_routed", "out_of_window", "half_open_evicted", "flow_evicted"] {
        assert!(Note::ALL.iter().any(|n| n.name() == name) && names.iter().any(|n| n == name), "{name}");
    }
}

#[test]
fn sizes_are_those_of_the_header() {
    assert_eq!(defined("DIRECTORY_LINES"), directory::LINES as u64);
    assert_eq!(defined("DIRECTORY_WAYS"), directory::WAYS as u64);
    assert_eq!(defined("CLIENT_HOPS"), u64::from(tables::CLIENT_HOPS));
    assert_eq!(defined("UP_SHORT"), tables::UP_SHORT as u64);
    assert_eq!(defined("UP_LONG"), tables::UP_LONG as u64);
    assert_eq!(defined("WATCHES"), tables::WATCHES as u64);
    assert_eq!(tables::WATCHES, convey_core::watch::MAX_WATCHES);
    assert_eq!(defined("FORMER_MAX"), tables::FORMER_MAX as u64);
    assert_eq!(defined("NAT_SOURCES"), tables::NAT_SOURCES as u64);
    let slots = defined("MAGLEV_SLOTS") + defined("MAGLEV_PADDING");
    assert_eq!(slots * 2, tables::MAGLEV_BYTES as u64);
}
