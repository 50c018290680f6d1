//! Threads on several CPUs that begin, confirm and end the same flows at once, and the worker beside the program, which
//! sweeps and begins them too, in the same maps. Flows live some ticks, and there are fewer ports and entries than
//! flows, so that ports and entries go from one to the next all the time. Whenever all stand still, every flow is
//! there once, has a port of its own, and is counted right.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use convey_bpf::tables::HandedUp;
use convey_core::nat_ports::Partition;
use convey_core::{Mode, Protocol, Snapshot};
use convey_engine::{
    Checksum, FrameMeta, Nanos, PacketSnapshot, PathNumbers, REPLY_HEADROOM, Timeouts, Worker, process,
};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, RST, SYN};
use convey_xdp::kernel::{Kernel, Sizes};
use convey_xdp::lower;

use super::pair::{GENERATION, Setup, know, now};
use super::random::Random;
use super::tables::Tables;
use super::test_run::{self, TestRun};
use super::traffic::ends;
use super::worlds;

/// Threads that run the program.
const THREADS: usize = 4;
/// Conversations of each thread between two looks at the tables.
const CONVERSATIONS: usize = 60;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs of the program.
    pub runs: u64,
    pub begun: u64,
    /// Frames that the worker decided about, its own included.
    pub by_worker: u64,
    /// Looks at the tables.
    pub looks: u64,
    /// The same flow was begun twice, and one of the two ended.
    pub twins: u64,
}

/// Runs the program `runs` times at least, in every world in turn.
pub fn run(runs: u64, seed: u64) -> Result<Vec<(String, Report)>, String> {
    super::alone();
    let setups: Vec<Setup> =
        worlds::all().into_iter().filter(|s| s.name.contains("small") && !is_l2(s)).collect();
    let each = runs / setups.len() as u64;
    let run = |setup: Setup| {
        let name = setup.name.clone();
        let report = race(setup, each, seed).map_err(|wrong| format!("{name}: {wrong}, seed {seed}"))?;
        Ok((name, report))
    };
    setups.into_iter().map(run).collect()
}

fn is_l2(setup: &Setup) -> bool {
    setup.options.dsr == convey_engine::DsrMethod::L2
}

/// Limits aside, with short lives.
fn shortened(mut setup: Setup) -> Setup {
    let ticks = |n: u64| Duration::from_nanos(n << 24);
    setup.options.timeouts = Timeouts {
        syn: ticks(3),
        established: ticks(12),
        fin: ticks(3),
        closed: ticks(2),
        dsr_fin: ticks(3),
        udp: ticks(3),
        udp_stream: ticks(6),
    };
    setup.spec.limits.max_connections = 0;
    setup.spec.frontends.iter_mut().for_each(|f| f.max_connections = 0);
    setup.spec.backends.iter_mut().flat_map(|b| &mut b.servers).for_each(|s| s.max_connections = 0);
    setup
}

struct Shared {
    program: RawFd,
    setup: Setup,
    /// Of all threads, the worker and whoever looks.
    barrier: Barrier,
    round: AtomicU64,
    ends: AtomicBool,
    runs: AtomicU64,
}

fn race(setup: Setup, runs: u64, seed: u64) -> Result<Report, String> {
    let setup = shortened(setup);
    let options = &setup.options;
    let (first, last) = (options.nat_ports.first, options.nat_ports.last);
    let config = Snapshot::first(setup.spec.clone(), 1).unwrap();
    let snapshot = Arc::new(PacketSnapshot::build(&config, options, None).unwrap());
    let passthrough = snapshot.is_passthrough();
    let paths = if passthrough { 32 } else { 1 };
    let sizes = Sizes {
        passthrough,
        minimal: false,
        sets4: setup.sets,
        sets6: setup.sets,
        nat_first: first,
        nat_width: u32::from(last - first) + 1,
        paths,
        frontends: 64,
        servers: 64,
        backends: 4,
        ring_bytes: 1 << 20,
    };
    let mut kernel = Kernel::load_for_test_runs(setup.hook, &sizes).unwrap();
    know(&mut kernel, &setup);
    let numbers = Arc::<PathNumbers>::default();
    let assigned = numbers.assign(&snapshot, paths as usize, |_| false).unwrap();
    kernel
        .install(&lower::image(
            &snapshot,
            &lower::Ways::new(&setup.next_hops),
            GENERATION,
            &assigned,
            setup.sets,
        ))
        .unwrap();
    let partition = Partition { first, last, stride: 1, remainder: 0 };
    let tables = Tables::new(&kernel, partition, paths as usize, passthrough, options.seed);
    let mut worker = Worker::in_kernel(&snapshot, tables.memory(numbers)).unwrap();
    let mut ring: RingBuf<MapData> = kernel.ebpf.take_map("slow_path").unwrap().try_into().unwrap();
    let shared = Shared {
        program: test_run::program(&kernel),
        setup,
        barrier: Barrier::new(THREADS + 2),
        round: AtomicU64::new(seed),
        ends: AtomicBool::new(false),
        runs: AtomicU64::new(0),
    };
    let mut report = Report::default();
    let by_worker = AtomicU64::new(0);
    let wrong = std::thread::scope(|scope| {
        for cpu in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || client(cpu, shared));
        }
        let (shared, by_worker, worker_snapshot) = (&shared, &by_worker, snapshot.clone());
        let worker = &mut worker;
        scope.spawn(move || beside(shared, worker, &mut ring, &worker_snapshot, by_worker));
        loop {
            // Begins, and ends.
            shared.barrier.wait();
            shared.barrier.wait();
            report.looks += 1;
            let checked = tables.check();
            let is_enough = shared.runs.load(Relaxed) >= runs;
            if is_enough || checked.is_err() {
                shared.ends.store(true, Relaxed);
                shared.barrier.wait();
                return checked;
            }
            shared.round.fetch_add(1, Relaxed);
        }
    });
    wrong?;
    let counted = |reason: &str| -> u64 {
        let map: aya::maps::PerCpuArray<_, u64> = kernel.ebpf.map("reasons").unwrap().try_into().unwrap();
        let at = convey_bpf::tables::REASONS.iter().position(|name| *name == reason).unwrap();
        map.get(&(at as u32), 0).unwrap().iter().sum()
    };
    report.runs = shared.runs.load(Relaxed);
    report.by_worker = by_worker.load(Relaxed);
    report.begun = counted("flow_begun");
    report.twins = counted("twin");
    Ok(report)
}

