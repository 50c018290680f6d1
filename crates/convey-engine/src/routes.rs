//! Routes, the rules that choose between tables of them, and the way a packet takes by both: what the kernel does
//! with a packet that it forwards, as a pure look-up.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::hash::MixHasher;
use crate::links::{Links, Objects};
use crate::prefixes::Table;
use crate::route_table::Way;
pub use crate::route_table::{Place, RouteTable, Routes};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Interface packets leave by.
    pub ifindex: u32,
    /// Gateway; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share among several.
    pub weight: u32,
}

impl Hop {
    /// Where it leads to.
    pub(crate) fn place(&self) -> (u32, Option<IpAddr>) {
        (self.ifindex, self.gateway)
    }
}

/// How a packet is refused by a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// They go on.
    Hop(Hop),
    /// They go on by one of several, the same for the same two addresses.
    Hops(Arc<[Hop]>),
    /// What this next hop object says.
    Object(u32),
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
    /// The sources it is for, where it does not take all (IPv6 only).
    pub source: Option<Prefix>,
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
        Self { table: TABLE_MAIN, network, prefix_len, source: None, target, mtu: 0, metric: 0 }
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
    /// Looks in the table of the VRF that the packet came in by, if it did.
    LookupVrf {
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

    fn matches(&self, path: &Path, links: &Links) -> bool {
        let within = |wanted: Option<Prefix>, address| wanted.is_none_or(|prefix| contains(prefix, address));
        let came_in_by = |wanted: u32| {
            wanted == path.ingress || links.vrf(path.ingress).is_some_and(|vrf| vrf.ifindex == wanted)
        };
        let all = within(self.from, path.source)
            && within(self.to, path.destination)
            && self.ingress.is_none_or(came_in_by);
        all != self.is_inverted
    }

    /// Whether more than the destination decides.
    fn is_choice(&self) -> bool {
        self.from.is_some() || self.ingress.is_some() || matches!(self.action, Action::LookupVrf { .. })
    }
}

/// All routes and rules at one moment.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    v4: Family,
    v6: Family,
    routes: Routes,
}

#[derive(Debug, Clone, Default)]
struct Family {
    /// By priority, those that end in nothing left out; each with the table it looks in.
    rules: Vec<(Rule, Option<Arc<Table>>)>,
}

impl Routing {
    /// `rules` in any order.
    pub fn new(routes: &Routes, rules: impl IntoIterator<Item = Rule>) -> Self {
        let (v4, v6) = rules.into_iter().partition(|rule: &Rule| rule.is_v4);
        Self { v4: Family::new(routes, v4), v6: Family::new(routes, v6), routes: routes.clone() }
    }

    /// Whether all packets to an address go the same way.
    pub fn is_by_destination(&self) -> bool {
        let rules = self.v4.rules.iter().chain(&self.v6.rules);
        !self.routes.has_choices() && !rules.into_iter().any(|(rule, _)| rule.is_choice())
    }

    /// The way of a packet, and the route's MTU (0: the link's). `None`: there is no route.
    pub fn find(&self, path: &Path, links: &Links, objects: &Objects) -> Option<Result<(Hop, u32), Reject>> {
        let is_v4 = path.destination.is_ipv4();
        let rules = if is_v4 { &self.v4.rules } else { &self.v6.rules };
        let mut at = 0;
        while let Some((rule, table)) = rules.get(at) {
            at += 1;
            if !rule.matches(path, links) {
                continue;
            }
            let (table, suppress) = match rule.action {
                Action::Lookup { suppress, .. } => (table.as_ref(), suppress),
                Action::LookupVrf { suppress } => {
                    let vrf = links.vrf(path.ingress);
                    (vrf.and_then(|vrf| self.routes.table(is_v4, vrf.table)), suppress)
                }
                Action::Reject(reject) => return Some(Err(reject)),
                // Forward only, as the kernel demands: no packet goes round in circles.
                Action::Goto(priority) => {
                    at = at.max(rules.partition_point(|(r, _)| r.priority < priority));
                    continue;
                }
                Action::Nop => continue,
            };
            let found = table.and_then(|table| {
                table.find(path.destination, path.source, |way, len| {
                    Some((take(way, path, links, objects)?, len))
                })
            });
            match found {
                None | Some((Taken::Throw, _)) => (),
                Some((_, len)) if suppress.is_some_and(|longest| len <= longest) => (),
                Some((Taken::Hop(hop, mtu), _)) => return Some(Ok((hop, mtu))),
                Some((Taken::Reject(reject), _)) => return Some(Err(reject)),
            }
        }
        None
    }
}

enum Taken {
    Hop(Hop, u32),
    Reject(Reject),
    Throw,
}

/// What becomes of a packet that takes `way`; `None` when nothing of it is alive.
fn take(way: &Way, path: &Path, links: &Links, objects: &Objects) -> Option<Taken> {
    let target = match &way.target {
        Target::Object(id) => objects.get(id)?,
        target => target,
    };
    match target {
        Target::Hop(hop) => links.is_alive(hop.ifindex).then_some(Taken::Hop(*hop, way.mtu)),
        Target::Hops(hops) => {
            let living = || hops.iter().filter(|hop| links.is_alive(hop.ifindex));
            Some(Taken::Hop(*choose(living, path)?, way.mtu))
        }
        Target::Reject(reject) => Some(Taken::Reject(*reject)),
        Target::Throw => Some(Taken::Throw),
        // None names another.
        Target::Object(_) => None,
    }
}

impl Family {
    fn new(routes: &Routes, mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| rule.priority);
        let wanted: HashSet<u32> = rules
            .iter()
            .filter_map(|rule| match rule.action {
                Action::Goto(priority) => Some(priority),
                _ => None,
            })
            .collect();
        // Most hosts have a rule for a table without routes; one that another goes to has to stay.
        let kept = rules.into_iter().filter_map(|rule| {
            let table = match rule.action {
                Action::Lookup { table, .. } => routes.table(rule.is_v4, table).cloned(),
                _ => None,
            };
            let is_idle = matches!(rule.action, Action::Lookup { .. } | Action::Nop) && table.is_none();
            (!is_idle || wanted.contains(&rule.priority)).then_some((rule, table))
        });
        Self { rules: kept.collect() }
    }
}

/// One of several ways by the packet's addresses, each as often as its weight says.
fn choose<'a, I: Iterator<Item = &'a Hop>>(hops: impl Fn() -> I, path: &Path) -> Option<&'a Hop> {
    let total: u64 = hops().map(|hop| u64::from(hop.weight.max(1))).sum();
    let mut hasher = MixHasher::default();
    (path.source, path.destination).hash(&mut hasher);
    let mut at = hasher.finish() % total.max(1);
    hops().find(|hop| {
        let weight = u64::from(hop.weight.max(1));
        let is_it = at < weight;
        at = at.saturating_sub(weight);
        is_it
    })
}

pub(crate) fn contains((network, len): Prefix, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && (left_aligned(network) ^ left_aligned(address)) & mask(len) == 0
}

fn mask(prefix_len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0)
}

/// The address from the highest bit on, so that one mask does for both families.
pub(crate) fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
