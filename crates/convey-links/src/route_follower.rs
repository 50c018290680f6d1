//! The routes of the kernel, followed by the news of each single one. All of them are read at the start, when news were
//! lost or routes may have gone without a word, and once in a while; after the start in a thread of its own, for a full
//! table of the internet takes seconds and nothing else should wait for it.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use convey_engine::{Place, RouteTable};

use crate::kernel_tables::{self, RouteChange};
use crate::netlink;

/// Reading all routes takes at most this part of the time, however often they have to be read.
const MAX_SHARE: u32 = 4;

/// How often they are read without a cause, at most: what was missed or misunderstood ends here.
const PERIOD: Duration = Duration::from_secs(60);

/// Reading without a cause takes at most this part of the time.
const PERIODIC_SHARE: u32 = 100;

/// How soon they are read again after the kernel refused.
const AGAIN: Duration = Duration::from_secs(1);

/// Changes remembered while all routes are read; with more of them they are read again.
const MAX_SINCE: usize = 1 << 20;

/// How often in a row they are read anew because they changed meanwhile: the kernel may have left some out then.
const ATTEMPTS: u32 = 3;

/// Routes that are not followed named at most.
const MAX_NAMED: usize = 5;

/// All routes of the kernel, read at once.
#[derive(Default)]
pub(crate) struct AllRoutes {
    pub(crate) table: RouteTable,
    /// Some of those that are not followed, in words.
    pub(crate) not_followed: Vec<String>,
    /// Whether they are of one moment.
    is_whole: bool,
}

impl AllRoutes {
    /// Reads them, some times over if need be.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn read() -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            let all = Self::read_once()?;
            if all.is_whole || attempt == ATTEMPTS {
                return Ok(all);
            }
            attempt += 1;
        }
    }

    fn read_once() -> io::Result<Self> {
        let mut all = Self::default();
        all.is_whole = netlink::routes(|message| {
            if let Some(route) = kernel_tables::route(message) {
                all.table.insert(route, Place::Last);
            } else if all.not_followed.len() < MAX_NAMED {
                all.not_followed.extend(kernel_tables::by_service(message));
            }
        })?;
        Ok(all)
    }
}

/// Routes, followed.
pub(crate) struct RouteFollower {
    table: RouteTable,
    not_followed: Vec<String>,
    reading: Option<Reading>,
    due: Instant,
    not_before: Instant,
    /// How often in a row they changed while they were read.
    torn: u32,
}

/// All routes on their way here.
struct Reading {
    thread: JoinHandle<io::Result<AllRoutes>>,
    /// Closed when the thread ends, however it does.
    end: PipeReader,
    began: Instant,
    /// What changed since: what is read may be older or newer.
    since: Vec<RouteChange>,
    /// Whether it has to be done again.
    again: bool,
}

impl RouteFollower {
    /// Reads all routes.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn start() -> io::Result<Self> {
        let began = Instant::now();
        // News of what changes meanwhile is on its way already.
        let AllRoutes { table, not_followed, is_whole } = AllRoutes::read_once()?;
        let mut follower =
            Self { table, not_followed, reading: None, due: began, not_before: began, torn: 0 };
        follower.rest(began, is_whole);
        Ok(follower)
    }

    pub(crate) fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Some of the routes that are not followed, in words, as they were when all were last read.
    pub(crate) fn not_followed(&self) -> &[String] {
        &self.not_followed
    }

    /// Takes in news. Tells whether anything changed.
    pub(crate) fn apply(&mut self, change: RouteChange) -> bool {
        if let Some(reading) = &mut self.reading {
            if reading.since.len() < MAX_SINCE {
                reading.since.push(change.clone());
            } else {
                reading.again = true;
            }
        }
        apply(&mut self.table, change)
    }

    /// Has all routes read soon, for news is missing.
    pub(crate) fn read_soon(&mut self, now: Instant) {
        match &mut self.reading {
            Some(reading) => reading.again = true,
            None => self.due = self.due.min(now.max(self.not_before)),
        }
    }

    /// When [`RouteFollower::tick`] wants to be called.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.reading.is_none().then_some(self.due)
    }

    /// Readable when [`RouteFollower::tick`] wants to be called.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.reading.as_ref()?.end.as_fd())
    }

    /// Begins to read all routes when that is due, and takes them in when they are there. Tells whether anything may
    /// have changed.
    ///
    /// # Errors
    /// They could not be read; it is tried again.
    pub(crate) fn tick(&mut self, now: Instant) -> io::Result<bool> {
        if let Some(reading) = self.reading.take_if(|reading| reading.thread.is_finished()) {
            return self.take(reading, now);
        }
        if self.reading.is_none() && now >= self.due {
            self.due = now + AGAIN;
            let (end, held) = io::pipe()?;
            let read = move || {
                let _held = held;
                AllRoutes::read_once()
            };
            let thread = std::thread::Builder::new().name("convey-routes".to_owned()).spawn(read)?;
            self.reading = Some(Reading { thread, end, began: now, since: Vec::new(), again: false });
        }
        Ok(false)
    }

    fn take(&mut self, reading: Reading, now: Instant) -> io::Result<bool> {
        let read = reading.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")));
        let AllRoutes { mut table, not_followed, is_whole } = read?;
        self.rest(reading.began, is_whole);
        self.not_followed = not_followed;
        for change in reading.since {
            apply(&mut table, change);
        }
        self.table = table;
        if reading.again {
            self.read_soon(now);
        }
        Ok(true)
    }

    fn rest(&mut self, began: Instant, whole: bool) {
        let (now, took) = (Instant::now(), began.elapsed());
        self.not_before = now + took * MAX_SHARE;
        self.torn = if whole { 0 } else { self.torn + 1 };
        let pause = if (1..ATTEMPTS).contains(&self.torn) {
            took * MAX_SHARE
        } else {
            PERIOD.max(took * PERIODIC_SHARE)
        };
        self.due = now + pause;
    }
}

fn apply(table: &mut RouteTable, change: RouteChange) -> bool {
    match change {
        RouteChange::Added(route, place) => table.insert(route, place),
        RouteChange::Removed(route) => table.remove(&route),
    }
}
