//! Listeners that go, with clients coming all the time: whoever is connected gets an answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{Event, EventSink, Snapshot};
use convey_proxy::Proxy;
use lab::{Lab, frontend, named, serve, spec};
use socket2::{Domain, SockFilter, Socket, Type};

/// What became of clients that connected to one address one after the other.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU64,
    refused: AtomicU64,
    /// Connected, then reset or closed without an answer.
    lost: AtomicU64,
}

impl Seen {
    fn client(&self, addr: SocketAddr) {
        match TcpStream::connect_timeout(&addr, lab::PATIENCE) {
            Ok(mut client) => {
                client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
                let mut answer = Vec::new();
                let whole = client.read_to_end(&mut answer).is_ok() && answer == b"served";
                if whole { &self.answered } else { &self.lost }.fetch_add(1, SeqCst);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.refused.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lets clients come to `addr` from `threads` threads while `act` runs, and a little longer.
fn under_load(addr: SocketAddr, threads: usize, act: impl FnOnce()) -> Seen {
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                while !over.load(SeqCst) {
                    seen.client(addr);
                }
            });
        }
        lab::wait_until("clients are served", || seen.answered.load(SeqCst) > 50);
        act();
        over.store(true, SeqCst);
    });
    seen
}

fn stop_and_remove(workers: usize, threads: usize, rounds: usize) {
    let server = serve(named("served"));
    for round in 0..rounds {
        let mut spec = spec(&[server]);
        spec.frontends.push(frontend("second", "127.0.0.1:0"));
        let lab = Lab::start_with(spec.clone(), workers);
        let second = lab.addr_of("second");
        let seen = under_load(second, threads, || {
            spec.frontends.truncate(1);
            lab.install(spec.clone());
            assert_refused(second);
        });
        assert_eq!(
            seen.lost.load(SeqCst),
            0,
            "removed by reload, {workers} workers, round {round}: {seen:?}"
        );
        let first = lab.addr();
        let seen = under_load(first, threads, || {
            lab.proxy.stop_accepting();
            lab.proxy.settle();
            assert_refused(first);
            lab.wait_idle();
        });
        assert_eq!(seen.lost.load(SeqCst), 0, "stopped, {workers} workers, round {round}: {seen:?}");
        lab.proxy.close();
    }
}

fn assert_refused(addr: SocketAddr) {
    let error = TcpStream::connect(addr).expect_err("it still listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn whoever_is_connected_is_served_when_listeners_go_with_one_worker() {
    stop_and_remove(1, 6, 4);
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn whoever_is_connected_is_served_when_listeners_go_with_two_workers() {
    stop_and_remove(2, 6, 4);
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn whoever_is_connected_is_served_when_listeners_go_with_four_workers() {
    stop_and_remove(4, 6, 4);
}

/// A client that has sent its SYN and hears nothing: its socket drops every segment.
fn deaf_client(to: SocketAddr) -> Socket {
    let client = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None).unwrap();
    client.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
    let _ = client.connect(&to.into());
    client
}

/// What a client reads that hears again, once its handshake is complete.
fn answer(client: Socket) -> std::io::Result<Vec<u8>> {
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    lab::wait_until("the client is connected", || client.peer_addr().is_ok());
    let mut answer = Vec::new();
    TcpStream::from(client).read_to_end(&mut answer)?;
    Ok(answer)
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn a_handshake_under_way_completes_before_its_listener_closes() {
    for workers in [1, 3] {
        let lab = Lab::start_with(spec(&[serve(named("served"))]), workers);
        let addr = lab.addr();
        let clients: Vec<Socket> = (0..20).map(|_| deaf_client(addr)).collect();
        lab.proxy.stop_accepting();
        clients.iter().for_each(|client| client.detach_filter().unwrap());
        for client in clients {
            assert_eq!(answer(client).unwrap(), b"served", "{workers} workers");
        }
        lab.proxy.settle();
        assert_refused(addr);
    }
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn clients_that_never_end_their_handshake_hold_a_listener_up_for_two_seconds_at_most() {
    let lab = Lab::start(spec(&[serve(named("served"))]));
    let _clients = [deaf_client(lab.addr()), deaf_client(lab.addr())];
    let begun = Instant::now();
    lab.proxy.stop_accepting();
    lab.proxy.settle();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn clients_of_a_listener_that_came_and_went_while_the_worker_was_busy_are_served() {
    let mut spec = spec(&[serve(named("served"))]);
    let mut dead = spec.backends[0].clone();
    dead.name = "dead".to_owned();
    dead.servers = vec![lab::server(0, lab::refusing())];
    spec.backends.push(dead);
    spec.frontends[0].backend = "dead".to_owned();
    let busy = Arc::new(AtomicBool::new(false));
    let sink: EventSink = {
        let busy = busy.clone();
        Arc::new(move |event| {
            if matches!(event, Event::ServerConnectFailed { .. }) {
                busy.store(true, SeqCst);
                thread::sleep(Duration::from_millis(300));
            }
        })
    };
    let first = Arc::new(Snapshot::first(spec.clone(), 1).unwrap());
    let proxy = Proxy::start(first.clone(), 1, sink).unwrap();
    let _unlucky = lab::connect(proxy.addresses()[0].1);
    lab::wait_until("the worker is busy", || busy.load(SeqCst));
    spec.frontends.push(frontend("second", "127.0.0.1:0"));
    let second = Arc::new(first.next(spec.clone()).unwrap());
    proxy.install(second.clone()).unwrap();
    let mut clients: Vec<TcpStream> = (0..20).map(|_| lab::connect(proxy.addresses()[1].1)).collect();
    spec.frontends.pop();
    proxy.install(Arc::new(second.next(spec).unwrap())).unwrap();
    proxy.settle();
    for client in &mut clients {
        assert_eq!(lab::read_all(client), b"served");
    }
}
