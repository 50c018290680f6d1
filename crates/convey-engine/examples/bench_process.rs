//! Prints what `process` costs a packet, hot and cold: `cargo run --release -p convey-engine --example bench_process`.
//!
//! Known flows, one or all of 64 K or 1 M in a shuffled order, and nothing but new flows beside the most. As on a wire
//! every frame is restored before it is processed, and frames lie in the order they come in; so it is the tables that
//! are missed in the caches, not the frames. Which frame is next depends on what became of the one before: otherwise
//! the processor would look several of them up at once, and hide what a miss costs.
//!
//! `--only <words>` measures the rows whose names hold them, `--rounds <n>` says how long, `--quick-check` goes through
//! everything with small tables to see that it works. A figure is the least of the rounds, which other programs on the
//! machine disturb least, and in brackets their median.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use common::Lab;
use convey_engine::{FrameMeta, Nanos, PacketOptions, REPLY_HEADROOM, Verdict, process};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, SYN};
use convey_testkit::fixture::{World, WorldNeighbour, WorldServer};

const SERVERS: u32 = 20;
const LB1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const LB2: [u8; 6] = [2, 0, 0, 0, 2, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];
/// Interfaces of clients and of servers.
const FRONT: u32 = 1;
const BACK: u32 = 2;
/// Packets of a round.
const ROUND: usize = 1 << 16;
/// New flows of a round.
const FRESH: u32 = 1 << 14;
/// Longer than a SYN is remembered.
const FORGOTTEN_MS: u64 = 31_000;

