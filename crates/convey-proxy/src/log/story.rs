//! What became of one connection, noted as it goes on, for its line in the log.
//!
//! One task writes; whoever reads does so after it has ended.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use convey_core::Reason;

use crate::meters::Way;

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Cut by the proxy, which closes or was told to; or its task panicked.
    Cut,
    /// Both sides have closed.
    Closed,
    /// For this reason.
    Ended(Reason),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Microseconds after it was accepted, plus one; 0: not yet.
    dialled: AtomicU32,
    connected: AtomicU32,
    first_byte: AtomicU32,
    /// Servers that were tried.
    attempts: AtomicU8,
    /// 1 and 2 for a side that closed first.
    closed_first: AtomicU8,
    /// 1 and 2 for the way of the latest bytes.
    latest: AtomicU8,
    /// 0: cut; 1: closed; a reason's place plus 2.
    fate: AtomicU8,
}

fn stamp(place: &AtomicU32, after: Duration) {
    place.store(u32::try_from(after.as_micros()).unwrap_or(u32::MAX - 1).saturating_add(1), Relaxed);
}

fn read(place: &AtomicU32) -> Option<u32> {
    place.load(Relaxed).checked_sub(1)
}

impl Story {
    /// A server is tried.
    pub fn tries(&self, after: impl FnOnce() -> Duration) {
        let before = self.attempts.load(Relaxed);
        self.attempts.store(before.saturating_add(1), Relaxed);
        if before == 0 {
            stamp(&self.dialled, after());
        }
    }

    pub fn connected(&self, after: Duration) {
        stamp(&self.connected, after);
    }

    /// Bytes were delivered.
    pub fn moved(&self, way: Way, after: impl FnOnce() -> Duration) {
        if way == Way::Rx && self.first_byte.load(Relaxed) == 0 {
            stamp(&self.first_byte, after());
        }
        self.latest.store(1 + u8::from(way == Way::Rx), Relaxed);
    }

    /// A side has closed; the first counts.
    pub fn closes(&self, side: Side) {
        if self.closed_first.load(Relaxed) == 0 {
            self.closed_first.store(1 + u8::from(side == Side::Server), Relaxed);
        }
    }

    /// The last counts.
    pub fn ends(&self, fate: Fate) {
        let fate = match fate {
            Fate::Cut => 0,
            Fate::Closed => 1,
            Fate::Ended(reason) => reason as u8 + 2,
        };
        self.fate.store(fate, Relaxed);
    }

    pub fn fate(&self) -> Fate {
        match self.fate.load(Relaxed) {
            0 => Fate::Cut,
            1 => Fate::Closed,
            n => Reason::ALL.get(usize::from(n) - 2).map_or(Fate::Cut, |&reason| Fate::Ended(reason)),
        }
    }

    pub fn attempts(&self) -> u8 {
        self.attempts.load(Relaxed)
    }

    pub fn closed_first(&self) -> Option<Side> {
        side(self.closed_first.load(Relaxed))
    }

    /// Who the latest bytes went to: the other one is waited for.
    pub fn waits_for(&self) -> Option<Side> {
        side(self.latest.load(Relaxed)).map(|sender| match sender {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        })
    }

    /// From accept to the first server tried, in microseconds.
    pub fn wait(&self) -> Option<u32> {
        read(&self.dialled)
    }

    /// From the first server tried to the connected one.
    pub fn connect(&self) -> Option<u32> {
        Some(read(&self.connected)?.saturating_sub(self.wait()?))
    }

    /// From being connected to the server's first byte.
    pub fn first_byte(&self) -> Option<u32> {
        Some(read(&self.first_byte)?.saturating_sub(read(&self.connected)?))
    }
}

const fn side(n: u8) -> Option<Side> {
    match n {
        1 => Some(Side::Client),
        2 => Some(Side::Server),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn times_are_those_between_the_steps_and_absent_for_steps_that_were_not_reached() {
        let story = Story::default();
        assert_eq!((story.wait(), story.connect(), story.first_byte()), (None, None, None));
        story.tries(|| 2 * MS);
        story.tries(|| 5 * MS);
        assert_eq!((story.wait(), story.connect(), story.attempts()), (Some(2000), None, 2));
        story.connected(9 * MS);
        story.moved(Way::Tx, || 10 * MS);
        assert_eq!((story.connect(), story.first_byte()), (Some(7000), None));
        assert_eq!(story.waits_for(), Some(Side::Server));
        story.moved(Way::Rx, || 12 * MS);
        story.moved(Way::Rx, || 20 * MS);
        assert_eq!((story.first_byte(), story.waits_for()), (Some(3000), Some(Side::Client)));
    }

    #[test]
    fn the_side_that_closes_first_and_the_last_word_on_the_end_count() {
        let story = Story::default();
        assert_eq!((story.closed_first(), story.fate()), (None, Fate::Cut));
        story.closes(Side::Server);
        story.closes(Side::Client);
        assert_eq!(story.closed_first(), Some(Side::Server));
        for &reason in Reason::ALL {
            story.ends(Fate::Ended(reason));
            assert_eq!(story.fate(), Fate::Ended(reason));
        }
    }

    #[test]
    fn a_connection_of_more_than_an_hour_has_the_longest_time_that_fits() {
        let story = Story::default();
        story.tries(|| Duration::from_secs(10_000));
        assert_eq!(story.wait(), Some(u32::MAX - 1));
    }
}
