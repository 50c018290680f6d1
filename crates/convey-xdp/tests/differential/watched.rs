//! What those who watch are told of a frame, by the portable engine and by a program with the worker beside it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use convey_bpf::tables::{Config, Watch, watches};
use convey_core::conntrack::{Memory, Ticks};
use convey_core::{FlowFilter, Watches, Watching};
use convey_engine::{LiveDecision, Outcome};
use convey_xdp::kernel::Kernel;

/// One who watches everything.
pub struct Watcher {
    pub watches: Arc<Watches<LiveDecision>>,
    watching: Watching<LiveDecision>,
}

impl Watcher {
    pub fn new() -> Self {
        let watches: Arc<Watches<LiveDecision>> = Arc::default();
        let watching = watches.begin(FlowFilter::default(), u64::MAX).unwrap();
        Self { watches, watching }
    }

    /// Of one frame.
    pub fn told(&self) -> Vec<LiveDecision> {
        self.watching.take().decisions
    }
}

/// What the program goes by.
pub struct Words {
    config: Memory<AtomicU64>,
    table: Memory<AtomicU64>,
}

impl Words {
    /// A program's, of which everything is watched.
    pub fn of(kernel: &Kernel) -> Self {
        let memory = |map| kernel.memory(map).unwrap().words64();
        let words = Self { config: memory("config"), table: memory("watches") };
        let filter = Watch::default().to_bytes();
        for (at, word) in (watches::FILTERS..).zip(filter.chunks_exact(8)) {
            words.set(at, u64::from_ne_bytes(word.try_into().unwrap()));
        }
        words
    }

    fn set(&self, at: usize, value: u64) {
        self.table.get(at).unwrap().store(value, Relaxed);
    }

    /// It may tell of one packet, or of none.
    pub fn allow(&self, is_watched: bool, nanos: u64) {
        self.set(watches::LEAVE, 1);
        self.set(watches::RENEWED, u64::from(Ticks::from_nanos(nanos).0));
        self.config.get(Config::WATCHED).unwrap().store(is_watched.into(), Relaxed);
    }
}

/// How the two differ.
pub fn difference(rust: &[LiveDecision], c: &[LiveDecision]) -> Option<String> {
    // A program that leaves a packet to the kernel says nothing.
    let rust: Vec<_> = rust.iter().filter(|d| !matches!(d.explanation.outcome, Outcome::Pass(_))).collect();
    let alike = |(rust, c): (&&LiveDecision, &LiveDecision)| {
        let ends = |d: &LiveDecision| (d.protocol, d.source, d.destination);
        let (a, b) = (&rust.explanation, &c.explanation);
        let is_same = match a.outcome {
            Outcome::Forward => a == b,
            // Of what is dropped, a program does not tell what would have become of it.
            outcome => outcome == b.outcome && (&a.frontend, a.direction) == (&b.frontend, b.direction),
        };
        ends(rust) == ends(c) && is_same
    };
    if rust.len() == c.len() && rust.iter().zip(c).all(alike) {
        return None;
    }
    Some(format!("    those who watch are told\n    Rust {rust:#?}\n    C    {c:#?}\n"))
}
