//! What connections of clients tell about a server: failures in a row, reported to who may take it out for a while.
//!
//! A failure is a connect that failed, or a server that resets or closes first, before its first byte, though the client
//! had sent something. A success is its first byte, or an end in good order that the client began. What says nothing: a
//! server that ends a connection on which nobody has spoken, a client that leaves one that hangs, and whatever goes wrong
//! on this side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use convey_core::{Backend, Event, FailureStreak, Reason, ReasonCounters, Server};

use crate::shared::Shared;

/// One connection as a witness; there is none where the backend's `eject_after` is 0.
#[derive(Debug)]
pub(crate) struct Witness {
    shared: Arc<Shared>,
    limit: u32,
    streak: Arc<FailureStreak>,
    reasons: Arc<ReasonCounters>,
    backend: Arc<str>,
    server: Arc<str>,
    /// It has said what it had to say. One task writes.
    heard: AtomicBool,
}

impl Witness {
    pub fn new(shared: &Arc<Shared>, backend: &Backend, server: &Server) -> Option<Box<Self>> {
        (backend.eject_after != 0).then(|| {
            Box::new(Self {
                shared: shared.clone(),
                limit: backend.eject_after,
                streak: server.failures.clone(),
                reasons: server.reasons.clone(),
                backend: backend.name.clone(),
                server: server.name.clone(),
                heard: AtomicBool::new(false),
            })
        })
    }

    /// A byte of the server's has come.
    pub fn answered(&self) {
        if !self.heard.load(Relaxed) {
            self.heard.store(true, Relaxed);
            self.streak.succeeded();
        }
    }

    /// Both have sent their FIN; where the server's came first without a byte, that was told before.
    pub fn ended_well(&self) {
        self.answered();
    }

    /// The server has ended first. `owed`: whether the client had sent something and may wait for an answer.
    pub fn left_by_server(&self, owed: bool) {
        if self.heard.swap(true, Relaxed) || !owed {
            return;
        }
        self.reasons.count(Reason::ServerUnanswered);
        self.shared.reasons.count(Reason::ServerUnanswered);
        if self.streak.failed(self.limit) {
            let cause = "it ended the connection before its first byte";
            tell(&self.shared, self.limit, (&self.backend, &self.server), cause);
        }
    }
}

/// A connect has failed.
pub(crate) fn connect_failed(shared: &Shared, backend: &Backend, server: &Server, cause: &str) {
    if backend.eject_after != 0 && server.failures.failed(backend.eject_after) {
        tell(shared, backend.eject_after, (&backend.name, &server.name), cause);
    }
}

/// Never thinned: it comes once for each row of failures.
fn tell(shared: &Shared, failures: u32, (backend, server): (&Arc<str>, &Arc<str>), cause: &str) {
    let (backend, server, cause) = (backend.clone(), server.clone(), cause.to_owned());
    shared.events.send(Event::ServerFailing { backend, server, failures, cause });
}
