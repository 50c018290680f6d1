//! The tables of one side: maps as memory, compared with those of the other.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use convey_core::conntrack::{Flow, FlowState, FlowTable, Lifetimes, Memory, Overflow, Ticks, flags};
use convey_core::nat_ports::{Partition, PortPool};
use convey_engine::{KernelGauges, KernelMemory, PathNumbers, PoolMemory};
use convey_xdp::kernel::Kernel;
use convey_xdp::mapped::MapMemory;

const TICKS: u32 = 0xff_ffff;
/// Ticks by which clocks may differ.
const TOLERANCE: u32 = 2;
const CLASS_RESERVED: u64 = 7;

pub struct Tables {
    flows: [MapMemory; 2],
    spills: [MapMemory; 2],
    later_syns: MapMemory,
    shared: MapMemory,
    gauges: [MapMemory; 2],
    nat_ports: MapMemory,
    partition: Partition,
    paths: usize,
    passthrough: bool,
    seed: u64,
}

impl Tables {
    pub fn new(kernel: &Kernel, partition: Partition, paths: usize, passthrough: bool, seed: u64) -> Self {
        let map = |name| kernel.memory(name).unwrap();
        Self {
            flows: [map("flows4"), map("flows6")],
            spills: [map("spills4"), map("spills6")],
            later_syns: map("later_syns"),
            shared: map("shared"),
            gauges: [map("frontend_gauges"), map("server_gauges")],
            nat_ports: map("nat_ports"),
            partition,
            paths,
            passthrough,
            seed,
        }
    }

    /// For a worker.
    pub fn memory(&self, paths: Arc<PathNumbers>) -> KernelMemory {
        let (nat_ports, words) = (self.nat_ports.clone(), PortPool::words(self.partition));
        KernelMemory {
            flows: self.flows.each_ref().map(MapMemory::words32),
            spills: self.spills.each_ref().map(MapMemory::words32),
            later_syns: self.later_syns.words64(),
            half_open: self.shared.part64(2, 1),
            gauges: KernelGauges {
                total: self.shared.part64(0, 2),
                frontends: self.gauges[0].words64(),
                servers: self.gauges[1].words64(),
            },
            pools: PoolMemory {
                paths,
                words: Arc::new(move |number| nat_ports.part64(usize::from(number) * words, words)),
            },
        }
    }

    fn all(&self) -> [&MapMemory; 9] {
        let Self {
            flows: [f4, f6], spills: [s4, s6], later_syns, shared, gauges: [g0, g1], nat_ports, ..
        } = self;
        [f4, f6, s4, s6, later_syns, shared, g0, g1, nat_ports]
    }

    fn pool(&self, number: usize) -> PortPool {
        let words = PortPool::words(self.partition);
        PortPool::in_memory(self.partition, self.nat_ports.part64(number * words, words))
    }

    pub fn is_held(&self, path: u16) -> bool {
        self.pool(usize::from(path)).held() > 0
    }

    /// No flows, and no ports held but reserved ones.
    pub fn clear(&self) {
        for map in &self.all()[..8] {
            map.words64().iter().for_each(|word| word.store(0, Relaxed));
        }
        let words = PortPool::words(self.partition);
        let ports = self.partition.len();
        for pool in self.nat_ports.words64().chunks(words) {
            for (at, word) in pool.iter().enumerate() {
                let reserved = |at: usize| at < ports && pool[at].load(Relaxed) >> 32 & 7 == CLASS_RESERVED;
                let marks = |group: usize| {
                    let bits = (0..32).filter(|bit| reserved(group * 32 + bit));
                    bits.fold(0u64, |marks, bit| marks | (1 << 32 | 1) << bit)
                };
                match at {
                    at if at < ports && reserved(at) => {}
                    at if at >= ports && at < ports + ports.div_ceil(32) => {
                        word.store(marks(at - ports), Relaxed);
                    }
                    _ => word.store(0, Relaxed),
                }
            }
        }
    }

    pub fn copy_from(&self, other: &Self) {
        for (to, from) in self.all().into_iter().zip(other.all()) {
            to.words64()
                .iter()
                .zip(&*from.words64())
                .for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
        }
    }

