//! Routes, the rules that choose between tables of them, and the way a packet takes by both: what the kernel does
//! with a packet that it forwards, as a pure look-up.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::hash::{MixBuild, MixHasher};

/// The table of routes that name none.
pub const TABLE_MAIN: u32 = 254;

/// A packet as routes see it: with the addresses it leaves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// The interface it came in on; 0: none.
    pub ingress: u32,
}

impl Path {
    /// A packet to `destination` from an address and interface that no rule asks for.
    pub fn to(destination: IpAddr) -> Self {
        let source: IpAddr =
            if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self { source, destination, ingress: 0 }
    }
}

/// One way on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Interface packets leave by.
    pub ifindex: u32,
    /// Gateway; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share among several.
    pub weight: u32,
}

/// How a packet is refused by a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Without a word.
    Blackhole,
    /// As unreachable.
    Unreachable,
    /// As prohibited.
    Prohibit,
}

impl Reject {
    /// The type of route, as `ip route` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

/// What becomes of packets that take a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// They go on.
    Hop(Hop),
    /// They go on by one of several, the same for the same two addresses.
    Hops(Arc<[Hop]>),
    /// They are refused.
    Reject(Reject),
    /// The table has no route for them.
    Throw,
}

/// A route of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The table it is in.
    pub table: u32,
    /// Destination network; host bits are ignored.
    pub network: IpAddr,
    /// Length of the prefix in bits; 0 is the default route.
    pub prefix_len: u8,
    /// What becomes of packets.
    pub target: Target,
    /// Route MTU in bytes where it is below the link's; 0: the link's.
    pub mtu: u32,
    /// Smaller wins between routes to the same network.
    pub metric: u32,
}

impl Route {
    /// A route of the main table over one interface.
    pub fn by(network: IpAddr, prefix_len: u8, ifindex: u32, gateway: Option<IpAddr>) -> Self {
        let target = Target::Hop(Hop { ifindex, gateway, weight: 1 });
        Self { table: TABLE_MAIN, network, prefix_len, target, mtu: 0, metric: 0 }
    }

    /// Every way on.
    pub fn hops(&self) -> &[Hop] {
        match &self.target {
            Target::Hop(hop) => std::slice::from_ref(hop),
            Target::Hops(hops) => hops,
            Target::Reject(_) | Target::Throw => &[],
        }
    }
}

/// What a rule asks of an address: network and length of its prefix in bits.
pub type Prefix = (IpAddr, u8);

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Looks in this table, unless the match is no longer than so many bits.
    Lookup {
        /// The table.
        table: u32,
        /// Prefixes up to this length do not count.
        suppress: Option<u8>,
    },
    /// Refuses it.
    Reject(Reject),
    /// Goes on with the first rule of this priority.
    Goto(u32),
    /// Nothing.
    Nop,
}

/// A rule of the kernel that packets without a mark can meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is for IPv4, or for IPv6.
    pub is_v4: bool,
    /// Smaller comes first.
    pub priority: u32,
    /// The source it asks for.
    pub from: Option<Prefix>,
    /// The destination it asks for.
    pub to: Option<Prefix>,
    /// The interface it asks for that packets come in on.
    pub ingress: Option<u32>,
    /// Whether it is for the packets that do not match.
    pub is_inverted: bool,
    /// What it does.
    pub action: Action,
}

impl Rule {
    /// The rules of a kernel in which none were made: the main table.
    pub fn defaults() -> [Self; 2] {
        [true, false].map(|is_v4| Self {
            is_v4,
            priority: 32766,
            from: None,
            to: None,
            ingress: None,
            is_inverted: false,
            action: Action::Lookup { table: TABLE_MAIN, suppress: None },
        })
    }

    fn matches(&self, path: &Path) -> bool {
        let within = |wanted: Option<Prefix>, address| wanted.is_none_or(|prefix| contains(prefix, address));
        let all = within(self.from, path.source)
            && within(self.to, path.destination)
            && self.ingress.is_none_or(|ingress| ingress == path.ingress);
        all != self.is_inverted
    }
}

/// All routes and rules at one moment.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: Family,
    v6: Family,
}

#[derive(Debug, Clone, Default)]
struct Family {
    tables: Vec<Table>,
    /// By priority, those that end in nothing left out; each with the place of the table it looks in.
    rules: Vec<(Rule, usize)>,
}

impl Routes {
    /// Routes and rules in any order.
    pub fn new(routes: impl IntoIterator<Item = Route>, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut routes: Vec<Route> = routes.into_iter().collect();
        routes.sort_by_key(|r| (std::cmp::Reverse(r.prefix_len), r.metric));
        let (mut v4, mut v6) = (HashMap::<u32, Table>::new(), HashMap::<u32, Table>::new());
        for route in routes {
            let tables = if route.network.is_ipv4() { &mut v4 } else { &mut v6 };
            tables.entry(route.table).or_default().insert(route);
        }
        let (rules_v4, rules_v6) = rules.into_iter().partition(|rule: &Rule| rule.is_v4);
        Self { v4: Family::new(v4, rules_v4), v6: Family::new(v6, rules_v6) }
    }

