//! The maps as the portable engine's tables.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use aya::maps::Array;
use convey_core::conntrack::{FlowState, FlowTable, Lifetimes, Memory, Overflow, Ticks};
use convey_core::nat_ports::{Partition, PortPool};
use convey_xdp::kernel::Kernel;

/// Ticks every flow lives, and the seed of its hash, in images of `lab`.
pub const LIFETIME: u32 = 100_000;
pub const SEED: u64 = 0x5eed;

pub fn now() -> Ticks {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ticks::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Memory that begins with a whole set, as that of a map does.
fn words32(bytes: impl Iterator<Item = u8>) -> Memory<AtomicU32> {
    let bytes: Vec<u8> = bytes.collect();
    let words = bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
    let all = (0..bytes.len() / 4 + 32).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().leak();
    let offset = (128 - all.as_ptr().addr() % 128) % 128 / 4;
    let aligned = &mut all[offset..offset + bytes.len() / 4];
    for (to, word) in aligned.iter().zip(words) {
        to.store(word, Relaxed);
    }
    Memory::mapped(aligned, Arc::new(()))
}

pub fn read<const N: usize>(kernel: &Kernel, map: &str) -> Vec<[u8; N]> {
    let map: Array<_, [u8; N]> = kernel.ebpf.map(map).unwrap().try_into().unwrap();
    map.iter().map(Result::unwrap).collect()
}

pub fn write<const N: usize>(kernel: &mut Kernel, map: &str, bytes: &[u8]) {
    let mut map: Array<_, [u8; N]> = kernel.ebpf.map_mut(map).unwrap().try_into().unwrap();
    for (i, value) in (0..).zip(bytes.chunks(N)) {
        map.set(i, <[u8; N]>::try_from(value).unwrap(), 0).unwrap();
    }
}

/// A copy of the flows.
pub fn flows(kernel: &Kernel, passthrough: bool) -> FlowTable {
    let memory = |map| words32(read::<128>(kernel, map).into_iter().flatten());
    let spills = |map| words32(read::<64>(kernel, map).into_iter().flatten());
    let overflow = if passthrough { Overflow::Refuse } else { Overflow::EvictOldest };
    let lifetimes = Lifetimes([LIFETIME; FlowState::COUNT]);
    FlowTable::shared(
        [memory("flows4"), memory("flows6")],
        [spills("spills4"), spills("spills6")],
        overflow,
        lifetimes,
        SEED,
    )
    .unwrap()
}

/// Puts flows into the maps.
pub fn put_flows(kernel: &mut Kernel, flows: FlowTable) {
    let bytes = |words: &[AtomicU32]| -> Vec<u8> {
        words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
    };
    let [[v4, spills4], [v6, spills6]] = flows.into_shared_memory();
    write::<128>(kernel, "flows4", &bytes(&v4));
    write::<128>(kernel, "flows6", &bytes(&v6));
    write::<64>(kernel, "spills4", &bytes(&spills4));
    write::<64>(kernel, "spills6", &bytes(&spills6));
}

/// A copy of the ports of the first paths.
pub fn pools<const N: usize>(kernel: &Kernel, partition: Partition) -> [PortPool; N] {
    let words: Vec<u64> = read::<8>(kernel, "nat_ports").into_iter().map(u64::from_ne_bytes).collect();
    let len = PortPool::words(partition);
    std::array::from_fn(|i| {
        let words = words[i * len..(i + 1) * len].iter().map(|word| AtomicU64::new(*word));
        PortPool::in_memory(partition, Memory::mapped(words.collect::<Vec<_>>().leak(), Arc::new(())))
    })
}

/// Puts the ports of the first paths into the map.
pub fn put_pools<const N: usize>(kernel: &mut Kernel, pools: [PortPool; N]) {
    let pools = pools.map(PortPool::into_memory);
    let words = pools.iter().flat_map(|pool| pool.iter()).map(|word| word.load(Relaxed));
    write::<8>(kernel, "nat_ports", &words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>());
}

/// Makes every flow older by so many ticks.
pub fn age(kernel: &mut Kernel, ticks: u32) {
    for (map, entry) in [("flows4", 32), ("flows6", 64)] {
        let mut sets: Vec<[u8; 128]> = read(kernel, map);
        for flow in sets.iter_mut().flat_map(|set| set.chunks_mut(entry)).filter(|f| f[0] & 15 != 0) {
            let seen = u32::from_ne_bytes(flow[4..8].try_into().unwrap());
            let older = (seen & 0xff00_0000) | (seen.wrapping_sub(ticks) & 0xff_ffff);
            flow[4..8].copy_from_slice(&older.to_ne_bytes());
        }
        write::<128>(kernel, map, &sets.concat());
    }
}

/// Takes everything out of a copy, after which nothing must be counted anywhere.
pub fn assert_settles(flows: FlowTable) {
    flows.take_all(|_| ());
    for [_, spills] in flows.into_shared_memory() {
        assert!(spills.iter().all(|spills| spills.load(Relaxed) == 0), "spills are left");
    }
}
