//! Where a packet goes on the link layer: a copy of the kernel's links, routes and neighbours that the I/O
//! side fills from rtnetlink. Pure lookup, nothing is resolved here.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::hash::MixBuild;

/// A link-layer address.
pub type MacAddr = [u8; 6];

/// An interface that packets may leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its link-layer address, the source of what we send.
    pub mac: MacAddr,
    /// Largest IP packet in bytes.
    pub mtu: u32,
}

/// A unicast route of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network; host bits are ignored.
    pub network: IpAddr,
    /// Length of the prefix in bits; 0 is the default route.
    pub prefix_len: u8,
    /// Interface packets leave by.
    pub ifindex: u32,
    /// Gateway; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Route MTU in bytes where it is below the link's; 0: the link's.
    pub mtu: u32,
    /// Smaller wins between routes to the same network.
    pub metric: u32,
}

/// Everything needed to send a packet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Interface to send on.
    pub ifindex: u32,
    /// Source MAC: the interface's.
    pub source: MacAddr,
    /// Destination MAC: the neighbour's.
    pub destination: MacAddr,
    /// Largest IP packet in bytes.
    pub mtu: u32,
}

/// What is missing to send a packet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The neighbour to resolve, or the destination where there is no route.
    pub address: IpAddr,
    /// The interface to resolve it on; `None`: no route.
    pub ifindex: Option<u32>,
}

/// Links, routes and neighbours at one moment. Build a new one on any change and publish it whole.
#[derive(Debug, Clone, Default)]
pub struct NextHops {
    links: HashMap<u32, Link, MixBuild>,
    /// Longest prefix first, then lowest metric.
    routes: Vec<Route>,
    neighbours: HashMap<(u32, IpAddr), MacAddr, MixBuild>,
}

impl NextHops {
    /// A table of `links`, `routes` (in any order; those over unknown links are ignored) and `neighbours`
    /// ((ifindex, address) → MAC; leave failed and incomplete entries out).
    pub fn new(
        links: impl IntoIterator<Item = Link>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = ((u32, IpAddr), MacAddr)>,
    ) -> Self {
        let links: HashMap<u32, Link, MixBuild> = links.into_iter().map(|l| (l.ifindex, l)).collect();
        let mut routes: Vec<Route> = routes.into_iter().filter(|r| links.contains_key(&r.ifindex)).collect();
        routes.sort_by_key(|r| (std::cmp::Reverse(r.prefix_len), r.metric));
        Self { links, routes, neighbours: neighbours.into_iter().collect() }
    }

    /// The next hop towards `destination`.
    ///
    /// # Errors
    /// The neighbour that has to be resolved first, or the destination itself when no route leads there.
    pub fn lookup(&self, destination: IpAddr) -> Result<NextHop, Missing> {
        let no_route = Missing { address: destination, ifindex: None };
        let route = self.routes.iter().find(|r| r.contains(destination)).ok_or(no_route)?;
        let link = self.links.get(&route.ifindex).ok_or(no_route)?;
        let address = route.gateway.unwrap_or(destination);
        let mac = self
            .neighbours
            .get(&(route.ifindex, address))
            .ok_or(Missing { address, ifindex: Some(route.ifindex) })?;
        let mtu = if route.mtu == 0 { link.mtu } else { route.mtu.min(link.mtu) };
        Ok(NextHop { ifindex: link.ifindex, source: link.mac, destination: *mac, mtu })
    }
}

impl Route {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(n), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0);
                (n.to_bits() ^ a.to_bits()) & mask == 0
            }
            (IpAddr::V6(n), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len.min(128))).unwrap_or(0);
                (n.to_bits() ^ a.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}
