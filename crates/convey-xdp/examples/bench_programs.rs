//! Nanoseconds a packet of the engine's programs beside reference programs, by BPF_PROG_TEST_RUN with a wrapper
//! that restores and varies the packet. Needs root, a quiet machine and 600 MB.
//!
//! Usage: `bench_programs [rounds] [packets a run]`. Prints medians, and ratios to the LRU program of the same round.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_bpf::directory::{Direction, Directory, LINE_BYTES};
use convey_bpf::tables::{self, Config, Frontend, Hop, MAGLEV_BYTES, Method, PLACES_BYTES, Server, Standing};
use convey_core::nat_ports::{Partition, PortPool};
use convey_testkit::build::{ACK, SYN};
use convey_testkit::{PacketBuilder, netns};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Entries of a flow table for a million flows, and of the LRU hash beside it.
const LARGE: u32 = 1 << 21;
/// Entries of those for 64 K flows: what a table costs that is as large as its flows need.
const SMALL: u32 = 1 << 17;
const SERVERS: u32 = 64;
const NAT_FIRST: u16 = 33768;
const NAT_WIDTH: u32 = 27_233;
const PORTS: Partition =
    Partition { first: NAT_FIRST, last: NAT_FIRST + (NAT_WIDTH - 1) as u16, stride: 1, remainder: 0 };
const VIP: &str = "192.0.2.10:80";
const NEW: u32 = 400_000;
/// Columns: flows, and entries of the tables that hold them.
const SIZES: [(&str, u32, u32); 4] = [
    ("1 flow", 1, LARGE),
    ("64 K of 64 K", 1 << 16, SMALL),
    ("64 K of 1 M", 1 << 16, LARGE),
    ("1 M", 1_000_000, LARGE),
];

fn server(i: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a64_0001 + i), 8080).into()
}

fn hop() -> Hop {
    Hop { ifindex: 1, mtu: 1500, on_link: true, destination: [2, 0, 0, 0, 2, 1], source: [2, 0, 0, 0, 2, 2] }
}

/// The wrapper, and the packet it makes.
struct Wrapper(Ebpf);

#[derive(Clone, Copy)]
enum Kind {
    Random = 0,
    Ordered = 1,
    Reply = 2,
}

impl Wrapper {
    fn new() -> Outcome<Self> {
        let mut ebpf =
            EbpfLoader::new().btf(None).map_max_entries("replies", 1_000_000).load(convey_bpf::wrapper())?;
        xdp(&mut ebpf, "wrapper")?.load()?;
        Ok(Self(ebpf))
    }

    fn call(&mut self, program: &ProgramFd) -> Outcome<()> {
        let mut programs: ProgramArray<_> = self.0.map_mut("program").ok_or("no map")?.try_into()?;
        Ok(programs.set(0, program, 0)?)
    }

    fn set(&mut self, kind: Kind, flows: u32, position: u32, packet: &PacketBuilder) -> Outcome<()> {
        let frame = packet.build();
        let mut headers = [0; 64];
        headers[..54].copy_from_slice(&frame[..54]);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .enumerate()
            .filter(|(i, _)| !matches!(i, 5..=7))
            .map(|(_, word)| u32::from(u16::from_ne_bytes([word[0], word[1]])))
            .sum();
        let mut value = [0; 88];
        value[..8].copy_from_slice(&0x1234_5678_9abc_def1_u64.to_ne_bytes());
        for (i, word) in [kind as u32, flows, position, sum].into_iter().enumerate() {
            value[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_ne_bytes());
        }
        value[24..].copy_from_slice(&headers);
        let mut pattern: Array<_, [u8; 88]> = self.0.map_mut("pattern").ok_or("no map")?.try_into()?;
        Ok(pattern.set(0, value, 0)?)
    }

    /// Nanoseconds a packet, and what the last one returned.
    fn run(&self, packets: u32) -> Outcome<(f64, u32)> {
        let program: &Xdp = self.0.program("wrapper").ok_or("no program")?.try_into()?;
        let frame = [0; 64];
        let options =
            TestRunOptions { data_in: Some(&frame), repeat: packets.max(1), ..TestRunOptions::new() };
        let result = program.test_run(options)?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Outcome<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).ok_or("no such program")?.try_into()?)
}

