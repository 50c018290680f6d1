//! The configuration that new connections go by.

use std::sync::Arc;

use convey_core::Snapshot;

/// A snapshot with the frontend of each listener.
#[derive(Debug)]
pub(crate) struct Published {
    pub snapshot: Arc<Snapshot>,
    /// Listener id and index into the snapshot's frontends, in the order of ids.
    pub routes: Vec<(u64, usize)>,
}

impl Published {
    /// The frontend that listens through `group`.
    pub fn frontend_of(&self, group: u64) -> Option<usize> {
        let at = self.routes.binary_search_by_key(&group, |(id, _)| *id).ok()?;
        self.routes.get(at).map(|(_, frontend)| *frontend)
    }
}
