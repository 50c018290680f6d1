//! A table of routes that changes by single routes and is handed out whole: what was handed out stays as it was,
//! and both share all that has not changed since, so that a change costs as much among a million routes as among ten.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::prefixes::{Slot, Slots, Table};
use crate::routes::{Hop, Prefix, Route, Target, contains, left_aligned};

/// Where a route goes among those to the same network with the same metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before them.
    First,
    /// Behind them.
    Last,
    /// In the place of the first.
    Instead,
}

/// What a route says besides where it leads to; one for all routes that say the same.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    pub(crate) target: Target,
    pub(crate) mtu: u32,
    /// The sources it is for (IPv6 only).
    pub(crate) source: Option<Prefix>,
}

impl Way {
    pub(crate) fn takes(&self, source: IpAddr) -> bool {
        self.source.is_none_or(|prefix| contains(prefix, source))
    }

    /// Longer sources come first.
    pub(crate) fn rank(&self) -> u8 {
        u8::MAX - self.source.map_or(0, |(_, len)| len)
    }

    /// Whether more than the destination may decide.
    fn is_choice(&self) -> bool {
        self.source.is_some() || matches!(self.target, Target::Hops(_) | Target::Object(_))
    }
}

/// The table, for its owner.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Routes,
    ways: HashMap<Arc<Way>, usize>,
}

/// The table as it was at one moment; a copy costs little.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: HashMap<u32, Arc<Table>>,
    v6: HashMap<u32, Arc<Table>>,
    len: usize,
    /// Routes whose way is not decided by the destination alone.
    choices: usize,
}

impl Routes {
    pub(crate) fn table(&self, is_v4: bool, id: u32) -> Option<&Arc<Table>> {
        if is_v4 { self.v4.get(&id) } else { self.v6.get(&id) }
    }

    pub(crate) fn has_choices(&self) -> bool {
        self.choices != 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl FromIterator<Route> for RouteTable {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut table = Self::default();
        for route in routes {
            table.insert(route, Place::Last);
        }
        table
    }
}

impl RouteTable {
    /// As it is now.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Every hop of a route; some may come more than once.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.ways.keys().flat_map(|way| way.target.hops())
    }

    /// Adds a route. Tells whether that changed anything: what is there already stays as it is.
    pub fn insert(&mut self, route: Route, place: Place) -> bool {
        let tables = if route.network.is_ipv4() { &mut self.routes.v4 } else { &mut self.routes.v6 };
        let way = Way { target: route.target, mtu: route.mtu, source: route.source };
        let way = match self.ways.get_key_value(&way) {
            Some((known, _)) => known.clone(),
            None => Arc::new(way),
        };
        let table = Arc::make_mut(tables.entry(route.table).or_default());
        let prefixes = table.prefixes(route.prefix_len);
        let added = Slot { metric: route.metric, way };
        let out = match prefixes.get_mut(left_aligned(route.network)) {
            Some(slots) => {
                let Some(out) = slots.insert(added.clone(), place, route.network.is_ipv6()) else {
                    return false;
                };
                out
            }
            None => {
                prefixes.put(left_aligned(route.network), Slots::from(added.clone()));
                None
            }
        };
        self.count(&added.way);
        if let Some(slot) = out {
            self.discount(&slot.way);
        }
        true
    }

    /// Removes a route, or from one over several hops those that `route` names. Tells whether there was one.
    pub fn remove(&mut self, route: &Route) -> bool {
        let tables = if route.network.is_ipv4() { &mut self.routes.v4 } else { &mut self.routes.v6 };
        let Some(table) = tables.get_mut(&route.table) else { return false };
        let bits = left_aligned(route.network);
        let Some(at) = table.0.iter().position(|p| p.len == route.prefix_len) else { return false };
        let is_wanted = |slot: &Slot| slot.metric == route.metric && slot.way.source == route.source;
        // Looked for before anything is copied.
        let Some(slots) = table.0[at].get(bits) else { return false };
        let same = slots.iter().position(|slot| is_wanted(slot) && slot.way.target.is_same(&route.target));
        let rest = |slot: &Slot| slot.way.target.without(route.target.hops());
        let Some(found) = same.or_else(|| slots.iter().position(|s| is_wanted(s) && rest(s).is_some()))
        else {
            return false;
        };
        let left = slots.iter().nth(found).filter(|_| same.is_none()).and_then(|slot| {
            let (target, way) = (rest(slot)?, &slot.way);
            Some(Way { target, mtu: way.mtu, source: way.source })
        });
        let left = left.map(|way| match self.ways.get_key_value(&way) {
            Some((known, _)) => known.clone(),
            None => Arc::new(way),
        });
        let table = Arc::make_mut(table);
        let prefixes = Arc::make_mut(&mut table.0[at]);
        let Some(slots) = prefixes.get_mut(bits) else { return false };
        let out = match &left {
            Some(way) => slots.get_mut(found).map(|slot| std::mem::replace(&mut slot.way, way.clone())),
            None if !slots.more.is_empty() => slots.take(found).map(|slot| slot.way),
            None => prefixes.take(bits).map(|slots| slots.first.way),
        };
        if prefixes.count == 0 {
            table.0.remove(at);
        }
        if table.0.is_empty() {
            tables.remove(&route.table);
        }
        if let Some(way) = &left {
            self.count(way);
        }
        if let Some(way) = out {
            self.discount(&way);
        }
        true
    }

    fn count(&mut self, way: &Arc<Way>) {
        *self.ways.entry(way.clone()).or_default() += 1;
        self.routes.len += 1;
        self.routes.choices += usize::from(way.is_choice());
    }

    fn discount(&mut self, way: &Arc<Way>) {
        if let Some(count) = self.ways.get_mut(way) {
            *count -= 1;
            if *count == 0 {
                self.ways.remove(way);
            }
        }
        self.routes.len -= 1;
        self.routes.choices -= usize::from(way.is_choice());
    }
}

impl Target {
    /// Every way on that it names itself.
    pub fn hops(&self) -> &[Hop] {
        match self {
            Self::Hop(hop) => std::slice::from_ref(hop),
            Self::Hops(hops) => hops,
            Self::Object(_) | Self::Reject(_) | Self::Throw => &[],
        }
    }

    /// Whether it has all hops of `other`, and that has some.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        let hops: BTreeSet<_> = self.hops().iter().map(Hop::place).collect();
        !other.hops().is_empty() && other.hops().iter().all(|hop| hops.contains(&hop.place()))
    }

    /// Whether it leads to the same, whatever the weights.
    fn is_same(&self, other: &Self) -> bool {
        self == other || self.includes(other) && other.includes(self)
    }

    /// What is left without these hops; `None` when it has none of them, or nothing is left.
    fn without(&self, hops: &[Hop]) -> Option<Self> {
        let left: Vec<Hop> =
            self.hops().iter().filter(|hop| hops.iter().all(|h| h.place() != hop.place())).copied().collect();
        match left.as_slice() {
            [] => None,
            all if all.len() == self.hops().len() => None,
            [hop] => Some(Self::Hop(Hop { weight: 1, ..*hop })),
            _ => Some(Self::Hops(left.into())),
        }
    }
}

#[cfg(test)]
#[path = "route_table_tests.rs"]
mod tests;
