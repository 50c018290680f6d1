//! Where a packet goes on the link layer: a copy of the kernel's links, routes and neighbours that the I/O
//! side fills from rtnetlink. Pure lookup, nothing is resolved here.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::hash::MixBuild;
use crate::links::{Link, Links, MacAddr, Objects};
use crate::routes::{Path, Reject, Route, RouteTable, Routes, Routing, Rule};

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
    /// Whether the neighbour is the destination itself, no router.
    pub on_link: bool,
}

/// Why a packet cannot be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The neighbour on the way is not resolved.
    Neighbour {
        /// The interface to resolve it on.
        ifindex: u32,
        /// Its address: the destination's or a gateway's.
        address: IpAddr,
    },
    /// No route leads there.
    Route,
    /// The route leads over an interface that is down or no Ethernet link.
    Link {
        /// The interface.
        ifindex: u32,
    },
    /// A route or rule refuses it.
    Rejected(Reject),
}

/// Links and routes at one moment; neighbours change far more often.
#[derive(Debug, Default)]
pub struct Topology {
    links: Arc<Links>,
    routing: Routing,
    objects: Arc<Objects>,
}

impl Topology {
    /// `rules` in any order.
    pub fn new(
        links: Arc<Links>,
        routes: &Routes,
        rules: impl IntoIterator<Item = Rule>,
        objects: Arc<Objects>,
    ) -> Self {
        Self { links, routing: Routing::new(routes, rules), objects }
    }

    /// The link a packet leaves by, the neighbour it is handed to, and the largest IP packet in bytes.
    ///
    /// # Errors
    /// Why there is none; never [`Missing::Neighbour`].
    pub fn way(&self, path: &Path) -> Result<(&Link, IpAddr, u32), Missing> {
        let found = self.routing.find(path, &self.links, &self.objects);
        let (hop, mtu) = found.ok_or(Missing::Route)?.map_err(Missing::Rejected)?;
        let link = self.links.usable(hop.ifindex).ok_or(Missing::Link { ifindex: hop.ifindex })?;
        let mtu = if mtu == 0 { link.mtu } else { mtu.min(link.mtu) };
        Ok((link, hop.gateway.unwrap_or(path.destination), mtu))
    }
}

/// The neighbours whose link-layer addresses are known at one moment.
#[derive(Debug, Default)]
pub struct Neighbours {
    known: HashMap<(u32, IpAddr), Neighbour, MixBuild>,
    /// How often [`NextHops::take_used`] was called.
    looks: AtomicU32,
}

impl FromIterator<((u32, IpAddr), MacAddr)> for Neighbours {
    /// (ifindex, address) → MAC; failed and incomplete entries are left out.
    fn from_iter<I: IntoIterator<Item = ((u32, IpAddr), MacAddr)>>(known: I) -> Self {
        let unused = |(key, mac)| (key, Neighbour { mac, used: AtomicBool::new(false) });
        Self { known: known.into_iter().map(unused).collect(), looks: AtomicU32::new(0) }
    }
}

#[derive(Debug)]
struct Neighbour {
    mac: MacAddr,
    /// Whether a packet was sent to it since [`NextHops::take_used`]. Written once a while, so that workers on
    /// several cores do not pass the cache line around.
    used: AtomicBool,
}

/// Tells apart what is remembered of one [`NextHops`], and since one look at its neighbours' use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version {
    generation: u64,
    looks: u32,
}

/// Links, routes and neighbours at one moment. Build a new one on any change and publish it whole; the parts that
/// have not changed are shared.
#[derive(Debug, Default)]
pub struct NextHops {
    topology: Arc<Topology>,
    neighbours: Arc<Neighbours>,
    /// Neighbours with a link-layer address that have not answered for it lately.
    silent: HashSet<(u32, IpAddr), MixBuild>,
    generation: u64,
    is_by_destination: bool,
}

impl NextHops {
    /// A table of `links`, `routes` (in any order) and `neighbours` ((ifindex, address) → MAC; leave failed and
    /// incomplete entries out), without rules of policy routing.
    pub fn new(
        links: impl IntoIterator<Item = Link>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = ((u32, IpAddr), MacAddr)>,
    ) -> Self {
        let routes: RouteTable = routes.into_iter().collect();
        let links = Arc::new(Links::new(links));
        let topology = Topology::new(links, routes.routes(), Rule::defaults(), Arc::default());
        Self::over(Arc::new(topology), Arc::new(neighbours.into_iter().collect()))
    }

