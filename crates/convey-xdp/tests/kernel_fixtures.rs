//! The fixtures through the kernel programs, by BPF_PROG_TEST_RUN: verdict, reason and bytes as the portable engine
//! has them. What a program hands up to user space, or a test run cannot show, is named with its reason.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use convey_bpf::tables::{
    CLIENT_HOP_BYTES, Config, Frontend, Hop, Method, REASONS, STATES, Server, Standing, client_hop,
};
use convey_core::selection::{MaglevTable, Member, member_seed};
use convey_engine::{Link, NextHops, Route};
use convey_testkit::fixture::{Case, Input, World};
use convey_testkit::{few, hex, is_brief, unhex};
use convey_xdp::kernel::{Hook, Image, Kernel, Path, Sizes};

/// What the fronts return: pass, drop, and what sends the frame.
const fn returns(hook: Hook) -> (u32, u32, &'static [u32]) {
    match hook {
        Hook::Tc => (u32::MAX, 2, &[7]),
        // To the interface it came in on, or another.
        Hook::Xdp => (2, 1, &[3, 4]),
    }
}

const SETS: u32 = 64;

fn number(protocol: &str) -> u8 {
    if protocol == "udp" { 17 } else { 6 }
}

fn next_hops(world: &World) -> NextHops {
    let mac = |text: &str| unhex(text).unwrap().try_into().unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    NextHops::new(
        world.links.iter().map(|l| Link { ifindex: l.ifindex, mac: mac(&l.mac), mtu: l.mtu }),
        world
            .routes
            .iter()
            .map(|r| Route::by(ip(&r.network), r.prefix_len, r.ifindex, r.gateway.as_deref().map(ip))),
        world.neighbours.iter().map(|n| ((n.ifindex, ip(&n.ip)), mac(&n.mac))),
    )
}

/// The way from the VIPs to there; not known: all zero.
fn hop(hops: &NextHops, to: IpAddr) -> Hop {
    let Ok(hop) = hops.lookup(&convey_engine::Path::to(to)) else { return Hop::default() };
    Hop {
        ifindex: hop.ifindex,
        mtu: hop.mtu as u16,
        on_link: hop.on_link,
        destination: hop.destination,
        source: hop.source,
    }
}

fn image(world: &World) -> Image {
    let hops = next_hops(world);
    let passthrough = world.mode == "passthrough";
    let method = match (passthrough, world.dsr_method.as_str()) {
        (true, _) => Method::Nat,
        (_, "l2") => Method::L2,
        _ => Method::Rewrite,
    };
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    let servers: Vec<_> = world
        .servers
        .iter()
        .map(|s| {
            let standing = match (s.up, s.weight) {
                (false, _) => Standing::Down,
                (true, 0) => Standing::Draining,
                _ => Standing::Up,
            };
            let address = addr(&s.addr);
            Some(Server { address, method, standing, max_connections: 0, hop: hop(&hops, address.ip()) })
        })
        .collect();
    let table = |v4: bool| {
        let members: Vec<Member> = (0u16..)
            .zip(&world.servers)
            .filter(|(_, s)| s.up && addr(&s.addr).is_ipv4() == v4)
            .map(|(value, s)| Member {
                seed: member_seed(addr(&s.addr).to_string().as_bytes()),
                weight: s.weight.into(),
                value,
            })
            .collect();
        MaglevTable::build(&members).map(|t| t.slots().to_vec())
    };
    let mut paths = Vec::new();
    let frontends = world
        .frontends
        .iter()
        .map(|f| {
            let (listen, protocol) = (addr(&f.listen), number(&f.protocol));
            for s in world.servers.iter().map(|s| addr(&s.addr)) {
                let path = Path { nat: listen.ip(), server: s.ip(), port: s.port(), protocol };
                if s.is_ipv4() == listen.is_ipv4() && !paths.contains(&path) {
                    paths.push(path);
                }
            }
            Some(Frontend {
                listen,
                protocol,
                left: false,
                backend: listen.is_ipv6().into(),
                max_connections: 0,
                source_prefix: 0,
                access: false,
                nat_sources: vec![listen.ip()],
            })
        })
        .collect();
    let ticks = |seconds: u64| ((seconds * 1_000_000_000) >> 24) as u32;
    let mut lifetimes = [0; STATES];
    let fin = if passthrough { 120 } else { 10 };
    for (state, seconds) in (1..).zip([30, 30, 7440, fin, 60, 30, 30, 300]) {
        lifetimes[state] = ticks(seconds);
    }
    let resets = world.refusal == "reset";
    Image {
        config: Config { seed: 7, lifetimes, half_open_max: 64, resets, ..Config::default() },
        frontends,
        servers,
        paths: paths.into_iter().map(Some).collect(),
        tables: vec![table(true), table(false)],
        access: Vec::new(),
    }
}

