//! Limits, and what a refused client sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use convey_core::{AccessList, AdmissionSpec, Rate, Reason, SnapshotSpec};
use lab::{Lab, echo, serve, spec, wait_until};

/// Whether a client is served (and the connection, if so).
fn enter(addr: SocketAddr) -> Option<TcpStream> {
    let mut client = lab::connect(addr);
    let mut answer = [0];
    (client.write_all(b"?").is_ok() && client.read_exact(&mut answer).is_ok()).then_some(client)
}

/// Holds `limit` connections, sees that the next ones are refused for `reason`, and that a place is free again
/// when one ends.
fn expect_limit(spec: SnapshotSpec, limit: usize, reason: Reason) {
    let lab = Lab::start(spec);
    let addr = lab.addr();
    let mut inside: Vec<TcpStream> = (0..limit).map(|_| enter(addr).unwrap()).collect();
    for refused in 1..=3 {
        assert!(enter(addr).is_none());
        lab.wait_count(reason, refused);
    }
    assert_eq!(lab.snapshot().frontends[0].reasons.get(reason), 3);
    assert_eq!(lab.gauges(), [limit as u64; 4]);
    inside.pop();
    wait_until("a place is free", || lab.gauges() == [limit as u64 - 1; 4]);
    inside.push(enter(addr).unwrap());
    assert!(enter(addr).is_none());
    drop(inside);
    lab.wait_idle();
}

#[test]
fn the_limit_in_total_is_held_and_counted() {
    let mut spec = spec(&[serve(echo)]);
    spec.limits.max_connections = 3;
    expect_limit(spec, 3, Reason::LimitTotal);
}

#[test]
fn the_limit_of_a_frontend_is_held_and_counted() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].max_connections = 2;
    expect_limit(spec, 2, Reason::LimitFrontend);
}

#[test]
fn the_limit_of_a_client_address_is_held_and_counted() {
    let mut spec = spec(&[serve(echo)]);
    spec.limits.max_connections_per_client = 2;
    expect_limit(spec, 2, Reason::LimitClient);
}

#[test]
fn servers_that_are_all_at_their_limit_get_no_more_and_the_client_is_closed() {
    let mut spec = spec(&[serve(echo), serve(echo)]);
    spec.backends[0].servers.iter_mut().for_each(|s| s.max_connections = 1);
    expect_limit(spec, 2, Reason::LimitServer);
}

#[test]
fn one_client_address_at_its_limit_does_not_keep_another_out() {
    let mut spec = spec(&[serve(echo)]);
    spec.limits.max_connections_per_client = 1;
    let lab = Lab::start(spec);
    let _inside = enter(lab.addr()).unwrap();
    assert!(enter(lab.addr()).is_none());
    assert!(enter_from("127.0.0.2", lab.addr()).is_some());
}

/// As [`enter`], from this address.
fn enter_from(source: &str, addr: SocketAddr) -> Option<TcpStream> {
    let source: IpAddr = source.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut client: TcpStream = socket.into();
    client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    (client.write_all(b"?").is_ok() && client.read_exact(&mut [0]).is_ok()).then_some(client)
}

fn access(allow: &[&str], deny: &[&str]) -> AdmissionSpec {
    let parse = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>();
    let access = AccessList::new(&parse(allow), &parse(deny)).unwrap().map(Into::into);
    AdmissionSpec { access, ..AdmissionSpec::default() }
}

#[test]
fn a_client_that_is_denied_is_closed_and_counted_and_takes_no_place() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].admission = access(&["127.0.0.0/8"], &["127.0.0.1"]);
    spec.frontends[0].max_connections = 1;
    let lab = Lab::start(spec);
    for refused in 1..=3 {
        assert!(enter(lab.addr()).is_none());
        lab.wait_count(Reason::Denied, refused);
    }
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::Denied), 3);
    assert!(enter_from("127.0.0.2", lab.addr()).is_some());
    assert_eq!(lab.totals(), [1; 4]);
}

#[test]
fn a_reload_that_denies_a_client_leaves_its_open_connections_and_refuses_new_ones() {
    let mut spec = spec(&[serve(echo)]);
    let lab = Lab::start(spec.clone());
    let mut open = enter(lab.addr()).unwrap();
    spec.frontends[0].admission = access(&[], &["127.0.0.0/8"]);
    lab.install(spec.clone());
    assert!(enter(lab.addr()).is_none());
    open.write_all(b"!").unwrap();
    open.read_exact(&mut [0]).unwrap();
    spec.frontends[0].admission = AdmissionSpec::default();
    lab.install(spec);
    assert!(enter(lab.addr()).is_some());
}

/// How many of `tries` connections one after the other are served, and the most that a rate of one a second lets in.
fn hurry(tries: usize, burst: usize, mut enter: impl FnMut() -> Option<TcpStream>) -> (usize, usize) {
    let begin = Instant::now();
    let served = (0..tries).filter(|_| enter().is_some()).count();
    (served, burst + begin.elapsed().as_secs() as usize + 1)
}

#[test]
fn connections_beyond_the_rate_of_a_frontend_are_closed_and_counted_whoever_comes() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].admission.rate = Some(Rate::new(1, 5));
    let lab = Lab::start(spec.clone());
    let addr = lab.addr();
    let mut n = 0;
    let (served, most) = hurry(30, 5, || {
        n += 1;
        enter_from(&format!("127.0.1.{n}"), addr)
    });
    assert!((5..=most).contains(&served), "{served} of at most {most}");
    lab.wait_count(Reason::RateFrontend, 30 - served as u64);
    assert_eq!(lab.totals(), [served as u64; 4]);
    lab.wait_idle();
    // What was used up stays so when the configuration changes.
    spec.frontends[0].max_connections = 100;
    spec.frontends[0].admission.rate = Some(Rate::new(1, 1));
    lab.install(spec.clone());
    let (served, most) = hurry(5, 1, || enter(addr));
    assert!(served <= most);
    spec.frontends[0].admission.rate = None;
    lab.install(spec);
    assert_eq!(hurry(20, 0, || enter(addr)).0, 20);
}

#[test]
fn a_client_beyond_its_rate_is_closed_and_counted_and_others_are_not() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].admission.client_rate = Some(Rate::new(1, 3));
    let lab = Lab::start_with(spec, 3);
    let addr = lab.addr();
    let (served, most) = hurry(20, 3, || enter(addr));
    assert!((3..=most).contains(&served), "{served} of at most {most}");
    lab.wait_count(Reason::RateClient, 20 - served as u64);
    for n in 1..=20 {
        assert!(enter_from(&format!("127.0.1.{n}"), addr).is_some());
    }
}

#[test]
fn a_limit_set_by_reload_counts_the_connections_that_are_open_already() {
    let mut spec = spec(&[serve(echo)]);
    let lab = Lab::start(spec.clone());
    let _inside = [enter(lab.addr()).unwrap(), enter(lab.addr()).unwrap()];
    spec.limits.max_connections_per_client = 2;
    lab.install(spec);
    assert!(enter(lab.addr()).is_none());
    lab.wait_count(Reason::LimitClient, 1);
}

#[test]
fn a_limit_is_never_passed_when_many_clients_come_at_once() {
    let mut spec = spec(&[serve(echo)]);
    spec.limits.max_connections = 5;
    let lab = Lab::start_with(spec, 3);
    let addr = lab.addr();
    for _ in 0..5 {
        let inside: Vec<TcpStream> = thread::scope(|s| {
            let tries: Vec<_> = (0..30).map(|_| s.spawn(|| enter(addr))).collect();
            tries.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(inside.len(), 5);
        drop(inside);
        lab.wait_idle();
    }
}
