//! Kernel programs and the portable engine's flow table read each other's flows and NAT ports: the maps' bytes are
//! carried from one to the other and back.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use convey_bpf::tables::{
    CLIENT_HOP_BYTES, Config, Frontend, Hop, Method, STATES, Server, Standing, client_hop,
};
use convey_core::conntrack::{Flow, FlowId, FlowKey, FlowState, FlowTable, Ticks, flags};
use convey_core::nat_ports::{Partition, PortPool, PortUse};
use convey_testkit::PacketBuilder;
use convey_testkit::build::{ACK, SYN};
use convey_xdp::kernel::{Hook, Image, Kernel, Path, Sizes};
use lab::tables::{LIFETIME, SEED, now};

const REDIRECT: u32 = 7;
/// Room for 90 half-open flows, a quarter of the entries.
const SETS4: u32 = 96;
const SETS6: u32 = 192;
const NAT: Partition = Partition { first: 20_000, last: 20_099, stride: 1, remainder: 0 };
const HOP: Hop =
    Hop { ifindex: 1, mtu: 1500, on_link: true, destination: [2, 0, 0, 0, 2, 1], source: [2, 0, 0, 0, 2, 2] };

/// One of the four: mode and family. Servers 0 and 1 are there; whoever is new gets 0.
#[derive(Debug, Clone, Copy)]
struct Setup {
    passthrough: bool,
    v6: bool,
}

impl Setup {
    const ALL: [Self; 4] = [
        Self { passthrough: true, v6: false },
        Self { passthrough: true, v6: true },
        Self { passthrough: false, v6: false },
        Self { passthrough: false, v6: true },
    ];

    fn vip(self) -> SocketAddr {
        if self.v6 { "[2001:db8::10]:80" } else { "192.0.2.10:80" }.parse().unwrap()
    }

    fn server(self, i: u16) -> SocketAddr {
        let ip = if self.v6 { format!("[2001:db8:1::{}]", i + 1) } else { format!("10.1.0.{}", i + 1) };
        format!("{ip}:8080").parse().unwrap()
    }

    fn client(self, port: u16) -> SocketAddr {
        if self.v6 { format!("[2001:db8:c::7:9]:{port}") } else { format!("198.51.100.7:{port}") }
            .parse()
            .unwrap()
    }

    fn key(self, client: SocketAddr) -> FlowKey {
        let address = match client.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let port = if self.passthrough { 0 } else { 80 };
        FlowKey { client: address, client_port: client.port(), port, frontend: 0 }
    }
}

struct Lab {
    setup: Setup,
    kernel: Kernel,
}

/// What Rust has of the maps.
struct Tables {
    flows: FlowTable,
    /// By server.
    ports: [PortPool; 2],
}

impl Lab {
    fn new(setup: Setup) -> Self {
        let Setup { passthrough, .. } = setup;
        let method = if passthrough { Method::Nat } else { Method::Rewrite };
        let server = |i| {
            let address = setup.server(i);
            Some(Server { address, method, standing: Standing::Up, max_connections: 0, hop: HOP })
        };
        let path = |i| Path { nat: setup.vip().ip(), server: setup.server(i).ip(), port: 8080, protocol: 6 };
        let image = Image {
            config: Config {
                seed: SEED,
                lifetimes: [LIFETIME; STATES],
                half_open_max: 1000,
                ..Config::default()
            },
            frontends: vec![Some(Frontend {
                listen: setup.vip(),
                protocol: 6,
                left: false,
                backend: 0,
                max_connections: 0,
                source_prefix: 0,
                access: false,
                nat_sources: vec![setup.vip().ip()],
            })],
            servers: vec![server(0), server(1)],
            paths: vec![Some(path(0)), Some(path(1))],
            tables: vec![Some(vec![0; 65_537])],
            access: Vec::new(),
        };
        let sizes = Sizes {
            passthrough,
            minimal: false,
            sets4: SETS4,
            sets6: SETS6,
            nat_first: NAT.first,
            nat_width: NAT.len() as u32,
            paths: 2,
            frontends: 4,
            servers: 4,
            backends: 1,
            ring_bytes: 1 << 16,
        };
        let mut kernel = Kernel::load_for_test_runs(Hook::Tc, &sizes).unwrap();
        kernel.install(&image).unwrap();
        let (at, value) = client_hop(setup.client(1).ip(), HOP, 0);
        let mut map: PerCpuArray<_, [u8; CLIENT_HOP_BYTES]> =
            kernel.ebpf.map_mut("client_hops").unwrap().try_into().unwrap();
        let cpus = map.get(&at, 0).unwrap().len();
        map.set(at, PerCpuValues::try_from(vec![value; cpus]).unwrap(), 0).unwrap();
        Self { setup, kernel }
    }