fn fd(ebpf: &Ebpf, name: &str) -> Outcome<ProgramFd> {
    let program: &Xdp = ebpf.program(name).ok_or("no such program")?.try_into()?;
    Ok(program.fd()?.try_clone()?)
}

fn reference(entries: u32) -> Outcome<Ebpf> {
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .map_max_entries("lru_connections", entries)
        .map_max_entries("region", entries / 2)
        .override_global("region_lines", &(entries / 2), true)
        .load(convey_bpf::reference())?;
    for name in ["empty", "chain", "lru"] {
        xdp(&mut ebpf, name)?.load()?;
    }
    let mut vips: HashMap<_, [u8; 20], u32> = ebpf.map_mut("lru_vips").ok_or("no map")?.try_into()?;
    vips.insert(convey_bpf::endpoint_key(VIP.parse()?, 6), 0, 0)?;
    let mut ring: Array<_, u32> = ebpf.map_mut("lru_ring").ok_or("no map")?.try_into()?;
    for slot in 0..65_537 {
        ring.set(slot, slot % SERVERS, 0)?;
    }
    let mut servers: Array<_, [u8; 32]> = ebpf.map_mut("lru_servers").ok_or("no map")?.try_into()?;
    for i in 0..SERVERS {
        let mut value = [0; 32];
        value[..16].copy_from_slice(&tables::plain_address(server(i).ip()));
        value[28..].copy_from_slice(&1u32.to_ne_bytes());
        servers.set(i, value, 0)?;
    }
    Ok(ebpf)
}

fn engine(method: Method, minimal: bool, entries: u32) -> Outcome<Ebpf> {
    let passthrough = method == Method::Nat;
    let sets = entries / 4;
    let words = PortPool::words(PORTS) as u32;
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("passthrough", &u32::from(passthrough), true)
        .override_global("minimal", &u32::from(minimal), true)
        .override_global("sets4", &sets, true)
        .override_global("nat_first", &u32::from(NAT_FIRST), true)
        .override_global("nat_width", &NAT_WIDTH, true)
        .override_global("nat_groups", &NAT_WIDTH.div_ceil(32), true)
        .override_global("nat_words", &words, true)
        .map_max_entries("flows4", sets)
        .map_max_entries("spills4", sets / 16)
        .map_max_entries("nat_ports", if passthrough { SERVERS * words } else { 1 })
        .map_max_entries("vips6", 4096)
        .map_max_entries("paths6", 4096)
        .map_max_entries("path_sources", 4096)
        .map_max_entries("frontends", 4096)
        .map_max_entries("servers", 4096)
        .map_max_entries("frontend_gauges", 4096)
        .map_max_entries("server_gauges", 4096)
        .map_max_entries("frontend_traffic", 4096)
        .map_max_entries("server_traffic", 4096)
        .load(convey_bpf::xdp())?;
    xdp(&mut ebpf, "convey_xdp")?.load()?;

    let vip: SocketAddr = VIP.parse()?;
    let nat: IpAddr = Ipv4Addr::new(10, 100, 255, 1).into();
    let mut values =
        Config { seed: 0x5eed, lifetimes: [100_000; 16], half_open_max: entries, ..Config::default() };
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let mut directions = vec![(Direction::Vip { address: v4(vip.ip()), port: vip.port(), protocol: 6 }, 0)];
    directions.extend((0..SERVERS).map(|i| {
        let address = server(i);
        let path =
            Direction::Path { nat: v4(nat), server: v4(address.ip()), port: address.port(), protocol: 6 };
        (path, i)
    }));
    let lines = Directory::new(&directions, 1).ok_or("too many entries")?;
    let mut directory: Array<_, [u8; LINE_BYTES]> = ebpf.map_mut("directory").ok_or("no map")?.try_into()?;
    for (i, line) in (lines.first_line()..).zip(&lines.lines) {
        directory.set(i, line, 0)?;
    }
    values.directory_seed = lines.seed;
    let mut config: Array<_, [u8; Config::BYTES]> = ebpf.map_mut("config").ok_or("no map")?.try_into()?;
    config.set(0, values.to_bytes(), 0)?;
    let mut frontends: Array<_, [u8; Frontend::BYTES]> =
        ebpf.map_mut("frontends").ok_or("no map")?.try_into()?;
    let frontend = Frontend {
        listen: vip,
        protocol: 6,
        left: false,
        backend: 0,
        max_connections: 0,
        source_prefix: 0,
        access: false,
        nat_sources: vec![nat],
    };
    frontends.set(0, frontend.to_bytes(), 0)?;
    let mut servers: Array<_, [u8; Server::BYTES]> = ebpf.map_mut("servers").ok_or("no map")?.try_into()?;
    for i in 0..SERVERS {
        let value =
            Server { address: server(i), method, standing: Standing::Up, max_connections: 0, hop: hop() };
        servers.set(i, value.to_bytes(), 0)?;
    }
    if passthrough {
        let mut sources: Array<_, [u8; 16]> = ebpf.map_mut("path_sources").ok_or("no map")?.try_into()?;
        for i in 0..SERVERS {
            sources.set(i, tables::plain_address(nat), 0)?;
        }
    }
    if minimal {
        install_table::<PLACES_BYTES>(&mut ebpf, "places", 2)?;
    } else {
        install_table::<MAGLEV_BYTES>(&mut ebpf, "tables", 1)?;
    }
    Ok(ebpf)
}

