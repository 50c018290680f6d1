//! What lets programs and their tables outlive the process, and what another process left of its own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{Map, MapData};
use convey_afpacket::monotonic;
use convey_core::Mode;
use convey_engine::{NatPath, PacketSnapshot, SavedFlows, SlotTable};
use convey_packet::Addr;

use super::sizes;
use crate::XdpError;
use crate::error::reason;
use crate::kernel::{Path, TableRecord};
use crate::mapped::MapMemory;
use crate::pins::PinFolder;

/// Where an engine pins what it makes, and goes on with what another has pinned.
#[derive(Clone)]
pub struct Pins {
    /// The folder, ours.
    pub folder: Arc<PinFolder>,
    /// What was written down of the tables in it, where they are to be gone on with.
    pub adopted: Option<TableRecord>,
    /// Other folders of killed balancers, whose links make way.
    pub former: Vec<PathBuf>,
    /// Writes down what tables and their numbers stand for, before anybody goes by them. Tells whether it is written.
    pub write: Arc<dyn Fn(&TableRecord) -> bool + Send + Sync>,
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl TableRecord {
    /// Whether an engine for `snapshot` can go on with these tables.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn suits(&self, snapshot: &PacketSnapshot) -> Result<(), String> {
        self.check_layout()?;
        sizes::check_adopted(snapshot, &self.sizes, &self.nat_paths())
    }

    /// The flows in pinned tables, for an engine that cannot go on with these.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn read_flows(&self, folder: &PinFolder, slots: SlotTable) -> Result<SavedFlows, XdpError> {
        let error = |map, e: &dyn std::error::Error| XdpError::Map { map, reason: reason(e) };
        let memory = |name: &'static str| {
            let data = MapData::from_pin(folder.map(name)).map_err(|e| error(name, &e))?;
            let map = Map::from_map_data(data).map_err(|e| error(name, &e))?;
            Ok(MapMemory::new(&map).map_err(|e| error(name, &e))?.words32())
        };
        let (v4, v6) = (memory("flows4")?, memory("flows6")?);
        let nat: Vec<_> = self.paths.iter().map(|p| p.map(|p| path_of_record(p).nat)).collect();
        let mode = if self.sizes.passthrough { Mode::Passthrough } else { Mode::Dsr };
        Ok(SavedFlows::of_kernel(mode, [&v4, &v6], &nat, slots, monotonic()))
    }

    /// The NAT paths that have numbers.
    pub fn nat_paths(&self) -> Vec<NatPath> {
        self.paths.iter().flatten().map(|path| path_of_record(*path)).collect()
    }
}

pub(super) fn path_of_record(path: Path) -> NatPath {
    let bits = |ip| Addr::from(ip).bits();
    NatPath { nat: bits(path.nat), server: bits(path.server), port: path.port, protocol: path.protocol }
}

pub(super) fn path_as_written(path: NatPath) -> Path {
    let ip = |bits| Addr::from_bits(bits).into();
    Path { nat: ip(path.nat), server: ip(path.server), port: path.port, protocol: path.protocol }
}
