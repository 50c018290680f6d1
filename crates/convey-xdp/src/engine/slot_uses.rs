//! When packets of minimal tracking last went elsewhere than to their slot's server, as the programs have noted it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use convey_afpacket::monotonic;
use convey_bpf::tables::use_of_slot;
use convey_core::conntrack::Memory;
use convey_engine::PacketSnapshot;

use crate::mapped::MapMemory;

/// The moments are as coarse as 4.3 s.
const PAUSE_NANOS: u64 = 2_000_000_000;

/// The programs' notes.
pub(super) struct SlotUses {
    words: Memory<AtomicU32>,
    collected: AtomicU64,
}

impl SlotUses {
    pub(super) fn new(map: &MapMemory) -> Self {
        Self { words: map.words32(), collected: AtomicU64::new(0) }
    }

    /// Tells them to `snapshot`, so that it knows which slots have settled.
    pub(super) fn collect(&self, snapshot: &PacketSnapshot) {
        let now = monotonic();
        if now.0.saturating_sub(self.collected.load(Relaxed)) < PAUSE_NANOS {
            return;
        }
        self.collected.store(now.0, Relaxed);
        snapshot.take_slot_uses(now, |frontend, slot| {
            let at = use_of_slot(frontend, slot);
            let word = self.words.get(at / 2).map_or(0, |word| word.load(Relaxed)).to_ne_bytes();
            let half = 2 * (at % 2);
            u16::from_ne_bytes([word[half], word[half + 1]])
        });
    }
}
