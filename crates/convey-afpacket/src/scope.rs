//! What of a configuration concerns I/O: which packets to take in, and which neighbours to keep.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use convey_core::Mode;
use convey_engine::{PacketSnapshot, PortRange};
use convey_links::Wanted;

use crate::filter::Interest;

/// The addresses and ports of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Addresses that packets for us are sent to: frontends and NAT sources.
    pub addresses: Vec<IpAddr>,
    /// Ports of frontends.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Ports that servers' replies come to; `None` in DSR.
    pub nat_ports: Option<PortRange>,
    /// Interfaces to listen on, and servers.
    pub wanted: Wanted,
}

impl Scope {
    /// The scope of a snapshot. Servers that left the configuration count for as long as flows of theirs go on.
    pub fn of(snapshot: &PacketSnapshot) -> Self {
        let nat = snapshot.mode() == Mode::Passthrough;
        let mut addresses: BTreeSet<IpAddr> = snapshot.vips().map(|(_, address, _)| address).collect();
        addresses.extend(snapshot.nat_sources());
        // Port 0 stands for every port.
        let ports = snapshot.vips().map(|(_, _, port)| if port == 0 { 0..=u16::MAX } else { port..=port });
        Self {
            addresses: addresses.into_iter().collect(),
            ports: ports.collect(),
            nat_ports: nat.then_some(snapshot.options().nat_ports),
            wanted: Wanted::of(snapshot),
        }
    }

    /// What the sockets are to let through on `interfaces`.
    pub(crate) fn interest(&self, interfaces: &[u32]) -> Interest {
        let nat = self.nat_ports.map(|r| r.first..=r.last);
        let ports: Vec<RangeInclusive<u16>> = self.ports.iter().cloned().chain(nat).collect();
        Interest { interfaces: interfaces.to_vec(), addresses: self.addresses.clone(), ports }
    }
}
