//! The network as an engine that starts now would find it, for those who want to know before they start one.
//! Changes nothing and needs no privilege.

use std::io;
use std::sync::Arc;

use convey_engine::routes::Target;
use convey_engine::{Hop, NextHops, Topology};

use crate::kernel_tables;
use crate::link_tables::{LinkTables, ways_to};
use crate::netlink;
use crate::next_hop_objects::next_hop_objects;
use crate::next_hops::Wanted;
use crate::route_follower::AllRoutes;

/// What [`view`] found.
#[derive(Debug)]
pub struct NetworkView {
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
pub fn view(wanted: &Wanted) -> io::Result<NetworkView> {
    let LinkTables { mut choice, links, rules, objects, .. } = LinkTables::read(&wanted.interfaces)?;
    let AllRoutes { table, not_followed, .. } = AllRoutes::read()?;
    choice.warnings.extend(not_followed);
    let topology = Arc::new(Topology::new(links.clone(), table.routes(), rules, objects));
    let asked_first = ways_to(&wanted.servers, &topology, &links).map(|key| (key, [0; 6]));
    let known: Vec<_> = netlink::neighbours()?
        .iter()
        .filter_map(kernel_tables::neighbour)
        .filter_map(|n| Some(((n.ifindex, n.address), n.mac?)))
        .collect();
    let neighbours = asked_first.chain(known).collect();
    let next_hops = NextHops::over(topology.clone(), Arc::new(neighbours));
    Ok(NetworkView { interfaces: choice.listen, warnings: choice.warnings, next_hops })
}

/// The interfaces by which packets leave for elsewhere in this family: those of default routes and of routes over a
/// gateway, in every table. In rising order.
///
/// # Errors
/// rtnetlink cannot be opened or read.
pub fn uplinks(is_v4: bool) -> io::Result<Vec<u32>> {
    let objects = netlink::next_hop_objects()?;
    let objects = next_hop_objects(objects.iter().map(Vec::as_slice));
    let alive: Vec<u32> = netlink::links()?.iter().filter_map(kernel_tables::alive).collect();
    let mut uplinks = Vec::new();
    netlink::routes(|message| {
        let Some(route) = kernel_tables::route(message) else { return };
        let target = match &route.target {
            Target::Object(id) => objects.get(id),
            target => Some(target),
        };
        let leads_on = |hop: &&Hop| route.prefix_len == 0 || hop.gateway.is_some();
        if route.network.is_ipv4() == is_v4
            && let Some(target) = target
        {
            uplinks.extend(target.hops().iter().filter(leads_on).map(|hop| hop.ifindex));
        }
    })?;
    uplinks.retain(|ifindex| alive.contains(ifindex));
    uplinks.sort_unstable();
    uplinks.dedup();
    Ok(uplinks)
}
