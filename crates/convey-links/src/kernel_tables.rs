//! From netlink messages to the links, routes and neighbours of the packet path. Pure.
//!
//! Of the routes only unicast ones of the main and default tables are taken: policy routing is not followed.
//! A route over several next hops is taken over the first that is alive.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use convey_engine::{Link, MacAddr, Route};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};

const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;

/// The link a message describes, when it is an Ethernet interface that is up.
pub fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.link_layer_type != LinkLayerType::Ether || !header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let (mut mac, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = MacAddr::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => (),
        }
    }
    Some(Link { ifindex: header.index, mac: mac?, mtu: mtu? })
}

/// The route a message describes, when packets can be sent by it.
pub fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let mut route = Route {
        network: match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        },
        prefix_len: header.destination_prefix_length,
        ifindex: 0,
        gateway: None,
        mtu: 0,
        metric: 0,
    };
    let mut table = u32::from(header.table);
    let mut alive = !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(network) => route.network = address(network)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = *mtu;
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let hop = hops.iter().find(|hop| !hop.flags.intersects(dead))?;
                alive = true;
                route.ifindex = hop.interface_index;
                route.gateway = hop.attributes.iter().find_map(gateway);
            }
            RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
            other => route.gateway = gateway(other).or(route.gateway),
        }
    }
    let followed = table == TABLE_MAIN || table == TABLE_DEFAULT;
    (followed && alive && route.ifindex != 0).then_some(route)
}

/// What a message says about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is on.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, when the kernel holds it for usable.
    pub mac: Option<MacAddr>,
    /// Whether it has just been heard from, or needs no confirmation.
    pub confirmed: bool,
    /// Whether it was set by hand, never to be asked for.
    pub fixed: bool,
    /// Whether the kernel gave up asking.
    pub failed: bool,
}

/// The neighbour a message describes; `None` for bridges' and proxies' entries and multicast.
pub fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = MacAddr::try_from(bytes.as_slice()).ok(),
            _ => (),
        }
    }
    let address = address.filter(|a| !a.is_multicast())?;
    use NeighbourState::{Delay, Failed, Noarp, Permanent, Probe, Reachable, Stale};
    let usable = matches!(header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
    Some(Neighbour {
        ifindex: header.ifindex,
        address,
        mac: mac.filter(|_| usable),
        confirmed: matches!(header.state, Reachable | Permanent | Noarp),
        fixed: matches!(header.state, Permanent | Noarp),
        failed: header.state == Failed,
    })
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
