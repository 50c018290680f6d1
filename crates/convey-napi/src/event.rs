//! Events as JavaScript sees them.

use convey_core::Event;
use napi_derive::napi;

/// What kind of event it is.
#[napi(string_enum = "kebab-case")]
pub enum NativeEventKind {
    ServerConnectFailed,
    ServerFailing,
    AcceptBackoff,
    WorkerPanicked,
    Warning,
}

/// An event of the data plane; fields that do not apply are empty.
#[napi(object)]
pub struct NativeEvent {
    pub kind: NativeEventKind,
    /// Frontend the event is about, or "".
    pub frontend: String,
    /// Backend the event is about, or "".
    pub backend: String,
    /// Server the event is about, or "".
    pub server: String,
    /// Worker thread the event is about, or "".
    pub worker: String,
    /// For `worker-panicked`: whether it runs again.
    pub restarted: bool,
    /// The cause, for people.
    pub message: String,
}

impl From<Event> for NativeEvent {
    fn from(event: Event) -> Self {
        let empty = |kind, message| Self {
            kind,
            frontend: String::new(),
            backend: String::new(),
            server: String::new(),
            worker: String::new(),
            restarted: false,
            message,
        };
        match event {
            Event::ServerConnectFailed { backend, server, cause } => Self {
                backend: backend.to_string(),
                server: server.to_string(),
                ..empty(NativeEventKind::ServerConnectFailed, cause)
            },
            Event::ServerFailing { backend, server, failures, cause } => Self {
                backend: backend.to_string(),
                server: server.to_string(),
                ..empty(
                    NativeEventKind::ServerFailing,
                    format!("{failures} failures in a row, last: {cause}"),
                )
            },
            Event::AcceptBackoff { frontend, cause } => {
                Self { frontend: frontend.to_string(), ..empty(NativeEventKind::AcceptBackoff, cause) }
            }
            Event::WorkerPanicked { worker, cause, restarted } => {
                Self { worker, restarted, ..empty(NativeEventKind::WorkerPanicked, cause) }
            }
            Event::Warning { message } => empty(NativeEventKind::Warning, message),
        }
    }
}
