//! The portable engine and a kernel program with the worker beside it, given the same frames.

use std::collections::HashMap as Names;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf};
use convey_bpf::tables::{CLIENT_HOP_BYTES, Decided, HandedUp, REASONS, client_hop};
use convey_core::nat_ports::Partition;
use convey_core::{Snapshot, SnapshotSpec};
use convey_engine::{
    Checksum, FrameMeta, Looked, Nanos, NextHops, PacketOptions, PacketSnapshot, PathNumbers, REPLY_HEADROOM,
    Verdict, Worker, process,
};
use convey_xdp::kernel::{Hook, Image, Kernel, Sizes};
use convey_xdp::lower::{self, Ways};
use convey_xdp::told;
use rustix::time::{ClockId, clock_gettime};

use super::tables::Tables;
use super::test_run::{self, TestRun};
use super::watched::{self, Watcher, Words};

/// Ticks come round again after this time: the whole table is swept, and no flow is older.
const ROUND: u64 = 1 << 48;
pub const GENERATION: u32 = 1;
/// Bytes of headroom that are filled with 0xff.
const HEADROOM: usize = 32;
/// Of the notes that programs count, the first; what comes before are verdicts.
const NOTES: usize = 35;

/// What both are made for.
#[derive(Clone)]
pub struct Setup {
    pub name: String,
    pub hook: Hook,
    pub spec: SnapshotSpec,
    pub options: PacketOptions,
    pub next_hops: Arc<NextHops>,
    pub sets: u32,
    /// Known next hops of these are in the program's cache.
    pub clients: Vec<IpAddr>,
    /// tc: as if a network card had summed up the frames.
    pub checksum_complete: bool,
}

/// What takes place.
#[derive(Clone)]
pub enum Step {
    Frame(Vec<u8>),
    /// Everything gets older by these ticks.
    Age(u32),
    Sweep,
    Change(Box<SnapshotSpec>),
}

/// What became of a frame.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    Sent(Vec<u8>),
    /// Verdict and, where it is known, its reason.
    Kept(&'static str, Option<String>),
}

/// Rust and C do not agree.
pub struct Difference(pub String);

#[derive(Default, Clone, Copy)]
pub struct Counts {
    pub frames: u64,
    pub forwarded: u64,
    pub forwarded_by_program: u64,
    pub handed_up: u64,
    /// Frames of clients that lists deny.
    pub denied: u64,
    /// Decisions of the program that were told to those who watch.
    pub watched: u64,
    pub elsewhere: u64,
    pub refused: u64,
}

struct Side {
    config: Snapshot,
    snapshot: Arc<PacketSnapshot>,
    worker: Worker,
    tables: Tables,
    watcher: Watcher,
}

pub struct Pair {
    setup: Setup,
    kernel: Kernel,
    /// Maps of its own hold the tables of the portable engine.
    _shadow: Kernel,
    program: RawFd,
    ring: RingBuf<MapData>,
    fragments: HashMap<MapData, [u8; 40], u32>,
    reasons: PerCpuArray<MapData, u64>,
    rust: Side,
    c: Side,
    paths: Arc<PathNumbers>,
    base: u64,
    sent: Vec<u8>,
    buffer: Vec<u8>,
    counted: Names<&'static str, u64>,
    pub counts: Counts,
    /// Reasons are asked for after every frame.
    pub is_precise: bool,
    /// Decisions are told, and compared.
    pub is_watched: bool,
    words: Words,
}

