//! What was accepted for one side reaches it although the other side has failed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use convey_core::Reason;
use lab::{Lab, expect_reset, handing_over, read_all, reset, serve, spec, wait_until};

const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
const ROUNDS: usize = 60;

/// Uploads in pieces of `piece` bytes until that fails, then reads what there is.
fn upload(addr: SocketAddr, piece: usize) -> Vec<u8> {
    let mut client = lab::connect(addr);
    let piece = vec![b'u'; piece];
    for _ in 0..8 * 1024 * 1024 / piece.len() {
        if client.write_all(&piece).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // A reset may follow; what came before it counts.
    let _ = client.read_to_end(&mut answer);
    answer
}

/// Each client of `server` gets the answer, through the proxy as without it.
fn answers_arrive(server: SocketAddr, piece: usize) {
    let lab = Lab::start(spec(&[server]));
    for (path, addr) in [("without the proxy", server), ("through the proxy", lab.addr())] {
        let answers = (0..ROUNDS).filter(|_| upload(addr, piece) == ANSWER).count();
        assert_eq!(answers, ROUNDS, "{path}");
    }
    lab.wait_idle();
    assert_eq!(lab.count(Reason::ClientReset), 0);
}

/// Answers after the first bytes and closes, so that unread bytes turn the close into a reset.
fn answering_and_closing() -> SocketAddr {
    serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(ANSWER);
    })
}

/// Answers, closes its direction, reads on for a moment and closes under the rest.
fn answering_and_lingering() -> SocketAddr {
    serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(ANSWER);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = vec![0; 64 * 1024];
        for _ in 0..4 {
            let _ = stream.read(&mut rest);
        }
    })
}

#[test]
fn the_answer_of_a_server_that_closes_under_an_upload_arrives() {
    answers_arrive(answering_and_closing(), 1000);
}

#[test]
fn the_answer_of_a_server_that_closes_under_a_bulk_upload_arrives() {
    answers_arrive(answering_and_closing(), 256 * 1024);
}

#[test]
fn the_answer_of_a_server_that_closes_after_its_fin_arrives() {
    answers_arrive(answering_and_lingering(), 1000);
    answers_arrive(answering_and_lingering(), 256 * 1024);
}

#[test]
fn a_client_that_sends_everything_before_it_reads_gets_there_and_sees_a_complete_answer() {
    let lab = Lab::start(spec(&[answering_and_lingering()]));
    let mut client = lab.connect();
    for _ in 0..128 {
        client.write_all(&[1; 64 * 1024]).unwrap();
    }
    thread::sleep(Duration::from_millis(200));
    client.write_all(b"still").unwrap();
    assert_eq!(read_all(&mut client), ANSWER);
    drop(client);
    lab.wait_idle();
    lab.wait_count(Reason::ServerReset, 1);
}

/// A proxied connection with a client that takes little at a time: lab, client's side, server's side.
fn slow_client(idle_timeout: Duration) -> (Lab, TcpStream, TcpStream) {
    let (server, taken) = handing_over();
    let mut spec = spec(&[server]);
    spec.backends[0].idle_timeout = idle_timeout;
    let lab = Lab::start(spec);
    let client = lab::connect_with_room(lab.addr(), 8 * 1024);
    (lab, client, taken.recv_timeout(lab::PATIENCE).unwrap())
}

/// Reads some 200 KB a second to the end; how much came, and how it ended.
fn read_slowly(
    stream: &mut TcpStream,
    mut between: impl FnMut(&mut TcpStream),
) -> (usize, Option<ErrorKind>) {
    let mut got = 0;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (got, None),
            Ok(n) => got += n,
            Err(error) => return (got, Some(error.kind())),
        }
        between(stream);
        thread::sleep(Duration::from_millis(20));
    }
}

const LARGE: usize = 300 * 1024;

/// Waits until the proxy has taken `bytes` from the server.
fn wait_until_taken(lab: &Lab, bytes: usize) {
    wait_until("the proxy has taken all", || lab.snapshot().totals.bytes_rx() == bytes as u64);
}

#[test]
fn a_slow_client_that_still_sends_gets_the_whole_answer_of_a_server_that_is_gone() {
    let (lab, mut client, mut server) = slow_client(Duration::from_secs(60));
    server.write_all(&[b'a'; LARGE]).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    wait_until_taken(&lab, LARGE);
    client.write_all(b"more").unwrap();
    server.read_exact(&mut [0; 2]).unwrap();
    reset(server);
    assert_eq!(read_slowly(&mut client, |c| c.write_all(b"and more").unwrap()), (LARGE, None));
    drop(client);
    lab.wait_idle();
    lab.wait_count(Reason::ServerReset, 1);
}

