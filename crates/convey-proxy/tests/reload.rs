//! New snapshots under a running proxy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use convey_proxy::{Proxy, ProxyError};
use lab::{Lab, echo, frontend, named, read_all, serve, spec};

#[test]
fn a_hundred_reloads_under_load_fail_no_connection() {
    let mut spec = spec(&[serve(named("served")), serve(named("served"))]);
    let lab = Lab::start(spec.clone());
    spec.frontends[0].listen = vec![lab.addr()];
    let (addr, over) = (lab.addr(), AtomicBool::new(false));
    let connections = AtomicU64::new(0);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while !over.load(SeqCst) {
                    assert_eq!(read_all(&mut lab::connect(addr)), b"served");
                    connections.fetch_add(1, SeqCst);
                }
            });
        }
        for round in 0..100_u16 {
            spec.backends[0].servers[0].weight = round % 3;
            spec.frontends.truncate(1);
            if round % 2 == 0 {
                spec.frontends.push(frontend("second", "127.0.0.1:0"));
            }
            lab.install(spec.clone());
            thread::sleep(std::time::Duration::from_millis(5));
        }
        over.store(true, SeqCst);
    });
    lab.wait_idle();
    let connections = connections.load(SeqCst);
    assert!(connections > 100, "{connections}");
    assert_eq!(lab.totals(), [connections; 4]);
}

#[test]
fn frontends_come_and_go_and_open_connections_of_those_that_go_stay() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends.push(frontend("second", "127.0.0.1:0"));
    let lab = Lab::start(spec.clone());
    let second = lab.addr_of("second");
    let mut client = lab::connect(second);
    client.write_all(b"a").unwrap();
    client.read_exact(&mut [0]).unwrap();

    spec.frontends[1] = frontend("third", "127.0.0.1:0");
    lab.install(spec);
    assert!(TcpStream::connect(second).is_err(), "the removed frontend still listens");
    client.write_all(b"b").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let mut third = lab::connect(lab.addr_of("third"));
    third.write_all(b"c").unwrap();
    third.read_exact(&mut [0]).unwrap();
}

/// Free ports of loopback, as far as anybody can tell.
fn free(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

#[test]
fn addresses_of_a_frontend_come_and_go_and_the_others_and_its_counts_stay() {
    let ports = free(3);
    let mut spec = spec(&[serve(named("served"))]);
    spec.frontends[0].listen = vec![ports[0], ports[1], "[::1]:0".parse().unwrap()];
    let lab = Lab::start(spec.clone());
    let addresses = |lab: &Lab| lab.proxy.addresses().into_iter().map(|(_, at)| at).collect::<Vec<_>>();
    let first = addresses(&lab);
    assert_eq!(first[..2], ports[..2]);
    assert!(first[2].is_ipv6() && first[2].port() != 0, "{first:?}");
    for at in &first {
        assert_eq!(read_all(&mut lab::connect(*at)), b"served");
    }
    // What waits in a queue belongs to a listener that is not touched.
    spec.frontends[0].listen = vec![ports[2], "[::1]:0".parse().unwrap(), ports[1]];
    lab.install(spec);
    assert_eq!(addresses(&lab), [ports[2], first[2], ports[1]]);
    assert!(TcpStream::connect(ports[0]).is_err(), "the address that went is still listened on");
    for at in addresses(&lab) {
        assert_eq!(read_all(&mut lab::connect(at)), b"served");
    }
    lab.wait_idle();
    assert_eq!(lab.snapshot().frontends[0].counters.total(), 6);
}

#[test]
fn a_limit_counts_the_frontend_over_all_its_addresses() {
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].listen = free(8);
    spec.frontends[0].max_connections = 3;
    let _lab = Lab::start(spec.clone());
    let mut open: Vec<TcpStream> = Vec::new();
    for at in &spec.frontends[0].listen[..3] {
        let mut client = lab::connect(*at);
        client.write_all(b"a").unwrap();
        client.read_exact(&mut [0]).unwrap();
        open.push(client);
    }
    for at in &spec.frontends[0].listen {
        assert_eq!(read_all(&mut lab::connect(*at)), b"", "{at} is beyond the limit");
    }
}

