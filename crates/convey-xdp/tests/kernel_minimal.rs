//! DSR with minimal tracking in the kernel programs and in the portable engine: packet for packet the same server,
//! while servers come and go.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Array, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use convey_bpf::tables::{REASONS, USE_LINES, use_of_slot};
use convey_core::{
    AccessList, BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec,
};
use convey_engine::{
    ConnectionTracking, FrameMeta, Link, Nanos, NextHops, PacketOptions, PacketSnapshot, Route, Verdict,
    Worker, process,
};
use convey_testkit::build::{ACK, FIN, RST};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::{Hook, Kernel, Sizes};
use convey_xdp::lower::{self, Ways};

const VIP: &str = "192.0.2.10:80";
const CLIENTS: u32 = 60;

fn spec(servers: &[(u8, u16, bool)]) -> SnapshotSpec {
    let server = |&(host, weight, up): &(u8, u16, bool)| ServerSpec {
        name: format!("s{host}"),
        addr: std::net::SocketAddr::from(([10, 0, 0, host], 80)).into(),
        weight,
        max_connections: 0,
        up,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    };
    let frontend = |name: &str, protocol| FrontendSpec {
        listen_key: Default::default(),
        name: name.into(),
        listen: vec![VIP.parse().unwrap()],
        protocol,
        backend: "pool".into(),
        accept_proxy: None,
        max_connections: 0,
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    };
    SnapshotSpec {
        mode: Mode::Dsr,
        limits: Limits::default(),
        frontends: vec![frontend("tcp", Protocol::Tcp), frontend("udp", Protocol::Udp)],
        backends: vec![BackendSpec {
            name: "pool".into(),
            connect_timeout: Duration::from_secs(1),
            retries: 0,
            idle_timeout: Duration::ZERO,
            max_duration: Duration::ZERO,
            waiting: Default::default(),
            ends: Default::default(),
            balance: convey_core::selection::Balance::Maglev,
            source: Default::default(),
            eject_after: 0,
            servers: servers.iter().map(server).collect(),
        }],
    }
}

fn next_hops() -> NextHops {
    NextHops::new(
        [Link { ifindex: 1, mac: [2, 0, 0, 0, 1, 1], mtu: 1500 }],
        [
            Route::by([0, 0, 0, 0].into(), 0, 1, Some([10, 0, 0, 254].into())),
            Route::by([10, 0, 0, 0].into(), 24, 1, None),
        ],
        (1..=254).map(|host| ((1, [10, 0, 0, host].into()), [2, 0, 0, 0, 2, host])),
    )
}

fn monotonic() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A program and the portable engine, side by side.
struct Lab {
    kernel: Kernel,
    config: Snapshot,
    options: PacketOptions,
    snapshot: PacketSnapshot,
    worker: Worker,
    hops: NextHops,
}

impl Lab {
    fn new(hook: Hook, servers: &[(u8, u16, bool)]) -> Self {
        let sizes = Sizes {
            passthrough: false,
            minimal: true,
            sets4: 1024,
            sets6: 64,
            nat_first: 1,
            nat_width: 1,
            paths: 1,
            frontends: 8,
            servers: 64,
            backends: 8,
            ring_bytes: 1 << 16,
        };
        let options = PacketOptions {
            capacity: 2048,
            connection_tracking: ConnectionTracking::Minimal,
            ..PacketOptions::default()
        };
        let config = Snapshot::first(spec(servers), 1).unwrap();
        let snapshot = PacketSnapshot::build_at(&config, &options, None, monotonic()).unwrap();
        let worker = Worker::new(0, &snapshot);
        let kernel = Kernel::load_for_test_runs(hook, &sizes).unwrap();
        let mut lab = Self { kernel, config, options, snapshot, worker, hops: next_hops() };
        lab.install();
        lab
    }

    fn install(&mut self) {
        let image = lower::image(&self.snapshot, &Ways::new(&self.hops), 1, &[], 256);
        self.kernel.install(&image).unwrap();
    }

    fn change(&mut self, servers: &[(u8, u16, bool)]) {
        self.change_to(spec(servers));
    }

    fn change_to(&mut self, spec: SnapshotSpec) {
        self.config = self.config.next(spec).unwrap();
        let before = Some(&self.snapshot);
        self.snapshot = PacketSnapshot::build_at(&self.config, &self.options, before, monotonic()).unwrap();
        self.install();
    }

