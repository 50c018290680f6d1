//! The port pools of one worker, made when the first flow towards a server begins.

use std::collections::HashMap;
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

use convey_core::conntrack::Memory;
use convey_core::nat_ports::{Partition, PortPool, PortUse, Victim};
use convey_packet::Addr;

use crate::hash::MixBuild;
use crate::options::PacketOptions;
use crate::snapshot::{NatPath, PacketSnapshot};

/// Ports tried in a row when frontends listen within the NAT range.
const MAX_SKIPS: usize = 64;

#[derive(Debug)]
pub(super) struct PortPools {
    partition: Partition,
    seed: u64,
    by_path: HashMap<NatPath, u16, MixBuild>,
    pools: Vec<Option<(NatPath, PortPool)>>,
    /// By pool: its NAT address, for who takes over the flows that name the pool.
    nat: Memory<u128>,
}

impl PortPools {
    pub(super) fn new(index: usize, options: &PacketOptions, nat: Memory<u128>) -> Self {
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
            by_path: HashMap::default(),
            pools: Vec::new(),
            nat,
        }
    }

    /// The pool of `path`, made if need be. `None`: there are as many pools as 16 bits can name.
    pub(super) fn pool(&mut self, path: &NatPath) -> Option<u16> {
        if let Some(pool) = self.by_path.get(path) {
            return Some(*pool);
        }
        let at = self.pools.iter().position(Option::is_none).unwrap_or(self.pools.len());
        let pool = u16::try_from(at).ok()?;
        let seed = self.seed
            ^ convey_core::selection::flow_hash(
                self.seed,
                [path.nat as u64, path.server as u64, u64::from(path.port) << 8 | u64::from(path.protocol)],
            );
        if let Some(nat) = self.nat.get_mut(at) {
            *nat = path.nat;
        }
        // A process that is killed has written the address before any flow that names it.
        compiler_fence(SeqCst);
        let made = Some((*path, PortPool::new(self.partition, seed)));
        match self.pools.get_mut(at) {
            Some(slot) => *slot = made,
            None => self.pools.push(made),
        }
        self.by_path.insert(*path, pool);
        Some(pool)
    }

    /// Takes a free port on which no frontend listens, for `holder`.
    pub(super) fn take(&mut self, pool: u16, holder: u32, snapshot: &PacketSnapshot) -> Option<u16> {
        let (path, ports) = self.pools.get_mut(usize::from(pool))?.as_mut()?;
        for _ in 0..MAX_SKIPS {
            let port = ports.take(holder)?;
            if snapshot.match_vip(path.protocol, Addr::from_bits(path.nat), port).is_none() {
                return Some(port);
            }
            ports.release(port);
        }
        None
    }

    /// Takes exactly this port, unless it is held, another worker's, or a frontend listens on it. Gives the pool.
    pub(super) fn take_exact(
        &mut self,
        path: &NatPath,
        port: u16,
        (holder, port_use): (u32, PortUse),
        snapshot: &PacketSnapshot,
    ) -> Option<u16> {
        if snapshot.match_vip(path.protocol, Addr::from_bits(path.nat), port).is_some() {
            return None;
        }
        let pool = self.pool(path)?;
        self.get_mut(pool)?.take_exact(port, holder, port_use).then_some(pool)
    }

    /// The memory of NAT addresses.
    pub(super) fn take_memory(&mut self) -> Memory<u128> {
        std::mem::replace(&mut self.nat, Memory::own(0))
    }

    #[inline]
    pub(super) fn holder(&self, path: &NatPath, port: u16) -> Option<(u16, u32)> {
        let pool = *self.by_path.get(path)?;
        Some((pool, self.get(pool)?.1.holder(port)?))
    }

    /// See [`PortPool::victim`].
    pub(super) fn victim(&mut self, pool: u16, idle: impl Fn(u32) -> Option<u32>) -> Option<Victim> {
        self.get_mut(pool)?.victim(idle)
    }

    pub(super) fn nat_address(&self, pool: u16) -> Option<u128> {
        Some(self.get(pool)?.0.nat)
    }

    pub(super) fn used_for(&mut self, pool: u16, port: u16, port_use: PortUse) {
        if let Some(ports) = self.get_mut(pool) {
            ports.used_for(port, port_use);
        }
    }

    pub(super) fn release(&mut self, pool: u16, port: u16) {
        if let Some(ports) = self.get_mut(pool) {
            ports.release(port);
        }
    }

    /// Gives up pools without a flow whose server has left the configuration.
    pub(super) fn forget_unused(&mut self, snapshot: &PacketSnapshot) {
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

    fn get_mut(&mut self, pool: u16) -> Option<&mut PortPool> {
        self.pools.get_mut(usize::from(pool))?.as_mut().map(|(_, p)| p)
    }
}
