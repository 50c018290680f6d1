//! Where lines go, and the thread that writes them.
//!
//! Invariants: whoever tells never waits for a write and wakes nobody; a line is written whole or begun anew on a line of
//! its own; what cannot be written is tried again until there is room, and what does not fit meanwhile is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::entry::Entry;
use super::lanes::Lanes;
use super::line::{self, Clock};

/// How often the thread looks: nobody wakes it, since waking costs the one who wakes.
const PAUSE: Duration = Duration::from_millis(50);
/// Written at once to a file.
const BATCH: usize = 256 * 1024;
/// Room for text that is kept when it was written; more is given back.
const KEPT: usize = 1024 * 1024;
/// Written at once to a pipe: longer pieces may mix with those of others (PIPE_BUF).
const PIPE_BATCH: usize = 4096;
/// After a failed write, such as on a full disk.
const FAULT_PAUSE: Duration = Duration::from_millis(500);
/// How long what waits may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened for appending.
    #[error("log.connections_file: cannot open {}: {source}", .file.display())]
    Open {
        /// Which.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is there and is no file.
    #[error("log.connections_file: {} is neither a file nor a character device", .file.display())]
    Kind {
        /// Which.
        file: PathBuf,
    },
    /// The thread that writes could not be made.
    #[error("log.connections: no thread to write it: {0}")]
    Thread(io::Error),
}

/// See the module's head. Dropping it has the thread write what waits and end; nobody waits for that, since the last who
/// holds it may be a connection.
#[derive(Debug)]
pub(crate) struct Sink {
    target: Arc<Target>,
    done: Arc<Mutex<Receiver<()>>>,
}

#[derive(Debug)]
struct Target {
    file: Mutex<Arc<File>>,
    lanes: Lanes,
    lost: Arc<AtomicU64>,
    closing: AtomicBool,
}

impl Sink {
    /// Opens `file`, or standard error, for the lines of so many workers; `lost` counts lines that find no room.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be made.
    pub fn open(file: Option<&Path>, workers: usize, lost: Arc<AtomicU64>) -> Result<Arc<Self>, LogError> {
        let file = match file {
            Some(file) => open(file)?,
            None => File::from(stderr().map_err(LogError::Thread)?),
        };
        let target = Arc::new(Target {
            file: Mutex::new(Arc::new(file)),
            lanes: Lanes::new(workers),
            lost,
            closing: AtomicBool::new(false),
        });
        let (tell_done, done) = sync_channel(1);
        let writer = Writer {
            target: target.clone(),
            text: String::new(),
            clock: Clock::default(),
            told_lost: target.lost.load(Relaxed),
        };
        thread::Builder::new()
            .name("convey-log".to_owned())
            .spawn(move || {
                writer.run();
                // Nobody may wait for it any more.
                let _ = tell_done.send(());
            })
            .map_err(LogError::Thread)?;
        Ok(Arc::new(Self { target, done: Arc::new(Mutex::new(done)) }))
    }

    /// A connection of `worker` has ended.
    pub fn tell(&self, worker: usize, entry: &Entry<'_>) {
        if !self.target.lanes.add(worker, entry) {
            self.target.lost.fetch_add(1, Relaxed);
        }
    }

    /// Writes to `file`, opened anew, from the next line on.
    ///
    /// # Errors
    /// It cannot be opened; the one that was goes on.
    pub fn reopen(&self, file: &Path) -> Result<(), LogError> {
        let file = open(file)?;
        *self.target.lock() = Arc::new(file);
        Ok(())
    }

    /// Waits until all is written, a second at most: a thread that hangs in a write is left behind.
    pub fn finish(self: Arc<Self>) {
        let done = self.done.clone();
        drop(self);
        let _ = done.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_WORDS);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.target.closing.store(true, Release);
    }
}

impl Target {
    fn lock(&self) -> MutexGuard<'_, Arc<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let failed = |source| LogError::Open { file: path.to_owned(), source };
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_file() || kind.is_char_device() {
        Ok(file)
    } else {
        Err(LogError::Kind { file: path.to_owned() })
    }
}

