//! Worlds of the fixtures, made real for this engine.
#![allow(dead_code)] // Each test binary uses its part.

pub mod world;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convey_core::{BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec};
use convey_engine::{
    Checksum, ConnectionTracking, DsrMethod, FrameMeta, Gso, Link, Nanos, NextHops, PacketOptions,
    PacketSnapshot, PortRange, Refusal, Route, Verdict, Worker, process,
};
use convey_testkit::fixture::{Input, World, WorldServer};
use convey_testkit::{hex, unhex};

/// One balancer with one worker.
pub struct Lab {
    pub config: Snapshot,
    pub options: PacketOptions,
    pub snapshot: Arc<PacketSnapshot>,
    pub next_hops: NextHops,
    pub worker: Worker,
}

/// What came out: the verdict in words and the frame, if one leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Out {
    pub verdict: String,
    pub reason: Option<String>,
    pub egress: Option<u32>,
    pub frame: Option<String>,
}

pub fn world(name: &str) -> World {
    let files = convey_testkit::cases::all();
    files.iter().find_map(|(_, f)| f.worlds.get(name)).expect("a world of that name").clone()
}

pub fn servers(world: &World) -> Vec<ServerSpec> {
    world.servers.iter().map(server_spec).collect()
}

pub fn server_spec(s: &WorldServer) -> ServerSpec {
    ServerSpec {
        name: s.name.clone(),
        addr: s.addr.parse().expect("an address"),
        weight: s.weight,
        max_connections: 0,
        up: s.up,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    }
}

pub fn spec(world: &World) -> SnapshotSpec {
    let family = |addr: &SocketAddr| if addr.is_ipv4() { "v4" } else { "v6" };
    let frontends: Vec<FrontendSpec> = world
        .frontends
        .iter()
        .map(|f| {
            let listen: SocketAddr = f.listen.parse().expect("an address");
            FrontendSpec {
                listen_key: Default::default(),
                name: f.name.clone(),
                listen: vec![listen],
                protocol: if f.protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp },
                backend: family(&listen).into(),
                accept_proxy: None,
                max_connections: 0,
                hello_routes: None,
                sockets: Default::default(),
                admission: Default::default(),
                udp: Default::default(),
            }
        })
        .collect();
    let backend = |name: &str| BackendSpec {
        name: name.into(),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        balance: convey_core::selection::Balance::Maglev,
        source: Default::default(),
        eject_after: 0,
        servers: servers(world)
            .into_iter()
            .filter(|s| family(&s.addr.ip().expect("an address")) == name)
            .collect(),
    };
    SnapshotSpec {
        mode: if world.mode == "dsr" { Mode::Dsr } else { Mode::Passthrough },
        limits: Limits::default(),
        frontends,
        backends: vec![backend("v4"), backend("v6")],
    }
}

pub fn options(world: &World) -> PacketOptions {
    PacketOptions {
        capacity: 1024,
        nat_ports: PortRange { first: world.nat_ports.0, last: world.nat_ports.1 },
        dsr: if world.dsr_method == "l2" { DsrMethod::L2 } else { DsrMethod::Rewrite },
        refusal: if world.refusal == "drop" { Refusal::Drop } else { Refusal::Reset },
        ..PacketOptions::default()
    }
}

pub fn next_hops(world: &World) -> NextHops {
    let mac = |text: &str| unhex(text).expect("digits").try_into().expect("six bytes");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    NextHops::new(
        world.links.iter().map(|l| Link { ifindex: l.ifindex, mac: mac(&l.mac), mtu: l.mtu }),
        world
            .routes
            .iter()
            .map(|r| Route::by(ip(&r.network), r.prefix_len, r.ifindex, r.gateway.as_deref().map(ip))),
        world.neighbours.iter().map(|n| ((n.ifindex, ip(&n.ip)), mac(&n.mac))),
    )
}

impl Lab {
    pub fn new(world: &World) -> Self {
        Self::with(world, spec(world), options(world))
    }

    /// The passthrough world with these NAT ports and servers on `10.0.0.11`, `10.0.0.12` and so on.
    pub fn passthrough(ports: (u16, u16), servers: usize) -> Self {
        let mut world = world("passthrough");
        world.nat_ports = ports;
        set_servers(&mut world, servers, 8080);
        Self::new(&world)
    }

    /// The DSR world with this many servers.
    pub fn dsr(servers: usize) -> Self {
        let mut world = world("dsr");
        set_servers(&mut world, servers, 80);
        Self::new(&world)
    }

