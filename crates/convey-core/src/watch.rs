//! Decisions that somebody watches as they are made: off by default, and then one load.
//!
//! Whoever decides asks [`Watches::current`] and tells what a watch's filter takes; whoever watches takes that from a
//! ring of bounded size, and is told how much found no room in it. A watch ends with its count, or when it is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::flow_list::FlowFilter;

/// Watches at a time.
pub const MAX_WATCHES: usize = 4;
/// Decisions that wait for one who watches.
pub const RING: usize = 1024;

/// All that is watched.
#[derive(Debug)]
pub struct Watches<D> {
    /// All that is looked at while nobody watches.
    active: AtomicUsize,
    all: Mutex<Vec<Arc<Watch<D>>>>,
}

/// Decisions of one kind, as they are made.
#[derive(Debug)]
pub struct Watch<D> {
    /// Which.
    pub filter: FlowFilter,
    found: Mutex<Found<D>>,
}

#[derive(Debug)]
struct Found<D> {
    ring: VecDeque<D>,
    lost: u64,
    /// How many are still wanted.
    left: u64,
}

/// What was found since it was taken last.
#[derive(Debug)]
pub struct Taken<D> {
    /// In the order in which they were made.
    pub decisions: Vec<D>,
    /// How many found no room, from the beginning.
    pub lost: u64,
    /// As many as were wanted have been found.
    pub is_over: bool,
}

impl<D> Default for Watches<D> {
    fn default() -> Self {
        Self { active: AtomicUsize::new(0), all: Mutex::default() }
    }
}

impl<D> Watches<D> {
    /// Watches decisions on what `filter` takes from now on, until there were `count` of them. `None`: there are
    /// [`MAX_WATCHES`] already.
    pub fn begin(self: &Arc<Self>, filter: FlowFilter, count: u64) -> Option<Watching<D>> {
        let mut all = lock(&self.all);
        if all.len() >= MAX_WATCHES {
            return None;
        }
        let found = Found { ring: VecDeque::new(), lost: 0, left: count };
        let watch = Arc::new(Watch { filter, found: Mutex::new(found) });
        all.push(watch.clone());
        self.active.store(all.len(), Relaxed);
        drop(all);
        Some(Watching { watches: self.clone(), watch })
    }

    /// Those under way; nothing but a load while there are none.
    #[inline]
    pub fn current(&self) -> Vec<Arc<Watch<D>>> {
        if self.active.load(Relaxed) == 0 { Vec::new() } else { lock(&self.all).clone() }
    }
}

impl<D> Watch<D> {
    /// Whether another decision is wanted and has room. One that has none is counted.
    pub fn has_room(&self) -> bool {
        let mut found = lock(&self.found);
        if found.left == 0 {
            return false;
        }
        let has_room = found.ring.len() < RING;
        found.lost += u64::from(!has_room);
        has_room
    }

    /// So many decisions were made that it may have wanted, and there was no room to tell of them.
    pub fn lose(&self, decisions: u64) {
        let mut found = lock(&self.found);
        if found.left > 0 {
            found.lost += decisions;
        }
    }

    /// A decision was made.
    pub fn tell(&self, decision: D) {
        let mut found = lock(&self.found);
        if found.left == 0 {
            return;
        }
        if found.ring.len() >= RING {
            found.lost += 1;
            return;
        }
        found.left -= 1;
        found.ring.push_back(decision);
    }
}

/// A watch under way. Dropping it ends it.
#[derive(Debug)]
pub struct Watching<D> {
    watches: Arc<Watches<D>>,
    watch: Arc<Watch<D>>,
}

impl<D> Watching<D> {
    /// What was found since the last time.
    pub fn take(&self) -> Taken<D> {
        let mut found = lock(&self.watch.found);
        Taken { decisions: found.ring.drain(..).collect(), lost: found.lost, is_over: found.left == 0 }
    }
}

impl<D> Drop for Watching<D> {
    fn drop(&mut self) {
        let mut all = lock(&self.watches.all);
        all.retain(|watch| !Arc::ptr_eq(watch, &self.watch));
        self.watches.active.store(all.len(), Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Decisions are whole, so what is there is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches() -> Arc<Watches<usize>> {
        Arc::default()
    }

    #[test]
    fn a_watch_gets_what_is_told_while_it_lasts_and_no_more_than_it_wants() {
        let watches = watches();
        assert!(watches.current().is_empty());
        let watching = watches.begin(FlowFilter::default(), 3).unwrap();
        let [watch] = &watches.current()[..] else { panic!("one") };
        for n in 0..5 {
            watch.tell(n);
        }
        let taken = watching.take();
        assert_eq!((taken.decisions, taken.lost, taken.is_over), (vec![0, 1, 2], 0, true));
        assert!(!watch.has_room());
        drop(watching);
        assert!(watches.current().is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_does_not_count_as_found() {
        let watches = watches();
        let watching = watches.begin(FlowFilter::default(), 2000).unwrap();
        let watch = watches.current().remove(0);
        for n in 0..RING + 10 {
            if watch.has_room() {
                watch.tell(n);
            }
        }
        let taken = watching.take();
        assert_eq!((taken.decisions.len(), taken.lost, taken.is_over), (RING, 10, false));
        assert!(watch.has_room(), "there is room again");
    }

    #[test]
    fn what_others_had_no_room_for_is_lost_for_a_watch_that_wants_more() {
        let watches = watches();
        let watching = watches.begin(FlowFilter::default(), 1).unwrap();
        let watch = watches.current().remove(0);
        watch.lose(3);
        watch.tell(0);
        watch.lose(4);
        assert_eq!(watching.take().lost, 3);
    }

    #[test]
    fn a_fifth_watch_is_refused_until_one_of_the_four_has_ended() {
        let watches = watches();
        let mut four: Vec<_> =
            (0..MAX_WATCHES).map(|_| watches.begin(FlowFilter::default(), 1).unwrap()).collect();
        assert!(watches.begin(FlowFilter::default(), 1).is_none());
        four.pop();
        assert!(watches.begin(FlowFilter::default(), 1).is_some());
    }
}
