//! What is watched, as the programs are told: the part of each watch's filter that they can tell by, and how many
//! decisions they may tell of until they hear of us again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convey_afpacket::monotonic;
use convey_afpacket::workers::lock;
use convey_bpf::tables::{self, Config, WATCHES, watches};
use convey_core::conntrack::{Memory, Ticks};
use convey_core::{Watch, Watches};
use convey_engine::LiveDecision;

use crate::told::coarse;

/// How often programs are given leave to tell. They stop a second after the last time.
const RENEWAL: Duration = Duration::from_millis(100);

/// Decisions that they may tell of in that time.
const LEAVE: u64 = 1024;

type LiveWatch = Arc<Watch<LiveDecision>>;

/// The programs' tables of what is watched.
pub(super) struct Watched {
    config: Memory<AtomicU64>,
    table: Memory<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who has which filter of the table.
    places: [Option<LiveWatch>; WATCHES],
    renewed: Option<Instant>,
}

impl Watched {
    /// Nothing is watched, whatever a killed process has left there. `config` and `table` are the maps' memory.
    pub(super) fn new(config: Memory<AtomicU64>, table: Memory<AtomicU64>) -> Self {
        let watched = Self { config, table, state: Mutex::default() };
        watched.end();
        watched
    }

    /// The programs tell of nothing any more.
    pub(super) fn end(&self) {
        self.place(&mut lock(&self.state), &[]);
        for word in self.table.iter() {
            word.store(0, Relaxed);
        }
        self.say(false);
    }

    /// Looks after it, now and then: cheap, and cheaper while nobody watches.
    pub(super) fn renew(&self, watches: &Watches<LiveDecision>) {
        let is_due = match lock(&self.state).renewed {
            Some(renewed) => renewed.elapsed() >= RENEWAL,
            None => false,
        };
        if is_due {
            self.follow(watches);
        }
    }

    /// From the return on, what is watched is told of, and nothing else.
    pub(super) fn follow(&self, watches: &Watches<LiveDecision>) {
        // Asked after the lock is taken: who asked before another began might write after it.
        let state = &mut *lock(&self.state);
        self.place(state, &watches.current());
    }

    /// These are under way, and no others.
    fn place(&self, state: &mut State, current: &[LiveWatch]) {
        for (at, place) in state.places.iter_mut().enumerate() {
            let lost = self.table.get(watches::LOST + at).map_or(0, |lost| lost.swap(0, Relaxed));
            let Some(watch) = place else { continue };
            watch.lose(lost);
            if !current.iter().any(|other| Arc::ptr_eq(watch, other)) {
                self.write(at, None);
                *place = None;
            }
        }
        for watch in current {
            let is_placed = |place: &Option<LiveWatch>| place.as_ref().is_some_and(|p| Arc::ptr_eq(p, watch));
            if state.places.iter().any(is_placed) {
                continue;
            }
            if let Some(at) = state.places.iter().position(Option::is_none) {
                self.set(watches::LOST + at, 0);
                self.write(at, Some(&coarse(&watch.filter)));
                state.places[at] = Some(watch.clone());
            }
        }
        if current.is_empty() {
            self.say(false);
            state.renewed = None;
            return;
        }
        self.set(watches::LEAVE, LEAVE);
        self.set(watches::RENEWED, first_half(Ticks::from_nanos(monotonic().0).0));
        self.say(true);
        state.renewed = Some(Instant::now());
    }

    fn say(&self, is_watched: bool) {
        if let Some(word) = self.config.get(Config::WATCHED) {
            word.store(first_half(is_watched.into()), Release);
        }
    }

    /// The word that says for which packets it is comes last.
    fn write(&self, at: usize, filter: Option<&tables::Watch>) {
        let bytes = filter.map_or([0; tables::Watch::BYTES], tables::Watch::to_bytes);
        let first = watches::FILTERS + at * watches::FILTER;
        self.set(first + watches::FILTER - 1, 0);
        for (word, bytes) in (first..).zip(bytes.chunks_exact(8)) {
            self.set(word, bytes.try_into().map_or(0, u64::from_ne_bytes));
        }
    }

    fn set(&self, word: usize, value: u64) {
        if let Some(to) = self.table.get(word) {
            to.store(value, Release);
        }
    }
}

/// A word of 32 bits and zeros behind it.
fn first_half(word: u32) -> u64 {
    let [a, b, c, d] = word.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}
