//! The ports of one path in one piece of memory.

use std::sync::atomic::{
    AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst, fence,
};

use super::word::Word;
use super::{Partition, PortUse, Victim};
use crate::conntrack::{Memory, Ticks};

/// Ports whose marks share a word: held in the lower half, held by a connection in the upper.
pub(super) const GROUP: usize = 32;
/// Words behind those of ports and marks.
pub(super) const EXTRA: usize = 3;
/// Whether there may be no free port, so that nobody searches in vain.
pub(super) const EXHAUSTED: usize = 0;
/// Where the search for flows whose time is over goes on.
pub(super) const HAND: usize = 1;
/// How many ports were given back; threads may count over each other, as no more than an order hangs on it.
pub(super) const TURN: usize = 2;
/// Places looked at to find a port that is better than the best met so far; flows, where none is free.
pub(super) const LOOKS: u32 = 24;
/// Free ports that somebody listens on and that are passed over in one search.
const SKIPS: u32 = 64;
/// Times a port that another thread took in between is replaced by another.
const ROUNDS: u32 = 64;
/// In place of an owner: nobody's flow, whose ids are shorter.
pub(super) const RESERVED: u32 = u32::MAX;

/// A port that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its number.
    pub port: u16,
    /// Places that were looked at to find it: ports, and groups of 32 beyond the first.
    pub looks: u32,
}

/// The ports towards one server. Owners are numbers of the caller's, but for 0. Any number of threads
/// may use it at once. A random number decides where a search begins; it should be hard to foresee.
#[derive(Debug)]
pub struct PortPool {
    pub(super) partition: Partition,
    pub(super) len: usize,
    /// A word a port; one of marks for each 32; three more.
    memory: Memory<AtomicU64>,
}

impl PortPool {
    /// All ports free, in memory of this process.
    pub fn new(partition: Partition) -> Self {
        Self::in_memory(partition, Memory::own(Self::words(partition)))
    }

    /// Words of memory that the ports of `partition` need. All zeros: every port is free.
    pub fn words(partition: Partition) -> usize {
        partition.len() + partition.len().div_ceil(GROUP) + EXTRA
    }

    /// As they lie in this memory. No ports at all when it is shorter than [`PortPool::words`].
    pub fn in_memory(partition: Partition, memory: Memory<AtomicU64>) -> Self {
        let len = if memory.len() < Self::words(partition) { 0 } else { partition.len() };
        Self { partition, len, memory }
    }

    /// The memory they lie in, as it is.
    pub fn into_memory(self) -> Memory<AtomicU64> {
        self.memory
    }

    /// Takes a free port that is `usable`, for a flow that is not confirmed yet. `None`: there is none.
    pub fn take(&self, owner: u32, random: u32, now: Ticks, usable: impl Fn(u16) -> bool) -> Option<Taken> {
        let mut random = random;
        let mut looks = 0;
        for _ in 0..ROUNDS {
            let free = self.find_free(random, now, &usable, &mut looks)?;
            if self.change(free, Word::new(owner, PortUse::Unconfirmed, now)) {
                return Some(Taken { port: self.partition.port(free.at), looks });
            }
            random = random.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        }
        None
    }

    /// Takes exactly this port, for a flow that has it since `since`. Whether it was free and is one of this pool's.
    pub fn take_exact(&self, port: u16, owner: u32, port_use: PortUse, since: Ticks) -> bool {
        let taken = Word::new(owner, port_use, since);
        self.find(port)
            .is_some_and(|p| p.word.is_free() && port_use != PortUse::Free && self.change(p, taken))
    }

    /// Takes the port of a victim whose flow was ended, or was none. Whether nobody else has it by now.
    pub fn take_over(&self, victim: &Victim, owner: u32, now: Ticks) -> bool {
        let taken = Word::new(owner, PortUse::Unconfirmed, now);
        self.find(victim.port)
            .is_some_and(|p| (p.word.is_free() || p.word == victim.word) && self.change(p, taken))
    }

