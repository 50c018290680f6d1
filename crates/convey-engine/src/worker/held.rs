//! What flows hold besides their place: NAT ports, places among the open connections, slots.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use convey_core::ConnCounters;
use convey_core::conntrack::{Flow, Memory, flags};

use super::ports::PortPools;
use crate::snapshot::{PacketFrontend, PacketServer, PacketSnapshot, SlotUse};

/// Where connections that are open are counted: in the snapshot's counters, or in memory that programs in the kernel
/// count in as well, by slot.
#[derive(Debug)]
pub(crate) enum Gauges {
    Snapshot,
    Kernel(KernelGauges),
}

/// Pairs of words: connections open, connections begun.
#[derive(Debug)]
pub struct KernelGauges {
    /// Of all together.
    pub total: Memory<AtomicU64>,
    /// By slot of the frontend.
    pub frontends: Memory<AtomicU64>,
    /// By slot of the server.
    pub servers: Memory<AtomicU64>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Opened,
    /// It was open before, so that it is none more in the total.
    OpenAgain,
    Closed,
    /// It was counted as opened by mistake.
    Undone,
}

/// What the flows of a worker hold.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) ports: PortPools,
    pub(super) gauges: Gauges,
}

impl Held {
    /// Gives back what a flow that has left the table held.
    pub(super) fn settle(&mut self, flow: &Flow, snapshot: &PacketSnapshot) {
        if flow.has(flags::HAS_PORT) {
            self.ports.release(flow.pool, flow.nat_port);
        }
        if flow.has(flags::COUNTED) {
            self.gauges.change(flow, snapshot, Turn::Closed);
        }
        self.uses_slots(flow, snapshot, |slot| {
            slot.flows.fetch_sub(1, Release);
        });
    }

    /// A flow names its slots from now on.
    pub(super) fn begin(&self, flow: &Flow, snapshot: &PacketSnapshot) {
        self.uses_slots(flow, snapshot, |slot| {
            // Published with the next generation this worker adopts.
            slot.flows.fetch_add(1, Relaxed);
        });
    }

    fn uses_slots(&self, flow: &Flow, snapshot: &PacketSnapshot, change: impl Fn(&SlotUse)) {
        // What programs in the kernel begin and end is counted by looking at all flows.
        if matches!(self.gauges, Gauges::Kernel(_)) {
            return;
        }
        if let Some(frontend) = snapshot.frontend(flow.frontend) {
            change(&frontend.slot_use);
        }
        if let Some(server) = snapshot.server(flow.server) {
            change(&server.slot_use);
        }
    }

    /// Counts the flow among those that are open.
    pub(super) fn open(&self, flow: &mut Flow, snapshot: &PacketSnapshot, turn: Turn) {
        // With minimal tracking some of the connections would pass for all of them.
        if !snapshot.is_minimal() && !flow.has(flags::COUNTED) {
            flow.flags |= flags::COUNTED;
            self.gauges.change(flow, snapshot, turn);
        }
    }

    /// What was counted of a change that did not come about.
    pub(super) fn take_back(&self, was: &Flow, flow: &Flow, snapshot: &PacketSnapshot) {
        match (was.has(flags::COUNTED), flow.has(flags::COUNTED)) {
            (false, true) => self.gauges.change(flow, snapshot, Turn::Undone),
            (true, false) => self.gauges.change(flow, snapshot, Turn::OpenAgain),
            _ => {}
        }
    }

    /// Counts the flow among those that are open no more.
    pub(super) fn close(&self, flow: &mut Flow, snapshot: &PacketSnapshot) {
        if flow.has(flags::COUNTED) {
            flow.flags &= !flags::COUNTED;
            self.gauges.change(flow, snapshot, Turn::Closed);
        }
    }
}

impl Gauges {
    /// Total, frontend, backend and server of a flow.
    pub(super) fn change(&self, flow: &Flow, snapshot: &PacketSnapshot, turn: Turn) {
        match self {
            Self::Snapshot => {
                change_counters(snapshot.totals(), turn);
                if let Some(frontend) = snapshot.frontend(flow.frontend) {
                    change_counters(&frontend.counters, turn);
                }
                if let Some(server) = snapshot.server(flow.server) {
                    change_counters(&server.backend_counters, turn);
                    change_counters(&server.counters, turn);
                }
            }
            Self::Kernel(gauges) => {
                change_words(&gauges.total, 0, turn);
                change_words(&gauges.frontends, flow.frontend, turn);
                change_words(&gauges.servers, flow.server, turn);
            }
        }
    }

    /// Connections open in total.
    pub(crate) fn open_in_total(&self, snapshot: &PacketSnapshot) -> u64 {
        match self {
            Self::Snapshot => snapshot.totals().open(),
            Self::Kernel(gauges) => open_at(&gauges.total, 0),
        }
    }

    /// Connections open at a frontend.
    pub(crate) fn open_at_frontend(&self, slot: u16, frontend: &PacketFrontend) -> u64 {
        match self {
            Self::Snapshot => frontend.counters.open(),
            Self::Kernel(gauges) => open_at(&gauges.frontends, slot),
        }
    }

    /// Connections open at a server.
    pub(crate) fn open_at_server(&self, slot: u16, server: &PacketServer) -> u64 {
        match self {
            Self::Snapshot => server.counters.open(),
            Self::Kernel(gauges) => open_at(&gauges.servers, slot),
        }
    }
}

fn change_counters(counters: &ConnCounters, turn: Turn) {
    match turn {
        Turn::Opened => counters.opened(),
        Turn::OpenAgain => {
            counters.try_reserve(0);
        }
        Turn::Closed => counters.closed(),
        Turn::Undone => counters.undo_opened(),
    }
}

fn change_words(gauges: &[AtomicU64], slot: u16, turn: Turn) {
    let at = usize::from(slot) * 2;
    let (Some(open), Some(total)) = (gauges.get(at), gauges.get(at + 1)) else { return };
    match turn {
        Turn::Opened | Turn::OpenAgain => open.fetch_add(1, Relaxed),
        Turn::Closed | Turn::Undone => open.fetch_sub(1, Relaxed),
    };
    match turn {
        Turn::Opened => total.fetch_add(1, Relaxed),
        Turn::Undone => total.fetch_sub(1, Relaxed),
        Turn::OpenAgain | Turn::Closed => 0,
    };
}

fn open_at(gauges: &[AtomicU64], slot: u16) -> u64 {
    gauges.get(usize::from(slot) * 2).map_or(0, |open| open.load(Relaxed))
}
