//! The verifier takes the programs at sizes of real use, not only at the small ones of other tests: it knows the sizes
//! and follows other ways.

use convey_xdp::kernel::{Hook, Kernel, Sizes};

#[test]
#[ignore = "needs root: loads kernel programs"]
fn both_programs_load_in_both_modes_at_the_default_nat_range_and_at_one_port() {
    for hook in [Hook::Tc, Hook::Xdp] {
        for (passthrough, nat_width) in [(true, 27_233), (true, 1), (true, 65_000), (false, 1)] {
            let sizes = Sizes {
                passthrough,
                sets4: 1 << 10,
                sets6: 1 << 9,
                nat_first: 500,
                nat_width,
                paths: 4,
                frontends: 64,
                servers: 64,
                backends: 4,
                ring_bytes: 1 << 16,
            };
            let loaded = Kernel::load(hook, &sizes);
            assert!(loaded.is_ok(), "{hook:?} {passthrough} {nat_width}: {:?}", loaded.err());
        }
    }
}