    /// The way of a packet, and the route's MTU (0: the link's). `None`: there is no route.
    pub fn find(&self, path: &Path) -> Option<Result<(Hop, u32), Reject>> {
        let family = if path.destination.is_ipv4() { &self.v4 } else { &self.v6 };
        let route = match family.find(path)? {
            Ok(route) => route,
            Err(reject) => return Some(Err(reject)),
        };
        match &route.target {
            Target::Hop(hop) => Some(Ok((*hop, route.mtu))),
            Target::Hops(hops) => Some(Ok((*choose(hops, path)?, route.mtu))),
            Target::Reject(reject) => Some(Err(*reject)),
            Target::Throw => None,
        }
    }
}

impl Family {
    fn new(tables: HashMap<u32, Table>, mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| rule.priority);
        let (ids, tables): (Vec<u32>, Vec<Table>) = tables.into_iter().unzip();
        let places: HashMap<u32, usize> = ids.into_iter().zip(0..).collect();
        let wanted: HashSet<u32> = rules
            .iter()
            .filter_map(|rule| match rule.action {
                Action::Goto(priority) => Some(priority),
                _ => None,
            })
            .collect();
        let place = |rule: &Rule| match rule.action {
            Action::Lookup { table, .. } => places.get(&table).copied(),
            Action::Nop => None,
            Action::Reject(_) | Action::Goto(_) => Some(usize::MAX),
        };
        // Most hosts have a rule for a table without routes; one that another goes to has to stay.
        let kept = rules.into_iter().filter_map(|rule| match place(&rule) {
            None if wanted.contains(&rule.priority) => Some((rule, usize::MAX)),
            place => Some((rule, place?)),
        });
        Self { rules: kept.collect(), tables }
    }

    fn find(&self, path: &Path) -> Option<Result<&Route, Reject>> {
        let mut at = 0;
        while let Some((rule, table)) = self.rules.get(at) {
            at += 1;
            if !rule.matches(path) {
                continue;
            }
            match rule.action {
                Action::Lookup { suppress, .. } => {
                    let found = self.tables.get(*table).and_then(|table| table.find(path.destination));
                    match found {
                        Some(route) if route.target == Target::Throw => (),
                        Some(route) if suppress.is_some_and(|len| route.prefix_len <= len) => (),
                        Some(route) => return Some(Ok(route)),
                        None => (),
                    }
                }
                Action::Reject(reject) => return Some(Err(reject)),
                // Forward only, as the kernel demands: no packet goes round in circles.
                Action::Goto(priority) => {
                    at = at.max(self.rules.partition_point(|(r, _)| r.priority < priority))
                }
                Action::Nop => (),
            }
        }
        None
    }
}

/// Longest prefix first: a look-up costs as much as there are lengths, not as there are routes.
#[derive(Debug, Clone, Default)]
struct Table(Vec<Prefixes>);

/// The routes of one prefix length.
#[derive(Debug, Clone)]
struct Prefixes {
    mask: u128,
    routes: HashMap<u128, Route, MixBuild>,
}

impl Table {
    /// Routes come longest prefix first and lowest metric first; the first to a network stays.
    fn insert(&mut self, route: Route) {
        let mask = mask(route.prefix_len);
        if self.0.last().is_none_or(|last| last.mask != mask) {
            self.0.push(Prefixes { mask, routes: HashMap::default() });
        }
        if let Some(last) = self.0.last_mut() {
            last.routes.entry(left_aligned(route.network) & mask).or_insert(route);
        }
    }

    fn find(&self, destination: IpAddr) -> Option<&Route> {
        let bits = left_aligned(destination);
        self.0.iter().find_map(|p| p.routes.get(&(bits & p.mask)))
    }
}

/// One of several ways by the packet's addresses, each as often as its weight says.
fn choose<'a>(hops: &'a [Hop], path: &Path) -> Option<&'a Hop> {
    let total: u64 = hops.iter().map(|hop| u64::from(hop.weight.max(1))).sum();
    let mut hasher = MixHasher::default();
    (path.source, path.destination).hash(&mut hasher);
    let mut at = hasher.finish() % total.max(1);
    hops.iter().find(|hop| {
        let weight = u64::from(hop.weight.max(1));
        let is_it = at < weight;
        at = at.saturating_sub(weight);
        is_it
    })
}

fn contains((network, len): Prefix, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && (left_aligned(network) ^ left_aligned(address)) & mask(len) == 0
}

fn mask(prefix_len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0)
}

/// The address from the highest bit on, so that one mask does for both families.
fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