    fn test_run(&self, frame: &[u8], sent: &mut [u8]) -> TestRunResult {
        let program = self.kernel.ebpf.program(self.kernel.hook.program()).unwrap();
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(sent), ..TestRunOptions::new() };
        match self.kernel.hook {
            Hook::Tc => <&SchedClassifier>::try_from(program).unwrap().test_run(options).unwrap(),
            Hook::Xdp => <&Xdp>::try_from(program).unwrap().test_run(options).unwrap(),
        }
    }

    /// The last number of the server's address, from the program and from the portable engine; `None`: not sent.
    fn both(&mut self, packet: &PacketBuilder) -> [Option<u8>; 2] {
        let frame = packet.clone().macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
        let mut sent = vec![0; 256];
        let returned = self.test_run(&frame, &mut sent).return_value;
        let is_sent = matches!((self.kernel.hook, returned), (Hook::Tc, 7) | (Hook::Xdp, 3 | 4));
        let mut buffer = frame.clone();
        buffer.resize(frame.len() + convey_engine::REPLY_HEADROOM, 0);
        let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
        let (snapshot, worker) = (&self.snapshot, &mut self.worker);
        let verdict = process(&mut buffer, frame.len(), &meta, snapshot, &self.hops, worker, monotonic());
        [is_sent.then_some(sent[33]), matches!(verdict, Verdict::Forward(_)).then_some(buffer[33])]
    }

    /// The server, on which both agree.
    fn send(&mut self, packet: &PacketBuilder, what: &str) -> u8 {
        let [kernel, portable] = self.both(packet);
        assert_eq!(kernel, portable, "{what}");
        kernel.unwrap_or_else(|| panic!("{what}: not sent"))
    }

    fn begun(&self) -> u64 {
        self.counted("flow_begun")
    }

    fn counted(&self, reason: &str) -> u64 {
        let map: PerCpuArray<_, u64> = self.kernel.ebpf.map("reasons").unwrap().try_into().unwrap();
        let at = REASONS.iter().position(|name| *name == reason).unwrap() as u32;
        map.get(&at, 0).unwrap().iter().sum()
    }
}

