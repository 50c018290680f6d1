//! Source ports towards one server: who holds which, and which is free longest.
//!
//! A pool belongs to one (NAT address, server address and port, protocol) and one worker, which owns every
//! `stride`th port. Taking, giving back and looking up a port is a few array accesses each. Ports are reused in
//! the order they were freed, so that a tuple rests as long as possible. When none is free, one is taken from, in
//! this order:
//! 1. the flow that closed first (TIME_WAIT);
//! 2. the unconfirmed one unused longest (a flood), when that is a second or more;
//! 3. the UDP conversation idle longest, when that is more than is usual between two datagrams: two seconds after
//!    a brief exchange, thirty after a longer one;
//! 4. any unconfirmed one, the one unused longest first;
//! 5. one whose time is over and that no sweep has met yet.
//!
//! Never from an open TCP connection or a busy UDP conversation.

use std::time::Duration;

use crate::conntrack::tcp::Change;
use crate::conntrack::udp::{BRIEF, BRIEF_IDLE, STREAM_IDLE};
use crate::conntrack::{Flow, FlowState, Ticks};

/// Ports a pool hands out: those from `first` to `last` that leave `remainder` when divided by `stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Lowest port of all workers.
    pub first: u16,
    /// Highest port of all workers.
    pub last: u16,
    /// Number of workers.
    pub stride: u16,
    /// Index of this worker.
    pub remainder: u16,
}

impl Partition {
    fn lowest(self) -> u32 {
        let first = u32::from(self.first);
        let stride = u32::from(self.stride.max(1));
        first + (u32::from(self.remainder) + stride - first % stride) % stride
    }

    /// How many ports it has.
    pub fn len(self) -> usize {
        let last = u32::from(self.last);
        match last.checked_sub(self.lowest()) {
            Some(span) => (span / u32::from(self.stride.max(1))) as usize + 1,
            None => 0,
        }
    }

    /// Whether it has no port.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn index(self, port: u16) -> Option<usize> {
        let above = u32::from(port).checked_sub(self.lowest())?;
        let stride = u32::from(self.stride.max(1));
        (above.is_multiple_of(stride) && port <= self.last).then_some((above / stride) as usize)
    }

    fn port(self, index: u16) -> u16 {
        (self.lowest() + u32::from(index) * u32::from(self.stride.max(1))) as u16
    }
}

/// End of a list.
const NIL: u16 = u16::MAX;
/// An unconfirmed flow gives way before idle conversations once it has been unused this long.
const UNCONFIRMED_IDLE: u32 = Ticks::span(Duration::from_secs(1));
/// The order of UDP flows is exact to this: not every datagram moves its port in it.
const ORDER: u32 = Ticks::span(Duration::from_secs(1));
/// Slots looked at for flows whose time is over.
const PROBES: usize = 24;

/// What a port is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PortUse {
    /// Nothing.
    Free = 0,
    /// A flow that is not confirmed yet.
    Unconfirmed = 1,
    /// A flow that has closed.
    Closed = 2,
    /// A UDP conversation of a few datagrams.
    Brief = 3,
    /// A UDP conversation of more.
    Stream = 4,
    /// A TCP connection: it gives way to nothing.
    Connection = 5,
}

impl PortUse {
    /// What a flow holds its port for.
    pub const fn of(flow: &Flow) -> Self {
        match flow.state {
            FlowState::Free => Self::Free,
            FlowState::Closed => Self::Closed,
            FlowState::UdpStream if flow.next[0] < BRIEF => Self::Brief,
            FlowState::UdpStream => Self::Stream,
            FlowState::Established | FlowState::Closing => Self::Connection,
            _ => Self::Unconfirmed,
        }
    }

    /// What the port of a flow is held for after a TCP segment, where that has changed.
    pub const fn after_segment(change: Change) -> Option<Self> {
        match change {
            Change { closed: true, .. } => Some(Self::Closed),
            Change { restarted: true, .. } => Some(Self::Unconfirmed),
            Change { established: true, .. } | Change { revived: true, .. } => Some(Self::Connection),
            _ => None,
        }
    }

    /// What the port of a UDP flow is held for after a datagram, when that has changed or its place in the order
    /// of use is to be brought up to date.
    pub fn after_datagram(flow: &mut Flow, change: Change, now: Ticks) -> Option<Self> {
        let is_another = change.established || flow.next[0] == BRIEF;
        if !is_another && now.since(Ticks(flow.next[1])) < ORDER {
            return None;
        }
        flow.next[1] = now.0;
        Some(Self::of(flow))
    }
}

/// Uses that are kept in an order: [`PortUse::Connection`] is in no list.
const LISTS: usize = 5;

/// Nine bytes a port, with its use.
#[derive(Debug, Clone, Copy)]
struct Slot {
    holder: u32,
    previous: u16,
    next: u16,
}

/// A port that may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Victim {
    /// How readily: the greater the more.
    pub rank: u8,
    /// Ticks since its flow was used.
    pub idle: u32,
    /// Whose it is.
    pub holder: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u16,
    tail: u16,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL };

    fn push(&mut self, slots: &mut [Slot], i: u16) {
        slots[usize::from(i)].previous = self.tail;
        slots[usize::from(i)].next = NIL;
        match self.tail {
            NIL => self.head = i,
            tail => slots[usize::from(tail)].next = i,
        }
        self.tail = i;
    }

    fn unlink(&mut self, slots: &mut [Slot], i: u16) {
        let Slot { previous, next, .. } = slots[usize::from(i)];
        match previous {
            NIL => self.head = next,
            p => slots[usize::from(p)].next = next,
        }
        match next {
            NIL => self.tail = previous,
            n => slots[usize::from(n)].previous = previous,
        }
    }
}

