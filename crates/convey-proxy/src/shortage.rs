//! File descriptors or memory running out, as a worker notices it, and how accepting keeps from it.
//!
//! Rule: near the limit on open files a client is accepted only when the descriptor for its server is in hand, and some are
//! left over for health checks and statistics. Others wait in the kernel's queue, where they cost nothing, and are not
//! accepted to be closed. Connections that stand are never touched.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// How long accepting pauses when a resource has run out.
pub(crate) const BACKOFF: Duration = Duration::from_millis(100);
/// A shortage not seen for this long is over.
const EPISODE_GAP: Duration = Duration::from_secs(5);

/// Whether file descriptors or memory are short on this worker. One episode is one event, however often
/// it shows before it is over.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    is_paused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_seen: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Shortage {
    /// Notes that something ran out, so that accepting pauses; true when an episode begins.
    pub fn note(&self) -> bool {
        self.pause();
        let now = Instant::now();
        self.state().last_seen.replace(now).is_none_or(|at| now.duration_since(at) > EPISODE_GAP)
    }

    /// Has all listeners of this worker pause without a word.
    pub fn pause(&self) {
        self.state().paused_until = Some(Instant::now() + BACKOFF);
        self.is_paused.store(true, Relaxed);
    }

    /// How long accepting is still to pause.
    pub fn paused_for(&self) -> Option<Duration> {
        if !self.is_paused.load(Relaxed) {
            return None;
        }
        let mut state = self.state();
        let left = state.paused_until.and_then(|until| until.checked_duration_since(Instant::now()));
        let left = left.filter(|left| !left.is_zero());
        if left.is_none() {
            state.paused_until = None;
            self.is_paused.store(false, Relaxed);
        }
        left
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `error` says that this host is short of something, not that anything is wrong with the peer.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// The limit on open files. The kernel gives out the lowest number that is free, so a high one says that nearly all are
/// taken.
#[derive(Debug)]
pub(crate) struct FileLimit(AtomicU64);

/// A descriptor kept for the server of a client that is to be accepted.
#[derive(Debug)]
pub(crate) struct Spare(#[expect(dead_code, reason = "it is held, not used")] OwnedFd);

/// What [`FileLimit::keep_one`] finds.
#[derive(Debug)]
pub(crate) enum Kept {
    /// The limit is far away.
    NotNeeded,
    Spare(Spare),
    /// Nothing is left to accept with.
    None,
}

impl FileLimit {
    /// As it is now.
    pub fn read() -> Self {
        Self(AtomicU64::new(current()))
    }

    /// Whether a client that got `descriptor` says that the limit is near.
    pub fn is_near(&self, descriptor: impl AsFd) -> bool {
        let limit = self.0.load(Relaxed);
        number(descriptor) >= near(limit)
    }

    /// How many connections one of `workers` may take in a row, `most` at most, before those make their connects: the
    /// descriptors that all of them lack are few beside those that are kept.
    pub fn batch(&self, workers: usize, most: usize) -> usize {
        let fair = self.0.load(Relaxed) / (32 * workers as u64);
        usize::try_from(fair).unwrap_or(most).clamp(1, most)
    }

    /// A descriptor for a server, made of whatever `like` is.
    pub fn keep_one(&self, like: impl AsFd) -> Kept {
        // It may have been raised (prlimit) meanwhile.
        let limit = current();
        self.0.store(limit, Relaxed);
        match rustix::io::fcntl_dupfd_cloexec(like, 0) {
            Ok(spare) if number(&spare) < near(limit) => Kept::NotNeeded,
            Ok(spare) if number(&spare) < limit - reserve(limit) => Kept::Spare(Spare(spare)),
            _ => Kept::None,
        }
    }

    /// For a message.
    pub fn told(&self) -> String {
        let limit = self.0.load(Relaxed);
        format!("all but {} of {limit} file descriptors are taken", reserve(limit))
    }
}

fn number(descriptor: impl AsFd) -> u64 {
    // A borrowed descriptor is never negative.
    u64::from(descriptor.as_fd().as_raw_fd().unsigned_abs())
}

fn current() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// From here on the limit is near. Clients that were accepted without a descriptor for their server have numbers below
/// it, so that as many are left for the servers.
fn near(limit: u64) -> u64 {
    limit / 2
}

/// So many are left for health checks and statistics.
fn reserve(limit: u64) -> u64 {
    (limit / 16).min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_for_all_listeners_of_a_worker_and_ends_by_itself() {
        let shortage = Shortage::default();
        assert_eq!(shortage.paused_for(), None);
        assert!(shortage.note() && !shortage.note());
        assert!(shortage.paused_for().is_some() && shortage.paused_for().is_some());
        std::thread::sleep(BACKOFF);
        assert_eq!(shortage.paused_for(), None);
    }
}