    /// Who holds `port`.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<u32> {
        Some(self.find(port)?.word.owner()).filter(|owner| *owner != 0 && *owner != RESERVED)
    }

    /// Keeps `port` from being handed out. Whether it is: not while somebody holds it, nor where it is not one of
    /// this pool's.
    pub fn reserve(&self, port: u16, now: Ticks) -> bool {
        let reserved = Word::new(RESERVED, PortUse::Reserved, now);
        self.find(port)
            .is_some_and(|p| p.word.owner() == RESERVED || p.word.is_free() && self.change(p, reserved))
    }

    /// The ports that are kept from being handed out.
    pub fn reserved(&self) -> impl Iterator<Item = u16> + '_ {
        let is_reserved = |at: &usize| self.word(*at).owner() == RESERVED;
        (0..self.len).filter(is_reserved).map(|at| self.partition.port(at))
    }

    /// Lets `port` be handed out again.
    pub fn unreserve(&self, port: u16, now: Ticks) {
        self.release(port, RESERVED, now);
    }

    /// What `owner` holds the port for. One that has closed before keeps its turn.
    pub fn used_for(&self, port: u16, owner: u32, port_use: PortUse, now: Ticks) -> bool {
        let wanted = Word::new(owner, port_use, now);
        port_use != PortUse::Free
            && self.change_of(port, owner, |word| if word.port_use() == port_use { word } else { wanted })
    }

    /// Gives back the port of `owner`. Whether it was: nothing happens when it is free or another's.
    pub fn release(&self, port: u16, owner: u32, now: Ticks) -> bool {
        let turn = self.extra(TURN).load(Relaxed).wrapping_add(1);
        self.extra(TURN).store(turn, Relaxed);
        self.change_of(port, owner, |_| Word::freed(now, turn as u32))
    }

    /// Ports held, those of closed flows included and reserved ones not. Counts them all.
    pub fn held(&self) -> usize {
        let held = |group| {
            let marks = self.marks(group).load(Relaxed);
            let firm = ports_in(group, (marks >> 32) as u32, 0);
            let reserved = firm.filter(|at| self.word(*at).owner() == RESERVED).count();
            ((marks as u32).count_ones() as usize).saturating_sub(reserved)
        };
        (0..self.groups()).map(held).sum()
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.memory)
    }

    /// A free port that has rested, else the one that has rested longest of those met.
    fn find_free(
        &self,
        random: u32,
        now: Ticks,
        usable: &impl Fn(u16) -> bool,
        looks: &mut u32,
    ) -> Option<Place> {
        if self.len == 0 || self.extra(EXHAUSTED).load(Acquire) != 0 {
            return None;
        }
        let found = self.search(random, now, usable, looks);
        if !matches!(found, Found::None) {
            return found.port();
        }
        // Told before the last search: a port that comes free meanwhile is met by it, or takes this back.
        self.extra(EXHAUSTED).swap(1, SeqCst);
        fence(SeqCst);
        let found = self.search(random, now, usable, looks);
        if !matches!(found, Found::None) {
            self.extra(EXHAUSTED).store(0, Relaxed);
        }
        found.port()
    }

    fn search(&self, random: u32, now: Ticks, usable: &impl Fn(u16) -> bool, looks: &mut u32) -> Found {
        let mut best: Option<(u32, Place)> = None;
        let (mut skipped, mut places) = (0, 0);
        let turn = self.extra(TURN).load(Relaxed) as u32;
        for group in self.groups_from(random) {
            for at in ports_in(group, self.free_in(group), random) {
                places += 1;
                let word = self.word(at);
                let rest = word.rest(now, turn);
                if word.is_free() && best.is_none_or(|(longest, _)| rest > longest) {
                    if usable(self.partition.port(at)) {
                        best = Some((rest, Place { at, word }));
                    } else {
                        skipped += 1;
                    }
                }
                if skipped >= SKIPS || best.is_some_and(|(rest, _)| rest >= Word::RESTED || places >= LOOKS) {
                    *looks += places;
                    return Found::new(best, skipped);
                }
            }
            places += 1;
        }
        *looks += places;
        Found::new(best, skipped)
    }

    fn groups(&self) -> usize {
        self.len.div_ceil(GROUP)
    }

    /// All groups, from a random one on.
    pub(super) fn groups_from(&self, random: u32) -> impl Iterator<Item = usize> + use<> {
        let groups = self.groups();
        let first = ((u64::from(random) * groups as u64) >> 32) as usize;
        (0..groups).map(move |step| if first + step < groups { first + step } else { first + step - groups })
    }

    /// The ports of a group that are free by its marks.
    fn free_in(&self, group: usize) -> u32 {
        let free = !(self.marks(group).load(Relaxed) as u32);
        match self.len - group * GROUP {
            rest @ 0..GROUP => free & ((1 << rest) - 1),
            _ => free,
        }
    }

    pub(super) fn word(&self, at: usize) -> Word {
        Word(self.memory[at].load(Acquire))
    }

    pub(super) fn marks(&self, group: usize) -> &AtomicU64 {
        &self.memory[self.len + group]
    }

    pub(super) fn extra(&self, which: usize) -> &AtomicU64 {
        &self.memory[self.len + self.groups() + which]
    }

    fn find(&self, port: u16) -> Option<Place> {
        let at = self.partition.offset(port).filter(|at| *at < self.len)?;
        Some(Place { at, word: self.word(at) })
    }

    /// Changes the word of a port while it is `owner`'s. Whether it was.
    fn change_of(&self, port: u16, owner: u32, to: impl Fn(Word) -> Word) -> bool {
        while let Some(place) = self.find(port) {
            if place.word.owner() != owner || owner == 0 {
                return false;
            }
            let new = to(place.word);
            if new == place.word || self.change(place, new) {
                return true;
            }
        }
        false
    }

    /// Changes the word of a port unless somebody else has.
    pub(super) fn change(&self, Place { at, word }: Place, new: Word) -> bool {
        if self.memory[at].compare_exchange(word.0, new.0, AcqRel, Relaxed).is_err() {
            return false;
        }
        // Differences come out right in whichever order threads apply them, where bits that are set and cleared
        // would not.
        let difference = mark(word.port_use()) ^ mark(new.port_use());
        if difference != 0 {
            self.marks(at / GROUP).fetch_xor(difference << (at % GROUP), SeqCst);
        }
        if new.is_free() && self.extra(EXHAUSTED).load(SeqCst) != 0 {
            self.extra(EXHAUSTED).store(0, SeqCst);
        }
        true
    }
}

/// A port, and its word as it was met.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: usize,
    pub(super) word: Word,
}

enum Found {
    Port(Place),
    /// There are free ones, of which none may be used.
    Unusable,
    None,
}

impl Found {
    fn new(best: Option<(u32, Place)>, skipped: u32) -> Self {
        match best {
            Some((_, place)) => Self::Port(place),
            None if skipped > 0 => Self::Unusable,
            None => Self::None,
        }
    }

    fn port(self) -> Option<Place> {
        if let Self::Port(place) = self { Some(place) } else { None }
    }
}

const fn mark(port_use: PortUse) -> u64 {
    match port_use {
        PortUse::Free => 0,
        // Neither gives way.
        PortUse::Connection | PortUse::Reserved => 1 << 32 | 1,
        _ => 1,
    }
}

/// The ports of a group whose bits are set, from a random one on.
pub(super) fn ports_in(group: usize, bits: u32, random: u32) -> impl Iterator<Item = usize> {
    let turn = random % GROUP as u32;
    let mut left = bits.rotate_right(turn);
    std::iter::from_fn(move || {
        let bit = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some(group * GROUP + ((bit + turn) % GROUP as u32) as usize)
    })
}
