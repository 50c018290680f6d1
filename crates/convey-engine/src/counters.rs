//! A counter for every verdict and reason, written by one worker and readable by any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::verdict::{DropReason, Note, PassReason, ReplyKind, Verdict};

/// Packets of one worker by verdict and reason. The sum over all of them is the packets processed.
#[derive(Debug)]
pub struct WorkerCounters {
    forwarded: AtomicU64,
    replies: Box<[AtomicU64]>,
    passes: Box<[AtomicU64]>,
    drops: Box<[AtomicU64]>,
    answered: Box<[AtomicU64]>,
    notes: Box<[AtomicU64]>,
    nat_port_probes: [AtomicU64; NAT_PORT_PROBES.len()],
}

/// Names of the classes that [`WorkerCounters::nat_port_probes`] counts by.
pub const NAT_PORT_PROBES: [&str; 6] = ["1", "2-3", "4-7", "8-15", "16-24", "25+"];

impl Default for WorkerCounters {
    fn default() -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            forwarded: AtomicU64::new(0),
            replies: zeros(ReplyKind::ALL.len()),
            passes: zeros(PassReason::ALL.len()),
            drops: zeros(DropReason::ALL.len()),
            answered: zeros(DropReason::ALL.len()),
            notes: zeros(Note::ALL.len()),
            nat_port_probes: Default::default(),
        }
    }
}

impl WorkerCounters {
    pub(crate) fn count(&self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Forward(_) => &self.forwarded,
            Verdict::Reply(r) => {
                add_one(&self.answered[r.reason as usize]);
                &self.replies[r.kind as usize]
            }
            Verdict::Pass(reason) => &self.passes[*reason as usize],
            Verdict::Drop(reason) => &self.drops[*reason as usize],
            Verdict::Unresolved { .. } => &self.drops[DropReason::NoNextHop as usize],
        };
        add_one(counter);
    }

    pub(crate) fn note(&self, note: Note) {
        add_one(&self.notes[note as usize]);
    }

    /// A NAT port was found at the `probes`th place looked at.
    pub(crate) fn found_nat_port(&self, probes: u32) {
        let class = match probes {
            0..=1 => 0,
            2..=3 => 1,
            4..=7 => 2,
            8..=15 => 3,
            16..=24 => 4,
            _ => 5,
        };
        add_one(&self.nat_port_probes[class]);
    }

    /// Free NAT ports taken, by how many places were looked at to find one; see [`NAT_PORT_PROBES`].
    pub fn nat_port_probes(&self) -> [u64; NAT_PORT_PROBES.len()] {
        self.nat_port_probes.each_ref().map(|count| count.load(Relaxed))
    }

    /// Packets forwarded.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Relaxed)
    }

    /// Answers of ours sent, by kind.
    pub fn replied(&self, kind: ReplyKind) -> u64 {
        self.replies[kind as usize].load(Relaxed)
    }

    /// Packets left to the kernel, by reason.
    pub fn passed(&self, reason: PassReason) -> u64 {
        self.passes[reason as usize].load(Relaxed)
    }

    /// Packets dropped, by reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    /// Packets answered by us instead of going on, by reason; they are in [`WorkerCounters::replied`] too.
    pub fn answered(&self, reason: DropReason) -> u64 {
        self.answered[reason as usize].load(Relaxed)
    }

    /// How often something happened on the way to a verdict.
    pub fn noted(&self, note: Note) -> u64 {
        self.notes[note as usize].load(Relaxed)
    }

    /// Packets processed: the sum of all verdicts.
    pub fn packets(&self) -> u64 {
        let sum = |c: &[AtomicU64]| c.iter().map(|c| c.load(Relaxed)).sum::<u64>();
        self.forwarded() + sum(&self.replies) + sum(&self.passes) + sum(&self.drops)
    }
}

fn add_one(counter: &AtomicU64) {
    // One writer: a plain store suffices and costs no locked instruction.
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}