struct Lab {
    kernel: Kernel,
    now_ms: u64,
}

#[derive(Debug, PartialEq)]
struct Out {
    verdict: String,
    reason: Option<String>,
    frame: Option<String>,
}

impl Lab {
    fn new(hook: Hook, world: &World) -> Self {
        let image = image(world);
        let sizes = Sizes {
            passthrough: world.mode == "passthrough",
            minimal: false,
            sets4: SETS,
            sets6: SETS,
            nat_first: world.nat_ports.0,
            nat_width: u32::from(world.nat_ports.1 - world.nat_ports.0) + 1,
            paths: image.paths.len() as u32,
            frontends: 64,
            servers: 64,
            backends: 2,
            ring_bytes: 1 << 16,
        };
        let mut kernel = Kernel::load_for_test_runs(hook, &sizes).unwrap();
        kernel.install(&image).unwrap();
        Self { kernel, now_ms: 0 }
    }

    /// Without flows and what belongs to them, as it was loaded.
    fn forget(&mut self) {
        for map in ["flows4", "flows6", "spills4", "spills6", "nat_ports", "later_syns", "shared"] {
            let memory = self.kernel.memory(map).unwrap().words64();
            memory.iter().filter(|word| word.load(Relaxed) != 0).for_each(|word| word.store(0, Relaxed));
        }
        let mut fragments: HashMap<_, [u8; 40], u32> =
            self.kernel.ebpf.map_mut("fragments").unwrap().try_into().unwrap();
        for key in fragments.keys().map(Result::unwrap).collect::<Vec<_>>() {
            fragments.remove(&key).unwrap();
        }
        let mut ring = RingBuf::try_from(self.kernel.ebpf.map_mut("slow_path").unwrap()).unwrap();
        while ring.next().is_some() {}
        self.now_ms = 0;
    }

    /// What the kernel's routes would say.
    fn know(&mut self, frame: &[u8], hops: &NextHops) {
        let client: IpAddr = match (frame.get(12..14), frame.get(26..30), frame.get(22..38)) {
            (Some([8, 0]), Some(v4), _) => Ipv4Addr::from(<[u8; 4]>::try_from(v4).unwrap()).into(),
            (Some([0x86, 0xdd]), _, Some(v6)) => Ipv6Addr::from(<[u8; 16]>::try_from(v6).unwrap()).into(),
            _ => return,
        };
        let (at, value) = client_hop(client, hop(hops, client), 0);
        let mut map: PerCpuArray<_, [u8; CLIENT_HOP_BYTES]> =
            self.kernel.ebpf.map_mut("client_hops").unwrap().try_into().unwrap();
        let cpus = map.get(&at, 0).unwrap().len();
        map.set(at, PerCpuValues::try_from(vec![value; cpus]).unwrap(), 0).unwrap();
    }

    /// Makes everything older: what takes place later has more behind it.
    fn age(&mut self, ms: u64) {
        let ticks = ((ms * 1_000_000) >> 24) as u32;
        for (map, entry) in [("flows4", 32), ("flows6", 64)] {
            let mut sets: Array<_, [u8; 128]> = self.kernel.ebpf.map_mut(map).unwrap().try_into().unwrap();
            for i in 0..SETS {
                let mut set = sets.get(&i, 0).unwrap();
                for flow in set.chunks_mut(entry).filter(|f| f[0] & 15 != 0) {
                    let seen = u32::from_ne_bytes(flow[4..8].try_into().unwrap());
                    let older = (seen & 0xff00_0000) | (seen.wrapping_sub(ticks) & 0xff_ffff);
                    flow[4..8].copy_from_slice(&older.to_ne_bytes());
                }
                sets.set(i, set, 0).unwrap();
            }
        }
    }

    fn reasons(&self) -> Vec<u64> {
        let map: PerCpuArray<_, u64> = self.kernel.ebpf.map("reasons").unwrap().try_into().unwrap();
        (0..REASONS.len() as u32).map(|i| map.get(&i, 0).unwrap().iter().sum()).collect()
    }

    fn test_run(&self, options: TestRunOptions<'_>, context: &[u8]) -> Option<TestRunResult> {
        let program = self.kernel.ebpf.program(self.kernel.hook.program()).unwrap();
        match self.kernel.hook {
            Hook::Tc => {
                let program: &SchedClassifier = program.try_into().unwrap();
                program.test_run(TestRunOptions { ctx_in: Some(context), ..options }).ok()
            }
            Hook::Xdp => {
                let program: &Xdp = program.try_into().unwrap();
                program.test_run(options).ok()
            }
        }
    }

