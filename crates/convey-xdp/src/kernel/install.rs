//! Writing the maps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use aya::maps::{Array, HashMap, Map, MapData};
use convey_bpf::directory::{Direction, Directory, LINE_BYTES};
use convey_bpf::tables::{Config, Frontend, MAGLEV_BYTES, PLACES_BYTES, Server, network};

use convey_core::AccessList;
use convey_core::conntrack::Ticks;
use convey_core::nat_ports::PortPool;
use rustix::time::{ClockId, clock_gettime};

use super::Kernel;
use super::image::{Contents, Image};
use super::writes::{Write, diff};
use crate::XdpError;
use crate::error::reason;
use crate::inner_maps;

/// Where the directory's seed stands in the configuration, in words of eight bytes.
const DIRECTORY_SEED: usize = 1;

impl Kernel {
    /// Puts an image in force, in place of the one before: only what differs is written, in an order in which packets
    /// go by one or the other. Where it fails, what was written stays, and the next image starts from there. A NAT
    /// port on which a frontend listens and that a flow holds is reserved the next time an image, the same or another,
    /// is installed after the flow has given it back.
    ///
    /// # Errors
    /// [`XdpError::Map`]; a slot beyond the sizes asked for, or more addresses than the directory takes.
    pub fn install(&mut self, image: &Image) -> Result<(), XdpError> {
        let is_table = |write: &Write| matches!(write, Write::Table(..));
        let is_access = |write: &Write| matches!(write, Write::Access(_, Some(_)));
        let writes = diff(&self.written.contents, &Contents::of(image));
        // The kernel waits for packets under way after each change of tables, or once for many.
        for run in writes.chunk_by(|a, b| is_table(a) && is_table(b) || is_access(a) && is_access(b)) {
            match run {
                [Write::Reserved(pool, port, is)] if !self.reserve(*pool, *port, *is) => continue,
                [first, ..] if is_access(first) => self.install_access(run)?,
                [write] if !is_table(write) => self.write(write, image.config.directory_seed)?,
                tables => self.install_tables(tables)?,
            }
            run.iter().for_each(|write| self.written.contents.apply(write));
        }
        Ok(())
    }

    /// Whether the port of this path is reserved now as it should be, or is none that is handed out.
    fn reserve(&self, pool: u32, port: u16, is_reserved: bool) -> bool {
        let (words, now) = (PortPool::words(self.partition), now());
        if self.partition.offset(port).is_none() {
            return true;
        }
        let memory = self.nat_ports.part64(pool as usize * words, words);
        let pool = PortPool::in_memory(self.partition, memory);
        if is_reserved {
            return pool.reserve(port, now);
        }
        pool.unreserve(port, now);
        true
    }

    fn write(&mut self, write: &Write, seed: u64) -> Result<(), XdpError> {
        match write {
            Write::Server(slot, value) => self.set("servers", *slot, value.unwrap_or([0; Server::BYTES])),
            Write::Frontend(slot, value) => {
                self.set("frontends", *slot, value.unwrap_or([0; Frontend::BYTES]))
            }
            Write::PathSource(number, value) => self.set("path_sources", *number, value.unwrap_or_default()),
            Write::Reserved(..) => Ok(()),
            Write::Table(..) => self.install_tables(std::slice::from_ref(write)),
            Write::Access(_, Some(_)) => self.install_access(std::slice::from_ref(write)),
            Write::Access(slot, None) => {
                let removed = inner_maps::remove(self.array_of_maps("access")?, *slot);
                removed.map_err(|e| error("access", &e))
            }
            Write::Config(config) => {
                self.write_config(config);
                Ok(())
            }
            Write::Directory(entries) => {
                self.install_directory(&entries.iter().map(|(d, n)| (*d, *n)).collect::<Vec<_>>(), seed)
            }
            Write::Vip6(key, slot) => self.change("vips6", key, *slot),
            Write::FormerVip(key, slot) => self.change("former_vips", key, *slot),
            Write::Address(key, kind) => self.change("addresses", key, *kind),
            Write::Path6(key, number) => self.change("paths6", key, *number),
        }
    }

    /// Word by word; the directory's seed stays, and what says whether anything is watched.
    fn write_config(&self, config: &Config) {
        let bytes = config.to_bytes();
        for (i, (word, to)) in bytes.chunks_exact(8).zip(self.config.iter()).enumerate() {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            if i != DIRECTORY_SEED && i != Config::WATCHED && to.load(Relaxed) != word {
                to.store(word, Relaxed);
            }
        }
    }

