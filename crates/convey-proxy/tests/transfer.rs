//! Bytes arrive whole, in order and counted, whatever their pace and size.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lab::{Lab, Random, echo, read_all, serve, spec, wait_until};

const MIB: usize = 1024 * 1024;

/// Sends `data` in chunks of random size, then the FIN.
fn send_in_chunks(mut stream: TcpStream, data: &[u8], seed: u64, largest: u64) {
    let mut random = Random::new(seed);
    let mut rest = data;
    while !rest.is_empty() {
        let size = (1 + random.below(largest) as usize).min(rest.len());
        stream.write_all(&rest[..size]).unwrap();
        rest = &rest[size..];
        if random.below(64) == 0 {
            thread::sleep(Duration::from_micros(random.below(500)));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Runs `mib` MiB each way at once through a proxy and checks every byte and every counter.
fn both_ways(mib: usize, largest_chunk: u64, mss: Option<u32>) {
    let up: Arc<Vec<u8>> = Random::new(1).bytes(mib * MIB).into();
    let down: Arc<Vec<u8>> = Random::new(2).bytes(mib * MIB).into();
    let (expected, answer) = (up.clone(), down.clone());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    if let Some(mss) = mss {
        socket2::SockRef::from(&listener).set_tcp_mss(mss).unwrap();
    }
    let server = lab::serve_on(listener, move |mut stream| {
        let sender = stream.try_clone().unwrap();
        let answer = answer.clone();
        let sending = thread::spawn(move || send_in_chunks(sender, &answer, 3, largest_chunk));
        assert!(read_all(&mut stream) == **expected, "the server got something else");
        sending.join().unwrap();
    });
    let lab = Lab::start(spec(&[server]));
    let mut client = connect_with_mss(lab.addr(), mss);
    let sender = client.try_clone().unwrap();
    let sending = {
        let up = up.clone();
        thread::spawn(move || send_in_chunks(sender, &up, 4, largest_chunk))
    };
    assert!(read_all(&mut client) == **down, "the client got something else");
    sending.join().unwrap();
    lab.wait_idle();
    let bytes = (mib * MIB) as u64;
    let snapshot = lab.snapshot();
    let (frontend, backend) = (&snapshot.frontends[0].counters, &snapshot.backends[0].counters);
    for counters in [&snapshot.totals, frontend, backend, &snapshot.backends[0].servers[0].counters] {
        assert_eq!((counters.bytes_tx(), counters.bytes_rx(), counters.total()), (bytes, bytes, 1));
    }
}

fn connect_with_mss(addr: SocketAddr, mss: Option<u32>) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    if let Some(mss) = mss {
        socket.set_tcp_mss(mss).unwrap();
    }
    socket.connect(&addr.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    stream.set_write_timeout(Some(lab::PATIENCE)).unwrap();
    stream
}

#[test]
fn fifty_mebibytes_each_way_in_random_chunks_arrive_unchanged_and_are_counted_exactly() {
    both_ways(50, 256 * 1024, None);
}

#[test]
fn small_chunks_each_way_arrive_unchanged_and_are_counted_exactly() {
    both_ways(4, 3000, None);
}

#[test]
fn bulk_in_small_segments_does_not_stall_when_they_use_up_the_pipes_slots() {
    both_ways(16, 64 * 1024, Some(200));
}

#[test]
fn bytes_are_counted_while_the_connection_is_open() {
    let lab = Lab::start(spec(&[serve(echo)]));
    let mut client = lab.connect();
    client.write_all(&[7; 1000]).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    let live = || (lab.snapshot().totals.bytes_tx(), lab.snapshot().totals.bytes_rx());
    wait_until("the bytes are counted", || live() == (1000, 1000));
    assert_eq!(lab.gauges(), [1; 4]);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let lab = Lab::start(spec(&[serve(lab::named("220 ready\r\n"))]));
    assert_eq!(read_all(&mut lab.connect()), b"220 ready\r\n");
}
