//! What an engine tells of its packets: the sum of all workers' counters, and frames lost on the way in or out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::counters::{NAT_PORT_PROBES, WorkerCounters};
use crate::verdict::{DropReason, Note, PassReason, ReplyKind};

macro_rules! losses {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was lost in I/O.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Loss { $($(#[doc = $doc])+ $variant,)+ }

        impl Loss {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Loss] = &[$(Loss::$variant,)+];

            /// The name under which `/stats` reports it.
            pub const fn name(self) -> &'static str {
                match self { $(Loss::$variant => $name,)+ }
            }
        }
    };
}

losses! {
    /// The receive buffer was full; the worker does not keep up.
    RxQueueFull = "rx_queue_full",
    /// A super-frame larger than any buffer.
    RxTooLong = "rx_too_long",
    /// The worker panicked over the batch this frame was in.
    RxPanicked = "rx_panicked",
    /// A later fragment that could not be held for its first any longer: too many came.
    FragmentNotHeld = "fragment_not_held",
    /// The egress queue was full.
    TxQueueFull = "tx_queue_full",
    /// The kernel had no memory for it.
    TxNoBuffer = "tx_no_buffer",
    /// Larger than the egress interface takes.
    TxTooBig = "tx_too_big",
    /// The egress interface was down or gone.
    TxLinkDown = "tx_link_down",
    /// The kernel refused it for another cause.
    TxFailed = "tx_failed",
}

/// A counter for each [`Loss`], and the gauges of one worker.
#[derive(Debug)]
pub struct IoCounters {
    losses: Box<[AtomicU64]>,
    /// Flows held, as of the last tick.
    pub flows: AtomicU64,
    /// Times the worker was started again after a panic.
    pub panics: AtomicU64,
    /// Frames that waited for a neighbour and went through the engine twice.
    pub retried: AtomicU64,
    /// Fragments that were held for their first and went through the engine twice.
    pub followed: AtomicU64,
}

impl Default for IoCounters {
    fn default() -> Self {
        Self {
            losses: Loss::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            flows: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            followed: AtomicU64::new(0),
        }
    }
}

impl IoCounters {
    /// Counts `frames` lost.
    pub fn lost(&self, loss: Loss, frames: u64) {
        self.losses[loss as usize].fetch_add(frames, Relaxed);
    }

    /// Frames lost so far.
    pub fn get(&self, loss: Loss) -> u64 {
        self.losses[loss as usize].load(Relaxed)
    }
}

