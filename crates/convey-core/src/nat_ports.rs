//! Source ports towards one server: who holds which, and which is free longest.
//!
//! A pool belongs to one (NAT address, server address and port, protocol) and one worker, which owns every
//! `stride`th port. Taking, giving back and looking up a port is one array access each. Ports are reused in
//! the order they were freed, so that a tuple rests as long as possible. When none is free, the port of the
//! flow that closed first is taken (TIME_WAIT), then that of the oldest unconfirmed one (a flood), never that of
//! a conversation.

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
/// Not held.
const FREE: u32 = u32::MAX;
/// Bits of a holder.
const HOLDER: u32 = (1 << 30) - 1;
/// Held by a flow that is not confirmed yet; in the list `unconfirmed`.
const UNCONFIRMED: u32 = 1 << 30;
/// Held by a flow that has closed; in the list `closed`.
const CLOSED: u32 = 1 << 31;

/// Eight bytes a port.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// `FREE`, or the holder and its class.
    holder: u32,
    previous: u16,
    next: u16,
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

/// The ports of one worker towards one server. Holders are 30-bit numbers of the caller's.
#[derive(Debug)]
pub struct PortPool {
    partition: Partition,
    slots: Box<[Slot]>,
    /// The port freed first comes first; likewise below.
    free: List,
    unconfirmed: List,
    closed: List,
    held: usize,
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
        let mut slots = vec![Slot { holder: FREE, previous: NIL, next: NIL }; len].into_boxed_slice();
        let mut free = List::EMPTY;
        for i in order {
            free.push(&mut slots, i);
        }
        Self { partition, slots, free, unconfirmed: List::EMPTY, closed: List::EMPTY, held: 0 }
    }

    /// Takes the port that has been free longest, for a flow that is not confirmed yet.
    pub fn take(&mut self, holder: u32) -> Option<u16> {
        let i = self.free.head;
        if i == NIL {
            return None;
        }
        self.free.unlink(&mut self.slots, i);
        self.unconfirmed.push(&mut self.slots, i);
        self.slots[usize::from(i)].holder = holder & HOLDER | UNCONFIRMED;
        self.held += 1;
        Some(self.partition.port(i))
    }

    /// Who holds `port`.
    #[inline]
    pub fn holder(&self, port: u16) -> Option<u32> {
        match self.slots.get(self.partition.index(port)?)?.holder {
            FREE => None,
            holder => Some(holder & HOLDER),
        }
    }

    /// The holder of `port` goes by another number from now on.
    pub fn rename_holder(&mut self, port: u16, holder: u32) {
        if let Some((i, held)) = self.held_slot(port) {
            self.slots[usize::from(i)].holder = holder & HOLDER | held & !HOLDER;
        }
    }

    /// The holder's flow is a conversation: its port is its own until it closes.
    pub fn confirm(&mut self, port: u16) {
        if let Some((i, held)) = self.held_slot(port) {
            self.unlist(i, held);
            self.slots[usize::from(i)].holder = held & HOLDER;
        }
    }

    /// The holder's flow has closed: its port may be taken over when no other is free.
    pub fn close(&mut self, port: u16) {
        if let Some((i, held)) = self.held_slot(port)
            && held & CLOSED == 0
        {
            self.unlist(i, held);
            self.slots[usize::from(i)].holder = held & HOLDER | CLOSED;
            self.closed.push(&mut self.slots, i);
        }
    }

    /// Whose port may be taken over when none is free: of the flow that closed first, else of the oldest
    /// unconfirmed one. End that flow and release its port.
    pub fn dispensable(&self) -> Option<u32> {
        let i = if self.closed.head == NIL { self.unconfirmed.head } else { self.closed.head };
        Some(self.slots.get(usize::from(i))?.holder & HOLDER)
    }

    /// Gives `port` back.
    pub fn release(&mut self, port: u16) {
        if let Some((i, held)) = self.held_slot(port) {
            self.unlist(i, held);
            self.slots[usize::from(i)].holder = FREE;
            self.free.push(&mut self.slots, i);
            self.held -= 1;
        }
    }

    /// Ports held, those of closed flows included.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    fn held_slot(&self, port: u16) -> Option<(u16, u32)> {
        let i = self.partition.index(port)?;
        let held = self.slots.get(i)?.holder;
        (held != FREE).then_some((i as u16, held))
    }

    fn unlist(&mut self, i: u16, held: u32) {
        if held & CLOSED != 0 {
            self.closed.unlink(&mut self.slots, i);
        } else if held & UNCONFIRMED != 0 {
            self.unconfirmed.unlink(&mut self.slots, i);
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

    #[test]
    fn closed_flows_give_way_first_then_unconfirmed_ones_and_conversations_never() {
        let mut pool = PortPool::new(partition(100, 103, 1, 0), 1);
        let ports: Vec<u16> = (0..4).filter_map(|h| pool.take(h)).collect();
        pool.confirm(ports[0]);
        pool.confirm(ports[1]);
        assert_eq!(pool.dispensable(), Some(2));
        pool.close(ports[3]);
        pool.close(ports[1]);
        pool.close(ports[3]);
        assert_eq!(pool.dispensable(), Some(3));
        pool.release(ports[3]);
        assert_eq!(pool.dispensable(), Some(1));
        pool.release(ports[1]);
        pool.release(ports[2]);
        assert_eq!(pool.dispensable(), None);
        assert_eq!((pool.holder(ports[0]), pool.held()), (Some(0), 1));
    }

    #[test]
    fn a_renamed_holder_is_found_by_its_port_and_keeps_its_class() {
        let mut pool = PortPool::new(partition(100, 102, 1, 0), 1);
        let port = pool.take(5).unwrap();
        pool.close(port);
        pool.rename_holder(port, 6);
        assert_eq!((pool.holder(port), pool.dispensable()), (Some(6), Some(6)));
        pool.release(port);
        assert_eq!((pool.holder(port), pool.dispensable(), pool.held()), (None, None, 0));
        pool.release(port);
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn ports_outside_of_the_partition_are_nobodys() {
        let pool = PortPool::new(partition(100, 110, 2, 1), 1);
        assert_eq!([99, 100, 111, 0, u16::MAX].map(|p| pool.holder(p)), [None; 5]);
        assert_eq!(PortPool::new(partition(10, 9, 1, 0), 1).take(0), None);
        assert_eq!(PortPool::new(partition(65535, 65535, 2, 0), 1).take(0), None);
    }

    #[test]
    fn a_port_costs_eight_bytes() {
        assert_eq!(size_of::<Slot>(), 8);
    }
}
