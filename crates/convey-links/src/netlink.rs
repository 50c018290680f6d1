//! rtnetlink: dumps of links, routes and neighbours, news about them, and requests to resolve a neighbour.
//!
//! Two sockets: dumps are asked and awaited on one; news arrive, and requests nobody waits for are sent, on the
//! other, which never blocks.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Multicast groups that tell of changes.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// News buffered by the kernel; a full table of a large network fits.
const NEWS_BUFFER_BYTES: u32 = 4 << 20;

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
    /// Whether links, addresses or routes changed.
    pub topology: bool,
    /// Whether the kernel had to throw news away: dump everything again.
    pub lost: bool,
}

/// The rtnetlink sockets of the namespace they were opened in.
#[derive(Debug)]
pub struct Netlink {
    dumps: Socket,
    news: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens both sockets and subscribes to changes.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open() -> io::Result<Self> {
        let kernel = SocketAddr::new(0, 0);
        let mut dumps = Socket::new(NETLINK_ROUTE)?;
        dumps.bind_auto()?;
        dumps.connect(&kernel)?;
        let mut news = Socket::new(NETLINK_ROUTE)?;
        news.bind_auto()?;
        news.set_rx_buf_sz(NEWS_BUFFER_BYTES)?;
        for group in GROUPS {
            news.add_membership(group)?;
        }
        news.set_non_blocking(true)?;
        Ok(Self { dumps, news, sequence: 0 })
    }

    /// Readable when there is news.
    pub fn news_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(messages
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(link) = m { Some(link) } else { None })
            .collect())
    }

    /// All routes of both families and all tables.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn routes(&mut self) -> io::Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let messages = self.dump(RouteNetlinkMessage::GetRoute(request))?;
            routes.extend(messages.into_iter().filter_map(|m| match m {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// All neighbour entries of both families.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn neighbours(&mut self) -> io::Result<Vec<NeighbourMessage>> {
        let messages = self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(messages
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewNeighbour(n) = m { Some(n) } else { None })
            .collect())
    }

    /// What changed since the last call; does not wait.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        loop {
            match self.news.recv_from_full() {
                Ok((bytes, _)) => each_message(&bytes, |payload| match payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(n)) => {
                        news.neighbours.push((true, n));
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(n)) => {
                        news.neighbours.push((false, n));
                    }
                    NetlinkPayload::InnerMessage(_) => news.topology = true,
                    // The answer to a request nobody waits for, such as forgetting what is already gone.
                    _ => (),
                }),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news.lost = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return news,
            }
        }
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
        let (message, flags) = match request {
            NeighbourRequest::Use => {
                message.header.flags = NeighbourFlags::Use;
                (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            }
            NeighbourRequest::Probe => {
                message.header.state = NeighbourState::Probe;
                (RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
            }
            NeighbourRequest::Forget => (RouteNetlinkMessage::DelNeighbour(message), 0),
        };
        let bytes = self.encode(message, flags | NLM_F_REQUEST);
        // Lost requests are repeated by the caller's timer.
        let _ = self.news.send(&bytes, 0);
    }

    fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let bytes = self.encode(request, NLM_F_REQUEST | NLM_F_DUMP);
        self.dumps.send(&bytes, 0)?;
        let (mut found, mut end) = (Vec::new(), None);
        while end.is_none() {
            let (bytes, _) = self.dumps.recv_from_full()?;
            each_message(&bytes, |payload| match payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Done(_) => end = Some(Ok(())),
                NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
                _ => (),
            });
        }
        end.unwrap_or(Ok(())).map(|()| found)
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

/// Calls `each` for every message in a datagram; one that cannot be parsed is passed over.
fn each_message(datagram: &[u8], mut each: impl FnMut(NetlinkPayload<RouteNetlinkMessage>)) {
    let mut rest = datagram;
    while let [a, b, c, d, ..] = *rest {
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(bytes) = rest.get(..len).filter(|_| len >= 16) else { return };
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            each(message.payload);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}
