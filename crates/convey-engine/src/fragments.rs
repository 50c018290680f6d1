//! Datagrams in fragments: the first one has the ports and decides, the later ones follow it by the datagram's
//! identification, their addresses rewritten alike. The checksum over the whole datagram stands in the first.
//!
//! Workers share one table behind a lock, the only one on the packet path and taken for fragments alone: the first
//! fragment is steered by its ports, the later ones have none and meet worker 0. What comes before its first is left
//! to the I/O side to hold, see [`Fragments::is_followed`].
//!
//! Nothing is put together here. Bytes that were sent on before are dropped, so no server sees parts that overlap.
//! In passthrough each datagram gets an identification of ours: two clients behind one NAT address may choose the same.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use convey_core::conntrack::Direction;
use convey_packet::{Addr, Fragment, Ip, Part, TCP, Tuple, UDP, rewrite};

use crate::accounts::account;
use crate::meta::{FrameMeta, Nanos};
use crate::next_hop::NextHops;
use crate::packet::{Packet, forward, next_hop, without_next_hop};
use crate::snapshot::{Method, PacketServer, PacketSnapshot};
use crate::verdict::{DropReason, Forward, Note, PassReason, Verdict};
use crate::worker::Worker;

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
struct Key {
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
    source: Addr,
    destination: Addr,
    /// Whose next hop they take.
    towards: Addr,
    method: Method,
    id: Option<u32>,
    /// Frontend and server.
    slots: (u16, u16),
    from: Direction,
    flow: u32,
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
    fn of(ip: &Ip, part: &Part) -> Self {
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

/// Whether a first fragment may begin its datagram.
pub(crate) fn check_first(ip: &Ip, part: &Part, worker: &Worker) -> Result<(), DropReason> {
    if !part.is_possible() {
        return Err(DropReason::FragmentBad);
    }
    match worker.fragments().lock().live(&Key::of(ip, part), worker.now()) {
        Some(_) => Err(DropReason::FragmentOverlap),
        None => Ok(()),
    }
}

/// The later fragments of this datagram are dropped as the first one was.
pub(crate) fn refuse(ip: &Ip, part: &Part, worker: &Worker) {
    begin(&Key::of(ip, part), part, None, worker);
}

/// The later fragments of this datagram go where its first one goes, whose addresses and ports become `to`.
pub(crate) fn send_on(
    buffer: &mut [u8],
    packet: &Packet<'_>,
    to: &Tuple,
    from: Direction,
    (frontend, server): (u16, (u16, &PacketServer)),
    worker: &Worker,
) {
    let Some(part) = packet.part else { return };
    let method = server.1.method;
    let id = (method == Method::Nat).then(|| {
        let mut table = worker.fragments().lock();
        table.next_id = table.next_id.wrapping_add(1);
        table.next_id
    });
    if let Some(id) = id {
        part.write_id(buffer, &packet.ip, id);
    }
    let way = Way {
        source: to.source,
        destination: to.destination,
        towards: if method == Method::L2 { server.1.address } else { to.destination },
        method,
        id,
        slots: (frontend, server.0),
        from,
        flow: to.fingerprint(),
    };
    begin(&Key::of(&packet.ip, &part), &part, Some(way), worker);
    worker.note(Note::DatagramBegun);
}

fn begin(key: &Key, part: &Part, way: Option<Way>, worker: &Worker) {
    let mut came = Ranges::default();
    // Empty ranges take the first part whatever it is.
    let _ = came.add(part);
    let fragments = worker.fragments();
    if fragments.lock().begin(*key, way, came, worker.now()) {
        worker.note(Note::DatagramEvicted);
    }
    fragments.begun.fetch_add(1, Release);
}

/// What becomes of a later fragment.
pub(crate) fn follow(
    buffer: &mut [u8],
    ip: &Ip,
    meta: &FrameMeta,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) -> Result<Verdict, Verdict> {
    // Behind a later IPv6 fragment's header the transport may stand behind further ones (in the first fragment).
    let is_extension = ip.is_v6 && matches!(ip.protocol, 0 | 43 | 60);
    if !matches!(ip.protocol, TCP | UDP) && !is_extension {
        return Err(Verdict::Pass(PassReason::OtherProtocol));
    }
    debug_assert_eq!(ip.fragment, Fragment::Later);
    let part = Part::parse(buffer, ip).ok_or(Verdict::Drop(DropReason::Truncated))?;
    let (key, now) = (Key::of(ip, &part), worker.now());
    let way = match worker.fragments().lock().live(&key, now) {
        None => return Err(Verdict::Pass(PassReason::Fragment)),
        Some(datagram) => datagram.way.ok_or(Verdict::Drop(DropReason::FragmentRefused))?,
    };
    if !part.is_possible() {
        return Err(Verdict::Drop(DropReason::FragmentBad));
    }
    if way.method != Method::L2 && ip.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExceeded));
    }
    let hop = next_hop(next_hops, way.source, way.towards, meta.ingress_ifindex)
        .map_err(|missing| without_next_hop(missing, way.towards))?;
    if way.method == Method::L2 && !hop.on_link {
        return Err(Verdict::Drop(DropReason::ServerNotOnLink));
    }
    // The sender hears of it by the first fragment, which is as long.
    if ip.len() > hop.mtu as usize {
        return Err(Verdict::Drop(DropReason::TooBig));
    }
    {
        let mut table = worker.fragments().lock();
        let datagram = table.live(&key, now).ok_or(Verdict::Pass(PassReason::Fragment))?;
        if datagram.came.add(&part).map_err(Verdict::Drop)? {
            table.datagrams.remove(&key);
        }
    }
    account(way.slots, way.from, (part.end - part.begin) as u32, snapshot, worker.index());
    if way.method != Method::L2 {
        if let Some(id) = way.id {
            part.write_id(buffer, ip, id);
        }
        rewrite::rewrite_addresses(buffer, ip, way.source, way.destination);
    }
    Ok(Verdict::Forward(Forward { flow: Some(way.flow), ..forward(buffer, ip, way.method, &hop) }))
}
