//! Whether packets reach the engine at all: what it would do with one is of no use where it does not listen.

use std::net::SocketAddr;

use crate::explanation::{Explanation, Interface, Outcome, Step};
use crate::next_hop::{Missing, NextHops};
use crate::routes::Path;

/// The explanation, unless packets from `source` come in by a link that is none of `interfaces`, on which the engine
/// listens.
pub fn explain_arrival(
    mut explanation: Explanation,
    source: SocketAddr,
    next_hops: &NextHops,
    interfaces: &[u32],
) -> Explanation {
    if explanation.direction.is_none() {
        return explanation;
    }
    let from = source.ip();
    let step = match next_hops.way(&Path::to(from)) {
        Ok((ifindex, _)) if !interfaces.contains(&ifindex) => {
            Step::NotListenedOn { source: from, interface: Interface::of(ifindex) }
        }
        Err(Missing::Link { ifindex }) if ifindex != 0 => {
            Step::NoEthernet { source: from, interface: Interface::of(ifindex) }
        }
        _ => return explanation,
    };
    explanation.next_hop = None;
    explanation.outcome = Outcome::NotListenedOn;
    explanation.steps = vec![step];
    explanation
}
