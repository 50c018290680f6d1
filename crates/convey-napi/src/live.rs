//! Decisions as they are made, told to JavaScript in batches.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use convey_core::{Protocol, Taken};
use convey_runtime::{LiveDecision, LiveWatch};
use napi_derive::napi;

use crate::error::{Result, internal};
use crate::explain::NativeExplanation;

/// How long decisions wait for others to be told with.
const PAUSE: Duration = Duration::from_millis(50);

/// A decision on a packet, in proxy mode on a connection.
#[napi(object)]
pub struct NativeLiveDecision {
    /// When, in milliseconds since 1970.
    pub at_ms: f64,
    /// "tcp" or "udp".
    pub protocol: String,
    /// Where the packet came from: `ip:port`, IPv6 in brackets.
    pub source: String,
    /// What it was sent to.
    pub destination: String,
    pub explanation: NativeExplanation,
}

/// Decisions made since the last batch.
#[napi(object)]
pub struct NativeLiveBatch {
    pub decisions: Vec<NativeLiveDecision>,
    /// How many found no room, from the beginning.
    pub lost: f64,
    /// There will be no more.
    pub ended: bool,
}

/// Decisions that are watched.
#[napi]
pub struct ExplainWatch {
    stop: Arc<Stop>,
}

/// Told by JavaScript, heard by the thread that watches.
#[derive(Default)]
struct Stop {
    is_wanted: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn tell(&self) {
        *self.is_wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it was told, after a wait of at most `pause`.
    fn heard(&self, pause: Duration) -> bool {
        let is_wanted = self.is_wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_wanted, pause, |is_wanted| !*is_wanted);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[napi]
impl ExplainWatch {
    /// Ends it; a last batch comes. Idempotent.
    #[napi(catch_unwind)]
    pub fn stop(&self) {
        self.stop.tell();
    }
}

impl Drop for ExplainWatch {
    fn drop(&mut self) {
        self.stop.tell();
    }
}

/// Tells `told` what `watch` gets, on a thread of its own, until it is over, stopped, or `duration` has passed.
pub fn follow(
    watch: LiveWatch,
    duration: Duration,
    is_closed: impl Fn() -> bool + Send + 'static,
    told: impl Fn(NativeLiveBatch) + Send + 'static,
) -> Result<ExplainWatch> {
    let stop: Arc<Stop> = Arc::default();
    let thread = {
        let (stop, end) = (stop.clone(), Instant::now() + duration);
        move || {
            let mut known_lost = 0;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let is_stopped = stop.heard(PAUSE.min(left)) || is_closed();
                let Taken { decisions, lost, is_over } = watch.take();
                let ended = is_stopped || is_over || Instant::now() >= end;
                let has_news = !decisions.is_empty() || lost != known_lost;
                let batch = || NativeLiveBatch {
                    decisions: decisions.into_iter().map(NativeLiveDecision::from).collect(),
                    lost: lost as f64,
                    ended,
                };
                if ended {
                    // Whoever hears of the end may begin another watch.
                    drop(watch);
                    return told(batch());
                }
                if has_news {
                    known_lost = lost;
                    told(batch());
                }
            }
        }
    };
    thread::Builder::new().name("convey-watch".to_owned()).spawn(thread).map_err(|e| internal(&e))?;
    Ok(ExplainWatch { stop })
}

impl From<LiveDecision> for NativeLiveDecision {
    fn from(LiveDecision { at, protocol, source, destination, explanation }: LiveDecision) -> Self {
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as f64;
        Self {
            at_ms: since(at),
            protocol: match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            source: source.to_string(),
            destination: destination.to_string(),
            explanation: explanation.into(),
        }
    }
}
