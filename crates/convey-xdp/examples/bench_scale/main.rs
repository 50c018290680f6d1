//! What a million and ten million flows cost, and what a change of a thousand servers does: memory of the maps, flows
//! begun, looked up and swept, the time of an installation. Needs root, a quiet machine and 3 GB.
//!
//! Usage: `bench_scale [flows …]`, 1,000,000 and 10,000,000 by default. Prints a line for each figure.

mod wrapper;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use aya::programs::Xdp;
use convey_bpf::tables::{self, Config, Frontend, Hop, Method, STATES, Server, Standing};
use convey_core::conntrack::{Flow, FlowState, FlowTable, Lifetimes, Overflow, Ticks};
use convey_testkit::build::{ACK, SYN};
use convey_testkit::{PacketBuilder, netns};
use convey_xdp::kernel::{Hook, Image, Kernel, Path, Sizes};

use self::wrapper::{Order, Wrapper};

type Outcome<T> = Result<T, Box<dyn Error>>;

const VIP: &str = "192.0.2.10:80";
const CLIENT: &str = "10.0.0.1:1024";
const NAT: Ipv4Addr = Ipv4Addr::new(10, 100, 255, 1);
const NAT_FIRST: u16 = 33_768;
const NAT_WIDTH: u32 = 27_233;
const SEED: u64 = 0x5eed;
/// Ticks that every flow lives.
const LIFETIME: u32 = 1_000_000;
/// Packets of a look-up; each is of a flow drawn anew.
const LOOKUPS: u32 = 2_000_000;
/// Flows are begun and confirmed in so many parts.
const STEPS: u32 = 4;
const SERVERS_CHANGED: u32 = 1_000;
const INSTALLS: usize = 9;

fn main() -> Outcome<()> {
    let flows: Result<Vec<u32>, _> = std::env::args().skip(1).map(|a| a.replace(',', "").parse()).collect();
    let mut flows = flows?;
    if flows.is_empty() {
        flows = vec![1_000_000, 10_000_000];
    }
    // Clients are behind a gateway, which the program finds by the kernel's routes.
    let ns = netns::Netns::new("scale");
    ns.ip("link add veth0 type veth peer name veth1");
    ns.ip("addr add 10.200.0.1/24 dev veth0");
    ns.ip("link set veth0 up");
    ns.ip("link set veth1 up");
    ns.ip("neigh add 10.200.0.2 lladdr 02:00:00:00:01:fe dev veth0 nud permanent");
    ns.ip("route add default via 10.200.0.2");
    ns.exec("sysctl -qw net.ipv4.conf.all.forwarding=1");
    ns.enter(move || {
        let bench = || -> Outcome<()> {
            for flows in flows {
                for method in [Method::Nat, Method::Rewrite] {
                    scale(flows, method)?;
                }
            }
            for method in [Method::Nat, Method::Rewrite] {
                change(method)?;
            }
            Ok(())
        };
        bench().map_err(|e| e.to_string())
    })?;
    Ok(())
}

fn name(method: Method) -> &'static str {
    if method == Method::Nat { "passthrough" } else { "dsr" }
}

fn address(i: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a64_0001 + i), 8080).into()
}

fn sizes(flows: u32, servers: u32, method: Method) -> Sizes {
    let passthrough = method == Method::Nat;
    Sizes {
        minimal: false,
        passthrough,
        // Twice as many entries as flows, as the engine has it.
        sets4: (flows / 2).next_multiple_of(16),
        sets6: 32,
        nat_first: NAT_FIRST,
        nat_width: NAT_WIDTH,
        paths: if passthrough { servers } else { 1 },
        frontends: 16,
        servers: servers + 1,
        backends: 16,
        ring_bytes: 1 << 18,
    }
}

/// One frontend, and these servers behind it.
fn image(servers: impl Iterator<Item = (u32, SocketAddr, Standing)>, method: Method) -> Image {
    let hop = Hop {
        ifindex: 1,
        mtu: 1500,
        on_link: true,
        destination: [2, 0, 0, 0, 2, 1],
        source: [2, 0, 0, 0, 2, 2],
    };
    let mut image = Image {
        config: Config {
            seed: SEED,
            lifetimes: [LIFETIME; STATES],
            half_open_max: u32::MAX,
            ..Config::default()
        },
        ..Image::default()
    };
    let mut slots = Vec::new();
    for (slot, address, standing) in servers {
        let at = slot as usize;
        image.servers.resize(image.servers.len().max(at + 1), None);
        image.servers[at] = Some(Server { address, method, standing, max_connections: 0, hop });
        if method == Method::Nat {
            image.paths.resize(image.paths.len().max(at + 1), None);
            let (nat, server, port) = (NAT.into(), address.ip(), address.port());
            image.paths[at] = Some(Path { nat, server, port, protocol: 6 });
        }
        if standing == Standing::Up {
            slots.push(slot as u16);
        }
    }
    let nat_sources: Vec<IpAddr> = if method == Method::Nat { vec![NAT.into()] } else { Vec::new() };
    image.frontends = vec![Some(Frontend {
        listen: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 10), 80)),
        protocol: 6,
        left: false,
        backend: 0,
        max_connections: 0,
        source_prefix: 0,
        access: false,
        nat_sources,
    })];
    image.tables = vec![Some(slots.iter().copied().cycle().take(65_537).collect())];
    image
}

fn up(i: u32) -> (u32, SocketAddr, Standing) {
    (i, address(i), Standing::Up)
}

