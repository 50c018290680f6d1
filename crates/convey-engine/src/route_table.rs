//! A table of routes that changes by single routes and is handed out whole: what was handed out stays as it was,
//! and both share all that has not changed since, so that a change costs as much among a million routes as among ten.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::hash::MixBuild;
use crate::routes::{Hop, Prefix, Route, Target, contains, left_aligned};

/// Routes a shard holds on average at most: what one change copies.
const SHARD_ROUTES: usize = 256;
/// Shards of one prefix length at most: what handing out copies of it, a pointer each.
const MAX_SHARDS: usize = 4096;

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
    fn rank(&self) -> u8 {
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
                prefixes
                    .put(left_aligned(route.network), Slots { first: added.clone(), more: Box::default() });
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

/// Longest prefix first: a look-up costs as much as there are lengths, not as there are routes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(Vec<Arc<Prefixes>>);

impl Table {
    /// What `each` makes of the routes that take a packet and of their prefix lengths, the one to be preferred first,
    /// until it makes something.
    pub(crate) fn find<T>(
        &self,
        destination: IpAddr,
        source: IpAddr,
        mut each: impl FnMut(&Way, u8) -> Option<T>,
    ) -> Option<T> {
        let bits = left_aligned(destination);
        for prefixes in &self.0 {
            let Some(slots) = prefixes.get(bits) else { continue };
            let mut taken = |slot: &Slot| {
                if slot.way.takes(source) { each(&slot.way, prefixes.len) } else { None }
            };
            let found = taken(&slots.first).or_else(|| slots.more.iter().find_map(taken));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn prefixes(&mut self, len: u8) -> &mut Prefixes {
        let at = self.0.partition_point(|p| p.len > len);
        if self.0.get(at).is_none_or(|p| p.len != len) {
            self.0.insert(at, Arc::new(Prefixes::new(len)));
        }
        Arc::make_mut(&mut self.0[at])
    }
}

type Shard = HashMap<u128, Slots, MixBuild>;

/// The routes of one prefix length.
#[derive(Debug, Clone)]
struct Prefixes {
    len: u8,
    count: usize,
    /// A power of two of them.
    shards: Vec<Arc<Shard>>,
}

impl Prefixes {
    fn new(len: u8) -> Self {
        Self { len, count: 0, shards: vec![Arc::default()] }
    }

    fn key(&self, bits: u128) -> u128 {
        bits.checked_shr(128 - u32::from(self.len.min(128))).unwrap_or(0)
    }

    /// Networks of one length differ in their last bits first.
    fn shard(&self, key: u128) -> usize {
        (key ^ (key >> 16)) as usize & (self.shards.len() - 1)
    }

    fn get(&self, bits: u128) -> Option<&Slots> {
        let key = self.key(bits);
        self.shards[self.shard(key)].get(&key)
    }

    fn get_mut(&mut self, bits: u128) -> Option<&mut Slots> {
        let key = self.key(bits);
        let at = self.shard(key);
        // Nothing is copied for what is not there.
        if !self.shards[at].contains_key(&key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[at]).get_mut(&key)
    }

    fn put(&mut self, bits: u128, slots: Slots) {
        if self.count >= self.shards.len() * SHARD_ROUTES && self.shards.len() < MAX_SHARDS {
            self.grow();
        }
        let key = self.key(bits);
        let at = self.shard(key);
        Arc::make_mut(&mut self.shards[at]).insert(key, slots);
        self.count += 1;
    }

    fn take(&mut self, bits: u128) -> Option<Slots> {
        let key = self.key(bits);
        let at = self.shard(key);
        let taken = Arc::make_mut(&mut self.shards[at]).remove(&key);
        self.count -= usize::from(taken.is_some());
        taken
    }

    fn grow(&mut self) {
        let shards = vec![Arc::default(); (self.shards.len() * 4).min(MAX_SHARDS)];
        for shard in std::mem::replace(&mut self.shards, shards) {
            for (key, slots) in Arc::unwrap_or_clone(shard) {
                let at = self.shard(key);
                Arc::make_mut(&mut self.shards[at]).insert(key, slots);
            }
        }
    }
}

/// The routes to one network, in the order in which they are to be tried. Nearly always there is one.
#[derive(Debug, Clone)]
struct Slots {
    first: Slot,
    more: Box<[Slot]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    metric: u32,
    way: Arc<Way>,
}

impl Slots {
    fn iter(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Slot> {
        match at.checked_sub(1) {
            None => Some(&mut self.first),
            Some(at) => self.more.get_mut(at),
        }
    }

    /// Never the last one.
    fn take(&mut self, at: usize) -> Option<Slot> {
        let mut more = std::mem::take(&mut self.more).into_vec();
        let taken = match at.checked_sub(1) {
            None if more.is_empty() => None,
            None => Some(std::mem::replace(&mut self.first, more.remove(0))),
            Some(at) => (at < more.len()).then(|| more.remove(at)),
        };
        self.more = more.into();
        taken
    }

    fn put(&mut self, at: usize, slot: Slot) {
        let mut more = std::mem::take(&mut self.more).into_vec();
        match at.checked_sub(1) {
            None => more.insert(0, std::mem::replace(&mut self.first, slot)),
            Some(at) => more.insert(at.min(more.len()), slot),
        }
        self.more = more.into();
    }

    /// Tells what it replaced; `None`: it is there already.
    fn insert(&mut self, new: Slot, place: Place, is_v6: bool) -> Option<Option<Slot>> {
        if self.iter().any(|slot| *slot == new) {
            return None;
        }
        let key = |slot: &Slot| (slot.way.rank(), slot.way.source, slot.metric);
        let wanted = key(&new);
        let is_equal = |slot: &Slot| key(slot) == wanted;
        // IPv6 tells of all hops of a route when one more joins it.
        let grown = |slot: &Slot| is_v6 && is_equal(slot) && new.way.target.includes(&slot.way.target);
        let replaced = match place {
            Place::Instead => self.iter().position(is_equal),
            Place::First | Place::Last => self.iter().position(grown),
        };
        if let Some(at) = replaced {
            return Some(self.get_mut(at).map(|slot| std::mem::replace(slot, new)));
        }
        let order = |slot: &Slot| (slot.way.rank(), slot.metric);
        let before = |slot: &&Slot| match place {
            Place::Last => order(slot) <= order(&new),
            Place::First | Place::Instead => order(slot) < order(&new),
        };
        let at = self.iter().take_while(before).count();
        self.put(at, new);
        Some(None)
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
    fn includes(&self, other: &Self) -> bool {
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
