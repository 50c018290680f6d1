//! The state one thread owns: flows, NAT ports, counters.

use std::sync::Arc;

use crate::counters::WorkerCounters;
use crate::meta::Nanos;
use crate::snapshot::PacketSnapshot;

/// Flows, NAT ports and counters of one thread.
#[derive(Debug)]
pub struct Worker {
    counters: Arc<WorkerCounters>,
}

impl Worker {
    /// Worker `index` of the workers `snapshot` was built for. Reserves its flow table.
    pub fn new(index: usize, snapshot: &PacketSnapshot) -> Self {
        let _ = (index, snapshot);
        Self { counters: Arc::default() }
    }

    /// Its counters, for any thread to read.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        self.counters.clone()
    }

    /// Ends flows whose time is over. A bounded amount of work a call; call it between batches, many times a
    /// second.
    pub fn tick(&mut self, snapshot: &PacketSnapshot, now: Nanos) {
        let _ = (snapshot, now);
    }

    /// Flows held now.
    pub fn flows(&self) -> usize {
        0
    }
}
