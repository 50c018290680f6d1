//! From netlink messages to the interfaces, routes and neighbours of the packet path. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use convey_engine::routes::{Hop, Reject, Target};
use convey_engine::{Link, MacAddr, Place, Route};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};

use crate::interfaces::{Interface, Kind};

const TABLE_LOCAL: u32 = 255;

/// The interface a message describes, when it is up and not the loopback device.
pub fn interface(message: &LinkMessage) -> Option<Interface> {
    let header = &message.header;
    if !header.flags.contains(LinkFlags::Up) || header.flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let (mut name, mut mac, mut mtu, mut controller) = (None, None, None, None);
    let mut kind = Kind::Other;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = MacAddr::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            LinkAttribute::Controller(ifindex) => controller = Some(*ifindex),
            LinkAttribute::LinkInfo(info) => {
                for info in info {
                    match info {
                        LinkInfo::Kind(InfoKind::Vrf) => kind = Kind::Vrf,
                        LinkInfo::Kind(InfoKind::Ifb) => kind = Kind::Ifb,
                        _ => (),
                    }
                }
            }
            _ => (),
        }
    }
    let is_ethernet = header.link_layer_type == LinkLayerType::Ether;
    let link =
        mac.zip(mtu).filter(|_| is_ethernet).map(|(mac, mtu)| Link { ifindex: header.index, mac, mtu });
    Some(Interface { ifindex: header.index, name: name?, link, controller, kind })
}

/// The link a message describes, when routes over it are alive: it is up and has a carrier.
pub fn alive(message: &LinkMessage) -> Option<u32> {
    let flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.header.flags.contains(flags).then_some(message.header.index)
}

/// The VRF device a message describes, and the table of its routes.
pub fn vrf_table(message: &LinkMessage) -> Option<(u32, u32)> {
    let all = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(all) => Some(all),
        _ => None,
    })?;
    let table = all.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vrf(data)) => data.iter().find_map(|data| match data {
            InfoVrf::TableId(table) => Some(*table),
            _ => None,
        }),
        _ => None,
    })?;
    Some((message.header.index, table))
}

/// The address a message describes, and its interface.
pub fn interface_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links the other one is the other end's.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => (),
        }
    }
    Some((message.header.index, local.or(other)?))
}

/// A change of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// One was added.
    Added(Route, Place),
    /// One was removed, or hops of one.
    Removed(Route),
}

impl RouteChange {
    /// By a message that a route `is_new`, sent with these flags.
    pub fn new(is_new: bool, flags: u16, route: Route) -> Self {
        const REPLACE: u16 = 0x100;
        const APPEND: u16 = 0x800;
        match is_new {
            false => Self::Removed(route),
            true if flags & REPLACE != 0 => Self::Added(route, Place::Instead),
            true if flags & APPEND != 0 => Self::Added(route, Place::Last),
            true => Self::Added(route, Place::First),
        }
    }
}

/// The route a message describes, when packets that are forwarded can meet it; whether it is alive the links say.
pub fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let network = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut route = Route::by(network, header.destination_prefix_length, 0, None);
    route.table = u32::from(header.table);
    let mut hop = Hop { ifindex: 0, gateway: None, weight: 1 };
    let mut target = match header.kind {
        RouteType::Unicast => None,
        RouteType::BlackHole => Some(Target::Reject(Reject::Blackhole)),
        RouteType::Unreachable => Some(Target::Reject(Reject::Unreachable)),
        RouteType::Prohibit => Some(Target::Reject(Reject::Prohibit)),
        RouteType::Throw => Some(Target::Throw),
        _ => return None,
    };
    let (mut object, mut is_encapsulated) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => route.table = *id,
            RouteAttribute::Destination(network) => route.network = address(network)?,
            RouteAttribute::Source(network) if header.source_prefix_length != 0 => {
                route.source = Some((address(network)?, header.source_prefix_length));
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = *mtu;
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                target = Some(Target::Hops(hops.iter().map(one_of_several).collect()));
            }
            RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::EncapType(_) => is_encapsulated = true,
            other => hop.gateway = gateway(other).or(hop.gateway),
        }
    }
    if is_encapsulated {
        // No link takes it as it is; the default route must not either.
        hop.ifindex = 0;
    } else if header.kind == RouteType::Unicast && hop.ifindex == 0 && target.is_none() && object.is_none() {
        return None;
    }
    route.target = object.map(Target::Object).or(target).unwrap_or(Target::Hop(hop));
    (route.table != TABLE_LOCAL).then_some(route)
}

/// A route that is for one type of service alone, in words: packets do not go by it.
pub fn by_service(message: &RouteMessage) -> Option<String> {
    let header = &message.header;
    if header.tos == 0 || header.kind != RouteType::Unicast {
        return None;
    }
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(network) => address(network),
        _ => None,
    });
    let to = to.map_or("default".to_owned(), |to| format!("{to}/{}", header.destination_prefix_length));
    Some(format!(
        "Route {to} tos {:#04x} is for one type of service, which is not followed; packets go by the other routes",
        header.tos
    ))
}

fn one_of_several(hop: &RouteNextHop) -> Hop {
    let is_encapsulated = hop.attributes.iter().any(|a| matches!(a, RouteAttribute::EncapType(_)));
    Hop {
        ifindex: if is_encapsulated { 0 } else { hop.interface_index },
        gateway: hop.attributes.iter().find_map(gateway),
        weight: u32::from(hop.hops) + 1,
    }
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