#[derive(Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        if self == Family::V4 { "IPv4" } else { "IPv6" }
    }

    fn vip(self) -> &'static str {
        if self == Family::V4 { "192.0.2.10:80" } else { "[2001:db8:1::10]:80" }
    }

    /// Address and port of a client: others for each of 2^32.
    fn client(self, n: u32) -> String {
        let (host, port) = (n >> 14, 2000 + (n & 0x3fff));
        match self {
            Family::V4 => format!("198.{}.{}.{}:{port}", 18 + (host >> 16), host >> 8 & 0xff, host & 0xff),
            Family::V6 => format!("[2001:db8:99:{:x}::{:x}]:{port}", host >> 16, host & 0xffff),
        }
    }

    fn server(self, n: u32) -> String {
        if self == Family::V4 { format!("10.0.0.{}", 11 + n) } else { format!("2001:db8:2::{:x}", 0x11 + n) }
    }

    /// Source and destination of a frame, as `ip:port`.
    fn tuple(self, frame: &[u8]) -> (String, String) {
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        match self {
            Family::V4 => {
                let ip = |at: usize| std::net::Ipv4Addr::from([0, 1, 2, 3].map(|i| frame[at + i]));
                (format!("{}:{}", ip(26), port(34)), format!("{}:{}", ip(30), port(36)))
            }
            Family::V6 => {
                let ip = |at: usize| {
                    let bytes: [u8; 16] = frame[at..at + 16].try_into().expect("16 bytes");
                    std::net::Ipv6Addr::from(bytes)
                };
                (format!("[{}]:{}", ip(22), port(54)), format!("[{}]:{}", ip(38), port(56)))
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    world: &'static str,
    port: u16,
}

const PASSTHROUGH: Mode = Mode { name: "passthrough", world: "passthrough", port: 8080 };
const MODES: [Mode; 3] = [
    PASSTHROUGH,
    Mode { name: "DSR rewrite", world: "dsr", port: 80 },
    Mode { name: "DSR l2", world: "dsr by MAC", port: 80 },
];

struct Bench {
    lab: Lab,
    family: Family,
    passthrough: bool,
    now_ms: u64,
}

/// Frames of one length, one behind the other, in the order they are to come in.
struct Frames {
    bytes: Vec<u8>,
    len: usize,
    ingress: u32,
}

impl Frames {
    fn new(frames: impl IntoIterator<Item = Vec<u8>>, ingress: u32) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for frame in frames {
            assert!(len == 0 || frame.len() == len, "frames of one length");
            len = frame.len();
            bytes.extend(frame);
        }
        Self { bytes, len, ingress }
    }

    fn count(&self) -> usize {
        self.bytes.len() / self.len
    }
}

impl Bench {
    fn new(mode: Mode, family: Family, flows: u32) -> Self {
        let mut world = common::world(mode.world);
        world.nat_ports = (1024, 65535);
        set_servers(&mut world, mode, family);
        let capacity = 2 * flows as usize + FRESH as usize * 2;
        let options = PacketOptions { capacity, ..common::options(&world) };
        let lab = Lab::with(&world, common::spec(&world), options);
        Self { lab, family, passthrough: mode.name == PASSTHROUGH.name, now_ms: 1000 }
    }

    /// The only place that knows how a packet is handed over.
    #[inline(always)]
    fn process(&mut self, buffer: &mut [u8], len: usize, ingress: u32) -> Verdict {
        let meta = FrameMeta { ingress_ifindex: ingress, ..FrameMeta::default() };
        let Lab { snapshot, next_hops, worker, .. } = &mut self.lab;
        process(buffer, len, &meta, snapshot, next_hops, worker, Nanos::from_millis(self.now_ms))
    }

    /// Sends a packet that must be forwarded; gives what left.
    fn send(&mut self, packet: P, ingress: u32) -> Vec<u8> {
        let frame = framed(packet, ingress);
        let len = frame.len();
        let mut buffer = frame;
        buffer.resize(len + REPLY_HEADROOM, 0);
        match self.process(&mut buffer, len, ingress) {
            Verdict::Forward(f) => buffer.truncate(f.len),
            other => panic!("a packet was not forwarded: {other:?}"),
        }
        buffer
    }

    /// Establishes flow `n`; in passthrough gives its NAT address and its server.
    fn connect(&mut self, n: u32) -> Option<(String, String)> {
        let (client, vip) = (self.family.client(n), self.family.vip());
        let sent = self.send(P::syn(&client, vip), FRONT);
        let ends = self.passthrough.then(|| self.family.tuple(&sent));
        if let Some((nat, server)) = &ends {
            self.send(P::tcp(server, nat).flags(SYN | ACK).seq(5000, 1001), BACK);
        }
        self.send(P::tcp(&client, vip), FRONT);
        ends
    }

    /// Nanoseconds a packet, over `count` of these frames from number `first` on, each of which must be forwarded.
    fn round(&mut self, frames: &Frames, first: usize, count: usize) -> f64 {
        let mut buffer = [0; 128 + REPLY_HEADROOM];
        let (len, all) = (frames.len, frames.count());
        // Zero, but the compiler does not know.
        let nothing = black_box(0usize);
        let (mut at, mut forwarded) = (first % all, 0);
        let start = Instant::now();
        for _ in 0..count {
            buffer[..len].copy_from_slice(&frames.bytes[at * len..(at + 1) * len]);
            let verdict = self.process(&mut buffer, len, frames.ingress);
            forwarded += usize::from(matches!(verdict, Verdict::Forward(_)));
            // A byte of either MAC address and of what was rewritten: known when the flow is.
            let outcome = usize::from(buffer[5]) ^ usize::from(buffer[len - 4]) ^ forwarded;
            at = at + 1 + (outcome & nothing);
            if at >= all {
                at = 0;
            }
        }
        let ns = start.elapsed().as_nanos() as f64 / count as f64;
        assert_eq!(forwarded, count, "every packet is forwarded");
        ns
    }

    /// All in turn, a round after the other.
    fn known(&mut self, frames: &Frames, rounds: usize) -> Figure {
        let mut first = 0;
        // Once through, so that nothing is touched for the first time.
        self.round(frames, 0, frames.count().min(1 << 20));
        Figure::of(rounds, || {
            first += ROUND;
            self.round(frames, first - ROUND, ROUND)
        })
    }

    /// SYNs that nobody answers; those of the round before have run out and were swept.
    fn fresh(&mut self, beside: u32, rounds: usize) -> Figure {
        let (family, held) = (self.family, self.lab.worker.flows());
        let mut next = beside;
        Figure::of(rounds, || {
            self.forget(held);
            let syn = |n| framed(P::syn(&family.client(n), family.vip()), FRONT);
            let frames = Frames::new((next..next + FRESH).map(syn), FRONT);
            next += FRESH;
            self.round(&frames, 0, FRESH as usize)
        })
    }

    fn forget(&mut self, held: usize) {
        self.now_ms += FORGOTTEN_MS;
        let snapshot = self.lab.snapshot.clone();
        for _ in 0..1_000_000 {
            if self.lab.worker.flows() <= held {
                return;
            }
            self.now_ms += 1;
            self.lab.worker.tick(&snapshot, Nanos::from_millis(self.now_ms));
        }
        panic!("flows that ran out are never swept");
    }
}

fn framed(packet: P, ingress: u32) -> Vec<u8> {
    let (to, from) = if ingress == FRONT { (LB1, GATEWAY) } else { (LB2, [2, 0, 0, 0, 2, 0x11]) };
    packet.macs(to, from).build()
}

fn set_servers(world: &mut World, mode: Mode, family: Family) {
    world.servers = (0..SERVERS)
        .map(|n| WorldServer {
            name: format!("s{n}"),
            addr: match family {
                Family::V4 => format!("{}:{}", family.server(n), mode.port),
                Family::V6 => format!("[{}]:{}", family.server(n), mode.port),
            },
            weight: 1,
            up: true,
        })
        .collect();
    world.neighbours.extend((0..SERVERS).map(|n| WorldNeighbour {
        ifindex: BACK,
        ip: family.server(n),
        mac: format!("0200000002{:02x}", 0x11 + n),
    }));
}

#[derive(Clone, Copy)]
struct Figure {
    least: f64,
    median: f64,
}

impl Figure {
    fn of(rounds: usize, round: impl FnMut() -> f64) -> Self {
        let mut all: Vec<f64> = std::iter::repeat_with(round).take(rounds).collect();
        all.sort_by(f64::total_cmp);
        Self { least: all[0], median: all[all.len() / 2] }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * n as u64) >> 32) as usize
    }

    fn shuffled(&mut self, n: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n).collect();
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
}

