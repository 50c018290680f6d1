//! How long a snapshot takes to build anew when one server's health changes: `bench_rebuild [servers] [backends]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use convey_core::{BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec};
use convey_engine::{PacketOptions, PacketSnapshot};

const ROUNDS: u32 = 20;

fn spec(servers: usize, backends: usize) -> SnapshotSpec {
    let each = servers / backends;
    let backend = |b: usize| BackendSpec {
        name: format!("b{b}"),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        balance: convey_core::selection::Balance::Maglev,
        source: Default::default(),
        eject_after: 0,
        servers: (0..each)
            .map(|s| ServerSpec {
                name: format!("s{s}"),
                addr: format!("10.{}.{}.{}:8080", b % 250, s / 250, s % 250 + 1).parse().expect("an address"),
                weight: 1,
                max_connections: 0,
                up: true,
                draining: false,
                backup: false,
                share: convey_core::selection::SLOW_START_STEPS,
                send_proxy: None,
            })
            .collect(),
    };
    let frontend = |b: usize| FrontendSpec {
        listen_key: Default::default(),
        name: format!("f{b}"),
        listen: vec![format!("192.0.2.10:{}", 1000 + b).parse().expect("an address")],
        protocol: Protocol::Tcp,
        backend: format!("b{b}"),
        accept_proxy: None,
        max_connections: 0,
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    };
    SnapshotSpec {
        mode: Mode::Passthrough,
        limits: Limits::default(),
        frontends: (0..backends).map(frontend).collect(),
        backends: (0..backends).map(backend).collect(),
    }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let (servers, backends) =
        (numbers.first().copied().unwrap_or(5000), numbers.get(1).copied().unwrap_or(50));
    let options = PacketOptions::default();
    let mut config = Snapshot::first(spec(servers, backends), 1).expect("a snapshot");
    let begin = Instant::now();
    let mut packet = Arc::new(PacketSnapshot::build(&config, &options, None).expect("tables"));
    let first = begin.elapsed();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let mut spec = config.spec().clone();
        spec.backends[round as usize % backends].servers[0].up ^= true;
        config = config.next(spec).expect("a snapshot");
        let begin = Instant::now();
        packet = Arc::new(PacketSnapshot::build(&config, &options, Some(&packet)).expect("tables"));
        times.push(begin.elapsed());
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{servers} servers in {backends} backends: first {first:?}, again {median:?}, worst {worst:?}");
}
