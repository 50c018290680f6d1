//! Where lines go, and the thread that writes them.
//!
//! Invariants: whoever tells never waits and never wakes anybody; a line is written whole or begun anew on a line of
//! its own; what cannot be written is tried again until there is room, and what does not fit meanwhile is counted.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use convey_core::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::line;
use super::story::{Fate, Story};
use crate::connections::Connection;

/// Connections that wait to be written.
const WAITING: usize = 16 * 1024;
/// How often the thread looks: nobody wakes it, since waking costs the one who wakes.
const PAUSE: Duration = Duration::from_millis(50);
/// Written at once to a file.
const BATCH: usize = 64 * 1024;
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

/// The server a connection got, as its line shows it.
#[derive(Debug, Clone)]
pub(crate) struct Got<N, A> {
    pub name: N,
    pub addr: A,
    pub source: Option<SocketAddr>,
}

impl Got<Option<&str>, Option<&dyn Display>> {
    pub(super) const NONE: Self = Self { name: None, addr: None, source: None };
}

/// A connection that has ended.
#[derive(Debug)]
pub(crate) struct Entry {
    /// When it ended.
    pub at: SystemTime,
    pub client: SocketAddr,
    pub listen: SocketAddr,
    pub frontend: Arc<str>,
    pub backend: Arc<str>,
    pub server: Option<Got<Arc<str>, convey_core::Endpoint>>,
    pub total: Duration,
    /// To the server, to the client.
    pub bytes: [u64; 2],
    pub fate: Fate,
    /// By an operator.
    pub killed: bool,
    /// Absent for one that was refused at once.
    pub connection: Option<Arc<Connection>>,
}

impl Entry {
    /// Of one that was closed at once.
    pub fn refused(
        (client, listen): (SocketAddr, SocketAddr),
        (frontend, backend): (&Arc<str>, &Arc<str>),
        reason: Reason,
    ) -> Self {
        Self {
            at: SystemTime::now(),
            client,
            listen,
            frontend: frontend.clone(),
            backend: backend.clone(),
            server: None,
            total: Duration::ZERO,
            bytes: [0; 2],
            fate: Fate::Ended(reason),
            killed: false,
            connection: None,
        }
    }

    pub(super) fn story(&self) -> Option<&Story> {
        self.connection.as_ref().map(|connection| connection.story())
    }
}

/// See the module's head. Dropping it has the thread write what waits and end; nobody waits for that, since the last who
/// holds it may be a connection.
#[derive(Debug)]
pub(crate) struct Sink {
    queue: Option<SyncSender<Entry>>,
    target: Arc<Target>,
    done: Arc<Mutex<Receiver<()>>>,
}

#[derive(Debug)]
struct Target {
    file: Mutex<Arc<File>>,
    lost: Arc<AtomicU64>,
    closing: AtomicBool,
}

impl Sink {
    /// Opens `file`, or standard error; `lost` counts lines that find no room.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be made.
    pub fn open(file: Option<&Path>, lost: Arc<AtomicU64>) -> Result<Arc<Self>, LogError> {
        let file = match file {
            Some(file) => open(file)?,
            None => File::from(stderr().map_err(LogError::Thread)?),
        };
        let target =
            Arc::new(Target { file: Mutex::new(Arc::new(file)), lost, closing: AtomicBool::new(false) });
        let (queue, waiting) = sync_channel(WAITING);
        let (tell_done, done) = sync_channel(1);
        let writer = Writer {
            target: target.clone(),
            waiting,
            text: String::new(),
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
        Ok(Arc::new(Self { queue: Some(queue), target, done: Arc::new(Mutex::new(done)) }))
    }

    /// A connection has ended.
    pub fn tell(&self, entry: Entry) {
        let told = self.queue.as_ref().is_some_and(|queue| queue.try_send(entry).is_ok());
        if !told {
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
        self.target.closing.store(true, Relaxed);
        self.queue = None;
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
    waiting: Receiver<Entry>,
    text: String,
    told_lost: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            let over = self.collect();
            if !self.text.is_empty() {
                self.write();
            }
            if over && self.text.is_empty() {
                return;
            }
            if self.text.is_empty() {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Takes what waits, as much as is written at once; true when nothing more can come.
    fn collect(&mut self) -> bool {
        while self.text.len() < BATCH {
            match self.waiting.try_recv() {
                Ok(entry) => line::write(&mut self.text, &entry),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
        let lost = self.target.lost.load(Relaxed);
        if lost > self.told_lost {
            line::write_lost(&mut self.text, SystemTime::now(), lost - self.told_lost);
            self.told_lost = lost;
        }
        false
    }

    /// Writes all of it, however long that takes, or gives up when it is to end.
    fn write(&mut self) {
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_bytes();
        let mut file = self.target.lock().clone();
        while !rest.is_empty() {
            let current = self.target.lock().clone();
            if !Arc::ptr_eq(&file, &current) {
                file = current;
                // The beginning of this line is in the old one.
                let at = text.len() - rest.len();
                if at > 0 && text.as_bytes().get(at - 1) != Some(&b'\n') {
                    self.target.lost.fetch_add(1, Relaxed);
                    let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
                    rest = rest.get(end..).unwrap_or_default();
                    continue;
                }
            }
            let is_pipe = file.metadata().is_ok_and(|is| is.file_type().is_fifo());
            let piece = if is_pipe { whole_lines(rest, PIPE_BATCH) } else { rest };
            let pause = match (&*file).write(piece) {
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
        self.text = text;
        self.text.clear();
    }
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
