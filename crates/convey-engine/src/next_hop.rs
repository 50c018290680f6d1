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
    /// Longest prefix first: a lookup costs as much as there are lengths, not as there are routes.
    routes_v4: Vec<Prefixes>,
    routes_v6: Vec<Prefixes>,
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
        let (mut routes_v4, mut routes_v6) = (Vec::new(), Vec::new());
        for route in routes {
            let prefixes = if route.network.is_ipv4() { &mut routes_v4 } else { &mut routes_v6 };
            Prefixes::insert(prefixes, route);
        }
        Self { links, routes_v4, routes_v6, neighbours: neighbours.into_iter().collect() }
    }

    /// The link-layer address of a neighbour on an interface; `None` while it is not resolved.
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<MacAddr> {
        self.neighbours.get(&(ifindex, address)).copied()
    }

    /// The next hop towards `destination`.
    ///
    /// # Errors
    /// The neighbour that has to be resolved first, or the destination itself when no route leads there.
    pub fn lookup(&self, destination: IpAddr) -> Result<NextHop, Missing> {
        let no_route = Missing { address: destination, ifindex: None };
        let prefixes = if destination.is_ipv4() { &self.routes_v4 } else { &self.routes_v6 };
        let bits = left_aligned(destination);
        let route = prefixes.iter().find_map(|p| p.routes.get(&(bits & p.mask))).ok_or(no_route)?;
        let link = self.links.get(&route.ifindex).ok_or(no_route)?;
        let address = route.gateway.unwrap_or(destination);
        let mac = self
            .neighbour(route.ifindex, address)
            .ok_or(Missing { address, ifindex: Some(route.ifindex) })?;
        let mtu = if route.mtu == 0 { link.mtu } else { route.mtu.min(link.mtu) };
        Ok(NextHop { ifindex: link.ifindex, source: link.mac, destination: mac, mtu })
    }
}

/// The routes of one prefix length.
#[derive(Debug, Clone)]
struct Prefixes {
    mask: u128,
    routes: HashMap<u128, Route, MixBuild>,
}

impl Prefixes {
    /// Routes come longest prefix first and lowest metric first; the first to a network stays.
    fn insert(all: &mut Vec<Self>, route: Route) {
        let mask = u128::MAX.checked_shl(128 - u32::from(route.prefix_len.min(128))).unwrap_or(0);
        if all.last().is_none_or(|last| last.mask != mask) {
            all.push(Self { mask, routes: HashMap::default() });
        }
        if let Some(last) = all.last_mut() {
            last.routes.entry(left_aligned(route.network) & mask).or_insert(route);
        }
    }
}

/// The address from the highest bit on, so that one mask does for both families.
fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, u8, u32, u32)], resolved: &[(u32, &str)]) -> NextHops {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        NextHops::new(
            (1..=9).map(|ifindex| Link { ifindex, mac: [ifindex as u8; 6], mtu: 1500 }),
            routes.iter().map(|&(network, prefix_len, ifindex, metric)| Route {
                network: address(network),
                prefix_len,
                ifindex,
                gateway: None,
                mtu: 0,
                metric,
            }),
            resolved.iter().map(|&(ifindex, a)| ((ifindex, address(a)), [7; 6])),
        )
    }

    fn interface(table: &NextHops, destination: &str) -> Option<u32> {
        match table.lookup(destination.parse().unwrap()) {
            Ok(hop) => Some(hop.ifindex),
            Err(missing) => missing.ifindex,
        }
    }

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric_in_either_family() {
        let table = table(
            &[
                ("0.0.0.0", 0, 1, 0),
                ("10.0.0.0", 8, 2, 0),
                ("10.1.0.0", 16, 3, 20),
                ("10.1.0.0", 16, 4, 10),
                ("10.1.2.3", 32, 5, 0),
                ("::", 0, 6, 0),
                ("fd00::", 8, 7, 0),
                ("fd00:1::", 32, 8, 0),
                ("10.9.9.9", 8, 77, 0),
            ],
            &[(4, "10.1.9.9")],
        );
        assert_eq!(interface(&table, "192.0.2.1"), Some(1));
        assert_eq!(interface(&table, "10.200.0.1"), Some(2));
        assert_eq!(interface(&table, "10.1.9.9"), Some(4));
        assert_eq!(interface(&table, "10.1.2.3"), Some(5));
        assert_eq!(interface(&table, "2001:db8::1"), Some(6));
        assert_eq!(interface(&table, "fd00:2::1"), Some(7));
        assert_eq!(interface(&table, "fd00:1::1"), Some(8));
        assert_eq!(table.lookup("10.1.9.9".parse().unwrap()).unwrap().destination, [7; 6]);
    }

    #[test]
    fn host_bits_of_a_network_are_ignored_and_without_a_route_the_destination_is_missing() {
        let table = table(&[("10.1.2.3", 16, 2, 0)], &[]);
        assert_eq!(interface(&table, "10.1.200.200"), Some(2));
        let destination = "10.2.0.1".parse().unwrap();
        assert_eq!(table.lookup(destination), Err(Missing { address: destination, ifindex: None }));
    }
}
