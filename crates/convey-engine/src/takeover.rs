//! The flows of a balancer that was killed, for the one that starts after it.
//!
//! What was left is bytes of which nothing is believed: each entry is checked, what its slots stood for is looked
//! up in the configuration of now, and its worker is who gets its packets now. So workers, capacity and the
//! configuration may have changed meanwhile. What has no counterpart is not kept, and counted by its reason.

mod translation;

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use convey_core::Mode;
use convey_core::conntrack::{Flow, FlowState, Ticks, WORDS_V4, WORDS_V6, flags, read_entry};
use convey_packet::Addr;

use crate::memory::{ALIVE_WORDS, HEADER_BYTES, Layout, NAT_BYTES};
use crate::meta::Nanos;
use crate::options::PacketOptions;
use crate::slot_table::{FrontendIdentity, ServerIdentity, SlotTable};
use crate::snapshot::{NatPath, PacketSnapshot};
use crate::steering::worker_for;
use translation::Translation;

/// Why a flow could not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotKept {
    /// Its entry makes no sense.
    Damaged,
    /// Nobody listens any more where its client talks to.
    NoFrontend,
    /// Its server has left the configuration.
    NoServer,
    /// Its NAT address or port is none of the configuration's, or somebody else's.
    NoPort,
    /// The flow table has no room.
    NoRoom,
}

impl NotKept {
    const ALL: [Self; 5] = [Self::Damaged, Self::NoFrontend, Self::NoServer, Self::NoPort, Self::NoRoom];

    const fn words(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::NoFrontend => "frontend gone",
            Self::NoServer => "server gone",
            Self::NoPort => "NAT address or port not available",
            Self::NoRoom => "no room",
        }
    }
}

/// How many flows were taken over, and how many not, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TakenOver {
    /// Flows that go on.
    pub kept: u64,
    lost: [u64; NotKept::ALL.len()],
}

impl TakenOver {
    /// Counts a flow that is not kept.
    pub(crate) fn lose(&mut self, why: NotKept) {
        self.lost[why as usize] += 1;
    }

    /// Flows not kept for this reason.
    pub fn lost(&self, why: NotKept) -> u64 {
        self.lost[why as usize]
    }

    /// Adds what somebody else has counted.
    pub fn add(&mut self, other: &Self) {
        self.kept += other.kept;
        for (mine, theirs) in self.lost.iter_mut().zip(other.lost) {
            *mine += theirs;
        }
    }
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "took over {} flows of a killed balancer", self.kept)?;
        let lost: u64 = self.lost.iter().sum();
        if lost == 0 {
            return Ok(());
        }
        let reasons = NotKept::ALL.iter().filter(|why| self.lost(**why) > 0);
        let reasons: Vec<String> =
            reasons.map(|why| format!("{} {}", self.lost(*why), why.words())).collect();
        write!(f, "; {lost} could not be kept: {}", reasons.join(", "))
    }
}

/// Frontends and servers that flows go by and a configuration lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Former {
    /// Frontends, each with the backend of a server that its flows go to.
    pub frontends: Vec<(FrontendIdentity, String)>,
    /// Servers.
    pub servers: Vec<ServerIdentity>,
}

impl Former {
    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.servers.is_empty()
    }
}

/// Bytes of entries read at once.
const PAGE_BYTES: usize = 4096;

/// A flow as its balancer left it.
#[derive(Debug, Clone, Copy)]
struct Saved {
    flow: Flow,
    /// The moment of its last packet.
    last_seen: Moment,
    nat: u128,
}

impl Saved {
    fn is_over(&self, snapshot: &PacketSnapshot, now: Nanos) -> bool {
        Moment::of(now).0.saturating_sub(self.last_seen.0)
            > u64::from(snapshot.lifetimes().0[self.flow.state as usize])
    }
}

/// Ticks since the boot, all of them: those that flows are dated by come again after 78 hours.
#[derive(Debug, Clone, Copy)]
struct Moment(u64);

impl Moment {
    const fn of(time: Nanos) -> Self {
        Self(time.0 >> Ticks::SHIFT)
    }

