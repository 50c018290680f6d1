//! What the list of connections tells of a session beside what it tells of a connection, and how it is ended from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use convey_core::FlowStage;

use super::exchange::Exchange;
use super::group::Mailbox;
use super::table::Id;

/// Its worker writes, whoever lists reads.
#[derive(Debug)]
pub(crate) struct Datagrams {
    mailbox: Arc<Mailbox>,
    id: AtomicU64,
    count: AtomicU64,
    stage: AtomicU8,
    /// Milliseconds from the session's beginning to its last datagram.
    last_ms: AtomicU64,
    timeout_ms: AtomicU64,
}

impl Datagrams {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self {
            mailbox,
            id: AtomicU64::new(u64::MAX),
            count: AtomicU64::new(0),
            stage: AtomicU8::new(0),
            last_ms: AtomicU64::new(0),
            timeout_ms: AtomicU64::new(0),
        }
    }

    /// The session's name in the table of its worker.
    pub(super) fn is(&self, id: Id) {
        self.id.store(id.to_u64(), Relaxed);
    }

    /// Some went through, `age` after the beginning.
    pub(super) fn went(&self, exchange: &Exchange, age: Duration, timeout: Duration) {
        let stage = match exchange {
            Exchange { responses: 0, .. } => 0,
            Exchange { is_conversation: false, .. } => 1,
            Exchange { .. } => 2,
        };
        self.stage.store(stage, Relaxed);
        self.count.store(exchange.requests + exchange.responses, Relaxed);
        self.last_ms.store(millis(age), Relaxed);
        self.timeout_ms.store(millis(timeout), Relaxed);
    }

    /// How many went through, of both sides.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn stage(&self) -> FlowStage {
        [FlowStage::New, FlowStage::HalfOpen, FlowStage::Established][self.stage.load(Relaxed) as usize % 3]
    }

    /// Since the last one, of a session that began at `since`.
    pub fn idle(&self, since: Instant) -> Duration {
        since.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Relaxed)))
    }

    /// How long it lives without one.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Relaxed))
    }

    /// Has its worker end it.
    pub fn end(&self) {
        self.mailbox.end(self.id.load(Relaxed));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
