//! What of a configuration concerns the network around the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use convey_engine::PacketSnapshot;

use crate::interfaces::Interfaces;
use crate::next_hops::Wanted;

impl Wanted {
    /// What an engine that forwards by `snapshot` wants. Servers that left the configuration count for as long as flows
    /// of theirs go on.
    pub fn of(snapshot: &PacketSnapshot) -> Self {
        let servers: BTreeSet<IpAddr> =
            (0..=u16::MAX).filter_map(|slot| snapshot.server(slot)).map(|s| s.address.into()).collect();
        Self {
            interfaces: Interfaces::named(&snapshot.options().interfaces),
            servers: servers.into_iter().collect(),
        }
    }
}
