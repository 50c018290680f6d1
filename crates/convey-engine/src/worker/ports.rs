//! The port pools of one worker, made when the first flow towards a server begins.

use std::collections::HashMap;
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};
use std::sync::{Arc, Mutex, PoisonError};

use convey_core::conntrack::{FlowId, Memory, Place, Ticks};
use convey_core::nat_ports::{Partition, PortPool, PortUse, Taken, Victim};
use convey_core::selection::flow_hash;
use convey_packet::Addr;

use super::kernel::PoolMemory;
use crate::counters::WorkerCounters;
use crate::flows::NatAddresses;
use crate::hash::MixBuild;
use crate::options::PacketOptions;
use crate::snapshot::{NatPath, PacketSnapshot};

#[derive(Debug)]
pub(super) struct PortPools {
    partition: Partition,
    /// Secret, so that nobody foresees which port is next.
    seed: u64,
    searches: u64,
    now: Ticks,
    by_path: HashMap<NatPath, u16, MixBuild>,
    pools: Vec<Option<(NatPath, PortPool)>>,
    /// The same for who looks at flows of this process.
    addresses: Arc<Mutex<Vec<u128>>>,
    /// By pool: its NAT address, for who takes over the flows that name the pool.
    nat: Memory<u128>,
    counters: Arc<WorkerCounters>,
    /// Where programs in the kernel have the ports: pools are paths then, by number.
    kernel: Option<PoolMemory>,
}

/// Who has a port that was not taken here.
pub(super) struct Holder {
    pub(super) id: FlowId,
    pub(super) port_use: PortUse,
    /// When it was used last.
    pub(super) since: Ticks,
}

/// A flow's number in a port's word: 0 is nobody's there.
fn owner_of(id: FlowId) -> u32 {
    id.bits() + 1
}

fn flow_by(owner: u32) -> FlowId {
    FlowId::from_bits(owner.wrapping_sub(1))
}

impl PortPools {
    pub(super) fn new(
        index: usize,
        options: &PacketOptions,
        nat: Memory<u128>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let stride = u16::try_from(options.workers.max(1)).unwrap_or(u16::MAX);
        let range = options.nat_ports;
        Self {
            partition: Partition {
                first: range.first,
                last: range.last,
                stride,
                remainder: u16::try_from(index).unwrap_or(u16::MAX) % stride,
            },
            seed: options.seed,
            searches: 0,
            now: Ticks(0),
            by_path: HashMap::default(),
            pools: Vec::new(),
            addresses: Arc::default(),
            nat,
            counters,
            kernel: None,
        }
    }

    /// Those that programs in the kernel hand out as well.
    pub(super) fn in_kernel(
        options: &PacketOptions,
        memory: PoolMemory,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let one = PacketOptions { workers: 1, ..options.clone() };
        Self { kernel: Some(memory), ..Self::new(0, &one, Memory::own(0), counters) }
    }

    /// Goes by the paths that programs in the kernel go by now.
    pub(super) fn take_paths(&mut self) {
        let Some(PoolMemory { paths, words }) = &self.kernel else { return };
        self.by_path.clear();
        let paths = paths.get();
        let mut former = std::mem::take(&mut self.pools).into_iter();
        for (number, path) in (0..=u16::MAX).zip(paths) {
            let before = former.next().flatten();
            let pool = path.map(|path| {
                self.by_path.insert(path, number);
                match before {
                    Some((same, pool)) if same == path => (path, pool),
                    _ => (path, PortPool::in_memory(self.partition, words(number))),
                }
            });
            self.pools.push(pool);
        }
    }

    /// What is done with ports from now on is done at this time.
    pub(super) fn set_now(&mut self, now: Ticks) {
        self.now = now;
    }

    /// The pool of `path`, made if need be. `None`: there are as many pools as 16 bits can name.
    pub(super) fn pool(&mut self, path: &NatPath) -> Option<u16> {
        if let Some(pool) = self.by_path.get(path) {
            return Some(*pool);
        }
        if self.kernel.is_some() {
            return None;
        }
        let at = self.pools.iter().position(Option::is_none).unwrap_or(self.pools.len());
        let pool = u16::try_from(at).ok()?;
        if let Some(nat) = self.nat.get_mut(at) {
            *nat = path.nat;
        }
        self.tell_address(at, path.nat);
        // A process that is killed has written the address before any flow that names it.
        compiler_fence(SeqCst);
        let made = Some((*path, PortPool::new(self.partition)));
        match self.pools.get_mut(at) {
            Some(slot) => *slot = made,
            None => self.pools.push(made),
        }
        self.by_path.insert(*path, pool);
        Some(pool)
    }

    /// The NAT addresses of its pools, for other threads.
    pub(super) fn addresses(&self) -> NatAddresses {
        match &self.kernel {
            Some(kernel) => NatAddresses::Paths(kernel.paths.clone()),
            None => NatAddresses::Pools(self.addresses.clone()),
        }
    }

