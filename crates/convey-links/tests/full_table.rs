//! News beside a full routing table. With a million routes as the internet has them:
//! `CONVEY_TEST_ROUTES=1000000 cargo test -p convey-links --test full_table -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use convey_engine::Missing;
use convey_links::Wanted;
use support::{Following, Netns, host, index, ip, path};

/// Enough to tell news by the change from news by the whole table.
const ROUTES: u32 = 200_000;
const AT_MOST: Duration = Duration::from_secs(1);

fn network(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1400_0000 + (n << 8))
}

fn load(ns: &Netns, routes: u32) {
    // ip(8) keeps all lines of a batch in memory.
    for first in (0..routes).step_by(100_000) {
        let mut batch = String::new();
        for n in first..routes.min(first + 100_000) {
            writeln!(batch, "route add {}/24 via 10.0.0.254", network(n)).unwrap();
        }
        let mut command = Command::new("ip");
        let mut child = command.args(["-n", &ns.name, "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

/// Resident memory in MB and CPU time in seconds of this process.
fn usage() -> (u64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = resident.trim().trim_end_matches("kB").trim().parse().unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|at| fields[*at].parse::<f64>().unwrap()).sum();
    (kilobytes / 1024, ticks / 100.0)
}

/// Does something and tells how long it takes to have its effect.
fn timed(
    following: &Following,
    what: &str,
    change: impl FnOnce(),
    holds: impl FnMut(&Following) -> bool,
) -> Duration {
    change();
    let began = Instant::now();
    following.until(what, holds);
    let took = began.elapsed();
    println!("{what}: {:.0} ms", took.as_secs_f64() * 1e3);
    took
}

#[test]
#[ignore = "needs root, ip: makes network namespaces; some minutes with a million routes"]
fn news_of_a_route_or_neighbour_takes_effect_within_a_second_beside_a_full_table() {
    let routes = std::env::var("CONVEY_TEST_ROUTES").map_or(ROUTES, |n| n.parse().unwrap());
    let (ns, peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    ns.ip("route add default via 10.0.0.254");
    let began = Instant::now();
    load(&ns, routes);
    println!("{routes} routes loaded in {:.1} s", began.elapsed().as_secs_f64());

    let (before, _) = usage();
    let began = Instant::now();
    let following = Following::new(&ns, Wanted::default());
    let (resident, _) = usage();
    println!(
        "read in {:.2} s; {} MB ({} bytes a route)",
        began.elapsed().as_secs_f64(),
        resident - before,
        (resident - before) * 1_048_576 / u64::from(routes)
    );
    let last = format!("{}", network(routes - 1));
    assert_eq!(following.way("10.0.0.1", &last), Ok((front, ip("10.0.0.254"))));

    let mut worst = Duration::ZERO;
    let by_back = Ok((back, ip("10.1.0.254")));
    for n in 0..5 {
        let to = format!("198.51.{n}.1");
        let by = format!("198.51.{n}.0/24 via 10.1.0.254");
        let added = || ns.ip(&format!("route add {by}"));
        worst = worst.max(timed(&following, "a new route", added, |f| f.way("10.0.0.1", &to) == by_back));
        let removed = || ns.ip(&format!("route del {by}"));
        worst =
            worst.max(timed(&following, "a route withdrawn", removed, |f| f.way("10.0.0.1", &to) != by_back));
    }
    let moved = || ns.ip(&format!("route replace {last}/24 via 10.1.0.254"));
    worst = worst.max(timed(&following, "a route replaced", moved, |f| f.way("10.0.0.1", &last) == by_back));
    let default = || ns.ip("route replace default via 10.1.0.254");
    worst = worst.max(timed(&following, "the default route replaced", default, |f| {
        f.way("10.0.0.1", "203.0.113.1") == by_back
    }));

    let known = |f: &Following, address: &str| {
        let found = f.sink.next_hops.lock().unwrap().clone().lookup(&path("10.0.0.1", address));
        if let Err(Missing::Neighbour { ifindex, address }) = found {
            f.wake.resolve(ifindex, address);
        }
        found.ok().map(|hop| hop.destination)
    };
    for n in 1..=3 {
        let address = format!("10.1.0.{n}7");
        peer.ip(&format!("addr add {address}/24 dev back"));
        worst = worst.max(timed(&following, "a new neighbour", || (), |f| known(f, &address).is_some()));
    }
    // An address that goes may take routes with it without a word: all are read again, and nothing waits for it.
    ns.ip("addr add 10.7.0.1/24 dev back");
    ns.ip("addr del 10.7.0.1/24 dev back");
    peer.ip("addr add 10.1.0.99/24 dev back");
    worst = worst.max(timed(
        &following,
        "a new neighbour while all is read",
        || (),
        |f| known(f, "10.1.0.99").is_some(),
    ));
    let added = || ns.ip("route add 198.51.200.0/24 via 10.1.0.254");
    worst = worst.max(timed(&following, "a new route while all is read", added, |f| {
        f.way("10.0.0.1", "198.51.200.1") == by_back
    }));

    let (_, cpu) = usage();
    std::thread::sleep(Duration::from_secs(3));
    let (settled, _) = usage();
    // As a router does at a border: some hundred changes a second.
    let began = Instant::now();
    for n in 0..1000u32 {
        ns.ip(&format!("route replace {}/24 via 10.{}.0.254", network(n * 97 % routes), 1 - n % 2));
    }
    let took = began.elapsed().as_secs_f64();
    let (churned, after) = usage();
    println!(
        "1000 changes in {took:.1} s: {:.2} s of CPU since; {} MB settled, {} MB then",
        after - cpu,
        settled - before,
        churned - before
    );
    assert!(worst < AT_MOST, "{worst:?}");
    assert_eq!(following.sink.warnings.lock().unwrap().len(), 0);
    drop(following);
}
