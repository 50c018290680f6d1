//! Which server a connection gets, and what happens when that one does not answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{Event, Reason};
use lab::{Lab, black_hole, echo, named, read_all, refusing, serve, spec, wait_until};

/// How many of `connections`, over several threads, each server got.
fn shares(lab: &Lab, connections: usize) -> HashMap<String, usize> {
    let answers: Vec<String> = thread::scope(|s| {
        let clients: Vec<_> = (0..3)
            .map(|t| {
                s.spawn(move || {
                    (0..connections)
                        .filter(|n| n % 3 == t)
                        .map(|_| String::from_utf8(read_all(&mut lab.connect())).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    let mut shares = HashMap::new();
    answers.into_iter().for_each(|name| *shares.entry(name).or_insert(0) += 1);
    shares
}

fn expect_shares(lab: &Lab, connections: usize, expected: &[(&str, usize)]) {
    let expected: HashMap<String, usize> = expected.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
    assert_eq!(shares(lab, connections), expected);
}

#[test]
fn shares_by_weight_are_exact_over_all_threads_and_a_weight_of_zero_gets_none() {
    let mut spec = spec(&[serve(named("a")), serve(named("b"))]);
    let lab = Lab::start_with(spec.clone(), 3);
    expect_shares(&lab, 30, &[("a", 15), ("b", 15)]);
    spec.backends[0].servers[1].weight = 2;
    lab.install(spec.clone());
    expect_shares(&lab, 30, &[("a", 10), ("b", 20)]);
    spec.backends[0].servers[0].weight = 0;
    lab.install(spec.clone());
    expect_shares(&lab, 9, &[("b", 9)]);
    spec.backends[0].servers[0].weight = 2;
    lab.install(spec.clone());
    expect_shares(&lab, 30, &[("a", 15), ("b", 15)]);
    spec.backends[0].servers[0].draining = true;
    lab.install(spec.clone());
    expect_shares(&lab, 6, &[("b", 6)]);
    lab.wait_idle();
    assert_eq!(lab.totals(), [105; 4]);
}

#[test]
fn a_refused_connect_goes_to_another_server_and_is_counted_and_reported() {
    let lab = Lab::start(spec(&[refusing(), serve(named("b"))]));
    expect_shares(&lab, 10, &[("b", 10)]);
    lab.wait_idle();
    let snapshot = lab.snapshot();
    let [dead, alive] = &snapshot.backends[0].servers[..] else { panic!("two servers") };
    assert_eq!((dead.counters.total(), alive.counters.total()), (0, 10));
    let refused = dead.reasons.get(Reason::ConnectRefused);
    assert!(refused >= 5, "{refused}");
    assert_eq!(lab.count(Reason::ConnectRefused), refused);
    assert_eq!(lab.count(Reason::RetriesExhausted), 0);
    let events = lab.events.lock().unwrap();
    let Some(Event::ServerConnectFailed { backend, server, cause }) = events.first() else {
        panic!("{events:?}")
    };
    assert_eq!((&**backend, &**server), ("pool", "s0"));
    assert!(cause.contains("refused"), "{cause}");
}

#[test]
fn a_server_that_does_not_answer_in_time_is_given_up_for_another_and_no_byte_is_lost() {
    let hole = black_hole();
    let mut spec = spec(&[hole.addr, serve(echo)]);
    spec.backends[0].connect_timeout = Duration::from_millis(300);
    let lab = Lab::start(spec);
    let start = Instant::now();
    let mut client = lab.connect();
    client.write_all(b"sent before any server was connected").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), b"sent before any server was connected");
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(3));
    lab.wait_idle();
    lab.wait_count(Reason::ConnectTimeout, 1);
}

#[test]
fn a_client_that_leaves_during_a_connect_frees_its_places_at_once_and_no_server_is_blamed() {
    let hole = black_hole();
    let mut spec = spec(&[hole.addr]);
    spec.backends[0].connect_timeout = lab::PATIENCE * 2;
    spec.backends[0].servers[0].max_connections = 1;
    let lab = Lab::start(spec);
    for round in 1..=3 {
        let mut client = lab.connect();
        client.write_all(b"sent before any server was connected").unwrap();
        wait_until("the connect is under way", || {
            lab.gauges()[0] == 1 && lab.snapshot().backends[0].servers[0].counters.open() == 1
        });
        lab::reset(client);
        lab.wait_idle();
        lab.wait_count(Reason::ClientReset, round);
    }
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::ClientReset), 3);
    let server = &lab.snapshot().backends[0].servers[0];
    assert!(Reason::ALL.iter().all(|reason| server.reasons.get(*reason) == 0));
    assert!(lab.events.lock().unwrap().is_empty());
}

#[test]
fn no_more_servers_are_tried_than_allowed_and_none_twice() {
    let mut spec = spec(&[refusing(), refusing(), refusing(), refusing()]);
    spec.backends[0].retries = 2;
    let lab = Lab::start(spec.clone());
    assert_eq!(read_all(&mut lab.connect()), b"");
    lab.wait_count(Reason::RetriesExhausted, 1);
    assert_eq!(lab.count(Reason::ConnectRefused), 3);
    spec.backends[0].retries = 9;
    lab.install(spec);
    assert_eq!(read_all(&mut lab.connect()), b"");
    lab.wait_count(Reason::RetriesExhausted, 2);
    assert_eq!(lab.count(Reason::ConnectRefused), 7);
    lab.wait_idle();
    assert_eq!(lab.totals(), [2, 2, 0, 0]);
}

#[test]
fn reports_of_a_dead_server_are_thinned() {
    let mut spec = spec(&[refusing()]);
    spec.backends[0].retries = 0;
    let lab = Lab::start(spec);
    let start = Instant::now();
    (0..100).for_each(|_| assert_eq!(read_all(&mut lab.connect()), b""));
    lab.wait_count(Reason::ConnectRefused, 100);
    let reports = lab.events.lock().unwrap().len();
    let allowed = 1 + start.elapsed().as_millis() as usize / 100;
    assert!((1..=allowed).contains(&reports), "{reports} reports, {allowed} allowed");
}

#[test]
fn without_a_server_the_client_is_closed_promptly_and_counted() {
    let mut spec = spec(&[serve(echo)]);
    spec.backends[0].servers[0].up = false;
    let lab = Lab::start(spec);
    let start = Instant::now();
    assert_eq!(read_all(&mut lab.connect()), b"");
    assert!(start.elapsed() < Duration::from_millis(500));
    lab.wait_count(Reason::NoServer, 1);
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::NoServer), 1);
    lab.wait_idle();
}

