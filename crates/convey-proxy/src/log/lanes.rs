//! Lines that wait to be written, a lane for each worker.
//!
//! A connection is written as text at once, by its worker: kept as it is, it would keep its task's memory until the line
//! is out, and all that comes meanwhile would begin in memory that no cache holds. The lock of a lane is held by its
//! worker for a line, and by the thread that writes for as long as it takes to put an empty text in the place of a full
//! one.

use std::sync::{Mutex, PoisonError};

use super::entry::Entry;
use super::line::{self, Clock};

/// Bytes that may wait in a lane.
const ROOM: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Lanes(Box<[Lane]>);

/// Two of them never share a cache line, which processors fetch in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    text: String,
    clock: Clock,
}

impl Lanes {
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Lane::default()).collect())
    }

    /// Appends the line of `entry` to those of `worker`; false when there is no room.
    pub fn add(&self, worker: usize, entry: &Entry<'_>) -> bool {
        let Some(lane) = self.0.get(worker) else { return false };
        let mut waiting = lane.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { text, clock } = &mut *waiting;
        let has_room = text.len() < ROOM;
        if has_room {
            line::write(text, clock, entry);
        }
        has_room
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Puts `text`, which is empty, in the place of what waits in `lane`.
    pub fn swap(&self, lane: usize, text: &mut String) {
        if let Some(lane) = self.0.get(lane) {
            std::mem::swap(&mut lane.0.lock().unwrap_or_else(PoisonError::into_inner).text, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use convey_core::Reason;

    use super::*;

    #[test]
    fn a_lane_that_is_full_takes_no_more_until_it_is_emptied_and_others_do() {
        let lanes = Lanes::new(2);
        let ends = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let long = "x".repeat(ROOM / 4);
        let add = |worker| lanes.add(worker, &Entry::refused(ends, (&long, ""), Reason::LimitTotal));
        assert_eq!([(); 5].map(|()| add(0)), [true, true, true, true, false]);
        assert!(add(1) && !add(2), "another has room, one that is not there has none");
        let mut text = String::new();
        lanes.swap(0, &mut text);
        assert_eq!(text.lines().count(), 4);
        assert!(add(0));
    }
}
