//! Reports upward, thinned so that a dead server under load does not flood the control plane, and kept
//! apart from the data path: a sink that panics costs the event, not more, unless the caller wants it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use convey_core::{Event, EventSink};

/// At most one event a server (or other subject) in this time.
const SPACING: Duration = Duration::from_millis(100);
/// Subjects remembered before stale ones are forgotten.
const REMEMBERED: usize = 4096;

pub(crate) struct Events {
    sink: EventSink,
    last: Mutex<HashMap<Subject, Instant>>,
}

/// What an event is about, for thinning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject(pub &'static str, pub Arc<str>, pub Arc<str>);

impl Events {
    pub fn new(sink: EventSink) -> Self {
        Self { sink, last: Mutex::new(HashMap::new()) }
    }

    /// Reports `event` now.
    pub fn send(&self, event: Event) {
        (self.sink)(event);
    }

    /// Reports `event` from a place that must survive a sink that panics.
    pub fn send_guarded(&self, event: Event) {
        // The panic hook has already printed what the sink had to say; there is nobody else to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.sink)(event)));
    }

    /// Reports what `event` makes unless `subject` was reported a moment ago.
    pub fn send_thinned(&self, subject: Subject, event: impl FnOnce() -> Event) {
        if self.is_due(subject) {
            self.send(event());
        }
    }

    fn is_due(&self, subject: Subject) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= REMEMBERED {
            last.retain(|_, at| now.duration_since(*at) < SPACING);
        }
        match last.get(&subject) {
            Some(at) if now.duration_since(*at) < SPACING => false,
            _ => {
                last.insert(subject, now);
                true
            }
        }
    }
}