#[test]
fn a_cut_answer_is_delivered_as_far_as_it_came_and_ends_in_a_reset() {
    let (lab, mut client, mut server) = slow_client(Duration::from_secs(60));
    server.write_all(&[b'a'; LARGE]).unwrap();
    wait_until_taken(&lab, LARGE);
    client.write_all(b"more").unwrap();
    server.read_exact(&mut [0; 2]).unwrap();
    reset(server);
    let (got, end) = read_slowly(&mut client, |_| ());
    assert_eq!((got, end), (LARGE, Some(ErrorKind::ConnectionReset)));
    lab.wait_idle();
    lab.wait_count(Reason::ServerReset, 1);
}

#[test]
fn a_cut_answer_found_behind_a_failed_write_does_not_look_complete() {
    for _ in 0..20 {
        let (lab, mut client, mut server) = slow_client(Duration::from_secs(60));
        client.write_all(&[1; 100_000]).unwrap();
        server.read_exact(&mut [0; 100]).unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\nha").unwrap();
        drop(server);
        // Whether the proxy learns of the reset by a read or by a write is a matter of luck.
        let written = client.write_all(&[1; 1000]);
        let mut answer = [0; 21];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n\r\nha");
        // A write that fails takes the reset from the socket.
        match written {
            Ok(()) => expect_reset(&mut client),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        lab.wait_idle();
    }
}

#[test]
fn an_upload_with_its_fin_reaches_a_slow_server_although_its_client_is_gone() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&server).set_recv_buffer_size(8 * 1024).unwrap();
    let lab = Lab::start(spec(&[server.local_addr().unwrap()]));
    let mut client = lab.connect();
    let (mut server, _) = server.accept().unwrap();
    client.write_all(&[b'u'; LARGE]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    wait_until("the proxy has taken all", || lab.snapshot().totals.bytes_tx() == LARGE as u64);
    drop(client);
    // Nobody is there to take it: the proxy's write is answered with a reset.
    server.write_all(b"220 hello").unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(read_slowly(&mut server, |s| drop(s.write(b"250 ok"))), (LARGE, None));
    drop(server);
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
}

#[test]
fn an_upload_that_its_client_gave_up_arrives_as_far_as_it_came_and_ends_in_a_reset() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&server).set_recv_buffer_size(8 * 1024).unwrap();
    let lab = Lab::start(spec(&[server.local_addr().unwrap()]));
    let mut client = lab.connect();
    let (mut server, _) = server.accept().unwrap();
    client.write_all(&[b'u'; LARGE]).unwrap();
    wait_until("the proxy has taken all", || lab.snapshot().totals.bytes_tx() == LARGE as u64);
    reset(client);
    assert_eq!(read_slowly(&mut server, |_| ()), (LARGE, Some(ErrorKind::ConnectionReset)));
    lab.wait_idle();
    lab.wait_count(Reason::ClientReset, 1);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_given_up_after_the_idle_timeout() {
    let (lab, mut client, mut server) = slow_client(Duration::from_millis(500));
    server.write_all(&[b'a'; LARGE]).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    wait_until_taken(&lab, LARGE);
    reset(server);
    lab.wait_idle();
    assert!(read_slowly(&mut client, |_| ()).0 < LARGE);
}

#[test]
fn a_client_that_has_its_answer_and_neither_sends_nor_closes_is_closed() {
    let (lab, mut client, mut server) = slow_client(Duration::from_secs(60));
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), b"bye");
    reset(server);
    lab.wait_idle();
    wait_until("the client is reset", || client.take_error().unwrap().is_some());
}

#[test]
fn what_the_kernel_holds_for_a_client_that_was_sent_its_fin_survives_the_proxys_close() {
    let (lab, mut client, mut server) = slow_client(Duration::from_secs(60));
    server.write_all(&[b'a'; LARGE]).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    wait_until_taken(&lab, LARGE);
    thread::sleep(Duration::from_millis(50));
    lab.proxy.close();
    assert_eq!(read_slowly(&mut client, |_| ()), (LARGE, None));
}

#[test]
fn a_server_that_is_done_takes_another_client_while_the_first_still_lingers() {
    let mut spec = spec(&[answering_and_lingering()]);
    spec.backends[0].servers[0].max_connections = 1;
    let lab = Lab::start(spec);
    let mut first = lab.connect();
    // More than the server reads: it resets, but its answer was complete, so that the client gets time to notice.
    first.write_all(&vec![b'u'; 2 * 1024 * 1024]).unwrap();
    let mut answer = vec![0; ANSWER.len()];
    first.read_exact(&mut answer).unwrap();
    wait_until("the server's place is free", || lab.gauges() == [1, 1, 0, 0]);
    assert_eq!(upload(lab.addr(), 1000), ANSWER, "served while the first client lingers");
    assert_eq!(lab.count(Reason::LimitServer), 0);
    drop(first);
    lab.wait_idle();
}
