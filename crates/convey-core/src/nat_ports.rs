//! Source ports towards one server: who holds which, and which is free longest.
//!
//! A pool belongs to one (NAT address, server address and port, protocol) and one worker, which owns every
//! `stride`th port. Taking, giving back and looking up a port is one array access each. Ports are
//! reused in the order they were freed, so that a tuple rests as long as possible; when none is free the
//! port of the flow that closed first is taken (TIME_WAIT), never that of a live one.

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

/// Eight bytes a port.
#[derive(Debug, Clone, Copy)]
struct Slot {
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

/// The ports of one worker towards one server. Holders are 31-bit numbers of the caller's.
#[derive(Debug)]
pub struct PortPool {
    partition: Partition,
    slots: Box<[Slot]>,
    free: List,
    /// Ports of closed flows, the first closed first.
    closed: List,
    held: usize,
}

impl PortPool {
    /// Marks a holder whose flow has closed.
    const CLOSED: u32 = 1 << 31;

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
        Self { partition, slots, free, closed: List::EMPTY, held: 0 }
    }

    /// Takes the port that has been free longest.
    pub fn take(&mut self, holder: u32) -> Option<u16> {
        let i = self.free.head;
        if i == NIL {
            return None;
        }
        self.free.unlink(&mut self.slots, i);
        self.slots[usize::from(i)].holder = holder & !Self::CLOSED;
        self.held += 1;
        Some(self.partition.port(i))
    }

    /// Who holds `port`.
    #[inline]
    pub fn holder(&self, port: u16) -> Option<u32> {
        match self.slots.get(self.partition.index(port)?)?.holder {
            FREE => None,
            holder => Some(holder & !Self::CLOSED),
        }
    }

    /// The holder of `port` goes by another number from now on.
    pub fn rename_holder(&mut self, port: u16, holder: u32) {
        if let Some(i) = self.partition.index(port)
            && let Some(slot) = self.slots.get_mut(i)
            && slot.holder != FREE
        {
            slot.holder = holder & !Self::CLOSED | slot.holder & Self::CLOSED;
        }
    }

    /// The holder's flow has closed: its port may be taken over when no other is free.
    pub fn close(&mut self, port: u16) {
        let Some(i) = self.partition.index(port) else { return };
        let Some(slot) = self.slots.get_mut(i) else { return };
        if slot.holder != FREE && slot.holder & Self::CLOSED == 0 {
            slot.holder |= Self::CLOSED;
            self.closed.push(&mut self.slots, i as u16);
        }
    }

    /// Who of the closed flows closed first. Release its port to take it over.
    pub fn oldest_closed(&self) -> Option<u32> {
        let slot = self.slots.get(usize::from(self.closed.head))?;
        Some(slot.holder & !Self::CLOSED)
    }

    /// Gives `port` back.
    pub fn release(&mut self, port: u16) {
        let Some(i) = self.partition.index(port) else { return };
        let Some(slot) = self.slots.get_mut(i) else { return };
        let holder = std::mem::replace(&mut slot.holder, FREE);
        if holder == FREE {
            return;
        }
        if holder & Self::CLOSED != 0 {
            self.closed.unlink(&mut self.slots, i as u16);
        }
        self.free.push(&mut self.slots, i as u16);
        self.held -= 1;
    }

    /// Ports held, those of closed flows included.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
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
    fn when_none_is_free_the_flow_that_closed_first_is_named_and_live_ones_are_not() {
        let mut pool = PortPool::new(partition(100, 102, 1, 0), 1);
        let ports: Vec<u16> = (0..3).filter_map(|h| pool.take(h)).collect();
        assert_eq!(pool.oldest_closed(), None);
        pool.close(ports[1]);
        pool.close(ports[0]);
        pool.close(ports[1]);
        assert_eq!(pool.oldest_closed(), Some(1));
        pool.release(ports[1]);
        assert_eq!(pool.take(7), Some(ports[1]));
        assert_eq!(pool.oldest_closed(), Some(0));
        assert_eq!(pool.holder(ports[0]), Some(0));
    }

    #[test]
    fn a_renamed_holder_is_found_by_its_port_and_stays_closed_if_it_was() {
        let mut pool = PortPool::new(partition(100, 102, 1, 0), 1);
        let port = pool.take(5).unwrap();
        pool.close(port);
        pool.rename_holder(port, 6);
        assert_eq!((pool.holder(port), pool.oldest_closed()), (Some(6), Some(6)));
        pool.release(port);
        assert_eq!((pool.holder(port), pool.oldest_closed(), pool.held()), (None, None, 0));
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
