//! The network that the packet modes find here: links, next hops, the host's addresses, the names of interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use convey_engine::{EngineError, PacketOptions, PacketSnapshot};
use convey_links::{NetworkView, Wanted};
use convey_xdp::netlink;

use crate::RuntimeError;
use crate::host::HostError;
use crate::reachability::{self, Reachability};

/// The network as an engine that starts now would find it.
pub(super) fn look(packet: &PacketSnapshot) -> Result<NetworkView, EngineError> {
    convey_links::view(&Wanted::of(packet)).map_err(EngineError::links)
}

pub(super) fn reachability(packet: &PacketSnapshot) -> Result<Reachability, RuntimeError> {
    let next_hops = look(packet)?.next_hops;
    Ok(reachability::check(packet, &next_hops, &netlink::addresses().map_err(HostError::from)?))
}

/// The options with the addresses this host has now.
pub(super) fn with_local_addresses(options: PacketOptions) -> Result<PacketOptions, RuntimeError> {
    Ok(PacketOptions { local_addresses: local_addresses()?, ..options })
}

/// The host's addresses, in rising order.
pub(super) fn local_addresses() -> Result<Vec<IpAddr>, RuntimeError> {
    let addresses: BTreeSet<IpAddr> =
        netlink::addresses().map_err(HostError::from)?.into_iter().map(|a| a.address).collect();
    Ok(addresses.into_iter().collect())
}

pub(super) fn names(interfaces: &[u32]) -> Vec<String> {
    interfaces.iter().map(|i| netlink::interface_name(*i).unwrap_or_else(|_| i.to_string())).collect()
}
