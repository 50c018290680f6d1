//! What the data plane reports upward. Events are advice: losing one loses a log line, never a decision.

use std::sync::Arc;

/// Something the control plane wants to know about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connect to a server failed in the data path; a passive health signal.
    ServerConnectFailed {
        /// Backend name.
        backend: Arc<str>,
        /// Server name within the backend.
        server: Arc<str>,
        /// What the connect answered, for people.
        cause: String,
    },
    /// As many connections to a server have failed in a row as its backend has reported.
    ServerFailing {
        /// Backend name.
        backend: Arc<str>,
        /// Server name within the backend.
        server: Arc<str>,
        /// How many.
        failures: u32,
        /// What the last one was, for people.
        cause: String,
    },
    /// Accepting paused because a resource ran out; it resumes by itself.
    AcceptBackoff {
        /// Frontend name.
        frontend: Arc<str>,
        /// What ran out, for people.
        cause: String,
    },
    /// A data-plane thread panicked. `restarted` tells whether it runs again.
    WorkerPanicked {
        /// Thread name.
        worker: String,
        /// The panic message.
        cause: String,
        /// Whether the worker was started again.
        restarted: bool,
    },
    /// The data plane noticed something a person should read.
    Warning {
        /// The message.
        message: String,
    },
}

/// Takes events; must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;
