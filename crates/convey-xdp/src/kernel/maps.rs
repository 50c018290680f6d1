//! The maps by name, with what must be the same for a program to go on with those of another process: nobody but us
//! compares them.

use aya::maps::{MapData, MapInfo};
use convey_bpf::directory::{LINE_BYTES, LINES};
use convey_bpf::tables::{
    CLIENT_HOP_BYTES, CLIENT_HOPS, Config, Frontend, REASONS, Server, USE_LINES, watches,
};
use convey_core::nat_ports::{Partition, PortPool};

use super::Sizes;
use crate::error::reason;
use crate::pins::PinFolder;

/// Sets that share a line of spills.
const SPILLS: u32 = 16;

const LATER_SYNS: u32 = 1024;
const FRAGMENTS: u32 = 4096;
const PROBE_CLASSES: u32 = 6;
/// A ring with room for a long record.
const RING_MIN: u32 = 1 << 14;

pub(super) struct Shape {
    pub(super) name: &'static str,
    key: u32,
    value: u32,
    pub(super) entries: u32,
}

/// All maps that are not part of a program.
pub(super) fn shapes(sizes: &Sizes) -> Vec<Shape> {
    let shape = |name, key, value: usize, entries| Shape { name, key, value: value as u32, entries };
    let Sizes { sets4, sets6, frontends, servers, minimal, .. } = *sizes;
    let backends = sizes.backends.max(1);
    let paths = sizes.paths.max(1);
    let words = PortPool::words(partition(sizes)) as u32;
    vec![
        shape("config", 4, Config::BYTES, 1),
        shape("watches", 4, watches::BYTES, 1),
        shape("directory", 4, LINE_BYTES, 2 * LINES as u32),
        shape("vips6", 20, 4, frontends),
        shape("former_vips", 20, 4, frontends),
        shape("addresses", 16, 4, frontends.saturating_add(paths)),
        shape("fragments", 40, 4, FRAGMENTS),
        shape("paths6", 36, 4, paths),
        shape("path_sources", 4, 16, paths),
        shape("frontends", 4, Frontend::BYTES, frontends),
        shape("servers", 4, Server::BYTES, servers),
        shape("tables", 4, 4, if minimal { 1 } else { backends }),
        shape("places", 4, 4, if minimal { backends } else { 1 }),
        shape("access", 4, 4, frontends),
        shape("slot_uses", 4, 128, if minimal { USE_LINES } else { 1 }),
        shape("flows4", 4, 128, sets4),
        shape("flows6", 4, 128, sets6),
        shape("spills4", 4, 64, sets4.div_ceil(SPILLS)),
        shape("spills6", 4, 64, sets6.div_ceil(SPILLS)),
        shape("nat_ports", 4, 8, paths.saturating_mul(words)),
        shape("later_syns", 4, 8, LATER_SYNS),
        shape("frontend_gauges", 4, 16, frontends),
        shape("server_gauges", 4, 16, servers),
        shape("shared", 4, 24, 1),
        shape("frontend_traffic", 4, 32, frontends),
        shape("server_traffic", 4, 32, servers),
        shape("reasons", 4, 8, REASONS.len() as u32),
        shape("refusals", 4, 48, frontends),
        shape("nat_port_probes", 4, 8, PROBE_CLASSES),
        shape("client_hops", 4, CLIENT_HOP_BYTES, CLIENT_HOPS),
        shape("slow_path", 0, 0, sizes.ring_bytes.max(RING_MIN)),
    ]
}

/// The NAT ports of a path.
pub(super) fn partition(sizes: &Sizes) -> Partition {
    let width = sizes.nat_width.clamp(1, 65_536 - u32::from(sizes.nat_first));
    let last = u32::from(sizes.nat_first) + width - 1;
    Partition { first: sizes.nat_first, last: last as u16, stride: 1, remainder: 0 }
}

impl Shape {
    pub(super) fn check(&self, info: &MapInfo) -> Result<(), String> {
        let found = (info.key_size(), info.value_size(), info.max_entries());
        let wanted = (self.key, self.value, self.entries);
        if found == wanted {
            return Ok(());
        }
        Err(format!(
            "its map {} has keys of {} bytes, values of {} and {} entries, where {}, {} and {} are needed",
            self.name, found.0, found.1, found.2, wanted.0, wanted.1, wanted.2
        ))
    }
}

/// Whether everything that is to be gone on with is in the folder and as it must be.
///
/// # Errors
/// What is not, in words.
pub(super) fn check_pinned(folder: &PinFolder, sizes: &Sizes) -> Result<(), String> {
    for shape in shapes(sizes) {
        let map = MapData::from_pin(folder.map(shape.name))
            .map_err(|e| format!("its map {} cannot be opened: {}", shape.name, reason(&e)))?;
        let info = map.info().map_err(|e| format!("its map {}: {}", shape.name, reason(&e)))?;
        shape.check(&info)?;
    }
    Ok(())
}
