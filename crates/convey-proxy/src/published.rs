//! The configuration that new connections go by.

use std::sync::Arc;

use convey_core::Snapshot;

/// A snapshot with the frontend of each listener.
#[derive(Debug)]
pub(crate) struct Published {
    pub snapshot: Arc<Snapshot>,
    /// Listener id and index into the snapshot's frontends.
    pub routes: Vec<(u64, usize)>,
}

impl Published {
    /// The frontend that listens through `group`.
    pub fn frontend_of(&self, group: u64) -> Option<usize> {
        self.routes.iter().find(|(id, _)| *id == group).map(|(_, frontend)| *frontend)
    }
}