/// Every server in turn; of each slot the first of `words`, the rest is as where nothing has moved.
fn install_table<const BYTES: usize>(ebpf: &mut Ebpf, map: &str, words: usize) -> Outcome<()> {
    let mut slots = [0xff; BYTES];
    for slot in 0..65_537 {
        let at = 2 * words * slot;
        slots[at..at + 2].copy_from_slice(&((slot as u32 % SERVERS) as u16).to_ne_bytes());
    }
    let mut table = Array::<MapData, [u8; BYTES]>::create(1, 0)?;
    table.set(0, slots, 0)?;
    let mut tables: aya::maps::ArrayOfMaps<_, Array<MapData, [u8; BYTES]>> =
        ebpf.map_mut(map).ok_or("no map")?.try_into()?;
    Ok(tables.set(0, &table, 0)?)
}

fn empty_flows(ebpf: &mut Ebpf) -> Outcome<()> {
    let mut sets: Array<_, [u8; 128]> = ebpf.map_mut("flows4").ok_or("no map")?.try_into()?;
    for set in 0..sets.len() {
        sets.set(set, [0; 128], 0)?;
    }
    let mut spills: Array<_, [u8; 64]> = ebpf.map_mut("spills4").ok_or("no map")?.try_into()?;
    for set in 0..spills.len() {
        spills.set(set, [0; 64], 0)?;
    }
    // Open flows, and half-open ones.
    let mut shared: Array<_, [u8; 24]> = ebpf.map_mut("shared").ok_or("no map")?.try_into()?;
    shared.set(0, [0; 24], 0)?;
    let mut ports: Array<_, u64> = ebpf.map_mut("nat_ports").ok_or("no map")?.try_into()?;
    for at in 0..ports.len() {
        ports.set(at, 0, 0)?;
    }
    Ok(())
}

/// Server, NAT port and server port of every flow, in an order of their own.
fn replies(ebpf: &Ebpf) -> Outcome<Vec<[u8; 8]>> {
    let sets: Array<_, [u8; 128]> = ebpf.map("flows4").ok_or("no map")?.try_into()?;
    let mut replies = Vec::new();
    for set in sets.iter() {
        let set = set?;
        for entry in set.chunks(32).filter(|e| e[0] & 15 != 0) {
            let number = u32::from(u16::from_ne_bytes([entry[18], entry[19]]));
            let port = u16::from_ne_bytes([entry[20], entry[21]]);
            let mut reply = [0; 8];
            reply[..4].copy_from_slice(&tables::plain_address(server(number).ip())[12..]);
            reply[4..6].copy_from_slice(&port.to_be_bytes());
            reply[6..].copy_from_slice(&8080u16.to_be_bytes());
            replies.push(reply);
        }
    }
    let mut random = 88_172_645_463_325_252u64;
    for i in (1..replies.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        replies.swap(i, (random % (i as u64 + 1)) as usize);
    }
    Ok(replies)
}