    /// Writes the half that is not in force, then the seed, which puts it in force.
    fn install_directory(&mut self, entries: &[(Direction, u32)], seed: u64) -> Result<(), XdpError> {
        let half = 1 - self.written.half;
        let former = self.written.halves[half].take();
        let seed = former.as_ref().map_or((seed & !1) | half as u64, |directory| directory.seed);
        let written = match Directory::new(entries, seed) {
            None => Err(XdpError::Map { map: "directory", reason: "more addresses than it takes".into() }),
            Some(directory) => self.write_lines(former.as_ref(), &directory).map(|()| directory),
        };
        match written {
            Err(e) => {
                // Lines of both may be there: this half is written whole next time.
                self.written.halves[half] = None;
                Err(e)
            }
            Ok(directory) => {
                if let Some(to) = self.config.get(DIRECTORY_SEED) {
                    to.store(directory.seed, Release);
                }
                self.written.halves[half] = Some(directory);
                self.written.half = half;
                Ok(())
            }
        }
    }

    fn write_lines(&mut self, former: Option<&Directory>, new: &Directory) -> Result<(), XdpError> {
        let mut lines = self.array::<[u8; LINE_BYTES]>("directory")?;
        for (i, (at, line)) in (new.first_line()..).zip(&new.lines).enumerate() {
            if former.is_none_or(|former| former.lines[i] != *line) {
                lines.set(at, line, 0).map_err(|e| error("directory", &e))?;
            }
        }
        Ok(())
    }

    /// Replaces backends' Maglev tables, each whole.
    fn install_tables(&mut self, writes: &[Write]) -> Result<(), XdpError> {
        let (map, bytes) = if self.minimal { ("places", PLACES_BYTES) } else { ("tables", MAGLEV_BYTES) };
        let mut tables = Vec::with_capacity(writes.len());
        for write in writes {
            let Write::Table(backend, slots) = write else { continue };
            let mut value = vec![0xff; bytes];
            for (to, slot) in value.chunks_exact_mut(2).zip(slots.as_deref().unwrap_or_default()) {
                to.copy_from_slice(&slot.to_ne_bytes());
            }
            tables.push((*backend, inner_maps::array_of(&value).map_err(|e| error(map, &e))?));
        }
        inner_maps::replace(self.array_of_maps(map)?, &tables).map_err(|e| error(map, &e))
    }

    /// Replaces frontends' networks, each whole: a packet meets all of the former or all of the new ones.
    fn install_access(&mut self, writes: &[Write]) -> Result<(), XdpError> {
        let mut lists: Vec<(u32, OwnedFd)> = Vec::with_capacity(writes.len());
        // The addresses of one frontend have the same ones.
        let mut made: BTreeMap<*const AccessList, usize> = BTreeMap::new();
        for write in writes {
            let Write::Access(slot, Some(list)) = write else { continue };
            if let Some(same) = made.insert(Arc::as_ptr(list), lists.len()) {
                lists.push((*slot, lists[same].1.try_clone().map_err(|e| error("access", &e))?));
                continue;
            }
            let entries: Vec<_> =
                list.table().map(|(p, allowed)| (network(p.first(), p.bits()), u32::from(allowed))).collect();
            lists.push((*slot, inner_maps::trie_of(&entries).map_err(|e| error("access", &e))?));
        }
        inner_maps::replace(self.array_of_maps("access")?, &lists).map_err(|e| error("access", &e))
    }

    fn array_of_maps(&mut self, map: &'static str) -> Result<BorrowedFd<'_>, XdpError> {
        match self.map(map)? {
            Map::ArrayOfMaps(outer) => Ok(outer.fd().as_fd()),
            _ => Err(XdpError::Map { map, reason: "it holds no maps".into() }),
        }
    }

    pub(super) fn set<V: aya::Pod>(&mut self, map: &'static str, at: u32, value: V) -> Result<(), XdpError> {
        self.array::<V>(map)?.set(at, value, 0).map_err(|e| error(map, &e))
    }

    fn change<K: aya::Pod>(
        &mut self,
        map: &'static str,
        key: &K,
        value: Option<u32>,
    ) -> Result<(), XdpError> {
        let mut keys: HashMap<_, K, u32> =
            self.map(map)?.try_into().map_err(|e: aya::maps::MapError| error(map, &e))?;
        match value {
            Some(value) => keys.insert(key, value, 0),
            None => match keys.remove(key) {
                Err(aya::maps::MapError::KeyNotFound) => Ok(()),
                removed => removed,
            },
        }
        .map_err(|e| error(map, &e))
    }

    fn map(&mut self, map: &'static str) -> Result<&mut Map, XdpError> {
        self.ebpf
            .map_mut(map)
            .ok_or_else(|| XdpError::Map { map, reason: "the object has no such map".into() })
    }

    fn array<V: aya::Pod>(&mut self, map: &'static str) -> Result<Array<&mut MapData, V>, XdpError> {
        Array::try_from(self.map(map)?).map_err(|e| error(map, &e))
    }
}

/// As the programs have it.
fn now() -> Ticks {
    let time = clock_gettime(ClockId::Monotonic);
    Ticks::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

pub(super) fn error(map: &'static str, e: &dyn std::error::Error) -> XdpError {
    XdpError::Map { map, reason: reason(e) }
}