#[test]
fn an_address_that_is_taken_keeps_the_whole_set_as_it_was() {
    let ports = free(2);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(&[serve(named("served"))]);
    spec.frontends[0].listen = vec![ports[0]];
    let lab = Lab::start(spec.clone());
    spec.frontends[0].listen = vec![ports[1], taken.local_addr().unwrap()];
    let snapshot = lab.snapshot().next(spec).unwrap();
    let error = lab.proxy.install(Arc::new(snapshot)).unwrap_err();
    assert!(
        matches!(&error, ProxyError::Bind { addr, .. } if *addr == taken.local_addr().unwrap()),
        "{error}"
    );
    assert_eq!(read_all(&mut lab::connect(ports[0])), b"served");
    assert!(TcpStream::connect(ports[1]).is_err());
}

#[test]
fn an_address_is_handed_over_when_its_frontend_is_renamed() {
    let mut spec = spec(&[serve(named("served"))]);
    let lab = Lab::start(spec.clone());
    let addr = lab.addr();
    spec.frontends[0].name = "renamed".to_owned();
    spec.frontends[0].listen = vec![addr];
    lab.install(spec);
    assert_eq!(lab.addr_of("renamed"), addr);
    assert_eq!(read_all(&mut lab::connect(addr)), b"served");
    assert_eq!(lab.snapshot().frontends[0].counters.total(), 1);
}

#[test]
fn clients_that_wait_in_the_queue_are_served_when_listening_stops() {
    // The only worker is busy while clients come: their connections wait in the accept queue.
    let lab = Arc::new(Lab::start_with(spec(&[serve(named("served"))]), 1));
    let addr = lab.addr();
    for _ in 0..20 {
        let clients: Vec<TcpStream> = (0..50).map(|_| lab::connect(addr)).collect();
        let mut stopped = lab.snapshot().spec().clone();
        stopped.frontends.clear();
        lab.install(stopped.clone());
        for mut client in clients {
            assert_eq!(read_all(&mut client), b"served");
        }
        stopped.frontends.push(frontend("web", &addr.to_string()));
        lab.install(stopped);
    }
}

fn bind_error(result: Result<impl Sized, ProxyError>, name: &str, address: SocketAddr) {
    let Err(error) = result else { panic!("{address} was bound twice") };
    let ProxyError::Bind { frontend, addr, source, .. } = &error else { panic!("{error}") };
    assert_eq!((&**frontend, *addr), (name, address));
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("stop it or choose another"), "{error}");
}

#[test]
fn a_reload_that_cannot_bind_changes_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(&[serve(named("served"))]);
    let lab = Lab::start(spec.clone());
    let addr = lab.addr();
    spec.frontends.insert(0, frontend("new", "127.0.0.1:0"));
    spec.frontends.push(frontend("blocked", &taken.local_addr().unwrap().to_string()));
    let next = Arc::new(lab.snapshot().next(spec).unwrap());
    bind_error(lab.proxy.install(next), "blocked", taken.local_addr().unwrap());
    assert_eq!(lab.proxy.addresses().len(), 1);
    assert_eq!(read_all(&mut lab::connect(addr)), b"served");
}

#[test]
fn a_second_proxy_on_the_same_address_is_refused_with_a_clear_error() {
    let first = Lab::start(spec(&[serve(echo)]));
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].listen = vec![first.addr()];
    let snapshot = Arc::new(convey_core::Snapshot::first(spec, 2).unwrap());
    bind_error(Proxy::start(snapshot, 2, Arc::new(|_| ())), "web", first.addr());
}

#[test]
fn a_proxy_can_start_again_on_its_address_at_once() {
    let mut spec = spec(&[serve(named("served"))]);
    for _ in 0..5 {
        let lab = Lab::start(spec.clone());
        spec.frontends[0].listen = vec![lab.addr()];
        // The proxy closes first, so the connection lingers in TIME_WAIT on its side.
        let mut client = lab.connect();
        assert_eq!(read_all(&mut client), b"served");
    }
}
