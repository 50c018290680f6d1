//! The datagrams of which fragments are under way, and where they go.
//!
//! Workers share one table behind a lock, the only one on the packet path and taken for fragments alone: the first
//! fragment is steered by its ports, the later ones have none and meet worker 0. What comes before its first is left
//! to the I/O side to hold, see [`Fragments::is_followed`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use convey_core::conntrack::Direction;
use convey_packet::{Addr, Ip, Part};

use crate::meta::Nanos;
use crate::snapshot::Method;
use crate::verdict::DropReason;

/// Datagrams under way at once. A flood of first fragments evicts the oldest, and nothing but fragments.
const MAX_DATAGRAMS: usize = 4096;

/// How long later fragments may follow the first.
const LIFETIME: Nanos = Nanos::from_secs(2);

/// Gaps a datagram may have between the fragments that came.
const MAX_RANGES: usize = 24;

/// The datagrams of which fragments are under way, for all workers.
#[derive(Debug)]
pub struct Fragments {
    table: Mutex<Table>,
    begun: AtomicU64,
}

#[derive(Debug)]
struct Table {
    datagrams: HashMap<Key, Datagram>,
    /// In the order they began; those that are complete stand there still.
    order: VecDeque<(Key, u64)>,
    begun: u64,
    next_id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    source: u128,
    destination: u128,
    id: u32,
    /// 0 in IPv6, where later fragments may name another.
    protocol: u8,
}

#[derive(Debug)]
struct Datagram {
    /// `None`: its first fragment was dropped.
    way: Option<Way>,
    came: Ranges,
    number: u64,
    until: Nanos,
}

/// Where the fragments of a datagram go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) source: Addr,
    pub(crate) destination: Addr,
    /// Whose next hop they take.
    pub(crate) towards: Addr,
    pub(crate) method: Method,
    pub(crate) id: Option<u32>,
    /// Frontend and server.
    pub(crate) slots: (u16, u16),
    pub(crate) from: Direction,
    pub(crate) flow: u32,
}

/// Parts of a datagram that came, in words of eight bytes, in order and apart from each other.
#[derive(Debug, Clone, Copy, Default)]
struct Ranges {
    ranges: [(u16, u16); MAX_RANGES],
    len: usize,
    /// Behind the last byte, once the last fragment has come.
    total: Option<u16>,
}

impl Key {
    pub(crate) fn of(ip: &Ip, part: &Part) -> Self {
        Self {
            source: ip.source.bits(),
            destination: ip.destination.bits(),
            id: part.id,
            protocol: if ip.is_v6 { 0 } else { ip.protocol },
        }
    }
}

impl Fragments {
    /// No datagrams yet; identifications of ours (passthrough) count up from behind `seed`.
    pub fn new(seed: u64) -> Self {
        let table =
            Table { datagrams: HashMap::default(), order: VecDeque::new(), begun: 0, next_id: seed as u32 };
        Self { table: Mutex::new(table), begun: AtomicU64::new(0) }
    }

    /// How many first fragments were seen: when it has grown, fragments that were held may be followed.
    pub fn begun(&self) -> u64 {
        self.begun.load(Acquire)
    }

    /// Whether a later fragment's first has come, so that [`crate::process`] can tell what becomes of it. `frame`
    /// begins with the Ethernet header.
    pub fn is_followed(&self, frame: &[u8], now: Nanos) -> bool {
        let Ok(ip) = Ip::parse(frame, false) else { return false };
        Part::parse(frame, &ip).is_some_and(|part| self.lock().live(&Key::of(&ip, &part), now).is_some())
    }

    /// Where the later fragments of this datagram go: `Some(None)` where its first one was dropped.
    pub(crate) fn way(&self, key: &Key, now: Nanos) -> Option<Option<Way>> {
        self.lock().live(key, now).map(|datagram| datagram.way)
    }

    /// Takes in the first fragment of a datagram; `None` as `way` when it is dropped. Tells whether another datagram
    /// had to go that was not complete.
    pub(crate) fn begin(&self, key: Key, part: &Part, way: Option<Way>, now: Nanos) -> bool {
        let mut came = Ranges::default();
        // Empty ranges take the first part whatever it is.
        let _ = came.add(part);
        let evicted = self.lock().begin(key, way, came, now);
        self.begun.fetch_add(1, Release);
        evicted
    }

    /// Takes in a later fragment, about to be sent on. `None`: the datagram has gone in the meantime.
    pub(crate) fn add(&self, key: &Key, part: &Part, now: Nanos) -> Option<Result<(), DropReason>> {
        let mut table = self.lock();
        let added = table.live(key, now)?.came.add(part);
        if added == Ok(true) {
            table.datagrams.remove(key);
        }
        Some(added.map(|_| ()))
    }

    /// An identification of ours.
    pub(crate) fn next_id(&self) -> u32 {
        let mut table = self.lock();
        table.next_id = table.next_id.wrapping_add(1);
        table.next_id
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Entries are whole at any time.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn live(&mut self, key: &Key, now: Nanos) -> Option<&mut Datagram> {
        self.datagrams.get_mut(key).filter(|datagram| now < datagram.until)
    }

    /// Takes a datagram in; tells whether another had to go that was not complete.
    fn begin(&mut self, key: Key, way: Option<Way>, came: Ranges, now: Nanos) -> bool {
        let mut evicted = false;
        while let Some((oldest, number)) = self.order.front().copied() {
            let is_there = self.datagrams.get(&oldest).filter(|d| d.number == number);
            let is_live = is_there.is_some_and(|d| now < d.until);
            if is_live && self.datagrams.len() < MAX_DATAGRAMS && self.order.len() < 2 * MAX_DATAGRAMS {
                break;
            }
            evicted |= is_live;
            if is_there.is_some() {
                self.datagrams.remove(&oldest);
            }
            self.order.pop_front();
        }
        self.begun += 1;
        let number = self.begun;
        self.datagrams.insert(key, Datagram { way, came, number, until: Nanos(now.0 + LIFETIME.0) });
        self.order.push_back((key, number));
        evicted
    }
}

impl Ranges {
    /// Adds a part; tells whether the datagram is complete.
    fn add(&mut self, part: &Part) -> Result<bool, DropReason> {
        let (begin, end) = ((part.begin / 8) as u16, part.end.div_ceil(8) as u16);
        let ranges = self.ranges.get(..self.len).unwrap_or_default();
        let is_beyond = self.total.is_some_and(|total| end > total || !part.has_more)
            || (!part.has_more && ranges.iter().any(|range| range.1 > end));
        if is_beyond || ranges.iter().any(|range| begin < range.1 && range.0 < end) {
            return Err(DropReason::FragmentOverlap);
        }
        let before = ranges.iter().position(|range| range.1 == begin);
        let after = ranges.iter().position(|range| range.0 == end);
        match (before, after) {
            (Some(before), Some(after)) => {
                self.ranges[before].1 = self.ranges[after].1;
                self.ranges.copy_within(after + 1..self.len, after);
                self.len -= 1;
            }
            (Some(before), None) => self.ranges[before].1 = end,
            (None, Some(after)) => self.ranges[after].0 = begin,
            (None, None) if self.len < MAX_RANGES => {
                self.ranges[self.len] = (begin, end);
                self.len += 1;
            }
            (None, None) => return Err(DropReason::FragmentBad),
        }
        if !part.has_more {
            self.total = Some(end);
        }
        Ok(self.len == 1 && self.ranges[0].0 == 0 && self.total == Some(self.ranges[0].1))
    }
}
