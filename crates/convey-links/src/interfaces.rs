//! Which interfaces the packet path listens on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use convey_engine::{Link, NextHops, Route};

/// Interfaces as the operator wants them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Those that hold a frontend's address, lead to a server, or lead on through a gateway.
    #[default]
    Auto,
    /// These, by name.
    Named(Vec<String>),
}

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The interfaces of this namespace that are up, loopback left out.
pub fn present() -> Vec<Interface> {
    pnet_datalink::interfaces()
        .into_iter()
        .filter(|i| i.is_up() && !i.is_loopback() && i.index != 0)
        .map(|i| Interface {
            ifindex: i.index,
            addresses: i.ips.iter().map(|network| network.ip()).collect(),
            name: i.name,
        })
        .collect()
}

/// What the choice goes by.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Interfaces that are up.
    pub interfaces: &'a [Interface],
    /// Ethernet links that are up; only these can be chosen.
    pub links: &'a [Link],
    /// Routes.
    pub routes: &'a [Route],
    /// Addresses of frontends.
    pub frontends: &'a [IpAddr],
    /// Addresses of servers.
    pub servers: &'a [IpAddr],
}

/// The indices to listen on, in rising order.
pub fn choose(wanted: &Interfaces, around: &Surroundings<'_>) -> Vec<u32> {
    let mut chosen = BTreeSet::new();
    match wanted {
        Interfaces::Named(names) => {
            chosen.extend(around.interfaces.iter().filter(|i| names.contains(&i.name)).map(|i| i.ifindex));
        }
        Interfaces::Auto => {
            let holds = |i: &&Interface| i.addresses.iter().any(|a| around.frontends.contains(a));
            chosen.extend(around.interfaces.iter().filter(holds).map(|i| i.ifindex));
            chosen.extend(around.routes.iter().filter(|r| r.gateway.is_some()).map(|r| r.ifindex));
            let table = NextHops::new(around.links.iter().copied(), around.routes.iter().copied(), []);
            chosen.extend(around.servers.iter().filter_map(|s| neighbour_of(&table, *s)).map(|key| key.0));
        }
    }
    chosen.retain(|ifindex| around.links.iter().any(|l| l.ifindex == *ifindex));
    chosen.into_iter().collect()
}

/// The neighbour through which `destination` is reached, by a table that knows no neighbours.
pub fn neighbour_of(table: &NextHops, destination: IpAddr) -> Option<(u32, IpAddr)> {
    let missing = table.lookup(destination).err()?;
    Some((missing.ifindex?, missing.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> (Vec<Interface>, Vec<Link>, Vec<Route>) {
        let interface = |ifindex, name: &str, address: [u8; 4]| Interface {
            ifindex,
            name: name.to_owned(),
            addresses: vec![IpAddr::from(address)],
        };
        let interfaces = vec![
            interface(2, "front", [10, 0, 0, 1]),
            interface(3, "back", [10, 1, 0, 1]),
            interface(4, "storage", [10, 2, 0, 1]),
            interface(5, "tun", [10, 3, 0, 1]),
        ];
        let link = |ifindex| Link { ifindex, mac: [2; 6], mtu: 1500 };
        let route = |network: [u8; 4], ifindex| Route {
            network: IpAddr::from(network),
            prefix_len: 24,
            ifindex,
            gateway: None,
            mtu: 0,
            metric: 0,
        };
        let routes = vec![
            route([10, 0, 0, 0], 2),
            route([10, 1, 0, 0], 3),
            route([10, 2, 0, 0], 4),
            route([10, 3, 0, 0], 5),
        ];
        (interfaces, vec![link(2), link(3), link(4)], routes)
    }

    fn chosen(wanted: &Interfaces, routes: &[Route], servers: &[IpAddr]) -> Vec<u32> {
        let (interfaces, links, _) = setting();
        let frontends = [IpAddr::from([10, 0, 0, 1])];
        choose(
            wanted,
            &Surroundings { interfaces: &interfaces, links: &links, routes, frontends: &frontends, servers },
        )
    }

    #[test]
    fn auto_takes_the_side_of_the_frontend_and_the_side_of_the_servers_and_no_other() {
        let (_, _, routes) = setting();
        assert_eq!(chosen(&Interfaces::Auto, &routes, &[IpAddr::from([10, 1, 0, 7])]), [2, 3]);
        assert_eq!(chosen(&Interfaces::Auto, &routes, &[IpAddr::from([10, 0, 0, 7])]), [2], "one arm");
    }

    #[test]
    fn auto_takes_the_interfaces_that_lead_on_through_a_gateway() {
        let (_, _, mut routes) = setting();
        routes.push(Route {
            network: IpAddr::from([0, 0, 0, 0]),
            prefix_len: 0,
            ifindex: 4,
            gateway: Some(IpAddr::from([10, 2, 0, 254])),
            mtu: 0,
            metric: 0,
        });
        assert_eq!(chosen(&Interfaces::Auto, &routes, &[]), [2, 4]);
    }

    #[test]
    fn named_interfaces_are_taken_when_they_are_ethernet() {
        let (_, _, routes) = setting();
        let named = Interfaces::Named(vec!["storage".into(), "tun".into(), "absent".into()]);
        assert_eq!(chosen(&named, &routes, &[]), [4]);
    }
}