    /// The moment nearest to this one that `tick` stands for.
    const fn nearest(self, tick: u32) -> Self {
        let ahead = tick.wrapping_sub(self.0 as u32) << (32 - Ticks::BITS);
        Self(self.0.saturating_add_signed((ahead as i32 >> (32 - Ticks::BITS)) as i64))
    }
}

/// A flow in the slots of now, for its worker.
#[derive(Debug, Clone, Copy)]
pub struct Heir {
    pub(crate) flow: Flow,
    /// Passthrough: where its answers come along.
    pub(crate) path: Option<NatPath>,
}

/// All flows of a balancer that was killed.
#[derive(Debug)]
pub struct SavedFlows {
    layout: Layout,
    slots: SlotTable,
    flows: Vec<Saved>,
    damaged: u64,
}

impl SavedFlows {
    /// Reads what lies as [`Layout`] has it.
    ///
    /// # Errors
    /// InvalidData when it is of another layout; what reading gives.
    pub fn read(mut source: impl Read, slots: SlotTable) -> io::Result<Self> {
        let mut header = vec![0; HEADER_BYTES];
        source.read_exact(&mut header)?;
        let layout = header.first_chunk().and_then(Layout::parse);
        let layout = layout.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it lies as another version of Convey keeps flows")
        })?;
        let mut saved = Self { layout, slots, flows: Vec::new(), damaged: 0 };
        let mut alive = [0; ALIVE_WORDS * size_of::<u64>()];
        let mut nat = vec![0; NAT_BYTES];
        for _ in 0..layout.workers {
            source.read_exact(&mut alive)?;
            let alive = Moment::of(Nanos(alive.first_chunk().copied().map_or(0, u64::from_ne_bytes)));
            source.read_exact(&mut nat)?;
            saved.read_entries::<WORDS_V4>(&mut source, layout.words[0], alive, &nat)?;
            saved.read_entries::<WORDS_V6>(&mut source, layout.words[1], alive, &nat)?;
        }
        Ok(saved)
    }

    /// Reads the tables that programs in the kernel work in; `nat` has the NAT address of each path by its number.
    pub fn of_kernel(
        mode: Mode,
        flows: [&[AtomicU32]; 2],
        nat: &[Option<u128>],
        slots: SlotTable,
        now: Nanos,
    ) -> Self {
        let layout = Layout { mode, workers: 1, words: flows.map(<[_]>::len) };
        let mut saved = Self { layout, slots, flows: Vec::new(), damaged: 0 };
        let nat: Vec<u8> = nat.iter().flat_map(|nat| nat.unwrap_or_default().to_ne_bytes()).collect();
        let [v4, v6] = flows;
        saved.add_all::<WORDS_V4>(v4, Moment::of(now), &nat);
        saved.add_all::<WORDS_V6>(v6, Moment::of(now), &nat);
        saved
    }

    fn add_all<const WORDS: usize>(&mut self, entries: &[AtomicU32], now: Moment, nat: &[u8]) {
        for entry in entries.chunks_exact(WORDS) {
            let words: [u32; WORDS] = std::array::from_fn(|i| entry[i].load(Relaxed));
            self.add(&words, now, nat);
        }
    }

    /// Reads `words` of a worker's memory, in entries of `WORDS`.
    fn read_entries<const WORDS: usize>(
        &mut self,
        source: &mut impl Read,
        words: usize,
        alive: Moment,
        nat: &[u8],
    ) -> io::Result<()> {
        let mut page = vec![0; PAGE_BYTES];
        let mut left = words * 4;
        while left > 0 {
            let page = &mut page[..left.min(PAGE_BYTES)];
            source.read_exact(page)?;
            left -= page.len();
            // Most pages of a table that is not full were never written.
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            for entry in page.as_chunks::<4>().0.chunks_exact(WORDS) {
                let words: [u32; WORDS] = std::array::from_fn(|i| u32::from_ne_bytes(entry[i]));
                self.add(&words, alive, nat);
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: &[u32], alive: Moment, nat: &[u8]) {
        match read_entry(entry, self.layout.mode == Mode::Dsr) {
            Err(_) => self.damaged += 1,
            Ok(None) => {}
            Ok(Some(mut flow)) => {
                if self.layout.mode != Mode::Dsr {
                    let frontend = self.slots.frontends.get(flow.frontend);
                    flow.port = frontend.map_or(0, |f| f.port);
                }
                let at = usize::from(flow.pool) * size_of::<u128>();
                let nat = nat.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u128::from_ne_bytes);
                self.flows.push(Saved { flow, last_seen: alive.nearest(flow.last_seen), nat });
            }
        }
    }

    /// The mode its balancer ran in.
    pub fn mode(&self) -> Mode {
        self.layout.mode
    }

    /// What the slots in them stand for, to be adopted by [`PacketSnapshot::build_adopting`].
    pub fn slot_table(&self) -> &SlotTable {
        &self.slots
    }

    /// Flows found, those whose time is over included.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Workers its balancer had.
    pub fn workers(&self) -> usize {
        self.layout.workers
    }

    /// Whether every live flow has one worker for both directions with these options. A flow keeps its NAT port,
    /// and replies are steered by it, so another number of workers may not suit.
    pub fn suits(&self, options: &PacketOptions) -> bool {
        let live = self.flows.iter().map(|s| &s.flow).filter(|f| f.is_live() && f.has(flags::HAS_PORT));
        live.filter(|f| options.nat_ports.contains(f.nat_port)).all(|f| is_steered(f, options))
    }

    /// What `snapshot` lacks for live TCP flows to go on. Datagrams leave what is gone.
    pub fn former(&self, snapshot: &PacketSnapshot, now: Nanos) -> Former {
        let slots = Translation::new(&self.slots, snapshot);
        let (mut former, mut seen) = (Former::default(), HashSet::new());
        let live = self.flows.iter().filter(|s| !s.is_over(snapshot, now)).map(|s| &s.flow);
        for flow in live.filter(|f| f.is_live() && !f.state.is_udp()) {
            let frontend = self.slots.frontends.get(flow.frontend);
            let server = self.slots.servers.get(flow.server);
            let (Some(frontend), Some(server)) = (frontend, server) else { continue };
            if slots.frontend(flow.frontend).is_none() && seen.insert((true, flow.frontend)) {
                former.frontends.push((frontend.clone(), server.backend.clone()));
            }
            if slots.server(flow.server).is_none() && seen.insert((false, flow.server)) {
                former.servers.push(server.clone());
            }
        }
        former
    }

    /// The flows by worker of `snapshot`, those to be stored first first.
    pub fn divide(&self, snapshot: &PacketSnapshot, now: Nanos, report: &mut TakenOver) -> Vec<Vec<Heir>> {
        let workers = snapshot.options().workers.max(1);
        let mut heirs: Vec<Vec<Heir>> = vec![Vec::new(); workers];
        for _ in 0..self.damaged {
            report.lose(NotKept::Damaged);
        }
        if self.layout.mode != snapshot.mode() {
            return heirs;
        }
        let slots = Translation::new(&self.slots, snapshot);
        for saved in self.flows.iter().filter(|saved| !saved.is_over(snapshot, now)) {
            match slots.translate(saved, snapshot) {
                Ok(heir) => heirs[worker_of(&heir.flow, snapshot.options())].push(heir),
                // What is over anyway is no loss.
                Err(_) if saved.flow.state == FlowState::Closed => {}
                Err(why) => report.lose(why),
            }
        }
        let now = Ticks::from_nanos(now.0);
        for heirs in &mut heirs {
            // What is confirmed finds room first; of each kind the oldest first, as ports are kept in that order.
            heirs.sort_by_key(|h| {
                let rank = match h.flow.state {
                    FlowState::Closed => 2,
                    state if state.is_half_open() => 1,
                    _ => 0,
                };
                (rank, u32::MAX - now.since(Ticks(h.flow.last_seen)))
            });
        }
        heirs
    }
}

/// The worker that gets a client's packets of a flow.
fn worker_of(flow: &Flow, options: &PacketOptions) -> usize {
    let client = Addr::from_bits(flow.client).into();
    worker_for(client, flow.client_port, flow.port, options.nat_ports, options.workers)
}

/// Whether the replies to a flow reach the worker that gets its client's packets.
fn is_steered(flow: &Flow, options: &PacketOptions) -> bool {
    usize::from(flow.nat_port) % options.workers.max(1) == worker_of(flow, options)
}
