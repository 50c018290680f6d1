//! What others ask of a worker about its flows, done by itself between batches: nobody else may change its flow
//! table, and it may not wait for anybody.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use convey_core::Protocol;
use convey_engine::{Explanation, Nanos, NextHops, PacketSnapshot, Seen, Worker, explain};

/// Requests that may wait for one worker.
const MAX_WAITING: usize = 64;

/// Something to be done by a worker. Who asked may have given up by then.
pub(crate) enum Request {
    /// What would become of a packet.
    Explain {
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        answer: SyncSender<Explanation>,
    },
    /// To end these flows; the answer is how many it were.
    End { flows: Vec<Seen>, answer: SyncSender<u64> },
}

/// What waits for one worker.
#[derive(Default)]
pub(crate) struct Requests {
    /// All that the packet path looks at.
    any: AtomicBool,
    waiting: Mutex<Vec<Request>>,
}

impl Requests {
    /// Does what waits, and tells whether there was something. Without a request this is one load.
    pub(crate) fn serve(
        &self,
        snapshot: &ArcSwap<PacketSnapshot>,
        next_hops: &ArcSwap<NextHops>,
        worker: &mut Worker,
        now: impl FnOnce() -> Nanos,
    ) -> bool {
        if !self.any.load(Relaxed) {
            return false;
        }
        self.any.store(false, Relaxed);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let (snapshot, next_hops, now) = (snapshot.load(), next_hops.load(), now());
        for request in waiting {
            match request {
                Request::Explain { protocol, source, destination, answer } => {
                    let _ = answer.try_send(explain(
                        protocol,
                        source,
                        destination,
                        &snapshot,
                        &next_hops,
                        worker,
                    ));
                }
                Request::End { flows, answer } => {
                    let _ = answer.try_send(worker.end_flows(&flows, &snapshot, now));
                }
            }
        }
        true
    }

    /// Adds a request.
    ///
    /// # Errors
    /// The request, when too many wait.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return Err(request);
        }
        waiting.push(request);
        self.any.store(true, Relaxed);
        Ok(())
    }
}
