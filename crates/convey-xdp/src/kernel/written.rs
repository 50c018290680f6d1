//! What is in the maps: as written by this process, or read back from those of another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError};
use convey_bpf::directory::{Directory, LINE_BYTES};
use convey_bpf::tables::{Config, Frontend, Server};

use convey_core::nat_ports::PortPool;

use super::image::Contents;
use super::install::error;
use super::{Sizes, maps};
use crate::XdpError;
use crate::mapped::MapMemory;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) contents: Contents,
    /// Of the directory's halves; `None`: all zero, or anything.
    pub(super) halves: [Option<Directory>; 2],
    /// Which of them is in force.
    pub(super) half: usize,
}

impl Written {
    /// Reads it from the maps. Backends' tables and frontends' networks count as unknown: each will be written.
    pub(super) fn read(ebpf: &Ebpf, sizes: &Sizes, nat_ports: &MapMemory) -> Result<Self, XdpError> {
        let config: [u8; Config::BYTES] =
            array(ebpf, "config")?.get(&0, 0).map_err(|e| error("config", &e))?;
        let config = Config::from_bytes(&config);
        let seed = config.directory_seed;
        let directory = Directory { seed, lines: Vec::new() };
        let first = directory.first_line();
        let all = array::<[u8; LINE_BYTES]>(ebpf, "directory")?;
        let lines = (first..).take(convey_bpf::directory::LINES).map(|line| all.get(&line, 0));
        let lines = lines.collect::<Result<_, _>>().map_err(|e| error("directory", &e))?;
        let directory = Directory { seed, lines };
        let path_sources = used::<16>(ebpf, "path_sources", sizes.paths.max(1))?;
        let table_map = if sizes.minimal { "places" } else { "tables" };
        let contents = Contents {
            reserved: reserved(path_sources.keys().copied(), sizes, nat_ports),
            former_vips: pairs(ebpf, "former_vips")?,
            addresses: pairs(ebpf, "addresses")?,
            servers: used::<{ Server::BYTES }>(ebpf, "servers", sizes.servers)?,
            frontends: used::<{ Frontend::BYTES }>(ebpf, "frontends", sizes.frontends)?,
            path_sources,
            tables: inner_maps(ebpf, table_map, sizes.backends.max(1), || Arc::from([]))?,
            access: inner_maps(ebpf, "access", sizes.frontends, || None)?,
            directory: directory.entries().collect(),
            vips6: pairs(ebpf, "vips6")?,
            paths6: pairs(ebpf, "paths6")?,
            config: Config { directory_seed: 0, ..config },
        };
        let half = (seed & 1) as usize;
        let mut halves = [None, None];
        halves[half] = Some(directory);
        Ok(Self { contents, halves, half })
    }

    /// See [`super::Kernel::hop_generation`].
    pub(super) fn hop_generation(&self) -> u32 {
        self.contents.config.hop_generation
    }
}

fn map<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Map, XdpError> {
    ebpf.map(name).ok_or_else(|| XdpError::Map { map: name, reason: "the object has no such map".into() })
}

fn array<'a, V: aya::Pod>(ebpf: &'a Ebpf, name: &'static str) -> Result<Array<&'a MapData, V>, XdpError> {
    Array::try_from(map(ebpf, name)?).map_err(|e| error(name, &e))
}

/// The values of an array that are not all zero.
fn used<const N: usize>(
    ebpf: &Ebpf,
    name: &'static str,
    entries: u32,
) -> Result<BTreeMap<u32, [u8; N]>, XdpError>
where
    [u8; N]: aya::Pod,
{
    let all = array::<[u8; N]>(ebpf, name)?;
    let mut used = BTreeMap::new();
    for at in 0..entries {
        let value = all.get(&at, 0).map_err(|e| error(name, &e))?;
        if value != [0; N] {
            used.insert(at, value);
        }
    }
    Ok(used)
}

fn pairs<const N: usize>(ebpf: &Ebpf, name: &'static str) -> Result<BTreeMap<[u8; N], u32>, XdpError>
where
    [u8; N]: aya::Pod,
{
    let all: HashMap<&MapData, [u8; N], u32> =
        map(ebpf, name)?.try_into().map_err(|e: MapError| error(name, &e))?;
    all.iter().collect::<Result<_, _>>().map_err(|e| error(name, &e))
}

/// Those of `entries` that have a map of their own, which counts as this unknown one.
fn inner_maps<T>(
    ebpf: &Ebpf,
    name: &'static str,
    entries: u32,
    unknown: impl Fn() -> T,
) -> Result<BTreeMap<u32, T>, XdpError> {
    let all: ArrayOfMaps<&MapData> = map(ebpf, name)?.try_into().map_err(|e: MapError| error(name, &e))?;
    let mut found = BTreeMap::new();
    for at in 0..entries {
        match all.get(&at, 0) {
            Ok(_) => {
                found.insert(at, unknown());
            }
            Err(MapError::KeyNotFound) => {}
            Err(e) => return Err(error(name, &e)),
        }
    }
    Ok(found)
}

/// The ports of these paths that are reserved.
fn reserved(paths: impl Iterator<Item = u32>, sizes: &Sizes, nat_ports: &MapMemory) -> BTreeSet<(u32, u16)> {
    let partition = maps::partition(sizes);
    let words = PortPool::words(partition);
    let of_path = |path: u32| {
        let pool = PortPool::in_memory(partition, nat_ports.part64(path as usize * words, words));
        pool.reserved().map(|port| (path, port)).collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}
