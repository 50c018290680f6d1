//! What is watched, as the programs are told: the part of each watch's filter that they can tell by, and how many
//! decisions they may tell of until they hear of us again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convey_afpacket::monotonic;
use convey_afpacket::workers::lock;
use convey_bpf::tables::{self, Config, WATCHES, watches as words};
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
            let lost = self.table.get(words::LOST + at).map_or(0, |lost| lost.swap(0, Relaxed));
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
                self.set(words::LOST + at, 0);
                self.write(at, Some(&coarse(&watch.filter)));
                state.places[at] = Some(watch.clone());
            }
        }
        if current.is_empty() {
            self.say(false);
            state.renewed = None;
            return;
        }
        self.set(words::LEAVE, LEAVE);
        self.set(words::RENEWED, first_half(Ticks::from_nanos(monotonic().0).0));
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
        let first = words::FILTERS + at * words::FILTER;
        self.set(first + words::FILTER - 1, 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use convey_core::FlowFilter;

    fn memory(bytes: usize) -> Memory<AtomicU64> {
        Memory::own(bytes / 8)
    }

    fn all() -> Arc<Watches<LiveDecision>> {
        Arc::default()
    }

    fn port(port: u16) -> FlowFilter {
        FlowFilter { vip_port: Some(port), ..FlowFilter::default() }
    }

    fn is_said(watched: &Watched) -> bool {
        watched.config.get(Config::WATCHED).unwrap().load(Relaxed) != 0
    }

    fn word(watched: &Watched, at: usize) -> u64 {
        watched.table.get(at).unwrap().load(Relaxed)
    }

    /// The ports that are watched, by place; 0: none.
    fn ports(watched: &Watched) -> [u16; WATCHES] {
        std::array::from_fn(|at| {
            let bytes = word(watched, words::FILTERS + at * words::FILTER + 8).to_ne_bytes();
            u16::from_be_bytes([bytes[2], bytes[3]])
        })
    }

    #[test]
    fn a_watch_is_told_to_the_programs_while_it_lasts_and_keeps_its_place() {
        let watched = Watched::new(memory(Config::BYTES), memory(words::BYTES));
        let watches = all();
        let first = watches.begin(port(1), 10).unwrap();
        watched.follow(&watches);
        let _second = watches.begin(port(2), 10).unwrap();
        watched.follow(&watches);
        assert!(is_said(&watched));
        assert_eq!((ports(&watched), word(&watched, words::LEAVE)), ([1, 2, 0, 0], LEAVE));
        drop(first);
        watched.follow(&watches);
        assert_eq!(ports(&watched), [0, 2, 0, 0]);
        let _third = watches.begin(port(3), 10).unwrap();
        watched.follow(&watches);
        assert_eq!(ports(&watched), [3, 2, 0, 0]);
    }

    #[test]
    fn the_end_of_the_last_watch_is_told_when_it_is_looked_after() {
        let watched = Watched::new(memory(Config::BYTES), memory(words::BYTES));
        let watches = all();
        watched.renew(&watches);
        assert!(!is_said(&watched));
        let watching = watches.begin(port(1), 10).unwrap();
        watched.follow(&watches);
        drop(watching);
        watched.renew(&watches);
        assert!(is_said(&watched), "it is not due");
        std::thread::sleep(RENEWAL);
        watched.renew(&watches);
        assert!(!is_said(&watched));
        assert_eq!(ports(&watched), [0; WATCHES]);
    }

    #[test]
    fn leave_is_given_anew_to_programs_that_have_used_it_or_stopped() {
        let watched = Watched::new(memory(Config::BYTES), memory(words::BYTES));
        let watches = all();
        let _watching = watches.begin(port(1), 10).unwrap();
        watched.follow(&watches);
        watched.set(words::LEAVE, 0);
        watched.set(words::RENEWED, 0);
        watched.say(false);
        std::thread::sleep(RENEWAL);
        watched.renew(&watches);
        assert!(is_said(&watched));
        assert_eq!(word(&watched, words::LEAVE), LEAVE);
        assert_ne!(word(&watched, words::RENEWED), 0);
    }

    #[test]
    fn what_programs_found_no_room_for_is_lost_for_who_wanted_it() {
        let watched = Watched::new(memory(Config::BYTES), memory(words::BYTES));
        let watches = all();
        let [first, second] = [1, 2].map(|n| watches.begin(port(n), 10).unwrap());
        watched.follow(&watches);
        watched.set(words::LOST + 1, 7);
        watched.follow(&watches);
        watched.follow(&watches);
        assert_eq!([first.take().lost, second.take().lost], [0, 7]);
    }

    #[test]
    fn nothing_is_watched_that_a_killed_process_watched() {
        let (config, table) = (memory(Config::BYTES), memory(words::BYTES));
        for words in [&config, &table] {
            words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
        }
        let watched = Watched::new(config, table);
        assert!(!is_said(&watched));
        assert_eq!(ports(&watched), [0; WATCHES]);
        assert_eq!(word(&watched, words::LEAVE), 0);
    }
}
