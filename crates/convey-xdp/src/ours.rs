//! The maps of `ours.h`, by which programs tell the engine's packets from all others.

use std::collections::HashSet;

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};

use crate::XdpError;
use crate::error::reason;
use crate::rules::Entries;

/// As many addresses as a configuration can have; memory is taken for those that are there.
pub const MOST_ADDRESSES: u32 = 65_536;

/// What the maps of a loaded object hold, also after an insertion failed half-way.
#[derive(Debug, Default)]
pub struct Ours {
    entries: Entries,
}

impl Ours {
    /// Adds what is new.
    ///
    /// # Errors
    /// [`XdpError::Map`]; what was there still is.
    pub fn add(&mut self, ebpf: &mut Ebpf, next: &Entries) -> Result<(), XdpError> {
        // A VIP last: until then nothing of it is kept from the kernel.
        for (key, ports) in &next.nat {
            nat(ebpf)?.insert(key, ports, 0).map_err(|e| map_error("nat", &e))?;
            self.entries.nat.insert(*key, *ports);
        }
        for key in missing_from(&self.entries.servers, &next.servers) {
            set(ebpf, "servers")?.insert(key, 1, 0).map_err(|e| map_error("servers", &e))?;
            self.entries.servers.insert(key);
        }
        for key in missing_from(&self.entries.vips, &next.vips) {
            set(ebpf, "vips")?.insert(key, 1, 0).map_err(|e| map_error("vips", &e))?;
            self.entries.vips.insert(key);
        }
        Ok(())
    }

    /// Removes what is not in `next`.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn remove_stale(&mut self, ebpf: &mut Ebpf, next: &Entries) -> Result<(), XdpError> {
        for key in missing_from(&next.vips, &self.entries.vips) {
            set(ebpf, "vips")?.remove(&key).map_err(|e| map_error("vips", &e))?;
            self.entries.vips.remove(&key);
        }
        for key in missing_from(&next.servers, &self.entries.servers) {
            set(ebpf, "servers")?.remove(&key).map_err(|e| map_error("servers", &e))?;
            self.entries.servers.remove(&key);
        }
        let gone: Vec<_> = self.entries.nat.keys().filter(|k| !next.nat.contains_key(*k)).copied().collect();
        for key in gone {
            nat(ebpf)?.remove(&key).map_err(|e| map_error("nat", &e))?;
            self.entries.nat.remove(&key);
        }
        Ok(())
    }
}

fn set<'a>(
    ebpf: &'a mut Ebpf,
    map: &'static str,
) -> Result<BpfHashMap<&'a mut MapData, [u8; 20], u32>, XdpError> {
    let data = ebpf.map_mut(map).ok_or_else(|| missing(map))?;
    BpfHashMap::try_from(data).map_err(|e| map_error(map, &e))
}

fn nat(ebpf: &mut Ebpf) -> Result<BpfHashMap<&mut MapData, [u8; 20], [u8; 16]>, XdpError> {
    let data = ebpf.map_mut("nat").ok_or_else(|| missing("nat"))?;
    BpfHashMap::try_from(data).map_err(|e| map_error("nat", &e))
}

fn missing_from(set: &HashSet<[u8; 20]>, wanted: &HashSet<[u8; 20]>) -> Vec<[u8; 20]> {
    wanted.difference(set).copied().collect()
}

pub fn missing(map: &'static str) -> XdpError {
    XdpError::Map { map, reason: "the object has no such map".into() }
}

pub fn map_error(map: &'static str, error: &dyn std::error::Error) -> XdpError {
    XdpError::Map { map, reason: reason(error) }
}
