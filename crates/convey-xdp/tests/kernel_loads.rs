//! The verifier takes the programs at sizes of real use, not only at the small ones of other tests: it knows the sizes
//! and follows other ways.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use convey_testkit::few;
use convey_xdp::kernel::{Hook, Kernel, Sizes};

const SIZES: Sizes = Sizes {
    passthrough: true,
    minimal: false,
    sets4: 1 << 10,
    sets6: 1 << 9,
    nat_first: 500,
    nat_width: 100,
    paths: 4,
    frontends: 64,
    servers: 64,
    backends: 4,
    ring_bytes: 1 << 16,
};

#[test]
fn sizes_that_the_programs_cannot_count_to_are_refused_by_name() {
    let refused = [
        (Sizes { sets4: (1 << 27) + 16, ..SIZES }, "134217744 sets of IPv4 flows"),
        (Sizes { sets6: (1 << 28) + 16, ..SIZES }, "268435472 sets of IPv6 flows"),
        (Sizes { sets4: 1000, ..SIZES }, "a multiple of 16"),
        (Sizes { sets6: 0, ..SIZES }, "0 sets of IPv6 flows"),
        (Sizes { servers: 65_536, ..SIZES }, "65536 servers; there may be up to 65535"),
        (Sizes { frontends: 70_000, ..SIZES }, "70000 frontends"),
        (Sizes { nat_width: 65_000, paths: 65_536, ..SIZES }, "65536 paths of 65000 NAT ports each"),
        (Sizes { paths: 65_537, ..SIZES }, "65537 paths"),
    ];
    for (sizes, why) in refused {
        let error = Kernel::load_for_test_runs(Hook::Tc, &sizes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn both_programs_load_in_both_modes_at_the_default_nat_range_and_at_one_port() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        for (passthrough, minimal, nat_width) in [
            (true, false, 27_233),
            (true, false, 1),
            (true, false, 65_000),
            (false, false, 1),
            (false, true, 1),
        ] {
            let sizes = Sizes { passthrough, minimal, nat_width, ..SIZES };
            let loaded = Kernel::load_for_test_runs(hook, &sizes);
            assert!(loaded.is_ok(), "{hook:?} {passthrough} {minimal} {nat_width}: {:?}", loaded.err());
        }
    }
}