fn stderr() -> io::Result<OwnedFd> {
    io::stderr().as_fd().try_clone_to_owned()
}

struct Writer {
    target: Arc<Target>,
    /// Empty between two writes.
    text: String,
    clock: Clock,
    told_lost: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            // Nothing comes after it was set: what is there then is the last.
            let over = self.target.closing.load(Acquire);
            for lane in 0..self.target.lanes.count() {
                let target = self.target.clone();
                target.lanes.swap(lane, &mut self.text);
                self.write();
            }
            self.tell_lost();
            if over {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    fn tell_lost(&mut self) {
        let lost = self.target.lost.load(Relaxed);
        if lost > self.told_lost {
            line::write_lost(&mut self.text, &mut self.clock, SystemTime::now(), lost - self.told_lost);
            self.told_lost = lost;
            self.write();
        }
    }

    /// Writes all of the text, however long that takes, or gives up when it is to end.
    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_bytes();
        let mut file = self.target.lock().clone();
        let mut most = most_at_once(&file);
        while !rest.is_empty() {
            let current = self.target.lock().clone();
            if !Arc::ptr_eq(&file, &current) {
                file = current;
                most = most_at_once(&file);
                // The beginning of this line is in the old one.
                let at = text.len() - rest.len();
                if at > 0 && text.as_bytes().get(at - 1) != Some(&b'\n') {
                    self.target.lost.fetch_add(1, Relaxed);
                    let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
                    rest = rest.get(end..).unwrap_or_default();
                    continue;
                }
            }
            let pause = match (&*file).write(whole_lines(rest, most)) {
                Ok(written) if written > 0 => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => PAUSE,
                _ => FAULT_PAUSE,
            };
            if self.target.closing.load(Relaxed) {
                return;
            }
            wait(&file, pause);
        }
        if text.capacity() <= KEPT {
            self.text = text;
            self.text.clear();
        }
    }
}

fn most_at_once(file: &File) -> usize {
    if file.metadata().is_ok_and(|is| is.file_type().is_fifo()) { PIPE_BATCH } else { BATCH }
}

/// Waits for room, or for a while.
fn wait(file: &File, pause: Duration) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
    let begun = Instant::now();
    let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&timeout));
    // A full disk is always ready.
    if pause == FAULT_PAUSE {
        thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
}

/// As many whole lines as fit into `most`, or the first one.
fn whole_lines(bytes: &[u8], most: usize) -> &[u8] {
    if bytes.len() <= most {
        return bytes;
    }
    let fits = bytes.get(..most).unwrap_or(bytes);
    let end = fits.iter().rposition(|&byte| byte == b'\n');
    let end = end.or_else(|| bytes.iter().position(|&byte| byte == b'\n'));
    end.and_then(|end| bytes.get(..=end)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use convey_core::Reason;

    use super::*;

    #[test]
    fn lines_that_come_faster_than_the_thread_looks_are_all_written_by_the_end() {
        const LINES: usize = 8_000;
        let path = std::env::temp_dir().join(format!("convey-sink-{}", std::process::id()));
        let lost = Arc::new(AtomicU64::new(0));
        let sink = Sink::open(Some(&path), 2, lost.clone()).expect("a file that can be written");
        let ends = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        for n in 0..LINES {
            let name = n.to_string();
            sink.tell(n % 2, &Entry::refused(ends, (&name, "pool"), Reason::LimitTotal));
        }
        sink.finish();
        let text = std::fs::read_to_string(&path);
        let _ = std::fs::remove_file(&path);
        let text = text.expect("what was written");
        let of = |worker: usize| {
            let numbers =
                text.lines().filter_map(|line| line.split("\"frontend\":\"").nth(1)?.split('"').next());
            let numbers = numbers.filter_map(|number| number.parse::<usize>().ok());
            numbers.filter(|number| number % 2 == worker).collect::<Vec<_>>()
        };
        for worker in [0, 1] {
            assert_eq!(of(worker), (worker..LINES).step_by(2).collect::<Vec<_>>(), "in order");
        }
        assert_eq!(lost.load(Relaxed), 0);
    }
}
