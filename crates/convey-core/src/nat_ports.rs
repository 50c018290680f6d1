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
        if !is_another && now.since(Ticks(flow.acked[0])) < ORDER {
            return None;
        }
        flow.acked[0] = now.0;
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
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn partition(first: u16, last: u16, stride: u16, remainder: u16) -> Partition {
        Partition { first, last, stride, remainder }
    }

    #[test]
    fn workers_own_every_port_of_the_range_exactly_once() {
        for workers in [1, 2, 3, 7] {
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let mut pool = PortPool::new(partition(33768, 61000, workers, worker), 9);
                while let Some(port) = pool.take(0) {
                    assert!((33768..=61000).contains(&port) && port % workers == worker);
                    assert!(seen.insert(port));
                }
            }
            assert_eq!(seen.len(), 61000 - 33768 + 1);
        }
    }

    #[test]
    fn no_port_is_handed_out_twice_before_the_counter_would_wrap_or_after() {
        let mut pool = PortPool::new(partition(100, 109, 1, 0), 1);
        let held: HashSet<u16> = (0..10).filter_map(|h| pool.take(h)).collect();
        assert_eq!(held.len(), 10);
        assert_eq!(pool.take(99), None);
        pool.release(105);
        assert_eq!(pool.take(99), Some(105));
        assert_eq!(pool.take(99), None);
    }

    #[test]
    fn the_port_free_longest_comes_first() {
        let mut pool = PortPool::new(partition(100, 103, 1, 0), 1);
        let ports: Vec<u16> = (0..4).filter_map(|h| pool.take(h)).collect();
        for &p in &[ports[2], ports[0], ports[3]] {
            pool.release(p);
        }
        assert_eq!(
            (pool.take(0), pool.take(0), pool.take(0)),
            (Some(ports[2]), Some(ports[0]), Some(ports[3]))
        );
    }

    /// Idle for as many seconds as the holder's number says; 1000 and above: expired.
    fn idle(holder: u32) -> Option<u32> {
        (holder < 1000).then_some(Ticks::span(Duration::from_secs(u64::from(holder))))
    }

    /// A full pool whose ports are held by `holders` for these uses.
    fn full(holders: &[(u32, PortUse)]) -> PortPool {
        let mut pool = PortPool::new(partition(100, 99 + holders.len() as u16, 1, 0), 1);
        for &(holder, port_use) in holders {
            let port = pool.take(holder).unwrap();
            pool.used_for(port, port_use);
        }
        pool
    }

    fn victim(holders: &[(u32, PortUse)]) -> Option<u32> {
        full(holders).victim(idle).map(|v| v.holder)
    }

    #[test]
    fn the_flow_that_gives_way_is_closed_or_unconfirmed_or_an_idle_conversation_in_this_order() {
        use PortUse::{Brief, Closed, Connection, Stream, Unconfirmed};
        let all =
            [(900, Connection), (7, Closed), (5, Unconfirmed), (40, Stream), (20, Brief), (0, Unconfirmed)];
        assert_eq!(victim(&all), Some(7));
        assert_eq!(victim(&[all[0], all[2], all[3], all[4]]), Some(5));
        assert_eq!(victim(&[all[0], all[3], all[4], all[5]]), Some(40));
        assert_eq!(victim(&[all[0], (29, Stream), all[4], all[5]]), Some(20));
        assert_eq!(victim(&[all[0], (29, Stream), (1, Brief), all[5]]), Some(0));
        assert_eq!(victim(&[all[0], (29, Stream), (1, Brief)]), None);
        assert_eq!(victim(&[all[0], (29, Stream), (1000, Connection)]), Some(1000));
    }

    #[test]
    fn of_two_flows_of_one_use_the_one_used_longest_ago_gives_way() {
        let mut pool = full(&[(50, PortUse::Stream), (40, PortUse::Stream), (60, PortUse::Stream)]);
        let order: Vec<u32> = (0..3)
            .map(|_| {
                let holder = pool.victim(idle).unwrap().holder;
                let port = (100..=102).find(|&p| pool.holder(p) == Some(holder)).unwrap();
                pool.used_for(port, PortUse::Stream);
                holder
            })
            .collect();
        assert_eq!(order, [50, 40, 60]);
    }

    #[test]
    fn a_closed_flow_keeps_its_turn_when_it_closes_again_and_loses_it_when_it_was_open_after_all() {
        let mut pool = full(&[(1, PortUse::Closed), (2, PortUse::Closed)]);
        let first = (100..=101).find(|&p| pool.holder(p) == Some(1)).unwrap();
        pool.used_for(first, PortUse::Closed);
        assert_eq!(pool.victim(idle).map(|v| v.holder), Some(1));
        pool.used_for(first, PortUse::Connection);
        assert_eq!(pool.victim(idle).map(|v| v.holder), Some(2));
    }

    #[test]
    fn a_search_for_flows_whose_time_is_over_is_bounded_and_gets_round() {
        let mut holders = vec![(900, PortUse::Connection); 200];
        holders.push((1000, PortUse::Connection));
        let mut pool = full(&holders);
        let asked = std::cell::Cell::new(0);
        let counted = |holder| {
            asked.set(asked.get() + 1);
            idle(holder)
        };
        let tries = (0..20).position(|_| pool.victim(counted).is_some()).unwrap();
        assert!(asked.get() <= (tries + 1) * PROBES);
    }

    #[test]
    fn a_renamed_holder_is_found_by_its_port_and_keeps_its_use() {
        let mut pool = PortPool::new(partition(100, 102, 1, 0), 1);
        let port = pool.take(5).unwrap();
        pool.used_for(port, PortUse::Closed);
        pool.rename_holder(port, 6);
        let victim = pool.victim(idle).map(|v| v.holder);
        assert_eq!((pool.holder(port), victim), (Some(6), Some(6)));
        pool.release(port);
        assert_eq!((pool.holder(port), pool.victim(idle), pool.held()), (None, None, 0));
        pool.release(port);
        pool.used_for(port, PortUse::Stream);
        assert_eq!((pool.held(), pool.holder(port)), (0, None));
    }

    #[test]
    fn a_port_taken_exactly_is_held_by_nobody_else_and_none_is_lost_by_it() {
        let mut pool = PortPool::new(partition(100, 109, 2, 1), 1);
        assert!(pool.take_exact(105, 7, PortUse::Connection));
        assert!(!pool.take_exact(105, 8, PortUse::Connection));
        assert_eq!([104, 99, 111].map(|p| pool.take_exact(p, 8, PortUse::Stream)), [false; 3]);
        assert_eq!((pool.holder(105), pool.held()), (Some(7), 1));
        let rest: HashSet<u16> = (0..9).filter_map(|h| pool.take(h)).collect();
        assert_eq!(rest, HashSet::from([101, 103, 107, 109]));
        pool.release(105);
        assert_eq!(pool.take(9), Some(105));
    }

    #[test]
    fn ports_outside_of_the_partition_are_nobodys() {
        let pool = PortPool::new(partition(100, 110, 2, 1), 1);
        assert_eq!([99, 100, 111, 0, u16::MAX].map(|p| pool.holder(p)), [None; 5]);
        assert_eq!(PortPool::new(partition(10, 9, 1, 0), 1).take(0), None);
        assert_eq!(PortPool::new(partition(65535, 65535, 2, 0), 1).take(0), None);
    }

    #[test]
    fn a_port_costs_nine_bytes() {
        assert_eq!(PortPool::new(partition(1, 1000, 1, 0), 1).memory_bytes(), 9000);
    }
}