fn scale(flows: u32, method: Method) -> Outcome<()> {
    // Half of the NAT ports are in use then.
    let servers = (flows.div_ceil(NAT_WIDTH / 2)).max(16);
    let mut kernel = Kernel::load_for_test_runs(Hook::Xdp, &sizes(flows, servers, method))?;
    kernel.install(&image((0..servers).map(up), method))?;
    let tell = |what: &str, value: f64, unit: &str| {
        println!("{:12} {flows:>10} flows  {what:28} {value:>12.1} {unit}", name(method));
    };
    let bytes = kernel.memory("flows4")?.words32().len() * 4 + kernel.memory("spills4")?.words32().len() * 4;
    tell("memory of the flow table", bytes as f64 / f64::from(1 << 20), "MiB");
    let ports = kernel.memory("nat_ports")?.words64().len() * 8;
    tell("memory of the NAT ports", ports as f64 / f64::from(1 << 20), "MiB");

    let program: &Xdp = kernel.ebpf.program("convey_xdp").ok_or("no program")?.try_into()?;
    let fd = program.fd()?.try_clone()?;
    let mut wrapper = Wrapper::new(&fd, if method == Method::Nat { flows } else { 1 })?;
    let overflow = if method == Method::Nat { Overflow::Refuse } else { Overflow::EvictOldest };
    let map = |name| kernel.memory(name).map(|memory| memory.words32());
    let table = FlowTable::shared(
        [map("flows4")?, map("flows6")?],
        [map("spills4")?, map("spills6")?],
        overflow,
        Lifetimes([LIFETIME; FlowState::COUNT]),
        SEED,
    )
    .ok_or("the maps are no flow table")?;

    let held = || table.flows_at(0..table.all_entries());
    let (syn, data) = (PacketBuilder::syn(CLIENT, VIP), PacketBuilder::tcp(CLIENT, VIP));
    let mut took = 0.0;
    // A quarter of the table may be half-open.
    let step = flows.div_ceil(STEPS);
    for first in (0..flows).step_by(step as usize) {
        let some = step.min(flows - first);
        took += wrapper.run(Order::Ordered(first), some, &syn, some)? * f64::from(some);
        if method == Method::Nat {
            let count =
                wrapper.answers(held().filter(|flow| flow.state == FlowState::SynSent).map(answer_to))?;
            let nat = SocketAddr::from((NAT, NAT_FIRST)).to_string();
            let answer = PacketBuilder::tcp("10.100.0.1:8080", &nat).flags(SYN | ACK).seq(5000, 1001);
            wrapper.run(Order::Reply, count, &answer, count)?;
        }
        wrapper.run(Order::Ordered(first), some, &data, some)?;
    }
    tell("begin", took / f64::from(flows), "ns a flow");
    let count = held().count();
    if count < flows as usize {
        tell("did not find room", f64::from(flows) - count as f64, "flows");
    }
    tell("look up, any of them", wrapper.run(Order::Random, flows, &data, LOOKUPS)?, "ns a packet");

    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Ticks::from_nanos(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs());
    let sweep = |now| {
        let mut ended = 0;
        let begin = Instant::now();
        table.sweep(now, table.all_entries(), |_| ended += 1);
        (begin.elapsed().as_secs_f64() * 1e3, ended)
    };
    let (ms, ended) = sweep(now);
    if ended > 0 {
        return Err(format!("{ended} flows ended early").into());
    }
    tell("sweep, none is over", ms, "ms");
    let (ms, ended) = sweep(Ticks(now.0.wrapping_add(2 * LIFETIME) & 0xff_ffff));
    if ended != count {
        return Err(format!("{ended} of {count} flows ended").into());
    }
    tell("sweep, all are over", ms, "ms");
    Ok(())
}

/// `struct reply`: server, NAT port and server port.
fn answer_to(flow: Flow) -> [u8; 8] {
    let mut answer = [0; 8];
    answer[..4].copy_from_slice(&tables::plain_address(address(u32::from(flow.server)).ip())[12..]);
    answer[4..6].copy_from_slice(&flow.nat_port.to_be_bytes());
    answer[6..].copy_from_slice(&8080u16.to_be_bytes());
    answer
}

/// What a reload of the whole backend costs in the maps.
fn change(method: Method) -> Outcome<()> {
    let mut kernel = Kernel::load_for_test_runs(Hook::Xdp, &sizes(1 << 16, 2 * SERVERS_CHANGED, method))?;
    let all = image((0..SERVERS_CHANGED).map(up), method);
    let moved = image(
        (0..SERVERS_CHANGED).map(|i| (SERVERS_CHANGED + i, address(SERVERS_CHANGED + i), Standing::Up)),
        method,
    );
    let half = image((0..SERVERS_CHANGED).filter(|i| i % 2 == 0).map(up), method);
    let drained = image(
        (0..SERVERS_CHANGED)
            .map(|i| (i, address(i), if i % 2 == 0 { Standing::Draining } else { Standing::Up })),
        method,
    );
    let changes =
        [("all replaced", &moved), ("half of them gone", &half), ("half of them drained", &drained)];
    for (what, to) in changes {
        let mut times = Vec::new();
        for _ in 0..INSTALLS {
            kernel.install(&all)?;
            let begin = Instant::now();
            kernel.install(to)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{:12} {SERVERS_CHANGED:>10} servers {what:27} {:>12.1} ms (at most {:.1})",
            name(method),
            times[INSTALLS / 2],
            times[INSTALLS - 1]
        );
    }
    Ok(())
}
