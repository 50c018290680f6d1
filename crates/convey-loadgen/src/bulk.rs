//! Moves bytes as fast as the path allows, for a given time.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use crate::Failure;
use crate::args::Args;
use crate::poll::{Poll, Ready};
use crate::report::{Failures, Report};
use crate::usage::{Usage, Watch};

const CHUNK: usize = 1024 * 1024;

/// Runs and prints the report.
///
/// # Errors
/// A wrong argument, or no connection at the start.
pub fn run(args: &Args) -> Result<(), Failure> {
    let address = args.address("connect")?;
    let connections: usize = args.get("connections", 4)?;
    let upload = args.flag("upload");
    let watch = Watch::parse(args)?;
    let warmup = args.seconds("warmup", 1.0)?;
    let duration = args.seconds("duration", 10.0)?;

    let mut poll = Poll::new()?;
    let mut conns = Vec::new();
    for index in 0..connections {
        let socket = open(address, upload).map_err(Failure::io(format!("connect to {address}")))?;
        poll.add(&socket, index as u64, if upload { Ready::OUT } else { Ready::IN })
            .map_err(Failure::io("watch a connection"))?;
        conns.push(Some(socket));
    }

    let mut failures = Failures::default();
    let mut scratch = vec![0; CHUNK];
    let mut ready = Vec::new();
    let mut bytes = 0_u64;
    let begin = Instant::now() + warmup;
    let mut window: Option<(Instant, Usage)> = None;
    loop {
        let now = Instant::now();
        match &window {
            None if now >= begin => {
                bytes = 0;
                window = Some((now, Usage::now(&watch)));
            }
            Some((since, before)) if now - *since >= duration => {
                let usage = Usage::now(&watch).since(before);
                Report {
                    window: since.elapsed(),
                    requests: 0,
                    all: 0,
                    bytes,
                    failures,
                    latencies: None,
                    usage,
                }
                .print();
                return Ok(());
            }
            _ => {}
        }
        poll.wait(&mut ready, Some(Duration::from_millis(20)))?;
        for &(key, _) in &ready {
            let Some(slot) = usize::try_from(key).ok().and_then(|i| conns.get_mut(i)) else { continue };
            let Some(socket) = slot else { continue };
            match if upload { send(socket, &scratch) } else { discard(socket, &mut scratch) } {
                Ok(moved) => bytes += moved,
                Err(Ended::Closed) => {
                    failures.closed_early += 1;
                    *slot = None;
                }
                Err(Ended::Reset) => {
                    failures.reset += 1;
                    *slot = None;
                }
            }
        }
    }
}

enum Ended {
    Closed,
    Reset,
}

fn open(address: SocketAddr, upload: bool) -> std::io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.write_all(if upload {
        b"POST /sink HTTP/1.1\r\nHost: bench\r\n\r\n"
    } else {
        b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n"
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn discard(socket: &TcpStream, scratch: &mut [u8]) -> Result<u64, Ended> {
    // MSG_TRUNC on TCP discards in the kernel: the bench measures the balancer, not this copy.
    match rustix::net::recv(socket, scratch, RecvFlags::TRUNC) {
        Ok((_, 0)) => Err(Ended::Closed),
        Ok((_, got)) => Ok(got as u64),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(_) => Err(Ended::Reset),
    }
}

fn send(socket: &mut TcpStream, chunk: &[u8]) -> Result<u64, Ended> {
    match socket.write(chunk.get(..256 * 1024).unwrap_or(chunk)) {
        Ok(sent) => Ok(sent as u64),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(_) => Err(Ended::Reset),
    }
}