impl Pair {
    pub fn new(setup: Setup) -> Self {
        let options = &setup.options;
        let config = Snapshot::first(setup.spec.clone(), 1).unwrap();
        let snapshot = PacketSnapshot::build(&config, options, None).unwrap();
        let passthrough = snapshot.is_passthrough();
        let (first, last) = (options.nat_ports.first, options.nat_ports.last);
        let partition = Partition { first, last, stride: 1, remainder: 0 };
        let paths = if passthrough { 32 } else { 1 };
        let sizes = Sizes {
            passthrough,
            minimal: snapshot.is_minimal(),
            sets4: setup.sets,
            sets6: setup.sets,
            nat_first: first,
            nat_width: u32::from(last - first) + 1,
            paths,
            frontends: 64,
            servers: 64,
            backends: 4,
            ring_bytes: 1 << 18,
        };
        let mut kernel = Kernel::load_for_test_runs(setup.hook, &sizes).unwrap();
        let shadow = Kernel::load_for_test_runs(setup.hook, &sizes).unwrap();
        let numbers = Arc::<PathNumbers>::default();
        let side = |kernel: &Kernel| {
            let tables = Tables::new(kernel, partition, paths as usize, passthrough, options.seed);
            let config = Snapshot::first(setup.spec.clone(), 1).unwrap();
            let snapshot = Arc::new(PacketSnapshot::build(&config, options, None).unwrap());
            let worker = Worker::in_kernel(&snapshot, tables.memory(numbers.clone())).unwrap();
            Side { config, snapshot, worker, tables, watcher: Watcher::new() }
        };
        let (rust, c) = (side(&shadow), side(&kernel));
        know(&mut kernel, &setup);
        let program = test_run::program(&kernel);
        let take = |kernel: &mut Kernel, name| kernel.ebpf.take_map(name).unwrap();
        Self {
            program,
            words: Words::of(&kernel),
            ring: take(&mut kernel, "slow_path").try_into().unwrap(),
            fragments: take(&mut kernel, "fragments").try_into().unwrap(),
            reasons: take(&mut kernel, "reasons").try_into().unwrap(),
            kernel,
            _shadow: shadow,
            setup,
            rust,
            c,
            paths: numbers,
            base: ROUND,
            sent: vec![0; 16_384],
            buffer: vec![0; 16_384],
            counted: Names::new(),
            counts: Counts::default(),
            is_precise: false,
            is_watched: false,
        }
    }

    /// As it was made, without flows.
    pub fn reset(&mut self) {
        for side in [&mut self.rust, &mut self.c] {
            side.tables.clear();
            side.config = Snapshot::first(self.setup.spec.clone(), 1).unwrap();
        }
        for key in self.fragments.keys().map(Result::unwrap).collect::<Vec<_>>() {
            self.fragments.remove(&key).unwrap();
        }
        while self.ring.next().is_some() {}
        self.build(false);
        for side in [&mut self.rust, &mut self.c] {
            side.worker = Worker::in_kernel(&side.snapshot, side.tables.memory(self.paths.clone())).unwrap();
        }
        self.counted = self.reasons();
    }

    /// Builds both sides' snapshots from their configurations and puts them in force.
    fn build(&mut self, goes_on: bool) {
        let now = Nanos(now());
        for side in [&mut self.rust, &mut self.c] {
            let before = goes_on.then_some(&*side.snapshot);
            let next = PacketSnapshot::build_at(&side.config, &self.setup.options, before, now).unwrap();
            side.snapshot = Arc::new(next);
        }
        let snapshot = &self.c.snapshot;
        let is_held = |number| self.c.tables.is_held(number) || self.rust.tables.is_held(number);
        let limit = if snapshot.is_passthrough() { 32 } else { 1 };
        let paths = self.paths.assign(snapshot, limit, is_held).expect("room for the paths");
        let image: Image =
            lower::image(snapshot, &Ways::new(&self.setup.next_hops), GENERATION, &paths, self.setup.sets);
        self.kernel.install(&image).unwrap();
        // Reserved ports.
        self.rust.tables.copy_from(&self.c.tables);
    }

    /// What becomes of it. A difference leaves the two as they are.
    pub fn step(&mut self, step: &Step) -> Result<Option<Outcome>, Difference> {
        let outcome = match step {
            Step::Frame(frame) => self.frame(frame)?,
            Step::Age(ticks) => {
                self.rust.tables.age(*ticks);
                self.c.tables.age(*ticks);
                None
            }
            Step::Sweep => {
                self.sweep();
                None
            }
            Step::Change(spec) => {
                for side in [&mut self.rust, &mut self.c] {
                    side.config = side.config.next((**spec).clone()).unwrap();
                }
                self.build(true);
                self.sweep();
                None
            }
        };
        if !self.rust.tables.lie_alike(&self.c.tables) {
            self.counts.elsewhere += 1;
            // A newcomer may take the place of a flow whose time is over or a free one beside it.
            self.sweep();
            if let Some(text) = self.rust.tables.difference(&self.c.tables) {
                let of = outcome.map_or(String::new(), |o| format!("    both: {o:?}\n"));
                return Err(Difference(format!("the tables differ:\n{of}{text}")));
            }
            self.check()?;
            self.rust.tables.copy_from(&self.c.tables);
        }
        if self.is_precise {
            self.check()?;
        }
        Ok(outcome)
    }

    /// What must hold of each side.
    pub fn check(&mut self) -> Result<(), Difference> {
        let sides = [("Rust", &self.rust), ("C", &self.c)];
        for (name, side) in sides {
            side.tables.check().map_err(|what| Difference(format!("{name} by itself: {what}")))?;
        }
        Ok(())
    }

