//! What is counted for frontends, backends and servers.

use convey_core::conntrack::Direction;
use convey_core::{ConnCounters, Reason};

use crate::snapshot::{PacketFrontend, PacketSnapshot};
use crate::verdict::DropReason;

/// Counts a packet and its payload for its flow's frontend, backend and server, in the shard of this worker.
pub(crate) fn account(
    (frontend, server): (u16, u16),
    from: Direction,
    payload_len: u32,
    snapshot: &PacketSnapshot,
    worker: usize,
) {
    let add = |counters: &ConnCounters| match from {
        Direction::FromClient => counters.add_tx_packet(worker, u64::from(payload_len)),
        Direction::FromServer => counters.add_rx_packet(worker, u64::from(payload_len)),
    };
    add(snapshot.totals());
    if let Some(frontend) = snapshot.frontend(frontend) {
        add(&frontend.counters);
    }
    if let Some(server) = snapshot.server(server) {
        add(&server.backend_counters);
        add(&server.counters);
    }
}

/// Counts a refusal for its frontend and in total.
pub(crate) fn count_refusal(reason: DropReason, frontend: &PacketFrontend, snapshot: &PacketSnapshot) {
    let reason = match reason {
        DropReason::Denied => Reason::Denied,
        DropReason::NoServer => Reason::NoServer,
        DropReason::LimitTotal => Reason::LimitTotal,
        DropReason::LimitFrontend => Reason::LimitFrontend,
        DropReason::LimitServer => Reason::LimitServer,
        DropReason::PortsExhausted => Reason::PortsExhausted,
        _ => return,
    };
    frontend.reasons.count(reason);
    snapshot.reasons().count(reason);
}