fn set_replies(wrapper: &mut Wrapper, replies: &[[u8; 8]]) -> Outcome<()> {
    let mut map: Array<_, [u8; 8]> = wrapper.0.map_mut("replies").ok_or("no map")?.try_into()?;
    for (i, reply) in (0..).zip(replies) {
        map.set(i, reply, 0)?;
    }
    Ok(())
}

const CLIENT: &str = "10.0.0.1:1024";
const NAT: &str = "10.100.255.1:33768";

/// Begins flows `0..flows` in a table of `entries`, and confirms them. No more than a quarter may be half-open at once.
fn begin(wrapper: &mut Wrapper, ebpf: &Ebpf, flows: u32, entries: u32, passthrough: bool) -> Outcome<()> {
    for first in (0..flows).step_by(entries as usize / 4) {
        let some = (flows - first).min(entries / 4);
        wrapper.set(Kind::Ordered, flows, first, &PacketBuilder::syn(CLIENT, VIP))?;
        wrapper.run(some)?;
        if passthrough {
            let replies = replies(ebpf)?;
            let begun = first + some;
            if replies.len() != begun as usize {
                return Err(format!("{} of {begun} flows", replies.len()).into());
            }
            set_replies(wrapper, &replies)?;
            let answer = PacketBuilder::tcp("10.100.0.1:8080", NAT).flags(SYN | ACK).seq(5000, 1001);
            wrapper.set(Kind::Reply, begun, 0, &answer)?;
            wrapper.run(begun)?;
        }
        wrapper.set(Kind::Ordered, flows, first, &PacketBuilder::tcp(CLIENT, VIP))?;
        wrapper.run(some)?;
    }
    Ok(())
}

fn expect(have: u32, want: &[u32], what: &str) -> Outcome<()> {
    if want.contains(&have) { Ok(()) } else { Err(format!("{what}: the last packet returned {have}").into()) }
}

const SENT: &[u32] = &[3, 4];

/// The programs that are measured, with tables of one size.
struct Programs {
    entries: u32,
    reference: Ebpf,
    nat: Ebpf,
    dsr: Ebpf,
    minimal: Ebpf,
}

impl Programs {
    fn new(entries: u32) -> Outcome<Self> {
        Ok(Self {
            entries,
            reference: reference(entries)?,
            nat: engine(Method::Nat, false, entries)?,
            dsr: engine(Method::Rewrite, false, entries)?,
            minimal: engine(Method::Rewrite, true, entries)?,
        })
    }
}

type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

fn main() -> Outcome<()> {
    // Clients are behind a gateway, which the programs find by the kernel's routes.
    let ns = netns::Netns::new("bench");
    ns.ip("link add veth0 type veth peer name veth1");
    ns.ip("addr add 10.200.0.1/24 dev veth0");
    ns.ip("link set veth0 up");
    ns.ip("link set veth1 up");
    ns.ip("neigh add 10.200.0.2 lladdr 02:00:00:00:01:fe dev veth0 nud permanent");
    ns.ip("route add default via 10.200.0.2");
    ns.exec("sysctl -qw net.ipv4.conf.all.forwarding=1");
    ns.enter(|| bench().map_err(|e| e.to_string()))?;
    Ok(())
}

