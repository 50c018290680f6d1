//! The network as an engine that starts now would find it, for those who want to know before they start one.
//! Changes nothing and needs no privilege.

use std::io;

use convey_engine::{Link, NextHops, Route};

use crate::interfaces::{Surroundings, choose, neighbour_of, present};
use crate::kernel_tables;
use crate::netlink::Netlink;
use crate::next_hops::Wanted;

/// What [`look`] found.
#[derive(Debug)]
pub struct Look {
    /// Indices of the interfaces it would listen on.
    pub interfaces: Vec<u32>,
    /// Links, routes and neighbours.
    pub next_hops: NextHops,
}

/// Looks at links, routes and neighbours. Neighbours that lead to servers and are not resolved yet count as
/// resolved, with a link-layer address of zeros: an engine that starts asks for them first.
///
/// # Errors
/// rtnetlink cannot be opened or read.
pub fn look(wanted: &Wanted) -> io::Result<Look> {
    let mut netlink = Netlink::open()?;
    let links: Vec<Link> = netlink.links()?.iter().filter_map(kernel_tables::link).collect();
    let routes: Vec<Route> = netlink.routes()?.iter().filter_map(kernel_tables::route).collect();
    let interfaces = choose(
        &wanted.interfaces,
        &Surroundings {
            interfaces: &present(),
            links: &links,
            routes: &routes,
            frontends: &wanted.frontends,
            servers: &wanted.servers,
        },
    );
    let without_neighbours = NextHops::new(links.iter().copied(), routes.iter().copied(), []);
    let asked_first =
        wanted.servers.iter().filter_map(|s| neighbour_of(&without_neighbours, *s)).map(|key| (key, [0; 6]));
    let known: Vec<_> = netlink
        .neighbours()?
        .iter()
        .filter_map(kernel_tables::neighbour)
        .filter_map(|n| Some(((n.ifindex, n.address), n.mac?)))
        .collect();
    let next_hops = NextHops::new(links, routes, asked_first.chain(known));
    Ok(Look { interfaces, next_hops })
}
