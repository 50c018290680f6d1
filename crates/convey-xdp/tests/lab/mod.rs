//! The programs by test runs, with images that a test makes of a few words.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};

use aya::maps::{PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use convey_bpf::tables::{
    CLIENT_HOP_BYTES, Config, Frontend, HandedUp, Hop, Method, REASONS, STATES, Server, Standing, client_hop,
};
use convey_testkit::PacketBuilder;
use convey_xdp::kernel::{Hook, Image, Kernel, Path, Sizes};

pub mod bpffs;
pub mod tables;
pub mod test_run;

pub const HOP: Hop =
    Hop { ifindex: 1, mtu: 1500, on_link: true, destination: [2, 0, 0, 0, 2, 1], source: [2, 0, 0, 0, 2, 2] };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Pass,
    /// Handed up or dropped.
    Drop,
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn sizes(passthrough: bool) -> Sizes {
    Sizes {
        passthrough,
        minimal: false,
        sets4: 64,
        sets6: 64,
        nat_first: 20_000,
        nat_width: 100,
        paths: 16,
        frontends: 64,
        servers: 64,
        backends: 8,
        ring_bytes: 1 << 18,
    }
}

/// A TCP frontend.
pub fn frontend(listen: &str, backend: u16, nat_sources: &[&str]) -> Frontend {
    Frontend {
        listen: at(listen),
        protocol: 6,
        left: false,
        backend,
        source_prefix: 0,
        max_connections: 0,
        access: false,
        nat_sources: nat_sources.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

pub fn server(address: &str, method: Method) -> Option<Server> {
    Some(Server { address: at(address), method, standing: Standing::Up, max_connections: 0, hop: HOP })
}

pub fn path(nat: &str, server: &str, protocol: u8) -> Option<Path> {
    let (nat, server) = (nat.parse().unwrap(), at(server));
    Some(Path { nat, server: server.ip(), port: server.port(), protocol })
}

/// Backend `i` has the server in slot `i` alone.
pub fn image(
    frontends: Vec<Option<Frontend>>,
    servers: Vec<Option<Server>>,
    paths: Vec<Option<Path>>,
) -> Image {
    let config = Config {
        seed: tables::SEED,
        lifetimes: [tables::LIFETIME; STATES],
        half_open_max: 1000,
        resets: true,
        ..Config::default()
    };
    let tables = (0u16..).zip(&servers).map(|(i, s)| s.as_ref().map(|_| vec![i; 65_537])).collect();
    Image { config, frontends, servers, paths, tables, access: Vec::new() }
}

pub struct Lab {
    pub kernel: Kernel,
}

impl Lab {
    pub fn new(hook: Hook, sizes: &Sizes, image: &Image) -> Self {
        let mut kernel = Kernel::load_for_test_runs(hook, sizes).unwrap();
        kernel.install(image).unwrap();
        Self { kernel }
    }

    pub fn install(&mut self, image: &Image) {
        self.kernel.install(image).unwrap();
    }

    /// The kernel's routes know the way to this client.
    pub fn know(&mut self, client: IpAddr) {
        let (at, value) = client_hop(client, HOP, 0);
        let mut map: PerCpuArray<_, [u8; CLIENT_HOP_BYTES]> =
            self.kernel.ebpf.map_mut("client_hops").unwrap().try_into().unwrap();
        let cpus = map.get(&at, 0).unwrap().len();
        map.set(at, PerCpuValues::try_from(vec![value; cpus]).unwrap(), 0).unwrap();
    }

    pub fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut sent = vec![0; frame.len() + 64];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut sent), ..TestRunOptions::new() };
        let result = self.test_run(options);
        let verdict = match (self.kernel.hook, result.return_value) {
            (Hook::Tc, 7) | (Hook::Xdp, 3 | 4) => Verdict::Forward,
            (Hook::Tc, u32::MAX) | (Hook::Xdp, 2) => Verdict::Pass,
            (Hook::Tc, 2) | (Hook::Xdp, 1) => Verdict::Drop,
            other => panic!("{other:?}"),
        };
        sent.truncate(result.data_size_out as usize);
        (verdict, sent)
    }

    fn test_run(&self, options: TestRunOptions<'_>) -> TestRunResult {
        let program = self.kernel.ebpf.program(self.kernel.hook.program()).unwrap();
        match self.kernel.hook {
            Hook::Tc => <&SchedClassifier>::try_from(program).unwrap().test_run(options).unwrap(),
            Hook::Xdp => <&Xdp>::try_from(program).unwrap().test_run(options).unwrap(),
        }
    }

    /// The frame that leaves.
    pub fn forwards(&self, packet: &PacketBuilder) -> Vec<u8> {
        let before = self.reasons();
        let (verdict, sent) = self.run(&packet.build());
        let counted: Vec<_> = REASONS
            .iter()
            .zip(before.iter().zip(self.reasons()))
            .filter(|(_, (before, after))| **before != *after)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(verdict, Verdict::Forward, "{counted:?}");
        sent
    }

    fn reasons(&self) -> Vec<u64> {
        (0..REASONS.len() as u32).map(|i| self.sum("reasons", i)).collect()
    }

    /// How often a verdict or note was counted.
    pub fn counted(&self, reason: &str) -> u64 {
        let at = REASONS.iter().position(|name| *name == reason).unwrap();
        self.reasons()[at]
    }

    /// A counter of all CPUs.
    pub fn sum(&self, map: &str, at: u32) -> u64 {
        let map: PerCpuArray<_, u64> = self.kernel.ebpf.map(map).unwrap().try_into().unwrap();
        map.get(&at, 0).unwrap().iter().sum()
    }
}

/// Source and destination of a TCP or UDP frame.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (source, destination, l4) = match frame[12..14] {
        [8, 0] => {
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            (ip(26), ip(30), 34)
        }
        _ => {
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
            (ip(22), ip(38), 54)
        }
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (SocketAddr::new(source, port(l4)), SocketAddr::new(destination, port(l4 + 2)))
}

/// What was handed up since the last time: reason, length of the frame, and what there is of it.
pub fn handed_up(lab: &mut Lab) -> Vec<(&'static str, u32, Vec<u8>)> {
    let mut ring = RingBuf::try_from(lab.kernel.ebpf.map_mut("slow_path").unwrap()).unwrap();
    let mut all = Vec::new();
    while let Some(record) = ring.next() {
        let up = HandedUp::parse(&record).unwrap();
        all.push((REASONS[up.reason as usize], up.len, up.frame.to_vec()));
    }
    all
}
