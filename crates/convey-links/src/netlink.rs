//! rtnetlink: dumps of links, addresses, routes, rules, next hop objects and neighbours, news about them, and
//! requests to resolve a neighbour.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use rustix::net::SendFlags;

use crate::client::{self, CREATE, REPLACE};
use crate::kernel_tables::{self, RouteChange};

const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// Below are messages of netlink itself.
const RTM_BASE: u16 = 16;

/// Multicast groups that tell of changes.
const GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];

/// News buffered by the kernel; a full table of a large network fits.
const NEWS_BUFFER_BYTES: usize = 4 << 20;

/// Messages taken in before something else gets its turn.
const MAX_NEWS: usize = 10_000;

/// What to do about a neighbour entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourRequest {
    /// Resolve it, or confirm a stale one soon.
    Use,
    /// Ask the known link-layer address now whether it still answers.
    Probe,
    /// Forget it.
    Forget,
}

/// News since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// Changes of neighbours, in order.
    pub neighbours: Vec<(bool, NeighbourMessage)>,
    /// Changes of routes, in order.
    pub routes: Vec<RouteChange>,
    /// Whether links, addresses, rules or next hop objects changed.
    pub links: bool,
    /// Whether something went with which IPv4 routes go without a word.
    pub routes_may_be_gone: bool,
    /// Whether the kernel had to throw news away: dump everything again.
    pub lost: bool,
}

/// rtnetlink of the namespace it was opened in. News arrive on a socket of their own, which never blocks; requests
/// nobody waits for are sent on it.
#[derive(Debug)]
pub struct Netlink {
    news: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// Subscribes to changes.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open() -> io::Result<Self> {
        let groups = GROUPS.iter().fold(0, |bits, group| bits | 1 << (group - 1));
        let news = client::open(groups)?;
        rustix::io::ioctl_fionbio(&news, true)?;
        // Forcing past rmem_max wants CAP_NET_ADMIN; without it the kernel's limit has to do.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&news, NEWS_BUFFER_BYTES).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&news, NEWS_BUFFER_BYTES)?;
        }
        Ok(Self { news, buffer: vec![0; 64 << 10], sequence: 0 })
    }

    /// Readable when there is news.
    pub fn news_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// News without waiting; there may be more.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        for _ in 0..MAX_NEWS {
            match client::receive(&self.news, &mut self.buffer) {
                Ok(received) => {
                    client::each_message(&self.buffer[..received], |(kind, _, body), flags| match kind {
                        RTM_NEWNEIGH | RTM_DELNEIGH => match parse(kind, body) {
                            Some(RouteNetlinkMessage::NewNeighbour(n)) => news.neighbours.push((true, n)),
                            Some(RouteNetlinkMessage::DelNeighbour(n)) => news.neighbours.push((false, n)),
                            _ => (),
                        },
                        RTM_NEWROUTE | RTM_DELROUTE => {
                            let route = match parse(kind, body) {
                                Some(
                                    RouteNetlinkMessage::NewRoute(route)
                                    | RouteNetlinkMessage::DelRoute(route),
                                ) => kernel_tables::route(&route),
                                _ => None,
                            };
                            let is_new = kind == RTM_NEWROUTE;
                            news.routes.extend(route.map(|route| RouteChange::new(is_new, flags, route)));
                        }
                        RTM_BASE.. => {
                            news.links = true;
                            news.routes_may_be_gone |=
                                matches!(kind, RTM_DELLINK | RTM_DELADDR | RTM_DELNEXTHOP);
                        }
                        // The answer to a request nobody waits for, such as forgetting what is already gone.
                        _ => (),
                    })
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news.lost = true,
                Err(_) => break,
            }
        }
        news
    }

    /// Asks the kernel to do something about a neighbour; whether it did is seen in the news.
    pub fn request(&mut self, request: NeighbourRequest, ifindex: u32, address: IpAddr) {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        let (kind, flags) = match request {
            NeighbourRequest::Use => {
                message.header.flags = NeighbourFlags::Use;
                (RTM_NEWNEIGH, CREATE | REPLACE)
            }
            NeighbourRequest::Probe => {
                message.header.state = NeighbourState::Probe;
                (RTM_NEWNEIGH, REPLACE)
            }
            NeighbourRequest::Forget => (RTM_DELNEIGH, 0),
        };
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        self.sequence = self.sequence.wrapping_add(1);
        // Lost requests are repeated by the caller's timer.
        let _ = rustix::net::send(
            &self.news,
            &client::encode(kind, flags, self.sequence, &body),
            SendFlags::empty(),
        );
    }
}

fn parse(kind: u16, body: &[u8]) -> Option<RouteNetlinkMessage> {
    RouteNetlinkMessage::parse_with_param(body, kind).ok()
}

/// All links.
///
/// # Errors
/// What the kernel answers.
pub fn links() -> io::Result<Vec<LinkMessage>> {
    client::dump(RTM_GETLINK, &[0; 16], |kind, body| match parse(kind, body) {
        Some(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    })
}

/// All addresses of both families.
///
/// # Errors
/// What the kernel answers.
pub fn addresses() -> io::Result<Vec<AddressMessage>> {
    client::dump(RTM_GETADDR, &[0; 8], |kind, body| match parse(kind, body) {
        Some(RouteNetlinkMessage::NewAddress(address)) => Some(address),
        _ => None,
    })
}

/// Hands all routes of both families and all tables to `each`. Tells whether they are of one moment.
///
/// # Errors
/// What the kernel answers.
pub fn routes(mut each: impl FnMut(&RouteMessage)) -> io::Result<bool> {
    let mut whole = true;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; 12];
        body[0] = family as u8;
        whole &= client::dump_once(RTM_GETROUTE, &body, |kind, body| {
            if let Some(RouteNetlinkMessage::NewRoute(route)) = parse(kind, body) {
                each(&route);
            }
        })?;
    }
    Ok(whole)
}

/// All rules of both families.
///
/// # Errors
/// What the kernel answers.
pub fn rules() -> io::Result<Vec<RuleMessage>> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; 12];
        body[0] = family as u8;
        let found = client::dump(RTM_GETRULE, &body, |kind, body| match parse(kind, body) {
            Some(RouteNetlinkMessage::NewRule(rule)) => Some(rule),
            _ => None,
        });
        match found {
            Ok(found) => rules.extend(found),
            Err(error) if is_unknown(&error) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

/// All next hop objects, as raw message bodies.
///
/// # Errors
/// What the kernel answers.
pub fn next_hop_objects() -> io::Result<Vec<Vec<u8>>> {
    let found =
        client::dump(RTM_GETNEXTHOP, &[0; 8], |kind, body| (kind == RTM_NEWNEXTHOP).then(|| body.to_vec()));
    match found {
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        other => other,
    }
}

/// All neighbour entries of both families.
///
/// # Errors
/// What the kernel answers.
pub fn neighbours() -> io::Result<Vec<NeighbourMessage>> {
    client::dump(RTM_GETNEIGH, &[0; 12], |kind, body| match parse(kind, body) {
        Some(RouteNetlinkMessage::NewNeighbour(n)) => Some(n),
        _ => None,
    })
}

/// Kernels built without policy routing, and those before 5.3, do not know the question.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EAFNOSUPPORT))
}