    /// Makes everything older.
    pub fn age(&self, ticks: u32) {
        let older = |tick: u32| tick.wrapping_sub(ticks) & TICKS;
        for (map, entry) in self.flows.iter().zip([8, 16]) {
            for words in map.words32().chunks(entry) {
                let state = words[0].load(Relaxed) & 15;
                if state == 0 {
                    continue;
                }
                let seen = words[1].load(Relaxed);
                words[1].store(seen & !TICKS | older(seen & TICKS), Relaxed);
                if state >= 6 {
                    let began = &words[if entry == 8 { 7 } else { 10 }];
                    began.store(older(began.load(Relaxed)), Relaxed);
                }
            }
        }
        for pool in self.nat_ports.words64().chunks(PortPool::words(self.partition)) {
            for word in &pool[..self.partition.len()] {
                let was = word.load(Relaxed);
                let stamp = (was >> 40) as u32;
                if stamp != 0 {
                    let stamp = u64::from(older(stamp).max(1));
                    word.store(was & ((1 << 40) - 1) | stamp << 40, Relaxed);
                }
            }
        }
    }

    /// How what they hold differs, wherever it lies.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (have, want) = (self.described(), other.described());
        let mut text = String::new();
        for key in want.keys().chain(have.keys().filter(|k| !want.contains_key(*k))) {
            let (have, want) = (have.get(key), want.get(key));
            let (Some(have), Some(want)) = (have, want) else {
                let _ = writeln!(text, "    {key}: Rust {have:?}, C {want:?}");
                continue;
            };
            if !have.is_like(want) {
                let _ = writeln!(text, "    {key}:\n      Rust {have:?}\n      C    {want:?}");
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Whether they hold the same at the same places. Moments that differ by no more than clocks do become those of
    /// `other`.
    pub fn lie_alike(&self, other: &Self) -> bool {
        for (at, (a, b)) in self.all().into_iter().zip(other.all()).enumerate() {
            match at {
                0 | 1 => {
                    let words = if at == 0 { 8 } else { 16 };
                    let (a, b) = (a.words32(), b.words32());
                    if !a.chunks(words).zip(b.chunks(words)).all(|(a, b)| entries_alike(a, b)) {
                        return false;
                    }
                }
                8 => {
                    let words = PortPool::words(self.partition);
                    let (a, b) = (a.words64(), b.words64());
                    let ports = self.partition.len();
                    let alike = |(i, (a, b)): (usize, (&AtomicU64, &AtomicU64))| {
                        let (x, y) = (a.load(Relaxed), b.load(Relaxed));
                        if x == y {
                            return true;
                        }
                        let alike = i % words < ports
                            && x & ((1 << 40) - 1) == y & ((1 << 40) - 1)
                            && near((x >> 40) as u32, (y >> 40) as u32);
                        if alike {
                            a.store(y, Relaxed);
                        }
                        alike
                    };
                    if !a.iter().zip(b.iter()).enumerate().all(alike) {
                        return false;
                    }
                }
                _ => {
                    let (a, b) = (a.words64(), b.words64());
                    if !a.iter().zip(b.iter()).all(|(a, b)| a.load(Relaxed) == b.load(Relaxed)) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn table(&self) -> FlowTable {
        let overflow = if self.passthrough { Overflow::Refuse } else { Overflow::EvictOldest };
        FlowTable::shared(
            self.flows.each_ref().map(MapMemory::words32),
            self.spills.each_ref().map(MapMemory::words32),
            overflow,
            Lifetimes([TICKS; FlowState::COUNT]),
            self.seed,
        )
        .unwrap()
    }

    /// What they hold, wherever it lies.
    fn described(&self) -> BTreeMap<String, Held> {
        let table = self.table();
        let mut all = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for flow in table.flows_at(0..table.all_entries()) {
            let key = format!(
                "flow {:x}:{} port {} of {}",
                flow.client, flow.client_port, flow.port, flow.frontend
            );
            if let Some(id) = table.lookup(&flow.key(), Ticks(flow.last_seen)) {
                owners.insert(id.bits() + 1, key.clone());
            }
            if all.insert(key.clone(), Held::Flow(Flow { claim: 0, ..flow })).is_some() {
                all.insert(format!("{key}, again"), Held::Flow(flow));
            }
        }
        let words = PortPool::words(self.partition);
        for (number, pool) in self.nat_ports.words64().chunks(words).take(self.paths).enumerate() {
            for (at, word) in pool.iter().enumerate() {
                let word = word.load(Relaxed);
                let name = format!("path {number} word {at}");
                let held = if at < self.partition.len() {
                    let owner = owners.get(&(word as u32)).cloned();
                    Held::Port {
                        owner: owner.unwrap_or_else(|| format!("{:x}", word as u32)),
                        rest: word >> 32,
                    }
                } else {
                    Held::Count(word)
                };
                // Where searches go on and how ports freed at one moment are told apart decides about an order alone.
                if word != 0 && at < words - 2 {
                    all.insert(name, held);
                }
            }
        }
        let counts = [("total", &self.shared), ("frontend", &self.gauges[0]), ("server", &self.gauges[1])];
        for (name, map) in counts {
            for (at, word) in map.words64().iter().enumerate() {
                let word = word.load(Relaxed);
                if word != 0 {
                    all.insert(format!("{name} gauge {at}"), Held::Count(word));
                }
            }
        }
        for word in self.later_syns.words64().iter() {
            let word = word.load(Relaxed);
            // Of a flow that has ended it means nothing.
            if let Some(name) = owners.get(&((word >> 32) as u32)) {
                all.insert(format!("later SYN of {name}"), Held::Count(word & 0xffff_ffff));
            }
        }
        all
    }

    /// What must hold of one side by itself: spills, gauges and ports are those of the flows.
    pub fn check(&self) -> Result<(), String> {
        let copy = |memory: Memory<AtomicU32>| aligned(&memory);
        let overflow = if self.passthrough { Overflow::Refuse } else { Overflow::EvictOldest };
        let table = FlowTable::shared(
            self.flows.each_ref().map(|map| copy(map.words32())),
            self.spills.each_ref().map(|map| copy(map.words32())),
            overflow,
            Lifetimes([TICKS; FlowState::COUNT]),
            self.seed,
        )
        .unwrap();
        let (mut counted, mut half_open, mut held) = (0u64, 0u64, 0usize);
        let mut by_server = BTreeMap::<u16, u64>::new();
        let mut by_frontend = BTreeMap::<u16, u64>::new();
        let mut ports = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        let mut wrong = String::new();
        for flow in table.flows_at(0..table.all_entries()) {
            if !keys.insert((flow.client, flow.client_port, flow.port, flow.frontend)) {
                let _ = write!(wrong, "two flows with one key: {flow:?}; ");
            }
            half_open += u64::from(flow.state.is_half_open());
            if flow.has(flags::COUNTED) {
                counted += 1;
                *by_server.entry(flow.server).or_default() += 1;
                *by_frontend.entry(flow.frontend).or_default() += 1;
            }
            if flow.has(flags::HAS_PORT) {
                held += 1;
                if !ports.insert((flow.pool, flow.nat_port)) {
                    let _ = write!(wrong, "port {} of path {} is shared; ", flow.nat_port, flow.pool);
                }
                let id = table.lookup(&flow.key(), Ticks(flow.last_seen)).map(|id| id.bits() + 1);
                let owner = self.pool(usize::from(flow.pool)).owner(flow.nat_port);
                if owner != id {
                    let (port, pool) = (flow.nat_port, flow.pool);
                    let _ = write!(wrong, "port {port} of path {pool} is {owner:?}'s and not {id:?}'s; ");
                }
            }
        }
        for (map, entry) in self.flows.iter().zip([8, 16]) {
            let words = map.words32();
            let claimed = words.chunks(entry).filter(|entry| entry[0].load(Relaxed) & 15 == 15).count();
            if claimed > 0 {
                let _ = write!(wrong, "{claimed} entries are nobody's; ");
            }
        }
        let words = self.shared.words64();
        let [open, _, have_half_open] = [0, 1, 2].map(|at| words[at].load(Relaxed));
        if (open, have_half_open) != (counted, half_open) {
            let _ = write!(
                wrong,
                "{open} open and {have_half_open} half-open, of {counted} and {half_open} flows; "
            );
        }
        for (name, map, by) in
            [("server", &self.gauges[1], by_server), ("frontend", &self.gauges[0], by_frontend)]
        {
            for (slot, gauge) in map.words64().chunks(2).enumerate() {
                let want = by.get(&(slot as u16)).copied().unwrap_or(0);
                let have = gauge[0].load(Relaxed);
                if have != want {
                    let _ = write!(wrong, "{name} {slot} has {have} open, of {want} flows; ");
                }
            }
        }
        let in_pools: usize = (0..self.paths).map(|number| self.pool(number).held()).sum();
        if in_pools != held {
            let _ = write!(wrong, "{in_pools} ports held by {held} flows; ");
        }
        table.take_all(|_| ());
        for [_, spills] in table.into_shared_memory() {
            let left = spills.iter().filter(|spills| spills.load(Relaxed) != 0).count();
            if left > 0 {
                let _ = write!(wrong, "{left} sets have spills of no flow; ");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

#[derive(Debug)]
enum Held {
    Flow(Flow),
    Port { owner: String, rest: u64 },
    Count(u64),
}

impl Held {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flow(a), Self::Flow(b)) => {
                let mut next = b.next;
                if a.state.is_udp() && near(a.next[1], b.next[1]) {
                    next[1] = a.next[1];
                }
                let same = Flow { last_seen: a.last_seen, claim: a.claim, next, ..*b };
                near(a.last_seen, b.last_seen) && *a == same
            }
            (Self::Port { owner: a, rest: ra }, Self::Port { owner: b, rest: rb }) => {
                // Those freed at one moment may have been in another order.
                a == b && ra & 7 == rb & 7 && near((ra >> 8) as u32, (rb >> 8) as u32)
            }
            (Self::Count(a), Self::Count(b)) => a == b,
            _ => false,
        }
    }
}

/// A copy that begins with a whole set; never given back.
fn aligned(memory: &[AtomicU32]) -> Memory<AtomicU32> {
    thread_local! {
        static SPARE: std::cell::RefCell<Vec<&'static [AtomicU32]>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let len = memory.len();
    let spare = SPARE.with_borrow_mut(|spare| {
        let at = spare.iter().position(|s| s.len() == len)?;
        Some(spare.swap_remove(at))
    });
    let to = spare.unwrap_or_else(|| {
        let all: &'static [AtomicU32] = (0..len + 32).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().leak();
        let offset = (128 - all.as_ptr().addr() % 128) % 128 / 4;
        &all[offset..offset + len]
    });
    to.iter().zip(memory).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
    struct Back(&'static [AtomicU32]);
    impl Drop for Back {
        fn drop(&mut self) {
            SPARE.with_borrow_mut(|spare| spare.push(self.0));
        }
    }
    Memory::shared(to, Arc::new(Back(to)))
}

fn near(a: u32, b: u32) -> bool {
    let apart = a.wrapping_sub(b) & TICKS;
    apart <= TOLERANCE || apart > TICKS - TOLERANCE
}

fn entries_alike(a: &[AtomicU32], b: &[AtomicU32]) -> bool {
    let word = |at: usize| (a[at].load(Relaxed), b[at].load(Relaxed));
    let (x, y) = word(0);
    if x & 15 == 0 && y & 15 == 0 {
        // What is left of a flow that has ended means nothing.
        a.iter().zip(b).for_each(|(a, b)| a.store(b.load(Relaxed), Relaxed));
        return true;
    }
    let began = if a.len() == 8 { 7 } else { 10 };
    let is_udp = (6..=8).contains(&(x & 15));
    for at in 0..began + 1 {
        let (x, y) = word(at);
        if x == y {
            continue;
        }
        let is_seen = at == 1 && x & !TICKS == y & !TICKS && near(x & TICKS, y & TICKS);
        let has_begun = at == began && is_udp && near(x, y);
        // How often the entry was taken is nobody's business but of who looks at that moment.
        let is_claim = at == 0 && x & 0xf_ffff == y & 0xf_ffff;
        if !is_seen && !has_begun && !is_claim {
            return false;
        }
    }
    a.iter().zip(b).for_each(|(a, b)| a.store(b.load(Relaxed), Relaxed));
    true
}