/// Packets since the start, all workers together. A super-frame counts once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Forwarded, including those a later `tx_` loss kept from leaving.
    pub forwarded: u64,
    /// Answered by ourselves, by kind.
    pub replied: Vec<(&'static str, u64)>,
    /// Answered by ourselves instead of going on, by reason; each is in `replied` as well.
    pub answered: Vec<(&'static str, u64)>,
    /// Left to the kernel, by reason.
    pub passed: Vec<(&'static str, u64)>,
    /// Dropped or lost, by reason; every reason is there, most are 0.
    pub dropped: Vec<(&'static str, u64)>,
    /// What happened on the way to a verdict, by kind; a packet may be in several or none.
    pub noted: Vec<(&'static str, u64)>,
    /// Free NAT ports taken (passthrough), by how many places were looked at to find one; every class is there.
    pub nat_port_probes: Vec<(&'static str, u64)>,
    /// Flows held now, as of a moment ago.
    pub flows: u64,
    /// Times a worker was started again after a panic.
    pub panics: u64,
}

impl EngineStats {
    /// Adds up the counters of all workers.
    pub fn sum<'a>(workers: impl Iterator<Item = (&'a WorkerCounters, &'a IoCounters)>) -> Self {
        let mut stats = Self {
            replied: ReplyKind::ALL.iter().map(|k| (k.name(), 0)).collect(),
            answered: DropReason::ALL.iter().map(|r| (r.name(), 0)).collect(),
            passed: PassReason::ALL.iter().map(|r| (r.name(), 0)).collect(),
            dropped: DropReason::ALL
                .iter()
                .map(|r| r.name())
                .chain(Loss::ALL.iter().map(|l| l.name()))
                .map(|name| (name, 0))
                .collect(),
            noted: Note::ALL.iter().map(|n| (n.name(), 0)).collect(),
            nat_port_probes: NAT_PORT_PROBES.map(|class| (class, 0)).into(),
            ..Self::default()
        };
        for (worker, io) in workers {
            stats.forwarded += worker.forwarded();
            add(&mut stats.replied, ReplyKind::ALL.iter().map(|k| worker.replied(*k)));
            add(&mut stats.answered, DropReason::ALL.iter().map(|r| worker.answered(*r)));
            // The engine counted a fragment that was to be held as passed.
            let followed = io.followed.load(Relaxed) + io.get(Loss::FragmentNotHeld);
            let passes = PassReason::ALL.iter().map(|r| match r {
                PassReason::Fragment => worker.passed(*r).saturating_sub(followed),
                _ => worker.passed(*r),
            });
            add(&mut stats.passed, passes);
            add(&mut stats.noted, Note::ALL.iter().map(|n| worker.noted(*n)));
            add(&mut stats.nat_port_probes, worker.nat_port_probes().into_iter());
            let retried = io.retried.load(Relaxed);
            // The engine counted a retried frame as dropped the first time.
            let drops = DropReason::ALL.iter().map(|r| match r {
                DropReason::NoNextHop => worker.dropped(*r).saturating_sub(retried),
                _ => worker.dropped(*r),
            });
            add(&mut stats.dropped, drops.chain(Loss::ALL.iter().map(|l| io.get(*l))));
            stats.flows += io.flows.load(Relaxed);
            stats.panics += io.panics.load(Relaxed);
        }
        stats
    }

    /// Packets dropped or lost for the reason of this name; 0 for a name that is none.
    pub fn dropped(&self, name: &str) -> u64 {
        self.dropped.iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count)
    }
}

fn add(sums: &mut [(&'static str, u64)], counts: impl Iterator<Item = u64>) {
    for ((_, sum), count) in sums.iter_mut().zip(counts) {
        *sum += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Reply, Verdict};

    #[test]
    fn losses_and_the_reasons_of_answers_of_all_workers_are_added_up_under_their_names() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        let io = [IoCounters::default(), IoCounters::default()];
        io[0].lost(Loss::TxTooBig, 2);
        io[1].lost(Loss::TxTooBig, 1);
        io[1].lost(Loss::RxQueueFull, 7);
        io[0].flows.store(3, Relaxed);
        let reply =
            |reason| Verdict::Reply(Reply { egress_ifindex: 1, len: 54, kind: ReplyKind::TcpReset, reason });
        workers[0].count(&reply(DropReason::NoFlow));
        workers[1].count(&reply(DropReason::NoFlow));
        workers[1].count(&reply(DropReason::ServerIsClient));
        let stats = EngineStats::sum(workers.iter().zip(&io));
        let answered: Vec<_> = stats.answered.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(answered, [("no_flow", 2), ("server_is_client", 1)]);
        assert_eq!((stats.dropped("tx_too_big"), stats.dropped("rx_queue_full"), stats.flows), (3, 7, 3));
        assert_eq!(stats.dropped.len(), DropReason::ALL.len() + Loss::ALL.len());
    }

    #[test]
    fn looks_for_nat_ports_of_all_workers_are_added_up_by_class() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        let io = [IoCounters::default(), IoCounters::default()];
        for (worker, looks) in [(0, 1), (0, 3), (1, 1), (1, 2), (1, 8), (1, 24), (1, 25)] {
            workers[worker].found_nat_port(looks);
        }
        let stats = EngineStats::sum(workers.iter().zip(&io));
        let expected = [("1", 2), ("2-3", 2), ("4-7", 0), ("8-15", 1), ("16-24", 1), ("25+", 1)];
        assert_eq!(stats.nat_port_probes, expected);
    }
}