    fn tell_address(&self, pool: usize, nat: u128) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() <= pool {
            addresses.resize(pool + 1, 0);
        }
        addresses[pool] = nat;
    }

    /// Takes a free port on which no frontend listens, for the flow `id` that lies at `place`.
    pub(super) fn take(
        &mut self,
        pool: u16,
        (id, place): (FlowId, &Place),
        snapshot: &PacketSnapshot,
    ) -> Option<u16> {
        let random = self.random(place);
        let (path, ports) = self.get(pool)?;
        let taken = ports.take(owner_of(id), random, self.now, |port| is_usable(path, port, snapshot));
        let Taken { port, looks } = taken?;
        self.counters.found_nat_port(looks);
        Some(port)
    }

    /// Takes the port of a victim whose flow has ended, or another that is free.
    pub(super) fn take_over(
        &mut self,
        pool: u16,
        victim: &Victim,
        (id, place): (FlowId, &Place),
        snapshot: &PacketSnapshot,
    ) -> Option<u16> {
        let (path, ports) = self.get(pool)?;
        if is_usable(path, victim.port, snapshot) && ports.take_over(victim, owner_of(id), self.now) {
            return Some(victim.port);
        }
        self.take(pool, (id, place), snapshot)
    }

    /// Takes exactly this port, unless it is held, another worker's, or a frontend listens on it. Gives the pool.
    pub(super) fn take_exact(
        &mut self,
        path: &NatPath,
        port: u16,
        Holder { id, port_use, since }: Holder,
        snapshot: &PacketSnapshot,
    ) -> Option<u16> {
        if !is_usable(path, port, snapshot) {
            return None;
        }
        let pool = self.pool(path)?;
        self.get(pool)?.1.take_exact(port, owner_of(id), port_use, since).then_some(pool)
    }

    /// The memory of NAT addresses.
    pub(super) fn take_memory(&mut self) -> Memory<u128> {
        std::mem::replace(&mut self.nat, Memory::own(0))
    }

    #[inline]
    pub(super) fn holder(&self, path: &NatPath, port: u16) -> Option<(u16, FlowId)> {
        let pool = *self.by_path.get(path)?;
        let owner = self.get(pool)?.1.owner(port)?;
        Some((pool, flow_by(owner)))
    }

    /// See [`PortPool::victim`].
    pub(super) fn victim(
        &mut self,
        pool: u16,
        place: &Place,
        idle: impl Fn(FlowId) -> Option<u32>,
    ) -> Option<Victim> {
        let random = self.random(place);
        let idle = |owner| idle(flow_by(owner));
        self.get(pool)?.1.victim(random, self.now, idle)
    }

    /// The flow that gives its port up.
    pub(super) fn flow_of(victim: &Victim) -> FlowId {
        flow_by(victim.owner)
    }

    pub(super) fn nat_address(&self, pool: u16) -> Option<u128> {
        Some(self.get(pool)?.0.nat)
    }

    pub(super) fn used_for(&mut self, pool: u16, port: u16, port_use: PortUse) {
        if let Some((_, ports)) = self.get(pool)
            && let Some(owner) = ports.owner(port)
        {
            ports.used_for(port, owner, port_use, self.now);
        }
    }

    pub(super) fn release(&mut self, pool: u16, port: u16) {
        if let Some((_, ports)) = self.get(pool)
            && let Some(owner) = ports.owner(port)
        {
            ports.release(port, owner, self.now);
        }
    }

    /// Gives up pools without a flow whose server has left the configuration.
    pub(super) fn forget_unused(&mut self, snapshot: &PacketSnapshot) {
        if self.kernel.is_some() {
            return self.take_paths();
        }
        for slot in &mut self.pools {
            if let Some((path, ports)) = slot
                && ports.held() == 0
                && !snapshot.is_nat_path(path)
            {
                self.by_path.remove(path);
                *slot = None;
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pools.iter().flatten().map(|(_, p)| p.memory_bytes()).sum()
    }

    fn get(&self, pool: u16) -> Option<&(NatPath, PortPool)> {
        self.pools.get(usize::from(pool))?.as_ref()
    }

    /// Where a search begins. Programs in the kernel go by the flow alone, and so does the worker beside them: whichever
    /// of the two begins a flow, it gets the same port.
    fn random(&mut self, place: &Place) -> u32 {
        if self.kernel.is_some() {
            return place.random();
        }
        self.searches += 1;
        flow_hash(self.seed, [self.searches]) as u32
    }
}

/// Whether no frontend listens on that port of the path's NAT address.
fn is_usable(path: &NatPath, port: u16, snapshot: &PacketSnapshot) -> bool {
    snapshot.match_vip(path.protocol, Addr::from_bits(path.nat), port).is_none()
}
