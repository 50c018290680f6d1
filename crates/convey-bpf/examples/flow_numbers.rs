//! Prints `src/engine/flow_numbers.h`: the layout that the portable engine has, for C.

use std::fmt::Write as _;

/// The header as it must be.
pub fn header() -> String {
    let mut text = String::from(
        "/* SPDX-License-Identifier: MIT OR GPL-2.0 */\n\
         /* Written by `cargo run -p convey-bpf --example flow_numbers`: convey-core's layout of flows and ports. */\n\
         #ifndef CONVEY_FLOW_NUMBERS_H\n\
         #define CONVEY_FLOW_NUMBERS_H\n",
    );
    for numbers in [convey_core::conntrack::numbers(), convey_core::nat_ports::numbers()] {
        text.push('\n');
        for (name, number) in numbers {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "#define {name} {number}U");
        }
    }
    text + "\n#endif\n"
}

fn main() {
    print!("{}", header());
}
