//! Which slots the flows of a table name that programs in the kernel write to: they do not tell, so that all flows are
//! looked at again and again.

use std::sync::atomic::Ordering::Release;

use convey_core::conntrack::FlowTable;

use crate::snapshot::{PacketSnapshot, SlotUse};

const SLOTS: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Census {
    /// The next entry to look at.
    at: usize,
    /// The snapshot that the programs went by before the first entry was looked at.
    generation: u64,
    flows: u64,
    frontends: Box<[u32]>,
    servers: Box<[u32]>,
    /// Flows counted last.
    counted: u64,
}

impl Default for Census {
    fn default() -> Self {
        let zeros = || vec![0; SLOTS].into_boxed_slice();
        Self { at: 0, generation: 0, flows: 0, frontends: zeros(), servers: zeros(), counted: 0 }
    }
}

impl Census {
    /// Looks at the next `budget` entries. What has been counted is told once all were looked at: the snapshot that was
    /// in force when that began is adopted then, as whoever left before has no flows but those that were met.
    pub(super) fn step(&mut self, flows: &FlowTable, snapshot: &PacketSnapshot, budget: usize) {
        let all = flows.all_entries();
        if self.at == 0 {
            self.generation = snapshot.generation();
            self.flows = 0;
            self.frontends.fill(0);
            self.servers.fill(0);
        }
        let end = (self.at + budget).min(all);
        for flow in flows.flows_at(self.at..end) {
            self.flows += 1;
            self.frontends[usize::from(flow.frontend)] += 1;
            self.servers[usize::from(flow.server)] += 1;
        }
        self.at = end % all.max(1);
        if self.at == 0 {
            self.counted = self.flows;
            self.tell(snapshot);
        }
    }

    /// Flows as of the last time that all entries were looked at.
    pub(super) fn flows(&self) -> usize {
        self.counted as usize
    }

    fn tell(&self, snapshot: &PacketSnapshot) {
        let tell = |slot: &SlotUse, flows: u32| slot.flows.store(u64::from(flows), Release);
        for (slot, frontend) in snapshot.frontends() {
            tell(&frontend.slot_use, self.frontends[usize::from(slot)]);
        }
        for (slot, server) in snapshot.servers() {
            tell(&server.slot_use, self.servers[usize::from(slot)]);
        }
        snapshot.adopt_all(self.generation);
    }
}
