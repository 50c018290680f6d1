//! Connections that wait for a place at a backend, in the order in which they came.
//!
//! Invariants: only the first in the queue is woken, so that a place that gets free wakes one task however many wait
//! and on whichever thread, and nobody is overtaken; whoever leaves the queue from its front wakes the next, so
//! that several places that got free at once are all taken; a [`Ticket`] leaves by being dropped.
//!
//! No wake-up is lost between "all places are taken" and standing in the queue: who enters counts itself in before it
//! looks at the places once more, and who gives a place back looks whether somebody waits after that
//! ([`WaitQueue::place_is_free`]); of the two at least one sees the other.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::counters::ConnCounters;

/// The queue of one backend, and the counters of its connections, whose places are waited for.
#[derive(Debug)]
pub struct WaitQueue {
    counters: Arc<ConnCounters>,
    /// As long as the line. Read by whoever gives a place back, without the lock.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    total: AtomicU64,
    timed_out: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
}

#[derive(Debug, Default)]
struct Waiter {
    waker: Option<Waker>,
    /// It may look for a place when it is the first.
    woken: bool,
}

/// What happened in a queue so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// Connections that wait now.
    pub waiting: u64,
    /// Connections that have waited or wait.
    pub total: u64,
    /// Connections whose time was over before they got a place.
    pub timed_out: u64,
    /// Connections that were refused since the queue was full.
    pub refused: u64,
}

impl WaitQueue {
    /// An empty queue for the places that `counters` count.
    pub fn new(counters: Arc<ConnCounters>) -> Self {
        Self {
            counters,
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            total: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts the backend's connections.
    pub fn counters(&self) -> &Arc<ConnCounters> {
        &self.counters
    }

    /// Whether somebody waits, whom others must not overtake.
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Relaxed) != 0
    }