/// The ports of one worker towards one server. Holders are numbers of the caller's.
#[derive(Debug)]
pub struct PortPool {
    partition: Partition,
    slots: Box<[Slot]>,
    uses: Box<[PortUse]>,
    /// By [`PortUse`]: the port put there first comes first.
    lists: [List; LISTS],
    held: usize,
    /// Where the search for flows whose time is over goes on.
    hand: usize,
}

impl PortPool {
    /// All ports free, in an order that `seed` decides (RFC 6056: hard to guess, and not the order of the
    /// process before).
    pub fn new(partition: Partition, seed: u64) -> Self {
        let len = partition.len().min(usize::from(NIL));
        let mut order: Vec<u16> = (0..len as u16).collect();
        let mut random = seed | 1;
        for i in (1..order.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(i, (random % (i as u64 + 1)) as usize);
        }
        let mut slots = vec![Slot { holder: 0, previous: NIL, next: NIL }; len].into_boxed_slice();
        let mut lists = [List::EMPTY; LISTS];
        for i in order {
            lists[PortUse::Free as usize].push(&mut slots, i);
        }
        Self { partition, slots, uses: vec![PortUse::Free; len].into(), lists, held: 0, hand: 0 }
    }

    /// Takes the port that has been free longest, for a flow that is not confirmed yet.
    pub fn take(&mut self, holder: u32) -> Option<u16> {
        let i = self.lists[PortUse::Free as usize].head;
        if i == NIL {
            return None;
        }
        self.put(i, PortUse::Unconfirmed);
        self.slots[usize::from(i)].holder = holder;
        self.held += 1;
        Some(self.partition.port(i))
    }

    /// Takes exactly this port, for a flow that had it before this pool was. Whether it was free and is one of
    /// this pool's.
    pub fn take_exact(&mut self, port: u16, holder: u32, port_use: PortUse) -> bool {
        let Some(i) = self.partition.index(port).filter(|i| self.uses.get(*i) == Some(&PortUse::Free)) else {
            return false;
        };
        if port_use == PortUse::Free {
            return false;
        }
        self.put(i as u16, port_use);
        self.slots[i].holder = holder;
        self.held += 1;
        true
    }

    /// Who holds `port`.
    #[inline]
    pub fn holder(&self, port: u16) -> Option<u32> {
        let i = self.partition.index(port)?;
        match self.uses.get(i)? {
            PortUse::Free => None,
            _ => Some(self.slots.get(i)?.holder),
        }
    }

    /// The holder of `port` goes by another number from now on.
    pub fn rename_holder(&mut self, port: u16, holder: u32) {
        if let Some(i) = self.held_slot(port) {
            self.slots[usize::from(i)].holder = holder;
        }
    }

    /// The holder's flow was used, or is something else now: its port is the last of that use to give way. One
    /// that has closed keeps its place.
    pub fn used_for(&mut self, port: u16, port_use: PortUse) {
        if let Some(i) = self.held_slot(port)
            && port_use != PortUse::Free
            && (port_use, self.uses[usize::from(i)]) != (PortUse::Closed, PortUse::Closed)
        {
            self.put(i, port_use);
        }
    }

    /// Whose port may be taken over when none is free. `idle` gives the ticks since a holder's flow was used, or
    /// `None` when its time is over. End that flow and release its port.
    pub fn victim(&mut self, idle: impl Fn(u32) -> Option<u32>) -> Option<Victim> {
        let first = |port_use: PortUse, rank: u8, at_least: u32| {
            let i = self.lists[port_use as usize].head;
            let holder = self.slots.get(usize::from(i))?.holder;
            let idle = idle(holder).unwrap_or(u32::MAX);
            (idle >= at_least).then_some(Victim { rank, idle, holder })
        };
        let brief = first(PortUse::Brief, 3, BRIEF_IDLE);
        first(PortUse::Closed, 5, 0)
            .or_else(|| first(PortUse::Unconfirmed, 4, UNCONFIRMED_IDLE))
            .or_else(|| brief.max(first(PortUse::Stream, 3, STREAM_IDLE)))
            .or_else(|| first(PortUse::Unconfirmed, 2, 0))
            .or_else(|| self.expired(idle))
    }

    /// Gives `port` back.
    pub fn release(&mut self, port: u16) {
        if let Some(i) = self.held_slot(port) {
            self.put(i, PortUse::Free);
            self.held -= 1;
        }
    }

    /// Ports held, those of closed flows included.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.uses)
    }

    fn expired(&mut self, idle: impl Fn(u32) -> Option<u32>) -> Option<Victim> {
        for _ in 0..PROBES.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let holder = self.slots[self.hand].holder;
            if self.uses[self.hand] != PortUse::Free && idle(holder).is_none() {
                return Some(Victim { rank: 1, idle: u32::MAX, holder });
            }
        }
        None
    }

    fn held_slot(&self, port: u16) -> Option<u16> {
        let i = self.partition.index(port)?;
        (*self.uses.get(i)? != PortUse::Free).then_some(i as u16)
    }

    /// Moves a port to the end of the list of `port_use`.
    fn put(&mut self, i: u16, port_use: PortUse) {
        let old = std::mem::replace(&mut self.uses[usize::from(i)], port_use);
        if let Some(list) = self.lists.get_mut(old as usize) {
            list.unlink(&mut self.slots, i);
        }
        if let Some(list) = self.lists.get_mut(port_use as usize) {
            list.push(&mut self.slots, i);
        }
    }
}

#[cfg(test)]
#[path = "nat_ports_tests.rs"]
mod tests;