#[test]
fn a_server_that_leaves_keeps_its_open_connections() {
    let mut spec = spec(&[serve(echo), serve(echo)]);
    let lab = Lab::start(spec.clone());
    let mut clients = [lab.connect(), lab.connect()];
    wait_until("both stand", || lab.gauges() == [2; 4]);
    spec.backends[0].servers.remove(0);
    spec.backends[0].servers[0].up = false;
    lab.install(spec);
    for client in &mut clients {
        client.write_all(b"on").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
    }
    drop(clients);
    lab.wait_idle();
}

#[test]
fn families_mix_from_ipv6_clients_to_ipv4_servers_and_back() {
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let six: SocketAddr = lab::serve_on(six, echo);
    for (listen, server) in [("[::1]:0", serve(echo)), ("127.0.0.1:0", six), ("[::]:0", six)] {
        let mut spec = spec(&[server]);
        spec.frontends[0].listen = vec![listen.parse().unwrap()];
        let lab = Lab::start(spec);
        let mut addr = lab.addr();
        if addr.ip().is_unspecified() {
            addr.set_ip(Ipv6Addr::LOCALHOST.into());
        }
        let mut client = lab::connect(addr);
        client.write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), b"hello");
    }
}

#[test]
fn a_thousand_short_connections_at_once_leave_nothing_behind() {
    let lab = Arc::new(Lab::start(spec(&[serve(echo), serve(echo), refusing()])));
    thread::scope(|s| {
        for seed in 0..50 {
            let lab = &lab;
            s.spawn(move || {
                let mut random = lab::Random::new(seed);
                for _ in 0..20 {
                    let mut client = lab.connect();
                    let data = {
                        let size = random.below(20_000) as usize;
                        random.bytes(size)
                    };
                    match random.below(4) {
                        0 => drop(client),
                        1 => lab::reset(client),
                        _ => {
                            client.write_all(&data).unwrap();
                            client.shutdown(std::net::Shutdown::Write).unwrap();
                            assert!(read_all(&mut client) == data);
                        }
                    }
                }
            });
        }
    });
    lab.wait_idle();
}
