//! File descriptors or memory running out, as a worker notices it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How long accepting pauses when a resource has run out.
pub(crate) const BACKOFF: Duration = Duration::from_millis(100);
/// A shortage not seen for this long is over.
const EPISODE_GAP: Duration = Duration::from_secs(5);

/// Whether file descriptors or memory are short on this worker. One episode is one event, however often
/// it shows before it is over.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    pause: AtomicBool,
    last_seen: Mutex<Option<Instant>>,
}

impl Shortage {
    /// Notes that something ran out, so that accepting pauses; true when an episode begins.
    pub fn note(&self) -> bool {
        self.pause();
        let mut last_seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        last_seen.replace(Instant::now()).is_none_or(|at| at.elapsed() > EPISODE_GAP)
    }

    /// Has accepting pause without a word.
    pub fn pause(&self) {
        self.pause.store(true, Relaxed);
    }

    /// Whether accepting is to pause now.
    pub fn take_pause(&self) -> bool {
        self.pause.load(Relaxed) && self.pause.swap(false, Relaxed)
    }
}

/// Whether `error` says that this host is short of something, not that anything is wrong with the peer.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
