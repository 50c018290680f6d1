//! Prints what finding a packet's way costs: `cargo run --release -p convey-engine --example bench_next_hops`.
//!
//! Answers of servers to 1, 256 and 64 K clients behind one gateway, in turn and in an order that no cache foresees,
//! with the few routes of a small network and with a routing table of 100,000; and the look-up alone.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use common::Lab;
use convey_engine::{FrameMeta, Link, Nanos, NextHops, Path, REPLY_HEADROOM, Route, Verdict, process};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, SYN};

fn client(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc633_0000 + (n & 0xffff)).into()
}

/// The small network's, and `more` networks elsewhere that lead to the same gateway.
fn table(world: &convey_testkit::fixture::World, more: u32) -> NextHops {
    let mac = |text: &str| convey_testkit::unhex(text).expect("digits").try_into().expect("six bytes");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let few = world
        .routes
        .iter()
        .map(|r| Route::by(ip(&r.network), r.prefix_len, r.ifindex, r.gateway.as_deref().map(ip)));
    let gateway =
        world.routes.iter().find_map(|r| Some((r.ifindex, ip(r.gateway.as_deref()?)))).expect("a gateway");
    let many = (0..more).map(|n| {
        let network = Ipv4Addr::from_bits(0x1400_0000 + (n << 10)).into();
        Route::by(network, 11 + (n % 14) as u8, gateway.0, Some(gateway.1))
    });
    NextHops::new(
        world.links.iter().map(|l| Link { ifindex: l.ifindex, mac: mac(&l.mac), mtu: l.mtu }),
        few.chain(many),
        world.neighbours.iter().map(|n| ((n.ifindex, ip(&n.ip)), mac(&n.mac))),
    )
}

fn least(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn answers(clients: u32, routes: u32) {
    let mut world = common::world("passthrough");
    world.nat_ports = (1024, 65535);
    let count = 4u8;
    world.servers.clear();
    for i in 0..count {
        world.servers.push(convey_testkit::fixture::WorldServer {
            name: format!("s{i}"),
            addr: format!("10.0.0.{}:8080", i + 11),
            weight: 1,
            up: true,
        });
        world.neighbours.push(convey_testkit::fixture::WorldNeighbour {
            ifindex: 2,
            ip: format!("10.0.0.{}", i + 11),
            mac: format!("0200000002{:02x}", i + 11),
        });
    }
    let options =
        convey_engine::PacketOptions { capacity: 2 * clients.max(64) as usize, ..common::options(&world) };
    let mut lab = Lab::with(&world, common::spec(&world), options);
    lab.next_hops = table(&world, routes);
    let vip = "192.0.2.10:80";
    let mut questions = Vec::new();
    let mut answers = Vec::new();
    let meta = |ingress_ifindex| FrameMeta { ingress_ifindex, ..FrameMeta::default() };
    let mut run = |frame: &[u8], ingress| lab.run_bytes(frame, &meta(ingress), 1000).frame();
    for n in 0..clients {
        let name = format!("{}:2000", client(n));
        let from_client = |p: P| p.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
        let out = run(&from_client(P::syn(&name, vip)), 1);
        let server = format!("10.0.0.{}:8080", out[33]);
        let nat = format!("192.0.2.10:{}", u16::from_be_bytes([out[34], out[35]]));
        let from_server = |p: P| p.macs([2, 0, 0, 0, 2, 1], [2, 0, 0, 0, 2, out[33]]).build();
        run(&from_server(P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001)), 2);
        run(&from_client(P::tcp(&name, vip).seq(1001, 5001)), 1);
        questions.push(from_client(P::tcp(&name, vip).seq(1001, 5001)));
        answers.push(from_server(P::tcp(&server, &nat).seq(5001, 1001)));
    }
    let scattered: Vec<usize> = (0..clients.max(4096))
        .map(|i| ((u64::from(i.wrapping_mul(2_654_435_761)) * u64::from(clients)) >> 32) as usize)
        .collect();
    let in_turn: Vec<usize> = (0..clients.max(4096) as usize).map(|i| i % clients as usize).collect();
    for (order, name) in [(&in_turn, "in turn"), (&scattered, "scattered")] {
        for (frames, ingress, direction) in [(&questions, 1, "to servers"), (&answers, 2, "to clients")] {
            let mut buffer = vec![0; 128 + REPLY_HEADROOM];
            let ns = least(60, || {
                let start = Instant::now();
                for at in order {
                    let frame = &frames[*at];
                    buffer[..frame.len()].copy_from_slice(frame);
                    let now = Nanos::from_millis(1001);
                    let hops = &lab.next_hops;
                    let verdict = process(
                        &mut buffer,
                        frame.len(),
                        &meta(ingress),
                        &lab.snapshot,
                        hops,
                        &mut lab.worker,
                        now,
                    );
                    assert!(matches!(black_box(verdict), Verdict::Forward(_)));
                }
                start.elapsed().as_nanos() as f64 / order.len() as f64
            });
            println!("process {direction}, {clients:>6} clients {name}, {routes:>7} routes: {ns:>6.1} ns");
        }
    }
    let source: IpAddr = "192.0.2.10".parse().expect("an address");
    let ns = least(60, || {
        let start = Instant::now();
        for at in &scattered {
            let path = Path { source, destination: client(*at as u32), ingress: 2 };
            let _ = black_box(lab.next_hops.lookup(black_box(&path)));
        }
        start.elapsed().as_nanos() as f64 / scattered.len() as f64
    });
    println!("look-up alone, {clients:>6} clients scattered, {routes:>7} routes: {ns:>6.1} ns");
}

fn main() {
    for routes in [0, 100_000] {
        for clients in [1, 256, 1 << 16] {
            answers(clients, routes);
        }
    }
}
