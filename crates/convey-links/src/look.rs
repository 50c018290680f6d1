//! The network as an engine that starts now would find it, for those who want to know before they start one.
//! Changes nothing and needs no privilege.

use std::io;
use std::sync::Arc;

use convey_engine::{NextHops, Path};

use crate::kernel_tables;
use crate::netlink;
use crate::next_hop_objects::NextHopObjects;
use crate::next_hops::{Tables, Wanted};

/// What [`look`] found.
#[derive(Debug)]
pub struct Look {
    /// Indices of the interfaces it would listen on.
    pub interfaces: Vec<u32>,
    /// What an operator should know about interfaces and rules, in words.
    pub warnings: Vec<String>,
    /// Links, routes and neighbours.
    pub next_hops: NextHops,
}

/// Looks at links, routes and neighbours. Neighbours that lead to servers and are not resolved yet count as
/// resolved, with a link-layer address of zeros: an engine that starts asks for them first.
///
/// # Errors
/// rtnetlink cannot be opened or read.
pub fn look(wanted: &Wanted) -> io::Result<Look> {
    let tables = Tables::read(&wanted.interfaces)?;
    let topology = Arc::new(tables.topology);
    let without_neighbours = NextHops::over(topology.clone(), []);
    let asked_first = wanted
        .servers
        .iter()
        .filter_map(|server| without_neighbours.way(&Path::to(*server)).ok())
        .map(|key| (key, [0; 6]));
    let known: Vec<_> = netlink::neighbours()?
        .iter()
        .filter_map(kernel_tables::neighbour)
        .filter_map(|n| Some(((n.ifindex, n.address), n.mac?)))
        .collect();
    let next_hops = NextHops::over(topology, asked_first.chain(known));
    Ok(Look { interfaces: tables.choice.listen, warnings: tables.choice.warnings, next_hops })
}

/// The interfaces by which packets leave for elsewhere in this family: those of default routes and of routes over a
/// gateway, in every table. In rising order.
///
/// # Errors
/// rtnetlink cannot be opened or read.
pub fn uplinks(is_v4: bool) -> io::Result<Vec<u32>> {
    let objects = netlink::next_hop_objects()?;
    let objects = NextHopObjects::new(objects.iter().map(Vec::as_slice));
    let mut uplinks: Vec<u32> = netlink::routes(|message| kernel_tables::route(message, &objects))?
        .iter()
        .filter(|route| route.network.is_ipv4() == is_v4)
        .flat_map(|route| route.hops().iter().map(move |hop| (route.prefix_len, hop)))
        .filter(|(prefix_len, hop)| hop.ifindex != 0 && (*prefix_len == 0 || hop.gateway.is_some()))
        .map(|(_, hop)| hop.ifindex)
        .collect();
    uplinks.sort_unstable();
    uplinks.dedup();
    Ok(uplinks)
}