/// Some conversations, the same on each thread and in the same order.
fn client(cpu: usize, shared: &Shared) {
    pin(cpu);
    let mut sent = vec![0; 4096];
    loop {
        shared.barrier.wait();
        if shared.ends.load(Relaxed) {
            return;
        }
        let mut random = Random::new(shared.round.load(Relaxed));
        for _ in 0..CONVERSATIONS {
            let mut send = |packet: P| -> Option<(String, String)> {
                shared.runs.fetch_add(1, Relaxed);
                let frame = packet.build();
                let run = TestRun {
                    program: shared.program,
                    frame: &frame,
                    context: &[],
                    checksum_complete: false,
                    repeat: 1,
                };
                let (_, len) = run.run(&mut sent).unwrap();
                let left = &sent[..len];
                if left == frame { None } else { ends(left) }
            };
            converse(&mut random, &shared.setup, &mut send);
        }
        shared.barrier.wait();
    }
}

/// A conversation, given where a packet left to.
fn converse(random: &mut Random, setup: &Setup, send: &mut impl FnMut(P) -> Option<(String, String)>) {
    let frontends = &setup.spec.frontends;
    let frontend = &frontends[random.below(frontends.len())];
    let fit: Vec<_> = setup.clients.iter().filter(|c| c.is_ipv4() == frontend.listen[0].is_ipv4()).collect();
    let client =
        std::net::SocketAddr::new(*fit[random.below(fit.len())], 1024 + random.below(40) as u16).to_string();
    let mut listen = frontend.listen[0];
    if listen.port() == 0 {
        listen.set_port(80);
    }
    let vip = listen.to_string();
    let kind = random.below(6);
    let is_nat = setup.spec.mode == Mode::Passthrough;
    if frontend.protocol == Protocol::Udp {
        let left = send(P::udp(&client, &vip));
        if let Some((nat, server)) = left.filter(|_| is_nat) {
            send(P::udp(&server, &nat));
        }
        if kind > 2 {
            send(P::udp(&client, &vip));
        }
        return;
    }
    let left = send(P::syn(&client, &vip));
    if kind == 0 {
        return;
    }
    if let Some((nat, server)) = left.filter(|_| is_nat) {
        send(P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001));
        send(P::tcp(&client, &vip));
        match kind {
            1 => send(P::tcp(&server, &nat).flags(RST | ACK).seq(5001, 1001)),
            2 => send(P::tcp(&server, &nat).flags(FIN | ACK).seq(5001, 1001)),
            _ => None,
        };
    } else {
        send(P::tcp(&client, &vip));
    }
    match kind {
        2 | 3 => send(P::tcp(&client, &vip).flags(FIN | ACK)),
        4 => send(P::tcp(&client, &vip).flags(RST)),
        _ => None,
    };
}

/// The worker: what is handed up, sweeps, and the same conversations.
fn beside(
    shared: &Shared,
    worker: &mut Worker,
    ring: &mut RingBuf<MapData>,
    snapshot: &PacketSnapshot,
    count: &AtomicU64,
) {
    let mut buffer = vec![0; 16_384];
    let mut decide = |worker: &mut Worker, frame: &[u8]| -> Option<(String, String)> {
        count.fetch_add(1, Relaxed);
        let room = &mut buffer[..frame.len() + REPLY_HEADROOM];
        room[..frame.len()].copy_from_slice(frame);
        let meta = FrameMeta { ingress_ifindex: 1, checksum: Checksum::Complete, gso: None };
        let next_hops = &shared.setup.next_hops;
        match process(room, frame.len(), &meta, snapshot, next_hops, worker, Nanos(now())) {
            convey_engine::Verdict::Forward(f) => ends(&room[..f.len]),
            _ => None,
        }
    };
    loop {
        shared.barrier.wait();
        if shared.ends.load(Relaxed) {
            return;
        }
        let mut random = Random::new(shared.round.load(Relaxed));
        for _ in 0..CONVERSATIONS {
            while let Some(record) = ring.next() {
                let up = HandedUp::parse(&record).unwrap();
                let frame = up.frame[..(up.len as usize).min(up.frame.len())].to_vec();
                drop(record);
                decide(worker, &frame);
            }
            let mut send = |packet: P| decide(worker, &packet.build());
            converse(&mut random, &shared.setup, &mut send);
            worker.tick(snapshot, Nanos(now()));
        }
        shared.barrier.wait();
    }
}

/// Keeps this thread on a CPU, by turns.
fn pin(thread: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = rustix::thread::CpuSet::new();
    set.set(thread % cpus);
    // Where a container forbids it, the scheduler chooses.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
