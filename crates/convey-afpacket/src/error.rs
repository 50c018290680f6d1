//! Why this engine cannot start.

use std::io;

use convey_engine::{EngineError, EngineErrorKind};

pub fn permission(source: io::Error) -> EngineError {
    EngineError::new(
        EngineErrorKind::Permission,
        "Cannot open a packet socket: this process lacks CAP_NET_RAW",
        "run as root or grant the capability (systemd: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN)",
    )
    .caused_by(source)
}

/// `what` is the step that failed.
pub fn socket(what: &str, source: io::Error) -> EngineError {
    let cause = format!("Cannot set up a packet socket ({what}): {source}");
    EngineError::new(EngineErrorKind::Failed, cause, "this engine needs Linux 4.20 or later")
        .caused_by(source)
}

pub fn thread(name: &str, source: io::Error) -> EngineError {
    let cause = format!("Cannot start thread {name}: {source}");
    EngineError::new(EngineErrorKind::Failed, cause, "").caused_by(source)
}
