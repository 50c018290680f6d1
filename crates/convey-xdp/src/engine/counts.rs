//! What the programs have counted, brought to the counters of the snapshot.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray};
use convey_bpf::tables::REASONS;
use convey_core::conntrack::Memory;
use convey_core::{Collected, ConnCounters};
use convey_engine::{EngineStats, PacketSnapshot};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// `struct traffic`: bytes and packets from clients, bytes and packets from servers.
const TRAFFIC_BYTES: usize = 32;

/// The maps of one kind of slot.
pub(super) struct SlotCounts {
    traffic: PerCpuArray<MapData, [u8; TRAFFIC_BYTES]>,
    gauges: Memory<AtomicU64>,
    /// By slot: what was collected before.
    known: BTreeMap<u16, Counted>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    open: u64,
    total: u64,
    traffic: [u64; 4],
}

impl SlotCounts {
    pub(super) fn new(traffic: PerCpuArray<MapData, [u8; TRAFFIC_BYTES]>, gauges: Memory<AtomicU64>) -> Self {
        Self { traffic, gauges, known: BTreeMap::new() }
    }

    /// What was counted of a slot since the last time.
    fn take(&mut self, slot: u16) -> Collected {
        let gauge = |at: usize| self.gauges.get(usize::from(slot) * 2 + at).map_or(0, |g| g.load(Relaxed));
        let mut now = Counted { open: gauge(0), total: gauge(1), traffic: [0; 4] };
        let before = self.known.get(&slot).copied().unwrap_or_default();
        match self.traffic.get(&u32::from(slot), 0) {
            Ok(cpus) => {
                for cpu in cpus.iter() {
                    for (sum, word) in now.traffic.iter_mut().zip(cpu.chunks_exact(8)) {
                        *sum += word.try_into().map_or(0, u64::from_ne_bytes);
                    }
                }
            }
            Err(_) => now.traffic = before.traffic,
        }
        self.known.insert(slot, now);
        let traffic = |at: usize| now.traffic[at].wrapping_sub(before.traffic[at]);
        Collected {
            total: now.total.wrapping_sub(before.total),
            open: now.open.wrapping_sub(before.open).cast_signed(),
            bytes_tx: traffic(0),
            packets_tx: traffic(1),
            bytes_rx: traffic(2),
            packets_rx: traffic(3),
        }
    }

    /// Packets forwarded, as of the last time.
    fn packets(&self) -> u64 {
        self.known.values().map(|counted| counted.traffic[1] + counted.traffic[3]).sum()
    }
}

/// All that the programs count.
pub(super) struct Counts {
    pub(super) frontends: SlotCounts,
    pub(super) servers: SlotCounts,
    pub(super) reasons: PerCpuArray<MapData, u64>,
}

impl Counts {
    /// Adds what was counted since the last time to the counters of `snapshot`.
    pub(super) fn collect(&mut self, snapshot: &PacketSnapshot) {
        let add = |counters: &ConnCounters, more: &Collected| {
            if *more != Collected::default() {
                counters.collect(more);
            }
        };
        for (slot, frontend) in snapshot.frontends() {
            let more = self.frontends.take(slot);
            add(&frontend.counters, &more);
            add(snapshot.totals(), &more);
        }
        for (slot, server) in snapshot.servers() {
            let more = self.servers.take(slot);
            add(&server.counters, &more);
            add(&server.backend_counters, &more);
        }
    }

    /// Adds the packets that the programs decided about to those the worker did.
    pub(super) fn add_to(&self, stats: &mut EngineStats) {
        stats.forwarded += self.frontends.packets();
        for (at, name) in (0u32..).zip(REASONS) {
            let count: u64 = self.reasons.get(&at, 0).map_or(0, |cpus| cpus.iter().sum());
            let name = match *name {
                "ring_full" => "rx_queue_full",
                other => other,
            };
            let lists = [&mut stats.passed, &mut stats.dropped, &mut stats.noted];
            let known = lists.into_iter().flatten().find(|(n, _)| *n == name);
            match known {
                Some((_, sum)) => *sum += count,
                None => stats.noted.push((name, count)),
            }
        }
    }
}
