//! From one image to the next as an order of writes, in which no packet meets a name of something that is not there:
//! what is named comes before what names it, and goes after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use convey_bpf::directory::Direction;
use convey_bpf::tables::{Config, Frontend, Server};
use convey_core::AccessList;

use super::image::Contents;

/// One change of a map, which a packet sees as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// A server slot; `None`: nobody's.
    Server(u32, Option<[u8; Server::BYTES]>),
    /// A frontend slot; `None`: nobody's.
    Frontend(u32, Option<[u8; Frontend::BYTES]>),
    /// The NAT address of a path; `None`: there is no such path.
    PathSource(u32, Option<[u8; 16]>),
    /// Whether a NAT port of a path is kept from being handed out, because a frontend listens there. It may have to
    /// wait until nobody holds it.
    Reserved(u32, u16, bool),
    /// The Maglev table of a backend; `None`: nobody can be selected.
    Table(u32, Option<Arc<[u16]>>),
    /// The networks of a frontend; `None`: it has no lists.
    Access(u32, Option<Arc<AccessList>>),
    /// Everything but the directory's seed.
    Config(Config),
    /// The directory of IPv4 addresses, whole.
    Directory(BTreeMap<Direction, u32>),
    /// An IPv6 VIP; `None`: nobody listens there.
    Vip6([u8; 20], Option<u32>),
    /// A frontend that has left, by where it listened.
    FormerVip([u8; 20], Option<u32>),
    /// An address at which packets of ours arrive.
    Address([u8; 16], Option<u32>),
    /// An IPv6 path.
    Path6([u8; 36], Option<u32>),
}

/// The writes that make `new` of `old`.
pub(super) fn diff(old: &Contents, new: &Contents) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put = |write| writes.push(write);
    set(&old.servers, &new.servers).for_each(|(slot, value)| put(Write::Server(slot, value)));
    set(&old.path_sources, &new.path_sources).for_each(|(n, value)| put(Write::PathSource(n, value)));
    new.reserved.difference(&old.reserved).for_each(|(pool, port)| put(Write::Reserved(*pool, *port, true)));
    set(&old.paths6, &new.paths6).for_each(|(key, n)| put(Write::Path6(key, n)));
    // A frontend that is there may come to select a server that has no path yet, and may select one whose path goes
    // until its table is another.
    let is_path = |d: &Direction| matches!(d, Direction::Path { .. });
    let paths = |from: &Contents| from.directory.clone().into_iter().filter(move |(d, _)| is_path(d));
    let vips = |from: &Contents| from.directory.clone().into_iter().filter(move |(d, _)| !is_path(d));
    let all_paths = || paths(old).chain(paths(new));
    let mut listed = old.directory.clone();
    let mut list = |directory: BTreeMap<Direction, u32>| {
        let is_another = directory != listed;
        listed.clone_from(&directory);
        is_another.then_some(Write::Directory(directory))
    };
    if !old.frontends.is_empty() {
        writes.extend(list(vips(old).chain(all_paths()).collect()));
    }
    let mut put = |write| writes.push(write);
    set(&old.tables, &new.tables).for_each(|(backend, slots)| put(Write::Table(backend, slots)));
    set(&old.access, &new.access).for_each(|(slot, list)| put(Write::Access(slot, list.flatten())));
    let (left, there): (Vec<_>, Vec<_>) =
        set(&old.frontends, &new.frontends).partition(|(_, value)| value.is_some_and(|f| has_left(&f)));
    there.into_iter().for_each(|(slot, value)| put(Write::Frontend(slot, value)));
    let any_port = old.config.any_port || new.config.any_port;
    let former = old.config.former || new.config.former;
    let meanwhile = Config { any_port, former, ..new.config.clone() };
    if meanwhile != old.config {
        put(Write::Config(meanwhile.clone()));
    }
    set(&old.former_vips, &new.former_vips).for_each(|(key, slot)| put(Write::FormerVip(key, slot)));
    set(&old.addresses, &new.addresses).for_each(|(key, kind)| put(Write::Address(key, kind)));
    set(&old.vips6, &new.vips6).for_each(|(key, slot)| put(Write::Vip6(key, slot)));
    if let Some(write) = list(vips(new).chain(all_paths()).collect()) {
        put(write);
    }
    clear(&old.vips6, &new.vips6).for_each(|key| put(Write::Vip6(key, None)));
    // New flows are refused there: not before its successor has the address.
    left.into_iter().for_each(|(slot, value)| put(Write::Frontend(slot, value)));
    clear(&old.addresses, &new.addresses).for_each(|key| put(Write::Address(key, None)));
    clear(&old.former_vips, &new.former_vips).for_each(|key| put(Write::FormerVip(key, None)));
    if new.config != meanwhile {
        put(Write::Config(new.config.clone()));
    }
    clear(&old.frontends, &new.frontends).for_each(|slot| put(Write::Frontend(slot, None)));
    clear(&old.access, &new.access).for_each(|slot| put(Write::Access(slot, None)));
    clear(&old.tables, &new.tables).for_each(|backend| put(Write::Table(backend, None)));
    if let Some(write) = list(new.directory.clone()) {
        put(write);
    }
    clear(&old.paths6, &new.paths6).for_each(|key| put(Write::Path6(key, None)));
    old.reserved.difference(&new.reserved).for_each(|(pool, port)| put(Write::Reserved(*pool, *port, false)));
    clear(&old.path_sources, &new.path_sources).for_each(|n| put(Write::PathSource(n, None)));
    clear(&old.servers, &new.servers).for_each(|slot| put(Write::Server(slot, None)));
    writes
}

fn has_left(frontend: &[u8; Frontend::BYTES]) -> bool {
    frontend[Frontend::LEFT] != 0
}

/// What is new or another.
fn set<'a, K: Ord + Clone, V: Clone + PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, Option<V>)> + 'a {
    new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(k, v)| (k.clone(), Some(v.clone())))
}

/// What is no more.
fn clear<'a, K: Ord + Clone, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    old.keys().filter(|key| !new.contains_key(key)).cloned()
}

impl Contents {
    /// Notes what has been written.
    pub(super) fn apply(&mut self, write: &Write) {
        match write {
            Write::Server(slot, value) => change(&mut self.servers, slot, value),
            Write::Frontend(slot, value) => change(&mut self.frontends, slot, value),
            Write::PathSource(number, value) => change(&mut self.path_sources, number, value),
            Write::Reserved(pool, port, true) => {
                self.reserved.insert((*pool, *port));
            }
            Write::Reserved(pool, port, false) => {
                self.reserved.remove(&(*pool, *port));
            }
            Write::Table(backend, slots) => change(&mut self.tables, backend, slots),
            Write::Access(slot, list) => {
                change(&mut self.access, slot, &list.clone().map(Some));
            }
            Write::Config(config) => self.config = config.clone(),
            Write::Directory(directory) => self.directory.clone_from(directory),
            Write::Vip6(key, slot) => change(&mut self.vips6, key, slot),
            Write::FormerVip(key, slot) => change(&mut self.former_vips, key, slot),
            Write::Address(key, kind) => change(&mut self.addresses, key, kind),
            Write::Path6(key, number) => change(&mut self.paths6, key, number),
        }
    }
}

fn change<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: &Option<V>) {
    match value {
        Some(value) => map.insert(key.clone(), value.clone()),
        None => map.remove(key),
    };
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