    /// A table over links, routes and neighbours that others may share.
    pub fn over(topology: Arc<Topology>, neighbours: Arc<Neighbours>) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let is_by_destination = topology.routing.is_by_destination();
        Self {
            topology,
            neighbours,
            silent: HashSet::default(),
            generation: GENERATION.fetch_add(1, Relaxed),
            is_by_destination,
        }
    }

    /// Marks neighbours that nobody answers for any more, (ifindex, address). Packets still go to the last link-layer
    /// address known: the silence may be short, and there is no better one.
    #[must_use]
    pub fn with_silent(self, silent: impl IntoIterator<Item = (u32, IpAddr)>) -> Self {
        Self { silent: silent.into_iter().collect(), ..self }
    }

    /// Whether nobody answers for this neighbour any more; see [`NextHops::with_silent`].
    pub fn is_silent(&self, ifindex: u32, address: IpAddr) -> bool {
        self.silent.contains(&(ifindex, address))
    }

    /// The interfaces packets can be sent on.
    pub fn links(&self) -> &Links {
        &self.topology.links
    }

    pub(crate) fn version(&self) -> Version {
        Version { generation: self.generation, looks: self.neighbours.looks.load(Relaxed) }
    }

    /// Whether all packets to an address go the same way.
    pub fn is_by_destination(&self) -> bool {
        self.is_by_destination
    }

    /// The link-layer address of a neighbour on an interface; `None` while it is not resolved.
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<MacAddr> {
        Some(self.neighbours.known.get(&(ifindex, address))?.mac)
    }

    /// The next hop of a packet.
    ///
    /// # Errors
    /// What it lacks.
    pub fn lookup(&self, path: &Path) -> Result<NextHop, Missing> {
        let (link, address, mtu) = self.topology.way(path)?;
        let ifindex = link.ifindex;
        let neighbour =
            self.neighbours.known.get(&(ifindex, address)).ok_or(Missing::Neighbour { ifindex, address })?;
        if !neighbour.used.load(Relaxed) {
            neighbour.used.store(true, Relaxed);
        }
        let on_link = address == path.destination;
        Ok(NextHop { ifindex, source: link.mac, destination: neighbour.mac, mtu, on_link })
    }

    /// The neighbours that packets were sent to since this was last called.
    pub fn take_used(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        let used = |n: &Neighbour| n.used.load(Relaxed) && n.used.swap(false, Relaxed);
        // What workers remember must not keep them from saying so again.
        self.neighbours.looks.fetch_add(1, Relaxed);
        self.neighbours.known.iter().filter(move |(_, n)| used(n)).map(|(key, _)| *key)
    }

    /// The link a packet would leave by and the neighbour it would be handed to, resolved or not.
    ///
    /// # Errors
    /// Why there is none; never [`Missing::Neighbour`].
    pub fn way(&self, path: &Path) -> Result<(u32, IpAddr), Missing> {
        self.topology.way(path).map(|(link, address, _)| (link.ifindex, address))
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
                metric,
                ..Route::by(address(network), prefix_len, ifindex, None)
            }),
            resolved.iter().map(|&(ifindex, a)| ((ifindex, address(a)), [7; 6])),
        )
    }

    fn to(destination: &str) -> Path {
        Path::to(destination.parse().unwrap())
    }

    fn interface(table: &NextHops, destination: &str) -> Option<u32> {
        table.way(&to(destination)).ok().map(|(ifindex, _)| ifindex)
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
        assert_eq!(table.lookup(&to("10.1.9.9")).unwrap().destination, [7; 6]);
    }

    #[test]
    fn host_bits_of_a_network_are_ignored_and_without_a_route_it_is_the_route_that_is_missing() {
        let table = table(&[("10.1.2.3", 16, 2, 0)], &[]);
        assert_eq!(interface(&table, "10.1.200.200"), Some(2));
        assert_eq!(table.lookup(&to("10.2.0.1")), Err(Missing::Route));
        let address = "10.1.0.1".parse().unwrap();
        assert_eq!(table.lookup(&to("10.1.0.1")), Err(Missing::Neighbour { ifindex: 2, address }));
    }

    #[test]
    fn what_is_routed_over_a_link_that_cannot_be_used_does_not_go_by_the_default_route() {
        let table = table(&[("0.0.0.0", 0, 1, 0), ("10.8.0.0", 16, 77, 0)], &[(1, "10.8.0.1")]);
        assert_eq!(table.lookup(&to("10.8.0.1")), Err(Missing::Link { ifindex: 77 }));
    }
}
