//! What of a configuration concerns I/O: which packets to take in, and which neighbours to keep.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use convey_core::{Mode, Snapshot};
use convey_engine::{PacketOptions, PortRange};

use crate::filter::Interest;

/// The addresses and ports of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Addresses that packets for us are sent to: frontends and NAT sources.
    pub addresses: Vec<IpAddr>,
    /// Ports of frontends.
    pub ports: Vec<u16>,
    /// Ports that servers' replies come to; `None` in DSR.
    pub nat_ports: Option<PortRange>,
    /// Servers.
    pub servers: Vec<IpAddr>,
}

impl Scope {
    /// The scope of a snapshot under these options.
    pub fn of(snapshot: &Snapshot, options: &PacketOptions) -> Self {
        let nat = snapshot.mode == Mode::Passthrough;
        let mut addresses: BTreeSet<IpAddr> = snapshot.frontends.iter().map(|f| f.listen.ip()).collect();
        if nat {
            addresses.extend(options.nat_source_v4.map(IpAddr::V4));
            addresses.extend(options.nat_source_v6.map(IpAddr::V6));
        }
        let ports: BTreeSet<u16> = snapshot.frontends.iter().map(|f| f.listen.port()).collect();
        let servers: BTreeSet<IpAddr> =
            snapshot.backends.iter().flat_map(|b| &b.servers).map(|s| s.addr.ip()).collect();
        Self {
            addresses: addresses.into_iter().collect(),
            ports: ports.into_iter().collect(),
            nat_ports: nat.then_some(options.nat_ports),
            servers: servers.into_iter().collect(),
        }
    }

    /// What the sockets are to let through on `interfaces`.
    pub(crate) fn interest(&self, interfaces: &[u32]) -> Interest {
        let nat = self.nat_ports.map(|r| r.first..=r.last);
        let ports: Vec<RangeInclusive<u16>> = self.ports.iter().map(|&p| p..=p).chain(nat).collect();
        Interest { interfaces: interfaces.to_vec(), addresses: self.addresses.clone(), ports }
    }
}
