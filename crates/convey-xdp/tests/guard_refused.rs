//! A host that refuses BPF. Alone in its process: aya finds out once what the kernel can, and remembers it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use convey_testkit::netns::Netns;
use convey_xdp::netlink::interface_index;
use convey_xdp::{Guard, GuardMethod, GuardRules};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

#[test]
#[ignore = "needs root, ip, nft: makes a network namespace"]
fn nft_stands_in_where_bpf_is_refused_and_says_why() {
    let host = Netns::new("host");
    host.enter(|| {
        let lo = interface_index("lo").unwrap().unwrap();
        let only = CapabilitySet::NET_ADMIN;
        // Inheritable, and by the bounding set root's again in nft: the child may do what it must.
        let sets = CapabilitySets { effective: only, permitted: only, inheritable: only };
        set_capabilities(None, sets).unwrap();
        let guard = Guard::install("auto", &[lo], &GuardRules::default(), None).unwrap();
        assert_eq!(guard.method(), GuardMethod::Nft);
        let why = guard.bpf_refused().unwrap();
        assert!(why.contains("not permitted"), "{why}");
    });
}
