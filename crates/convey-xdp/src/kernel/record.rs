//! What has to be written down beside pinned maps for another process to go on with them.

use aya::maps::{Array, MapData};
use convey_bpf::tables::{Config, LAYOUT};
use serde::{Deserialize, Serialize};

use super::{Path, Sizes, maps};
use crate::XdpError;
use crate::error::reason;
use crate::pins::PinFolder;

/// What the maps do not say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// See [`LAYOUT`].
    pub layout: u32,
    /// What they were made for.
    pub sizes: Sizes,
    /// What the numbers of NAT paths stand for.
    pub paths: Vec<Option<Path>>,
}

impl TableRecord {
    /// Of maps as this version makes them.
    pub fn new(sizes: Sizes, paths: Vec<Option<Path>>) -> Self {
        Self { layout: LAYOUT, sizes, paths }
    }

    /// Whether this version knows the layout.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check_layout(&self) -> Result<(), String> {
        if self.layout == LAYOUT {
            return Ok(());
        }
        Err(format!("its tables have layout {}, this version of Convey has {LAYOUT}", self.layout))
    }

    /// Whether all that it tells of is in the folder: whoever took it away may have been killed.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn check_pinned(&self, folder: &PinFolder) -> Result<(), String> {
        maps::check_pinned(folder, &self.sizes)
    }
}

/// The seed that flows in the pinned maps are placed by.
///
/// # Errors
/// [`XdpError::Map`].
pub fn seed_in(folder: &PinFolder) -> Result<u64, XdpError> {
    let error = |e: &dyn std::error::Error| XdpError::Map { map: "config", reason: reason(e) };
    let map = MapData::from_pin(folder.map("config")).map_err(|e| error(&e))?;
    let map = aya::maps::Map::from_map_data(map).map_err(|e| error(&e))?;
    let config: Array<MapData, [u8; Config::BYTES]> =
        map.try_into().map_err(|e: aya::maps::MapError| error(&e))?;
    Ok(Config::from_bytes(&config.get(&0, 0).map_err(|e| error(&e))?).seed)
}
