//! Questions to a worker about its flows, answered by itself between batches: nobody else may look at its flow
//! table, and it may not wait for anybody.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use convey_core::Protocol;
use convey_engine::{Explanation, NextHops, PacketSnapshot, Worker, explain};

/// Requests that may wait for one worker.
const MAX_WAITING: usize = 64;

/// A packet that somebody asks about.
pub(crate) struct ExplainRequest {
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) answer: SyncSender<Explanation>,
}

/// What waits for one worker.
#[derive(Default)]
pub(crate) struct ExplainQueue {
    /// All that the packet path looks at.
    any: AtomicBool,
    waiting: Mutex<Vec<ExplainRequest>>,
}

impl ExplainQueue {
    /// Answers what waits. Without a request this is one load.
    pub(crate) fn answer(
        &self,
        snapshot: &ArcSwap<PacketSnapshot>,
        next_hops: &ArcSwap<NextHops>,
        worker: &Worker,
    ) {
        if !self.any.load(Relaxed) {
            return;
        }
        self.any.store(false, Relaxed);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let (snapshot, next_hops) = (snapshot.load(), next_hops.load());
        for ExplainRequest { protocol, source, destination, answer } in waiting {
            // Who asked may have given up.
            let _ = answer.try_send(explain(protocol, source, destination, &snapshot, &next_hops, worker));
        }
    }

    /// Adds a request; false when too many wait.
    pub(crate) fn push(&self, request: ExplainRequest) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push(request);
        self.any.store(true, Relaxed);
        true
    }
}
