//! A line for each connection, or for those that ended badly, written beside the traffic.
//!
//! When a connection that is logged has ended, its worker puts its line with those of its own that wait, which have
//! bounded room; a thread of its own writes them. Where no room is left, lines are lost and counted: neither a full disk nor a reader that stands still is
//! ever waited for by traffic.

mod entry;
mod lanes;
mod line;
mod sink;
mod story;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

pub(crate) use entry::{Entry, Got};
pub use sink::LogError;
use sink::Sink;
pub(crate) use story::{Fate, Side, Story};

/// Which connections get a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Logged {
    /// Those that did not end by both sides closing.
    Errors,
    /// These, and this share of the others, above 0 and up to 1.
    Share(f64),
}

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSpec {
    /// Which connections.
    pub logged: Logged,
    /// A file of its own, opened again by [`crate::Proxy::reopen_log`]; `None`: standard error.
    pub file: Option<PathBuf>,
}

/// The log of a proxy; nothing but a load while there is none.
#[derive(Debug)]
pub(crate) struct Log {
    active: ArcSwapOption<Active>,
    workers: usize,
    /// Lines that found no room, of all sinks so far.
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct Active {
    spec: LogSpec,
    sink: Arc<Sink>,
}

/// A connection that gets a line, or gets one should it end badly.
#[derive(Debug)]
pub(crate) struct Ticket {
    active: Arc<Active>,
    /// Also when it ends well.
    always: bool,
}

impl Log {
    /// Of a proxy with so many workers; nothing is logged yet.
    pub fn new(workers: usize) -> Self {
        Self { active: ArcSwapOption::empty(), workers, lost: Arc::default() }
    }

    /// Logs by `spec` from now on. Connections that are open go on with what they began with.
    ///
    /// # Errors
    /// The file cannot be written; what was in service goes on.
    pub fn set(&self, spec: Option<&LogSpec>) -> Result<(), LogError> {
        let now = self.active.load_full();
        if now.as_deref().map(|active| &active.spec) == spec {
            return Ok(());
        }
        let active = match spec {
            None => None,
            Some(spec) => {
                let same = now.filter(|active| active.spec.file == spec.file);
                let sink = match same {
                    Some(active) => active.sink.clone(),
                    None => Sink::open(spec.file.as_deref(), self.workers, self.lost.clone())?,
                };
                Some(Arc::new(Active { spec: spec.clone(), sink }))
            }
        };
        self.active.store(active);
        Ok(())
    }

    /// What is in service.
    pub fn spec(&self) -> Option<LogSpec> {
        self.active.load().as_ref().map(|active| active.spec.clone())
    }

    /// Opens the file anew by its name, after it was moved away. `None`: there is no file.
    ///
    /// # Errors
    /// It cannot be opened; the one that was goes on.
    pub fn reopen(&self) -> Option<Result<(), LogError>> {
        let active = self.active.load_full()?;
        let file = active.spec.file.as_deref()?;
        Some(active.sink.reopen(file))
    }

    /// Logs no more, and waits until what was told is written: for the end, when no connection is left.
    pub fn finish(&self) {
        if let Some(active) = self.active.swap(None) {
            let sink = active.sink.clone();
            drop(active);
            sink.finish();
        }
    }

    /// Lines that found no room so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// What a connection that comes now gets; `None`: nothing is logged of it, however it ends.
    #[inline]
    pub fn ticket(&self) -> Option<Ticket> {
        let active = self.active.load();
        let active = active.as_ref()?;
        let always = match active.spec.logged {
            Logged::Errors => false,
            Logged::Share(share) => share >= 1.0 || random() < share,
        };
        Some(Ticket { active: active.clone(), always })
    }
}

impl Ticket {
    /// The connection has ended, on `worker`: it is written unless it ended well and was not to be.
    pub fn tell<'a>(&self, worker: usize, ended_well: bool, entry: impl FnOnce() -> Entry<'a>) {
        if self.always || !ended_well {
            self.active.sink.tell(worker, &entry());
        }
    }
}

/// From 0 up to 1; good enough to choose a share by (xorshift64).
fn random() -> f64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        let mut x = state.get();
        if x == 0 {
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
            // The address differs between threads that begin in the same nanosecond.
            x = (nanos ^ std::ptr::from_ref(state).addr() as u64) | 1;
        }
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 11) as f64 / (1u64 << 53) as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_of_many() {
        let taken = (0..100_000).filter(|_| random() < 0.1).count();
        assert!((9_000..11_000).contains(&taken), "{taken}");
    }
}