    /// Verdicts by reason: what the program and the worker beside it counted, and the portable engine, must be the same.
    pub fn check_counts(&mut self) -> Result<(), Difference> {
        let now = self.reasons();
        let mut text = String::new();
        for name in &REASONS[..NOTES] {
            let by_program = now[name] - self.counted.get(name).copied().unwrap_or(0);
            let [rust, worker] = [&self.rust, &self.c].map(|side| counted(&side.worker, name));
            if rust != by_program + worker {
                text +=
                    &format!("    {name}: Rust {rust}, C {by_program} and the worker beside it {worker}\n");
            }
        }
        if text.is_empty() { Ok(()) } else { Err(Difference(format!("counted differently:\n{text}"))) }
    }

    fn reasons(&self) -> Names<&'static str, u64> {
        let sum = |at: u32| self.reasons.get(&at, 0).unwrap().iter().sum();
        (0..).zip(REASONS).map(|(at, name)| (*name, sum(at))).collect()
    }

    fn sweep(&mut self) {
        self.base += ROUND;
        let now = Nanos(self.base + now());
        for side in [&mut self.rust, &mut self.c] {
            side.worker.tick(&side.snapshot, now);
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<Option<Outcome>, Difference> {
        self.words.allow(self.is_watched, now());
        let Some((verdict, sent)) = self.run_program(frame)? else {
            self.counts.refused += 1;
            return Ok(None);
        };
        let now = Nanos(self.base + now());
        self.counts.frames += 1;
        let next_hops = &self.setup.next_hops;
        let rust = decide(&mut self.rust, frame, next_hops, &mut self.buffer, now, self.is_watched);
        let mut record = self.ring.next();
        self.counts.watched += u64::from(record.as_ref().is_some_and(|record| Decided::is_one(record)));
        if let Some(decided) = record.as_ref().and_then(|record| told::read(record)) {
            let side = &mut self.c;
            let watches = side.watcher.watches.current();
            decided.tell(&watches, &side.snapshot, next_hops, &mut side.worker, now);
            drop(record);
            record = self.ring.next();
        }
        let up = record.map(|record| {
            let up = HandedUp::parse(&record).unwrap();
            (up.len as usize, up.frame[..(up.len as usize).min(up.frame.len())].to_vec())
        });
        let c = match up {
            Some((len, up)) => {
                self.counts.handed_up += 1;
                if len != frame.len() || up != frame {
                    return Err(Difference(format!(
                        "what was handed up is not the frame: {}",
                        convey_testkit::hex(&up)
                    )));
                }
                if verdict == "forward" {
                    return Err(Difference("handed up and forwarded".into()));
                }
                decide(&mut self.c, &up, next_hops, &mut self.buffer, now, self.is_watched)
            }
            None if verdict == "forward" => {
                self.counts.forwarded_by_program += 1;
                Outcome::Sent(sent)
            }
            None => {
                if sent != frame {
                    return Err(Difference(format!(
                        "{verdict}, and changed: {}",
                        convey_testkit::hex(&sent)
                    )));
                }
                let reason = self.is_precise.then(|| self.reason()).flatten();
                Outcome::Kept(verdict, reason)
            }
        };
        if self.is_precise {
            self.counted_now();
        }
        match &rust {
            Outcome::Sent(_) => self.counts.forwarded += 1,
            Outcome::Kept(_, reason) => self.counts.denied += u64::from(reason.as_deref() == Some("denied")),
        }
        if !rust.is_like(&c) {
            return Err(Difference(format!("    Rust {rust:?}\n    C    {c:?}\n")));
        }
        if let Some(text) = watched::difference(&self.rust.watcher.told(), &self.c.watcher.told()) {
            return Err(Difference(text));
        }
        Ok(Some(rust))
    }

    /// Why the program kept the last frame.
    fn reason(&mut self) -> Option<String> {
        let now = self.reasons();
        let name = REASONS[..NOTES].iter().find(|name| now[*name] != self.counted[*name])?;
        Some((*name).to_owned())
    }

    fn counted_now(&mut self) {
        self.counted = self.reasons();
    }

    /// Verdict and frame. `None`: the kernel does not run such a frame.
    fn run_program(&mut self, frame: &[u8]) -> Result<Option<(&'static str, Vec<u8>)>, Difference> {
        let hook = self.setup.hook;
        let (mut input, mut context) = (Vec::new(), Vec::new());
        let headroom = if hook == Hook::Xdp { HEADROOM } else { 0 };
        if hook == Hook::Xdp {
            input.resize(headroom, 0xff);
            input.extend_from_slice(frame);
            // Where the packet begins and ends; before it comes metadata, which lies in the headroom.
            for word in [headroom as u32, input.len() as u32, 0, 0, 0, 0] {
                context.extend(word.to_ne_bytes());
            }
        }
        let run = TestRun {
            program: self.program,
            frame: if hook == Hook::Xdp { &input } else { frame },
            context: &context,
            checksum_complete: hook == Hook::Tc && self.setup.checksum_complete && !has_padding(frame),
            repeat: 1,
        };
        let (code, len) = match run.run(&mut self.sent) {
            Ok(done) => done,
            Err(e) if e.raw_os_error() == Some(libc::EBADMSG) => {
                return Err(Difference("the network card's sum is wrong afterwards".into()));
            }
            Err(_) => return Ok(None),
        };
        let verdict = match (hook, code) {
            (Hook::Tc, 7) | (Hook::Xdp, 3 | 4) => "forward",
            (Hook::Tc, u32::MAX) | (Hook::Xdp, 2) => "pass",
            (Hook::Tc, 2) | (Hook::Xdp, 1) => "drop",
            other => panic!("{other:?}"),
        };
        assert!(self.sent[..headroom].iter().all(|byte| *byte == 0xff), "the headroom was written to");
        Ok(Some((verdict, self.sent[headroom..len].to_vec())))
    }
}

/// Whether there are bytes behind the packet. Cutting them off, the kernel gives the sum up, and a test run would compare
/// it all the same.
fn has_padding(frame: &[u8]) -> bool {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    let end = match frame.get(12..14) {
        Some([8, 0]) => word(16).map(|total| 14 + total),
        Some([0x86, 0xdd]) => word(18).map(|payload| 54 + payload),
        _ => None,
    };
    end.is_some_and(|end| frame.len() > end)
}

/// What a worker makes of a frame.
fn decide(
    side: &mut Side,
    frame: &[u8],
    next_hops: &NextHops,
    buffer: &mut [u8],
    now: Nanos,
    is_watched: bool,
) -> Outcome {
    let room = &mut buffer[..frame.len() + REPLY_HEADROOM];
    room[..frame.len()].copy_from_slice(frame);
    room[frame.len()..].fill(0xee);
    let meta = FrameMeta { ingress_ifindex: 1, checksum: Checksum::Complete, gso: None };
    let watches = if is_watched { side.watcher.watches.current() } else { Vec::new() };
    let looked = Looked::at(&watches, frame, &meta, &side.snapshot, next_hops, &mut side.worker, now);
    let verdict = process(room, frame.len(), &meta, &side.snapshot, next_hops, &mut side.worker, now);
    if let Some(looked) = looked {
        looked.decided(&verdict, room);
    }
    let kept = |what, reason: &str| Outcome::Kept(what, Some(reason.into()));
    match verdict {
        Verdict::Forward(f) => Outcome::Sent(room[..f.len].to_vec()),
        Verdict::Reply(r) => Outcome::Sent(room[..r.len].to_vec()),
        Verdict::Pass(reason) => kept("pass", reason.name()),
        Verdict::Drop(reason) => kept("drop", reason.name()),
        Verdict::Unresolved { .. } => kept("drop", "no_next_hop"),
    }
}

fn counted(worker: &Worker, name: &str) -> u64 {
    use convey_engine::{DropReason, PassReason};
    let counters = worker.counters();
    let passed = PassReason::ALL.iter().find(|r| r.name() == name).map(|r| counters.passed(*r));
    let dropped = DropReason::ALL.iter().find(|r| r.name() == name).map(|r| counters.dropped(*r));
    passed.unwrap_or(0) + dropped.unwrap_or(0)
}

impl Outcome {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kept(a, ra), Self::Kept(b, rb)) => a == b && (ra == rb || ra.is_none() || rb.is_none()),
            _ => self == other,
        }
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sent(frame) => write!(f, "sent {}", convey_testkit::hex(frame)),
            Self::Kept(verdict, Some(reason)) => write!(f, "{verdict}, {reason}"),
            Self::Kept(verdict, None) => f.write_str(verdict),
        }
    }
}

pub fn know(kernel: &mut Kernel, setup: &Setup) {
    let mut map: PerCpuArray<_, [u8; CLIENT_HOP_BYTES]> =
        kernel.ebpf.map_mut("client_hops").unwrap().try_into().unwrap();
    let cpus = map.get(&0, 0).unwrap().len();
    for client in &setup.clients {
        let (at, value) =
            client_hop(*client, lower::hop_to(*client, &Ways::new(&setup.next_hops)), GENERATION);
        map.set(at, PerCpuValues::try_from(vec![value; cpus]).unwrap(), 0).unwrap();
    }
}

/// The clock of the programs, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
