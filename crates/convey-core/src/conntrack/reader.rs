//! A look at all flows from another thread, while the table is in use: nobody waits for it.
//!
//! A flow is read whole, by its control word: all of one claim. What begins or ends meanwhile may be seen or not.

use std::ops::ControlFlow;

use super::entry::{WORDS_V4, WORDS_V6};
use super::flow::{Flow, Lifetimes, Ticks};
use super::space::sets::Sets;
use super::{FlowId, FlowTable};

/// The flows of a table, for another thread.
#[derive(Debug)]
pub struct FlowReader {
    v4: Option<Sets<WORDS_V4>>,
    v6: Option<Sets<WORDS_V6>>,
}

impl FlowTable {
    /// For another thread to read. Memory that has one owner is not read, see [`FlowReader::is_whole`].
    pub fn reader(&self) -> FlowReader {
        FlowReader { v4: self.v4.reader(), v6: self.v6.reader() }
    }
}

impl FlowReader {
    /// Whether flows of both families can be read.
    pub fn is_whole(&self) -> bool {
        self.v4.is_some() && self.v6.is_some()
    }

    /// Entries of both families together: IPv4 ones come first.
    pub fn entries(&self) -> usize {
        self.entries_v4() + self.v6.as_ref().map_or(0, Sets::entries)
    }

    fn entries_v4(&self) -> usize {
        self.v4.as_ref().map_or(0, Sets::entries)
    }

    /// Shows `each` the flows from entry `from` on, of at most `most` entries, until it has had enough. Gives the
    /// entry to go on at: at the end [`FlowReader::entries`]. Memory that was never used is neither read nor counted.
    pub fn read(
        &self,
        from: usize,
        most: usize,
        mut each: impl FnMut(FlowId, Flow) -> ControlFlow<()>,
    ) -> usize {
        let mut left = most;
        let of_v4 = self.entries_v4();
        if let Some(sets) = &self.v4
            && from < of_v4
        {
            let end = read(sets, from, &mut left, |at, flow| each(FlowId::new(true, at), flow));
            if end < of_v4 {
                return end;
            }
        }
        let from = from.saturating_sub(of_v4);
        let end = self
            .v6
            .as_ref()
            .map_or(0, |sets| read(sets, from, &mut left, |at, flow| each(FlowId::new(false, at), flow)));
        of_v4 + end
    }
}

fn read<const WORDS: usize>(
    sets: &Sets<WORDS>,
    from: usize,
    left: &mut usize,
    mut each: impl FnMut(usize, Flow) -> ControlFlow<()>,
) -> usize {
    let (chunk, all) = (Sets::<WORDS>::entries_a_chunk(), sets.entries());
    let mut at = from;
    while at < all {
        if at.is_multiple_of(chunk) && !sets.is_touched(at / chunk) {
            at += chunk;
            continue;
        }
        if *left == 0 {
            return at;
        }
        *left -= 1;
        if let Some(flow) = sets.get(at)
            && each(at, flow).is_break()
        {
            return at + 1;
        }
        at += 1;
    }
    all
}

impl Lifetimes {
    /// Ticks that `flow` has left at `now`; `None` when its time is over.
    pub fn left(&self, flow: &Flow, now: Ticks) -> Option<u32> {
        self.0[flow.state as usize].checked_sub(now.since(Ticks(flow.last_seen)))
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
