//! What the programs have counted, brought to the counters of the snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aya::maps::{MapData, PerCpuArray};
use convey_bpf::tables::REASONS;
use convey_core::conntrack::Memory;
use convey_core::{Collected, ConnCounters, Reason};
use convey_engine::{EngineStats, PacketFrontend, PacketSnapshot};

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

    /// What another process has counted is its own, but for connections that are open: those are ours.
    fn begin_after(&mut self, slot: u16) {
        let more = self.take(slot);
        if let Some(known) = self.known.get_mut(&slot) {
            known.open = 0;
            known.total = more.total.wrapping_sub(more.open.cast_unsigned());
        }
    }

    /// What was counted of a slot since the last time.
    fn take(&mut self, slot: u16) -> Collected {
        let gauge = |at: usize| self.gauges.get(usize::from(slot) * 2 + at).map_or(0, |g| g.load(Relaxed));
        let mut now = Counted { open: gauge(0), total: gauge(1), traffic: [0; 4] };
        let before = self.known.get(&slot).copied().unwrap_or_default();
        match self.traffic.get(&u32::from(slot), 0) {
            Ok(cpus) => {
                for cpu in cpus.iter() {
                    add_words(&mut now.traffic, cpu);
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

/// Bytes of `struct refusals`, and what it counts.
const REFUSALS_BYTES: usize = 48;
const REFUSALS: [Reason; 6] = [
    Reason::NoServer,
    Reason::PortsExhausted,
    Reason::LimitTotal,
    Reason::LimitFrontend,
    Reason::LimitServer,
    Reason::Denied,
];

/// Packets refused without a word, by slot of the frontend.
pub(super) struct Refusals {
    map: PerCpuArray<MapData, [u8; REFUSALS_BYTES]>,
    known: BTreeMap<u16, [u64; REFUSALS.len()]>,
}

impl Refusals {
    pub(super) fn new(map: PerCpuArray<MapData, [u8; REFUSALS_BYTES]>) -> Self {
        Self { map, known: BTreeMap::new() }
    }

    /// What was refused since the last time.
    fn take(&mut self, slot: u16) -> [u64; REFUSALS.len()] {
        let mut now = [0; REFUSALS.len()];
        let Ok(cpus) = self.map.get(&u32::from(slot), 0) else { return now };
        for cpu in cpus.iter() {
            add_words(&mut now, cpu);
        }
        let before = self.known.insert(slot, now).unwrap_or_default();
        std::array::from_fn(|at| now[at].wrapping_sub(before[at]))
    }

    fn collect(&mut self, slot: u16, frontend: &PacketFrontend, snapshot: &PacketSnapshot) {
        for (reason, more) in REFUSALS.into_iter().zip(self.take(slot)) {
            if more > 0 {
                frontend.reasons.add(reason, more);
                snapshot.reasons().add(reason, more);
            }
        }
    }
}

fn add_words(sums: &mut [u64], bytes: &[u8]) {
    for (sum, word) in sums.iter_mut().zip(bytes.chunks_exact(8)) {
        *sum += word.try_into().map_or(0, u64::from_ne_bytes);
    }
}

/// All that the programs count.
pub(super) struct Counts {
    pub(super) frontends: SlotCounts,
    pub(super) servers: SlotCounts,
    pub(super) refusals: Refusals,
    pub(super) reasons: PerCpuArray<MapData, u64>,
    /// By class, as the worker counts its own.
    pub(super) nat_port_probes: PerCpuArray<MapData, u64>,
}

impl Counts {
    /// Goes on with maps of another process.
    pub(super) fn begin_after(&mut self, snapshot: &PacketSnapshot) {
        for (slot, _) in snapshot.frontends() {
            self.refusals.take(slot);
            self.frontends.begin_after(slot);
        }
        for (slot, _) in snapshot.servers() {
            self.servers.begin_after(slot);
        }
    }

    /// Adds what was counted since the last time to the counters of `snapshot`.
    pub(super) fn collect(&mut self, snapshot: &PacketSnapshot) {
        let add = |counters: &ConnCounters, more: &Collected| {
            if *more != Collected::default() {
                counters.collect(more);
            }
        };
        for (slot, frontend) in snapshot.frontends() {
            self.refusals.collect(slot, frontend, snapshot);
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
        let sum = |map: &PerCpuArray<MapData, u64>, at: u32| {
            map.get(&at, 0).map_or(0, |cpus| cpus.iter().sum::<u64>())
        };
        for (at, (_, probes)) in (0u32..).zip(&mut stats.nat_port_probes) {
            *probes += sum(&self.nat_port_probes, at);
        }
        for (at, name) in (0u32..).zip(REASONS) {
            let count = sum(&self.reasons, at);
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
