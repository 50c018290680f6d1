//! What of a configuration the kernel must leave alone.

use std::collections::HashSet;

use convey_xdp::GuardRules;

pub(super) fn union(a: &GuardRules, b: &GuardRules) -> GuardRules {
    fn both<T: Clone + Eq + std::hash::Hash>(a: &[T], b: &[T]) -> Vec<T> {
        let all: HashSet<T> = a.iter().chain(b).cloned().collect();
        all.into_iter().collect()
    }
    GuardRules {
        vips: both(&a.vips, &b.vips),
        nat: both(&a.nat, &b.nat),
        servers: both(&a.servers, &b.servers),
    }
}
