//! Where the bits of flows and ports are, C has from Rust.

#![allow(dead_code)] // the example's main

#[path = "../examples/flow_numbers.rs"]
mod flow_numbers;

#[test]
fn the_kernel_programs_have_the_layout_of_the_portable_engine() {
    let committed = include_str!("../src/engine/flow_numbers.h");
    let remedy = "cargo run -p convey-bpf --example flow_numbers > crates/convey-bpf/src/engine/flow_numbers.h, \
                  then crates/convey-bpf/build.sh";
    assert_eq!(committed, flow_numbers::header(), "{remedy}");
}