    /// The frame that leaves.
    fn forwards(&self, packet: &PacketBuilder) -> Vec<u8> {
        let mut sent = vec![0; 256];
        let frame = packet.build();
        let program: &SchedClassifier = self.kernel.ebpf.program("convey_tc").unwrap().try_into().unwrap();
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut sent), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        assert_eq!(result.return_value, REDIRECT, "{:?}", self.setup);
        sent.truncate(result.data_size_out as usize);
        sent
    }

    fn tables(&self) -> Tables {
        let flows = lab::tables::flows(&self.kernel, self.setup.passthrough);
        Tables { flows, ports: lab::tables::pools(&self.kernel, NAT) }
    }

    fn put(&mut self, Tables { flows, ports }: Tables) {
        lab::tables::put_flows(&mut self.kernel, flows);
        lab::tables::put_pools(&mut self.kernel, ports);
    }
}

/// Port number `offset` bytes behind the Ethernet and IP headers.
fn port_at(frame: &[u8], setup: Setup, offset: usize) -> u16 {
    let at = if setup.v6 { 54 } else { 34 } + offset;
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn destination(frame: &[u8], setup: Setup) -> IpAddr {
    if setup.v6 {
        <[u8; 16]>::try_from(&frame[38..54]).unwrap().into()
    } else {
        <[u8; 4]>::try_from(&frame[30..34]).unwrap().into()
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn the_flow_table_finds_what_a_kernel_program_began_and_who_holds_its_port() {
    for setup in Setup::ALL {
        let lab = Lab::new(setup);
        // Some more than the chain's first sets have room for.
        let clients: Vec<SocketAddr> = (0..90).map(|i| setup.client(40_000 + i)).collect();
        let syn = |client: &SocketAddr| {
            PacketBuilder::syn(&client.to_string(), &setup.vip().to_string())
                .seq(7000, 0)
                .window(1000)
                .tcp_options(&[3, 3, 5, 0])
        };
        let sent: Vec<Vec<u8>> = clients.iter().map(|client| lab.forwards(&syn(client))).collect();
        let Tables { flows, ports } = lab.tables();
        assert_eq!((flows.len(), flows.half_open()), (90, 90), "{setup:?}");
        for (client, sent) in clients.iter().zip(&sent) {
            let key = setup.key(*client);
            let id = flows.lookup(&key, now()).unwrap_or_else(|| panic!("{setup:?} {client}"));
            let flow = flows.get(id).unwrap();
            assert_eq!(flow.key(), key);
            let want = Flow {
                client: key.client,
                client_port: key.client_port,
                port: key.port,
                state: FlowState::SynSent,
                next: [7001, 7000],
                window: [10, 0],
                scale: [5, 0],
                last_seen: flow.last_seen,
                claim: 1,
                flags: if setup.passthrough { flags::HAS_PORT } else { 0 },
                nat_port: if setup.passthrough { port_at(sent, setup, 0) } else { 0 },
                ..Flow::default()
            };
            assert_eq!(flow, want, "{setup:?}");
            assert!(now().since(Ticks(flow.last_seen)) < 10_000);
            if setup.passthrough {
                assert_eq!(ports[0].owner(flow.nat_port), Some(id.bits() + 1));
            }
        }
        assert_eq!(ports[0].held(), if setup.passthrough { 90 } else { 0 });
        assert_eq!(ports[1].held(), 0);
        // What passed a full set is counted there, and taken back with the flow.
        flows.take_all(|flow| {
            if flow.has(flags::HAS_PORT) {
                let owner = ports[0].owner(flow.nat_port).unwrap();
                assert!(ports[0].release(flow.nat_port, owner, now()));
            }
        });
        assert_eq!((flows.len(), ports[0].held()), (0, 0));
        for [_, spills] in flows.into_shared_memory() {
            assert!(spills.iter().all(|spills| spills.load(Relaxed) == 0), "{setup:?}");
        }
    }
}

/// Begins a confirmed flow to server 1, which no newcomer would get.
fn begin(tables: &mut Tables, setup: Setup, client: SocketAddr) -> FlowId {
    let key = setup.key(client);
    let found = tables.flows.find(&key, now());
    assert_eq!(found.live, None);
    let claim = tables.flows.claim(&found, false, now(), |_| ()).unwrap();
    let owner = claim.id().bits() + 1;
    let mut flow = Flow {
        client: key.client,
        client_port: key.client_port,
        port: key.port,
        server: 1,
        state: FlowState::Established,
        next: [1000, 5000],
        window: [16, 16],
        last_seen: now().0,
        ..Flow::default()
    };
    if setup.passthrough {
        flow.nat_port =
            tables.ports[1].take(owner, u32::from(client.port()) << 20, now(), |_| true).unwrap().port;
        assert!(tables.ports[1].used_for(flow.nat_port, owner, PortUse::Connection, now()));
        flow.pool = 1;
        flow.flags = flags::HAS_PORT;
    }
    tables.flows.publish(claim, &mut flow, |_| {}).expect("nobody else begins this flow")
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_kernel_program_goes_on_with_what_the_flow_table_began_and_tells_it_so() {
    for setup in Setup::ALL {
        let mut lab = Lab::new(setup);
        let clients: Vec<SocketAddr> = (0..90).map(|i| setup.client(40_000 + i)).collect();
        let mut tables = lab.tables();
        let ids: Vec<FlowId> = clients.iter().map(|client| begin(&mut tables, setup, *client)).collect();
        let began: Vec<Flow> = ids.iter().map(|id| tables.flows.get(*id).unwrap()).collect();
        lab.put(tables);
        let vip = setup.vip().to_string();
        for (client, flow) in clients.iter().zip(&began) {
            let data = PacketBuilder::tcp(&client.to_string(), &vip).seq(1000, 5000).payload(&[0; 10]);
            let sent = lab.forwards(&data);
            assert_eq!(destination(&sent, setup), setup.server(1).ip(), "{setup:?}");
            if !setup.passthrough {
                continue;
            }
            assert_eq!(port_at(&sent, setup, 0), flow.nat_port);
            let nat = SocketAddr::new(setup.vip().ip(), flow.nat_port).to_string();
            let answer =
                PacketBuilder::tcp(&setup.server(1).to_string(), &nat).seq(5000, 1010).payload(&[0; 20]);
            let sent = lab.forwards(&answer);
            assert_eq!((destination(&sent, setup), port_at(&sent, setup, 2)), (client.ip(), client.port()));
        }
        let Tables { flows, ports } = lab.tables();
        for (id, flow) in ids.iter().zip(&began) {
            let server = if setup.passthrough { 5020 } else { 5000 };
            let have = flows.get(*id).unwrap();
            assert_eq!(have.next, [1010, server], "{setup:?}");
            assert_eq!(have.in_flight[0], 0);
            assert_eq!(have.key(), flow.key());
            assert_eq!((have.state, have.server, have.flags), (flow.state, flow.server, flow.flags));
        }
        assert_eq!(flows.len(), 90, "{setup:?}: none was begun anew");
        // And the program's reset ends the flow, whose port is held as that of a closed one.
        let reset = PacketBuilder::tcp(&clients[0].to_string(), &vip).flags(convey_testkit::build::RST | ACK);
        lab.forwards(&reset.seq(1010, 5020));
        let tables = lab.tables();
        assert_eq!(tables.flows.get(ids[0]).unwrap().state, FlowState::Closed);
        if setup.passthrough {
            assert_eq!(tables.ports[1].held(), 90);
            assert_eq!(tables.ports[1].owner(began[0].nat_port), ports[1].owner(began[0].nat_port));
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn every_nat_port_of_a_path_is_handed_out_before_one_is_refused() {
    let setup = Setup { passthrough: true, v6: false };
    let lab = Lab::new(setup);
    let vip = setup.vip().to_string();
    let answer = |nat_port: u16| {
        let nat = SocketAddr::new(setup.vip().ip(), nat_port).to_string();
        PacketBuilder::tcp(&setup.server(0).to_string(), &nat).flags(SYN | ACK).seq(5000, 1)
    };
    let mut taken: Vec<u16> = (0..100)
        .map(|i| {
            let client = setup.client(40_000 + i).to_string();
            let port = port_at(&lab.forwards(&PacketBuilder::syn(&client, &vip).seq(0, 0)), setup, 0);
            lab.forwards(&answer(port));
            lab.forwards(&PacketBuilder::tcp(&client, &vip).seq(1, 5001));
            port
        })
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, (20_000..20_100).collect::<Vec<u16>>());
    assert_eq!(lab.tables().ports[0].held(), 100);
}
