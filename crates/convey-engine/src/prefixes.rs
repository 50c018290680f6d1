//! The routes of one table by prefix length and network, in parts that copies of the table share until one of them
//! changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hash::MixBuild;
use crate::route_table::{Place, Way};
use crate::routes::left_aligned;

/// Routes a shard holds on average at most: what one change copies.
const SHARD_ROUTES: usize = 256;
/// Shards of one prefix length at most: what handing out copies of it, a pointer each.
const MAX_SHARDS: usize = 4096;

/// Longest prefix first: a look-up costs as much as there are lengths, not as there are routes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) Vec<Arc<Prefixes>>);

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

    pub(crate) fn prefixes(&mut self, len: u8) -> &mut Prefixes {
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
pub(crate) struct Prefixes {
    pub(crate) len: u8,
    pub(crate) count: usize,
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

    pub(crate) fn get(&self, bits: u128) -> Option<&Slots> {
        let key = self.key(bits);
        self.shards[self.shard(key)].get(&key)
    }

    pub(crate) fn get_mut(&mut self, bits: u128) -> Option<&mut Slots> {
        let key = self.key(bits);
        let at = self.shard(key);
        // Nothing is copied for what is not there.
        if !self.shards[at].contains_key(&key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[at]).get_mut(&key)
    }

    pub(crate) fn put(&mut self, bits: u128, slots: Slots) {
        if self.count >= self.shards.len() * SHARD_ROUTES && self.shards.len() < MAX_SHARDS {
            self.grow();
        }
        let key = self.key(bits);
        let at = self.shard(key);
        Arc::make_mut(&mut self.shards[at]).insert(key, slots);
        self.count += 1;
    }

    pub(crate) fn take(&mut self, bits: u128) -> Option<Slots> {
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
pub(crate) struct Slots {
    pub(crate) first: Slot,
    pub(crate) more: Box<[Slot]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) metric: u32,
    pub(crate) way: Arc<Way>,
}

impl From<Slot> for Slots {
    fn from(first: Slot) -> Self {
        Self { first, more: Box::default() }
    }
}

impl Slots {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.first).chain(&self.more)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Slot> {
        match at.checked_sub(1) {
            None => Some(&mut self.first),
            Some(at) => self.more.get_mut(at),
        }
    }

    /// Never the last one.
    pub(crate) fn take(&mut self, at: usize) -> Option<Slot> {
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
    pub(crate) fn insert(&mut self, new: Slot, place: Place, is_v6: bool) -> Option<Option<Slot>> {
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
