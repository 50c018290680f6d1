//! The worker beside programs in the kernel, in whose tables it decides about what they hand up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use convey_core::conntrack::{Flow, FlowTable, LaterSyns, Memory, Overflow, Ticks};

use super::census::Census;
use super::held::{Gauges, Held, KernelGauges};
use super::ports::PortPools;
use super::{MemoryWords, Worker, WorkerParts};
use crate::counters::WorkerCounters;
use crate::meta::Nanos;
use crate::path_numbers::PathNumbers;
use crate::snapshot::PacketSnapshot;
use crate::takeover::TakenOver;

/// The words of the NAT ports of a path, by its number; empty for a number that there is no room for.
pub type PoolWords = Arc<dyn Fn(u16) -> Memory<AtomicU64> + Send + Sync>;

/// Where the NAT ports of paths lie.
#[derive(Clone)]
pub struct PoolMemory {
    /// The numbers of paths.
    pub paths: Arc<PathNumbers>,
    /// Their ports.
    pub words: PoolWords,
}

impl fmt::Debug for PoolMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolMemory").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// Tables that programs in the kernel work in.
#[derive(Debug)]
pub struct KernelMemory {
    /// IPv4 flows, IPv6 flows; see [`FlowTable::shared`].
    pub flows: [MemoryWords; 2],
    /// Their spills.
    pub spills: [MemoryWords; 2],
    /// See [`LaterSyns`].
    pub later_syns: Memory<AtomicU64>,
    /// How many flows are half-open.
    pub half_open: Memory<AtomicU64>,
    /// Connections.
    pub gauges: KernelGauges,
    /// NAT ports.
    pub pools: PoolMemory,
}

impl Worker {
    /// The worker that decides about what programs in the kernel hand up, and looks after their tables. `None`: sizes do
    /// not fit.
    pub fn in_kernel(snapshot: &PacketSnapshot, memory: KernelMemory) -> Option<Self> {
        let options = snapshot.options();
        let overflow = if snapshot.is_passthrough() { Overflow::Refuse } else { Overflow::EvictOldest };
        let KernelMemory { flows, spills, later_syns, half_open, gauges, pools } = memory;
        let mut flows = FlowTable::shared(flows, spills, overflow, snapshot.lifetimes(), options.seed)?;
        flows.count_half_open_in(half_open);
        let counters: Arc<WorkerCounters> = Arc::default();
        let mut ports = PortPools::in_kernel(options, pools, counters.clone());
        ports.take_paths();
        Some(Self::of_parts(
            snapshot,
            WorkerParts {
                index: 0,
                counters,
                flows,
                untaken_v6: None,
                later_syns: LaterSyns::in_memory(later_syns)?,
                held: Held { ports, gauges: Gauges::Kernel(gauges) },
                census: Some(Census::default()),
                alive: Memory::own(0),
            },
        ))
    }

    /// The flows in the tables that another process has left, as what was taken over.
    pub fn count_taken_over(&self, snapshot: &PacketSnapshot, now: Nanos) -> TakenOver {
        let ticks = Ticks::from_nanos(now.0);
        let all = self.flows.flows_at(0..self.flows.all_entries());
        let is_over = |f: &Flow| ticks.since(Ticks(f.last_seen)) > snapshot.lifetimes().0[f.state as usize];
        let kept = all.into_iter().filter(|flow| flow.is_live() && !is_over(flow)).count() as u64;
        let mut taken_over = TakenOver::default();
        taken_over.kept = kept;
        taken_over
    }

    /// Whether programs in the kernel work in its tables: flows go on without it.
    pub fn is_in_kernel(&self) -> bool {
        self.census.is_some()
    }
}