/// What the machine takes for a read that the next one waits for, within as many bytes: the least a miss can cost.
fn dependent_read(bytes: usize, rounds: usize) -> Figure {
    const LINE: usize = 16;
    let lines = (bytes / 64).max(2);
    let order = Random(9).shuffled(lines as u32);
    let mut chain = vec![0u32; lines * LINE];
    for (i, &line) in order.iter().enumerate() {
        chain[line as usize * LINE] = order[(i + 1) % lines];
    }
    let mut at = 0;
    Figure::of(rounds, || {
        let start = Instant::now();
        for _ in 0..ROUND {
            at = chain[at as usize * LINE];
        }
        black_box(at);
        start.elapsed().as_nanos() as f64 / ROUND as f64
    })
}

struct Options {
    only: String,
    rounds: usize,
    sizes: [u32; 3],
}

fn options() -> Options {
    let mut options = Options { only: String::new(), rounds: 48, sizes: [1, 1 << 16, 1 << 20] };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick-check" => (options.rounds, options.sizes) = (2, [1, 1 << 8, 1 << 12]),
            "--only" => options.only = args.next().unwrap_or_default(),
            "--rounds" => options.rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            _ => options.rounds = 0,
        }
    }
    if options.rounds == 0 {
        eprintln!(
            "bench_process [--only <words of a row's name>] [--rounds <number above 0>] [--quick-check]"
        );
        std::process::exit(2);
    }
    options
}

fn main() {
    let Options { only, rounds, sizes } = options();
    println!("process, ns a packet: least (median) of {rounds} rounds");
    let known = sizes
        .map(|flows| format!("{:>16}", if flows == 1 { "1 flow".into() } else { format!("{flows} flows") }));
    println!("{:<28}{}  {:>16}", "", known.join("  "), "all new beside");
    for mode in MODES {
        for family in [Family::V4, Family::V6] {
            let named = |what: &str| format!("{}{what}, {}", mode.name, family.name());
            let forward = named(if mode.name == PASSTHROUGH.name { " forward" } else { "" });
            let reply = (mode.name == PASSTHROUGH.name).then(|| named(" reply"));
            let wanted = |name: &str| name.contains(&only);
            if !wanted(&forward) && !reply.as_deref().is_some_and(wanted) {
                continue;
            }
            let (mut there, mut back, mut bytes) = (Vec::new(), Vec::new(), 0.0);
            for flows in sizes {
                let mut bench = Bench::new(mode, family, flows);
                let ends: Vec<_> = (0..flows).map(|n| bench.connect(n)).collect();
                let order = Random(7).shuffled(flows);
                let worker = &bench.lab.worker;
                let flow_bytes = worker.flow_memory_bytes()[usize::from(family == Family::V6)];
                bytes = (flow_bytes + worker.port_memory_bytes()) as f64;
                if wanted(&forward) {
                    let ack = |&n: &u32| framed(P::tcp(&family.client(n), family.vip()), FRONT);
                    there.push(bench.known(&Frames::new(order.iter().map(ack), FRONT), rounds));
                }
                if reply.as_deref().is_some_and(wanted) {
                    let ack = |&n: &u32| {
                        let (nat, server) = ends[n as usize].as_ref().expect("what passthrough rewrote");
                        framed(P::tcp(server, nat).seq(5001, 1001), BACK)
                    };
                    back.push(bench.known(&Frames::new(order.iter().map(ack), BACK), rounds));
                }
                if flows == sizes[2] && wanted(&forward) {
                    there.push(bench.fresh(flows, rounds));
                }
            }
            let held = bytes / f64::from(2 * sizes[2] + 2 * FRESH);
            if wanted(&forward) {
                print_row(&forward, &there);
                println!("{:<28}{held:.0} bytes a flow of the table's capacity, at {} flows", "", sizes[2]);
            }
            if let Some(reply) = reply.filter(|name| wanted(name)) {
                print_row(&reply, &back);
            }
        }
    }
    if "a dependent read".contains(&only) {
        let read = sizes.map(|flows| dependent_read(64 * flows as usize, rounds));
        print_row("a dependent read", &read);
    }
}

/// One flow, some, many, and new ones where there are.
fn print_row(name: &str, figures: &[Figure]) {
    let cells = figures.iter().map(|f| format!("{:>7.1} ({:>6.1})", f.least, f.median));
    println!("{name:<28}{}", cells.collect::<Vec<_>>().join("  "));
}