    /// `None`: the kernel refuses to run the frame.
    fn run(&mut self, input: &Input, hops: &NextHops) -> Option<Out> {
        let frame = unhex(&input.frame).unwrap();
        self.know(&frame, hops);
        if self.now_ms != 0 && input.now_ms > self.now_ms {
            self.age(input.now_ms - self.now_ms);
        }
        self.now_ms = input.now_ms;
        let before = self.reasons();
        let mut sent = vec![0; 4096];
        let mut context = [0u8; 192];
        if let Some((_, size)) = input.gso {
            context[164..168].copy_from_slice(&2u32.to_ne_bytes());
            context[176..180].copy_from_slice(&u32::from(size).to_ne_bytes());
        }
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut sent), ..TestRunOptions::new() };
        let result = self.test_run(options, &context)?;
        sent.truncate(result.data_size_out as usize);
        let after = self.reasons();
        // Notes are no verdicts.
        let reason = (0..REASONS.len())
            .filter(|&i| after[i] > before[i] && (i < 35 || REASONS[i] == "handed_up"))
            .map(|i| REASONS[i].to_owned())
            .next();
        let (pass, drop, sent_by) = returns(self.kernel.hook);
        let verdict = match result.return_value {
            code if code == pass => "pass",
            code if code == drop && reason.as_deref() == Some("handed_up") => "handed up",
            code if code == drop => "drop",
            code if sent_by.contains(&code) => "forward",
            other => panic!("{other}"),
        };
        let frame = (verdict == "forward").then(|| hex(&sent));
        // A copy of what passes waits for its first fragment in user space, which counts it.
        let is_copy = verdict == "pass" && reason.as_deref() == Some("handed_up");
        let reason = if is_copy { Some("fragment".into()) } else { reason.filter(|r| r != "handed_up") };
        Some(Out { verdict: verdict.into(), reason, frame })
    }
}

/// Why a case is not compared, if it is not.
fn not_shown(hook: Hook, case: &Case) -> Option<&'static str> {
    let inputs = || case.before.iter().chain([&case.input]);
    if hook == Hook::Xdp && inputs().any(|i| i.gso.is_some()) {
        return Some("XDP meets no super-frames");
    }
    if hook == Hook::Tc && inputs().any(|i| i.partial.is_some()) {
        return Some("a test run cannot make CHECKSUM_PARTIAL");
    }
    if inputs().any(|i| i.frame.len() > 2 * 3500) {
        return Some("longer than a test run takes");
    }
    if inputs().any(|i| i.frame.len() < 2 * 14) {
        return Some("shorter than a test run takes");
    }
    None
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn tc_decides_every_fixture_as_the_portable_engine_does_or_hands_it_up() {
    decides_every_fixture(Hook::Tc);
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn xdp_decides_every_fixture_as_the_portable_engine_does_or_hands_it_up() {
    decides_every_fixture(Hook::Xdp);
}

fn decides_every_fixture(hook: Hook) {
    let mut failures = Vec::new();
    let mut skipped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut same, mut handed_up) = (0, 0);
    let files = convey_testkit::fixture::load_all().unwrap();
    for (file, content) in few(&files) {
        let mut labs: BTreeMap<&str, Lab> = BTreeMap::new();
        for case in &content.cases {
            let name = format!("{file}: {}", case.name);
            if let Some(why) = not_shown(hook, case) {
                skipped.entry(why).or_default().push(name);
                continue;
            }
            let world = &content.worlds[&case.world];
            let hops = next_hops(world);
            let lab = labs.entry(&case.world).or_insert_with(|| Lab::new(hook, world));
            lab.forget();
            let before: Vec<_> = case.before.iter().map(|i| lab.run(i, &hops)).collect();
            let Some(out) = lab.run(&case.input, &hops) else {
                skipped.entry("refused by the test run").or_default().push(name);
                continue;
            };
            let expect = &case.expect;
            // User space answers, translates ICMP errors, and follows fragments.
            let is_its = ["icmp", "fragments"].contains(&file.as_str());
            // So is what comes to XDP with an open checksum: no other frame of the case hides it.
            let is_open = case.input.partial.is_some();
            let may = matches!(expect.verdict.as_str(), "reply" | "drop") || is_its || is_open;
            if out.verdict == "handed up" && may && expect.verdict != "pass" {
                handed_up += 1;
                continue;
            }
            let want = Out {
                verdict: expect.verdict.clone(),
                reason: expect.reason.clone(),
                frame: expect.frame.clone(),
            };
            if out == want {
                same += 1;
            } else {
                failures.push(format!("{name}\n  want {want:?}\n  have {out:?}\n  before {before:?}"));
            }
        }
    }
    println!("{hook:?}: {same} the same, {handed_up} handed up");
    for (why, cases) in &skipped {
        println!("not shown ({why}): {}\n  {}", cases.len(), cases.join("\n  "));
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(same >= 60 || is_brief(), "only {same}");
}