fn bench() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let rounds: u32 = args.next().map_or(Ok(5), |a| a.parse())?;
    let packets: u32 = args.next().map_or(Ok(1_000_000), |a| a.parse())?;
    let mut figures = Figures::new();
    let mut wrapper = Wrapper::new()?;
    let data = PacketBuilder::tcp(CLIENT, VIP);
    let syn = PacketBuilder::syn(CLIENT, VIP);
    let mut sizes = [Programs::new(SMALL)?, Programs::new(LARGE)?];
    let mut put = |row, column, ns| figures.entry((row, column)).or_default().push(ns);
    let mut fresh = 1 << 24;
    for _ in 0..rounds {
        for (column, flows, entries) in SIZES {
            let Programs { reference, nat, dsr, minimal, .. } =
                sizes.iter_mut().find(|p| p.entries == entries).ok_or("no such size")?;
            for name in ["empty", "chain"] {
                wrapper.call(&fd(reference, name)?)?;
                wrapper.set(Kind::Random, flows, 0, &data)?;
                let (ns, returned) = wrapper.run(packets)?;
                expect(returned, SENT, name)?;
                put(name, column, ns);
            }
            wrapper.call(&fd(reference, "lru")?)?;
            begin(&mut wrapper, reference, flows, entries, false)?;
            wrapper.set(Kind::Random, flows, 0, &data)?;
            let (ns, returned) = wrapper.run(packets)?;
            expect(returned, SENT, "lru")?;
            put("lru", column, ns);

            for (row, ebpf, passthrough) in
                [("nat forward", nat, true), ("dsr full", dsr, false), ("dsr minimal", minimal, false)]
            {
                empty_flows(ebpf)?;
                wrapper.call(&fd(ebpf, "convey_xdp")?)?;
                begin(&mut wrapper, ebpf, flows, entries, passthrough)?;
                wrapper.set(Kind::Random, flows, 0, &data)?;
                let (ns, returned) = wrapper.run(packets)?;
                expect(returned, SENT, row)?;
                put(row, column, ns);
                if passthrough {
                    let answer = PacketBuilder::tcp("10.100.0.1:8080", NAT).seq(5001, 1001);
                    wrapper.set(Kind::Reply, flows, 0, &answer)?;
                    let (ns, returned) = wrapper.run(packets)?;
                    expect(returned, SENT, "nat reply")?;
                    put("nat reply", column, ns);
                }
            }
        }
        let Programs { reference, nat, dsr, minimal, .. } = &mut sizes[1];
        for (row, ebpf, name) in [
            ("lru", None, "lru"),
            ("nat forward", Some(nat), "convey_xdp"),
            ("dsr full", Some(dsr), "convey_xdp"),
            ("dsr minimal", Some(minimal), "convey_xdp"),
        ] {
            let program = match ebpf {
                Some(ebpf) => {
                    empty_flows(ebpf)?;
                    fd(ebpf, name)?
                }
                None => fd(reference, name)?,
            };
            wrapper.call(&program)?;
            wrapper.set(Kind::Ordered, 0, fresh, &syn)?;
            let (ns, returned) = wrapper.run(NEW)?;
            expect(returned, SENT, row)?;
            put(row, "all new", ns);
        }
        fresh += NEW;
    }
    print(&mut figures);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(figures: &mut Figures) {
    let columns = ["1 flow", "64 K of 64 K", "64 K of 1 M", "1 M", "all new"];
    println!("{:14}{}", "ns a packet", columns.map(|c| format!("{c:>22}")).join(""));
    let lru: Vec<Option<Vec<f64>>> = columns.iter().map(|c| figures.get(&("lru", *c)).cloned()).collect();
    for row in ["empty", "chain", "lru", "nat forward", "nat reply", "dsr full", "dsr minimal"] {
        print!("{row:14}");
        for (column, lru) in columns.iter().zip(&lru) {
            let Some(values) = figures.get_mut(&(row, *column)) else {
                print!("{:>22}", "–");
                continue;
            };
            let mut ratios: Vec<f64> =
                lru.iter().flatten().zip(values.iter()).map(|(lru, ns)| ns / lru).collect();
            let ns = median(values);
            let spread = format!("{:.0}–{:.0}", values[0], values[values.len() - 1]);
            print!("{:>22}", format!("{ns:.0} ({spread}) {:.2}", median(&mut ratios)));
        }
        println!();
    }
}