fn client(n: u32) -> String {
    format!("198.51.{}.{}:{}", n / 200, n % 200 + 1, 1024 + n)
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn programs_send_every_packet_where_the_portable_engine_does_while_servers_come_and_go() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut lab = Lab::new(hook, &[(1, 1, true), (2, 1, true), (3, 1, true)]);
        let mut known: Vec<(u32, u8)> = Vec::new();
        let changes: [&[(u8, u16, bool)]; 8] = [
            &[(1, 1, true), (2, 1, true), (3, 1, true)],
            &[(1, 0, true), (2, 1, true), (3, 1, true)],
            &[(2, 1, true), (3, 1, true)],
            &[(2, 1, false), (3, 1, true), (4, 1, true)],
            &[(2, 1, true), (3, 1, true), (4, 5, true)],
            &[(1, 1, true), (2, 1, true), (3, 1, true)],
            &[(1, 1, false), (2, 1, false), (3, 1, false)],
            &[(1, 1, true), (2, 1, true), (3, 1, false)],
        ];
        for (round, servers) in (0u32..).zip(changes) {
            if round > 0 {
                lab.change(servers);
            }
            for (n, server) in known.clone() {
                let what = format!("{hook:?}, round {round}, client {n}");
                assert_eq!(lab.send(&PacketBuilder::tcp(&client(n), VIP), &what), server, "{what}");
            }
            for n in round * CLIENTS..(round + 1) * CLIENTS {
                let what = format!("{hook:?}, round {round}, new client {n}");
                let [kernel, portable] = lab.both(&PacketBuilder::syn(&client(n), VIP));
                assert_eq!(kernel, portable, "{what}");
                let Some(server) = kernel else { continue };
                assert_eq!(lab.send(&PacketBuilder::tcp(&client(n), VIP), &what), server, "{what}");
                known.push((n, server));
            }
            for n in (0..(round + 1) * CLIENTS).step_by(2) {
                for _ in 0..2 {
                    let [kernel, portable] = lab.both(&PacketBuilder::udp(&client(n), VIP).payload(b"?"));
                    // What it sends nowhere it hands up.
                    assert!(
                        kernel == portable || kernel.is_none(),
                        "{hook:?}, round {round}, datagram of {n}"
                    );
                }
            }
            if round == 0 {
                assert_eq!((lab.begun(), lab.worker.flows()), (0, 0));
            }
            // A connection that is begun anew forgets where the last one was.
            let again = round * CLIENTS;
            lab.both(&PacketBuilder::syn(&client(again), VIP).seq(800_000 + round, 0));
            let what = format!("{hook:?}, round {round}, client {again} again");
            let [kernel, portable] =
                lab.both(&PacketBuilder::tcp(&client(again), VIP).seq(800_001 + round, 1));
            assert_eq!(kernel, portable, "{what}");
            known.retain(|(n, _)| *n != again);
            for flags in [FIN | ACK, RST] {
                let n = round * CLIENTS + 1;
                let [kernel, portable] = lab.both(&PacketBuilder::tcp(&client(n), VIP).flags(flags));
                assert_eq!(kernel, portable, "{what}");
                known.retain(|(known, _)| *known != n);
            }
        }
        assert!(lab.begun() > 50, "{}", lab.begun());
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn programs_drop_every_packet_of_a_denied_client_that_is_of_no_flow_as_the_portable_engine_does() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let servers: [&[(u8, u16, bool)]; 2] = [&[(1, 1, true), (2, 1, true)], &[(2, 1, true), (3, 1, true)]];
        let mut lab = Lab::new(hook, servers[0]);
        let denies = |servers, allow: &[&str], deny: &[&str]| {
            let parse = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>();
            let mut spec = spec(servers);
            let access = AccessList::new(&parse(allow), &parse(deny)).unwrap().map(Arc::new);
            spec.frontends.iter_mut().for_each(|f| f.admission.access.clone_from(&access));
            spec
        };
        let mut dropped = 0;
        let mut expect = |lab: &mut Lab, n: u32, is_denied: bool, what: &str| {
            for packet in [
                PacketBuilder::syn(&client(n), VIP),
                PacketBuilder::tcp(&client(n), VIP),
                PacketBuilder::udp(&client(n), VIP).payload(b"?"),
            ] {
                let [kernel, portable] = lab.both(&packet);
                assert_eq!(kernel, portable, "{hook:?}, {what}, client {n}");
                assert_eq!(kernel.is_none(), is_denied, "{hook:?}, {what}, client {n}");
                dropped += u64::from(is_denied);
                assert_eq!(lab.counted("denied"), dropped, "{hook:?}, {what}, client {n}");
            }
        };
        // Slots have settled: nobody asks the flow table.
        lab.change_to(denies(servers[0], &[], &["198.51.0.1", "198.51.0.16/28"]));
        for n in 0..CLIENTS {
            expect(&mut lab, n, n == 0 || (15..31).contains(&n), "settled");
        }
        // Slots move.
        lab.change_to(denies(servers[1], &["198.51.0.0/26"], &["198.51.0.1"]));
        for n in 0..CLIENTS + 10 {
            expect(&mut lab, n, n == 0 || n >= 63, "moved");
        }
        lab.change(servers[1]);
        expect(&mut lab, 0, false, "without lists");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn programs_note_when_packets_went_elsewhere_than_to_their_slots_server() {
    let mut lab = Lab::new(Hook::Tc, &[(1, 1, true), (2, 1, true)]);
    for n in 0..CLIENTS {
        lab.send(&PacketBuilder::syn(&client(n), VIP), "SYN");
    }
    let noted = |lab: &Lab| -> Vec<u16> {
        let map: Array<_, [u8; 128]> = lab.kernel.ebpf.map("slot_uses").unwrap().try_into().unwrap();
        let lines = (0..USE_LINES).map(|line| map.get(&line, 0).unwrap());
        lines
            .flat_map(|l| l.chunks(2).map(|c| u16::from_ne_bytes([c[0], c[1]])).collect::<Vec<_>>())
            .collect()
    };
    assert!(noted(&lab).iter().all(|at| *at == 0));
    lab.change(&[(2, 1, true)]);
    let mut moved = 0;
    for n in 0..CLIENTS {
        moved += usize::from(lab.send(&PacketBuilder::tcp(&client(n), VIP), "later") == 1);
    }
    let notes = noted(&lab);
    let step = (monotonic().0 >> 32) as u16;
    let noted: Vec<_> = notes.iter().filter(|at| **at != 0).collect();
    assert_eq!(noted.len(), moved);
    assert!(noted.iter().all(|at| step.wrapping_sub(**at) < 10), "{noted:?} at {step}");
    // Told to the snapshot, they keep its slots.
    lab.snapshot.take_slot_uses(monotonic(), |frontend, slot| notes[use_of_slot(frontend, slot)]);
}