    /// Stands at the end of the queue unless `size` wait already, which is counted.
    pub fn enter(self: &Arc<Self>, size: u64) -> Option<Ticket> {
        let mut line = self.line();
        if line.waiting.len() as u64 >= size {
            drop(line);
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        let number = line.next;
        line.next += 1;
        // The first looks for itself: a place may have become free before it stood here.
        let woken = line.waiting.is_empty();
        line.waiting.insert(number, Waiter { waker: None, woken });
        self.waiting.store(line.waiting.len(), SeqCst);
        drop(line);
        fence(SeqCst);
        self.total.fetch_add(1, Relaxed);
        Some(Ticket { queue: self.clone(), number })
    }

    /// A place was given back a moment ago.
    pub fn place_is_free(&self) {
        // Pairs with the one in `enter`.
        fence(SeqCst);
        if self.is_waited_in() {
            self.wake_first();
        }
    }

    /// Has the first look for a place: there may be one by now.
    pub fn wake_first(&self) {
        let waker = self.line().wake_first();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Counts a connection whose time was over.
    pub fn count_timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }

    /// What happened so far.
    pub fn counts(&self) -> QueueCounts {
        QueueCounts {
            waiting: self.waiting.load(Relaxed) as u64,
            total: self.total.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing panics while it is held.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn wake_first(&mut self) -> Option<Waker> {
        let mut first = self.waiting.first_entry()?;
        first.get_mut().woken = true;
        first.get_mut().waker.take()
    }
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<WaitQueue>,
    number: u64,
}

impl Ticket {
    /// Ready when it is the first and may look for a place: once when it has become the first, then each time when
    /// there may be one.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.queue.line();
        let is_first = line.waiting.first_key_value().is_some_and(|(number, _)| *number == self.number);
        // It is there until it is dropped.
        let Some(waiter) = line.waiting.get_mut(&self.number) else { return Poll::Pending };
        if is_first && waiter.woken {
            waiter.woken = false;
            return Poll::Ready(());
        }
        match &mut waiter.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The queue it stands in.
    pub fn queue(&self) -> &Arc<WaitQueue> {
        &self.queue
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        let was_first = line.waiting.first_key_value().is_some_and(|(number, _)| *number == self.number);
        line.waiting.remove(&self.number);
        self.queue.waiting.store(line.waiting.len(), SeqCst);
        let waker = if was_first { line.wake_first() } else { None };
        drop(line);
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    /// A waiting task: whether it was woken, and whether it may look now.
    struct Task {
        ticket: Ticket,
        flag: Arc<Flag>,
    }

    impl Task {
        fn enter(queue: &Arc<WaitQueue>) -> Self {
            Self { ticket: queue.enter(u64::MAX).unwrap(), flag: Arc::default() }
        }

        fn may_look(&self) -> bool {
            let waker = Waker::from(self.flag.clone());
            self.ticket.poll_turn(&mut Context::from_waker(&waker)).is_ready()
        }

        fn was_woken(&self) -> bool {
            self.flag.0.swap(false, Relaxed)
        }
    }

    fn queue() -> Arc<WaitQueue> {
        Arc::new(WaitQueue::new(Arc::new(ConnCounters::new(1))))
    }

    #[test]
    fn a_free_place_wakes_the_first_alone_and_the_next_when_that_one_has_left() {
        let queue = queue();
        let tasks = [(); 3].map(|()| Task::enter(&queue));
        let [first, second, third] = tasks;
        assert!(first.may_look(), "a place may have become free before it entered");
        assert!(!first.may_look() && !second.may_look() && !third.may_look());
        queue.place_is_free();
        assert!(first.was_woken() && !second.was_woken() && !third.was_woken());
        assert!(first.may_look() && !second.may_look());
        drop(first);
        assert!(second.was_woken() && second.may_look() && !third.was_woken());
        drop(second);
        assert!(third.was_woken() && third.may_look());
        drop(third);
        assert_eq!(queue.counts(), QueueCounts { waiting: 0, total: 3, timed_out: 0, refused: 0 });
    }

    #[test]
    fn one_that_leaves_from_the_middle_wakes_nobody() {
        let queue = queue();
        let [first, second, third] = [(); 3].map(|()| Task::enter(&queue));
        assert!(first.may_look() && !first.may_look() && !third.may_look());
        drop(second);
        assert!(!first.was_woken() && !third.was_woken());
        drop(first);
        assert!(third.was_woken() && third.may_look());
    }

    #[test]
    fn no_more_than_the_size_wait_and_those_refused_are_counted() {
        let queue = queue();
        let inside = [queue.enter(2).unwrap(), queue.enter(2).unwrap()];
        assert!(queue.enter(2).is_none() && queue.enter(0).is_none());
        assert_eq!(queue.counts(), QueueCounts { waiting: 2, total: 2, timed_out: 0, refused: 2 });
        drop(inside);
        assert!(!queue.is_waited_in() && queue.enter(1).is_some());
    }

    #[test]
    fn no_wake_up_is_lost_when_places_get_free_while_others_enter() {
        let queue = queue();
        let places = queue.counters().clone();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (queue, places) = (&queue, &places);
                scope.spawn(move || {
                    for _ in 0..2000 {
                        if queue.is_waited_in() || !places.try_reserve(1) {
                            let ticket = queue.enter(u64::MAX).unwrap();
                            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                            let mut cx = Context::from_waker(&waker);
                            loop {
                                match ticket.poll_turn(&mut cx) {
                                    Poll::Ready(()) if places.try_reserve(1) => break,
                                    Poll::Ready(()) => {}
                                    Poll::Pending => std::thread::park_timeout(PATIENCE),
                                }
                            }
                        }
                        assert_eq!(places.open(), 1);
                        places.closed();
                        queue.place_is_free();
                    }
                });
            }
        });
        assert_eq!((queue.counts().waiting, places.open()), (0, 0));
    }

    /// Longer than the test may take: a lost wake-up shows as one that hangs.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3600);

    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