    pub fn with(world: &World, spec: SnapshotSpec, options: PacketOptions) -> Self {
        let config = Snapshot::first(spec, 1).expect("a snapshot");
        let snapshot = Arc::new(PacketSnapshot::build(&config, &options, None).expect("tables"));
        let worker = Worker::new(0, &snapshot);
        Self { config, options, snapshot, next_hops: next_hops(world), worker }
    }

    /// The DSR world with this many servers and a UDP frontend beside each TCP one, which remembers no flow it need
    /// not.
    pub fn minimal(servers: usize) -> Self {
        let mut world = world("dsr");
        set_servers(&mut world, servers, 80);
        let mut spec = spec(&world);
        // IPv6 would take its time and show nothing new.
        spec.frontends.retain(|f| f.listen[0].is_ipv4());
        let udp = spec.frontends.iter().map(|f| FrontendSpec {
            listen_key: Default::default(),
            name: format!("{} datagrams", f.name),
            protocol: Protocol::Udp,
            ..f.clone()
        });
        spec.frontends.extend(udp.collect::<Vec<_>>());
        let options = PacketOptions { connection_tracking: ConnectionTracking::Minimal, ..options(&world) };
        Self::with(&world, spec, options)
    }

    /// Changes the configuration as a reload does.
    pub fn reload(&mut self, change: impl FnOnce(&mut SnapshotSpec)) {
        self.reload_at(0, change);
    }

    /// Changes the configuration as a reload at this moment does.
    pub fn reload_at(&mut self, now_ms: u64, change: impl FnOnce(&mut SnapshotSpec)) {
        let mut spec = self.config.spec().clone();
        change(&mut spec);
        self.config = self.config.next(spec).expect("a snapshot");
        self.build_at(now_ms);
    }

    /// Builds the tables anew.
    pub fn build_at(&mut self, now_ms: u64) {
        let (before, now) = (Some(&*self.snapshot), Nanos::from_millis(now_ms));
        let snapshot = PacketSnapshot::build_at(&self.config, &self.options, before, now);
        self.snapshot = Arc::new(snapshot.expect("tables"));
    }

    pub fn run(&mut self, input: &Input) -> Out {
        let frame = unhex(&input.frame).expect("digits");
        let meta = FrameMeta {
            ingress_ifindex: input.ingress,
            checksum: match input.partial {
                Some((start, offset)) => Checksum::Partial { start, offset },
                None => Checksum::Complete,
            },
            gso: input.gso.map(|(kind, size)| Gso { kind, size }),
        };
        self.run_bytes(&frame, &meta, input.now_ms)
    }

    pub fn run_bytes(&mut self, frame: &[u8], meta: &FrameMeta, now_ms: u64) -> Out {
        let mut buffer = frame.to_vec();
        buffer.resize(frame.len() + convey_engine::REPLY_HEADROOM, 0xee);
        let now = Nanos::from_millis(now_ms);
        let verdict =
            process(&mut buffer, frame.len(), meta, &self.snapshot, &self.next_hops, &mut self.worker, now);
        if let Verdict::Pass(_) = verdict {
            assert_eq!(buffer[..frame.len()], *frame, "a passed frame was changed");
        }
        let out = |verdict: &str, reason: Option<String>| Out {
            verdict: verdict.into(),
            reason,
            egress: None,
            frame: None,
        };
        match verdict {
            Verdict::Forward(f) => Out {
                egress: Some(f.egress_ifindex),
                frame: Some(hex(&buffer[..f.len])),
                ..out("forward", None)
            },
            Verdict::Reply(r) => Out {
                egress: Some(r.egress_ifindex),
                frame: Some(hex(&buffer[..r.len])),
                ..out("reply", Some(format!("{}.{}", r.kind.name(), r.reason.name())))
            },
            Verdict::Pass(reason) => out("pass", Some(reason.name().into())),
            Verdict::Drop(reason) => out("drop", Some(reason.name().into())),
            Verdict::Unresolved { .. } => out("drop", Some("no_next_hop".into())),
        }
    }
}

fn set_servers(world: &mut World, servers: usize, port: u16) {
    world.servers = (0..servers)
        .map(|i| WorldServer {
            name: format!("s{}", i + 1),
            addr: format!("10.0.0.{}:{port}", 11 + i),
            weight: 1,
            up: true,
        })
        .collect();
    world.neighbours.extend((0..servers).map(|i| convey_testkit::fixture::WorldNeighbour {
        ifindex: 2,
        ip: format!("10.0.0.{}", 11 + i),
        mac: format!("0200000002{:02x}", 0x11 + i),
    }));
}

impl Out {
    pub fn frame(&self) -> Vec<u8> {
        unhex(self.frame.as_deref().unwrap_or_else(|| panic!("no frame: {self:?}"))).expect("digits")
    }
}
