//! The byte counters one connection writes to: the connection itself, total, frontend, backend, server.

use std::sync::Arc;

use convey_core::{ConnCounters, Reason, ReasonCounters};

use crate::connections::Connection;
use crate::limits::ServerPlace;
use crate::log::Fate;
use crate::passive::Witness;
use crate::shared::Shared;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Client to server.
    Tx,
    /// Server to client.
    Rx,
}

/// Where one connection's bytes and end are counted.
#[derive(Debug)]
pub(crate) struct Meters {
    pub shared: Arc<Shared>,
    pub worker: usize,
    pub connection: Arc<Connection>,
    pub frontend: Arc<ConnCounters>,
    pub frontend_reasons: Arc<ReasonCounters>,
    /// Holds the connection's places at server and backend, and their counters with them.
    pub server: ServerPlace,
    /// Where failures of the server are counted.
    pub witness: Option<Box<Witness>>,
}

impl Meters {
    /// Counts `bytes` that the receiving socket has taken.
    pub fn delivered(&self, way: Way, bytes: u64) {
        self.connection.delivered(way, bytes);
        if let (Some(witness), Way::Rx) = (&self.witness, way) {
            witness.answered();
        }
        let add = match way {
            Way::Tx => ConnCounters::add_tx,
            Way::Rx => ConnCounters::add_rx,
        };
        add(&self.shared.totals, self.worker, bytes);
        add(&self.frontend, self.worker, bytes);
        add(self.server.server(), self.worker, bytes);
        add(self.server.backend(), self.worker, bytes);
    }

    /// Counts why the connection ended early.
    pub fn ended(&self, reason: Reason) {
        self.connection.story().ends(Fate::Ended(reason));
        self.shared.reasons.count(reason);
        self.frontend_reasons.count(reason);
    }
}
