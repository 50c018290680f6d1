//! How connections end: FIN, half-close, RST, timeouts, closing the proxy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::Reason;
use lab::{Lab, echo, expect_reset, handing_over, read_all, reset, serve, spec, wait_until};

/// A proxied connection: lab, client's side, server's side.
fn pair_with(change: impl FnOnce(&mut convey_core::SnapshotSpec)) -> (Lab, TcpStream, TcpStream) {
    let (server, taken) = handing_over();
    let mut spec = spec(&[server]);
    change(&mut spec);
    let lab = Lab::start(spec);
    let client = lab.connect();
    let server = taken.recv_timeout(lab::PATIENCE).unwrap();
    wait_until("the connection stands", || lab.totals() == [1; 4]);
    (lab, client, server)
}

fn pair() -> (Lab, TcpStream, TcpStream) {
    pair_with(|_| ())
}

#[test]
fn after_the_clients_fin_the_server_can_still_send() {
    let (lab, mut client, mut server) = pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), b"question");
    thread::sleep(Duration::from_millis(50));
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(read_all(&mut client), b"answer");
    lab.wait_idle();
}

#[test]
fn after_the_servers_fin_the_client_can_still_send() {
    let (lab, mut client, mut server) = pair();
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), b"bye");
    thread::sleep(Duration::from_millis(50));
    client.write_all(b"one more thing").unwrap();
    drop(client);
    assert_eq!(read_all(&mut server), b"one more thing");
    lab.wait_idle();
    for reason in Reason::ALL {
        assert_eq!(lab.count(*reason), 0, "{}", reason.name());
    }
}

#[test]
fn a_server_that_closes_first_ends_the_client_promptly() {
    let (lab, mut client, server) = pair();
    drop(server);
    assert_eq!(read_all(&mut client), b"");
    drop(client);
    lab.wait_idle();
}

#[test]
fn a_reset_from_the_client_reaches_the_server_as_a_reset() {
    let (lab, client, mut server) = pair();
    reset(client);
    expect_reset(&mut server);
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::ClientReset), 1);
}

#[test]
fn a_reset_from_the_server_reaches_the_client_as_a_reset() {
    let (lab, mut client, server) = pair();
    reset(server);
    expect_reset(&mut client);
    lab.wait_idle();
    lab.wait_count(Reason::ServerReset, 1);
}

/// Writes until nothing more goes; returns how much went.
fn fill(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while let Ok(n) = stream.write(&[1; 64 * 1024]) {
        sent += n;
    }
    sent
}

#[test]
fn a_reset_is_passed_on_even_while_the_other_side_takes_nothing() {
    let (lab, mut client, server) = pair();
    fill(&mut client);
    reset(client);
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
    let mut server = server;
    expect_reset(&mut server);
}

#[test]
fn a_reset_after_the_peers_half_close_is_passed_on() {
    let (lab, client, mut server) = pair();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), b"");
    reset(client);
    // After a FIN, reads go on answering 0; a RST shows as EPIPE (tcp_reset in CLOSE_WAIT).
    wait_until("the server is reset", || server.take_error().unwrap().is_some());
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
}

#[test]
fn a_slow_reader_gets_everything_before_the_fin_and_memory_stays_bounded() {
    let total = 64 * 1024 * 1024;
    let server = serve(move |mut stream| {
        stream.set_write_timeout(None).unwrap();
        let chunk = vec![5; 1024 * 1024];
        (0..total / chunk.len()).for_each(|_| stream.write_all(&chunk).unwrap());
    });
    let lab = Lab::start(spec(&[server]));
    let mut clients: Vec<TcpStream> = (0..4).map(|_| lab.connect()).collect();
    thread::sleep(Duration::from_millis(500));
    // What the sockets on the way hold is the kernel's, bounded by tcp_rmem and tcp_wmem, some 20 MB a
    // connection at most; the rest must still be at the server.
    let taken = lab.snapshot().totals.bytes_rx();
    assert!(taken < 4 * 24 * 1024 * 1024, "{taken} bytes were taken from a server nobody listens to");
    for client in &mut clients {
        let mut buffer = vec![0; 1024 * 1024];
        let mut got = 0;
        loop {
            match client.read(&mut buffer).unwrap() {
                0 => break,
                n => got += n,
            }
            if got < 1024 * 1024 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(got, total);
    }
    drop(clients);
    lab.wait_idle();
}

#[test]
fn a_connection_on_which_nothing_moves_ends_at_the_idle_timeout() {
    let idle = Duration::from_millis(400);
    let (lab, mut client, mut server) = pair_with(|s| s.backends[0].idle_timeout = idle);
    let start = Instant::now();
    assert_eq!(read_all(&mut client), b"");
    let lasted = start.elapsed();
    assert!(lasted > idle / 2 && lasted < idle * 3, "{lasted:?}");
    assert_eq!(read_all(&mut server), b"");
    lab.wait_idle();
    lab.wait_count(Reason::IdleTimeout, 1);
}

#[test]
fn traffic_in_one_direction_keeps_a_connection_from_being_idle() {
    let (lab, client, mut server) = pair_with(|s| s.backends[0].idle_timeout = Duration::from_millis(400));
    for _ in 0..12 {
        thread::sleep(Duration::from_millis(100));
        (&client).write_all(b".").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(lab.count(Reason::IdleTimeout), 0);
    assert_eq!(lab.gauges(), [1; 4]);
}

#[test]
fn a_slow_but_steady_reader_is_not_idle() {
    const TOTAL: usize = 6 * 1024 * 1024;
    let idle = Duration::from_millis(300);
    let server = serve(|mut stream| {
        stream.write_all(&vec![5; TOTAL]).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut spec = spec(&[server]);
    spec.backends[0].idle_timeout = idle;
    let lab = Lab::start(spec);
    let mut client = lab::connect_with_room(lab.addr(), 64 * 1024);
    let mut buffer = vec![0; 48 * 1024];
    let mut got = 0;
    // The proxy's socket takes megabytes at once and says that there is room again once a third is gone, which
    // is later than the timeout.
    while got < TOTAL {
        match client.read(&mut buffer) {
            Ok(n @ 1..) => got += n,
            end => panic!("{end:?} after {got} bytes"),
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Then nothing moves any more.
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
    lab.wait_idle();
    lab.wait_count(Reason::IdleTimeout, 1);
}

#[test]
fn a_peer_that_never_reads_is_ended_by_the_idle_timeout_and_sees_a_reset() {
    let idle = Duration::from_millis(400);
    let (lab, client, mut server) = pair_with(|s| s.backends[0].idle_timeout = idle);
    fill(&mut server);
    lab.wait_idle();
    lab.wait_count(Reason::IdleTimeout, 1);
    // Bytes were lost, so the client must not take what it has for all there was.
    let mut client = client;
    expect_reset(&mut client);
}

#[test]
fn a_half_closed_connection_ends_at_the_idle_timeout_too() {
    let idle = Duration::from_millis(300);
    let (lab, client, mut server) = pair_with(|s| s.backends[0].idle_timeout = idle);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), b"");
    lab.wait_idle();
    lab.wait_count(Reason::IdleTimeout, 1);
}

#[test]
fn a_busy_connection_ends_at_its_maximum_duration() {
    let server = serve(echo);
    let mut spec = spec(&[server]);
    spec.backends[0].max_duration = Duration::from_millis(500);
    let lab = Lab::start(spec);
    let mut client = lab.connect();
    let start = Instant::now();
    while client.write_all(b"ping").is_ok() && matches!(client.read(&mut [0; 4]), Ok(1..)) {
        thread::sleep(Duration::from_millis(10));
        assert!(start.elapsed() < lab::PATIENCE);
    }
    assert!(start.elapsed() > Duration::from_millis(400));
    lab.wait_idle();
    lab.wait_count(Reason::MaxDuration, 1);
}

#[test]
fn a_killed_server_is_noticed_at_once_and_others_go_on() {
    let (lab, mut client, server) = pair();
    let start = Instant::now();
    server.shutdown(Shutdown::Both).unwrap();
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(client);
    lab.wait_idle();
}

#[test]
fn closing_the_proxy_resets_what_is_open_and_counts_it() {
    let (lab, mut client, mut server) = pair();
    let addr = lab.addr();
    lab.proxy.close();
    expect_reset(&mut client);
    expect_reset(&mut server);
    assert_eq!(lab.gauges(), [0; 4]);
    assert_eq!(lab.count(Reason::DrainDeadline), 1);
    lab.proxy.close();
    assert!(TcpStream::connect(addr).is_err(), "something still listens");
}

#[test]
fn closing_from_several_threads_at_once_returns_in_each_when_all_is_over() {
    let (lab, _client, _server) = pair();
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                lab.proxy.close();
                assert_eq!(lab.gauges(), [0; 4]);
            });
        }
    });
}

#[test]
fn after_stop_accepting_new_clients_are_refused_and_open_connections_go_on() {
    let (lab, mut client, mut server) = pair();
    let addr = lab.addr();
    lab.proxy.stop_accepting();
    lab.proxy.settle();
    let refused = TcpStream::connect(addr).expect_err("something still listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    client.write_all(b"still").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), b"still");
    drop(server);
    assert_eq!(read_all(&mut client), b"");
    lab.wait_idle();
}
