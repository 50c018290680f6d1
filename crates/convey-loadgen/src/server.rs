//! The reference server: answers, streams or swallows, as the request says.

use std::io::{ErrorKind, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::RecvFlags;

use crate::Failure;
use crate::args::Args;
use crate::http::head_end;
use crate::opening::{Opening, Start, start};
use crate::poll::{Poll, Ready};

const LISTENER: u64 = u64::MAX;
const CHUNK: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Answer,
    Stream,
    Swallow,
}

#[derive(Debug)]
struct Conn {
    socket: TcpStream,
    role: Role,
    /// Whether its first request is awaited: an opening may still come.
    opening: bool,
    partial: Vec<u8>,
}

struct Server {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    answer: Vec<u8>,
    close: bool,
    /// What every connection must begin with.
    expected: Option<Opening>,
    scratch: Vec<u8>,
}

/// Serves until killed.
///
/// # Errors
/// The address cannot be bound, or epoll fails.
pub fn serve(args: &Args) -> Result<(), Failure> {
    let address: SocketAddr = args.address("listen")?;
    let body: usize = args.get("body", 1024)?;
    let listener = listen(address).map_err(Failure::io(format!("listen on {address}")))?;
    let bound = listener.local_addr().map_err(Failure::io("read the bound address"))?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER, Ready::IN).map_err(Failure::io("watch the listener"))?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body, b'x');
    let mut server = Server {
        poll,
        conns: Vec::new(),
        free: Vec::new(),
        answer,
        close: args.flag("close"),
        expected: args.optional("expect")?,
        scratch: vec![0; CHUNK],
    };
    println!("{{\"event\":\"ready\",\"address\":\"{bound}\"}}");
    let mut ready = Vec::new();
    loop {
        server.poll.wait(&mut ready, None)?;
        for &(key, _) in &ready {
            if key == LISTENER {
                server.accept(&listener);
            } else if let Ok(index) = usize::try_from(key) {
                server.step(index);
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(16_384)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) {
        // Bounded, so that a storm of connections does not starve the open ones.
        for _ in 0..64 {
            let Ok((socket, _)) = listener.accept() else { return };
            if socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).is_err() {
                continue;
            }
            let index = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            if self.poll.add(&socket, index as u64, Ready::IN).is_err() {
                self.free.push(index);
                continue;
            }
            self.conns[index] = Some(Conn { socket, role: Role::Answer, opening: true, partial: Vec::new() });
        }
    }

    fn step(&mut self, index: usize) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        let stays = match conn.role {
            Role::Answer => match read(conn, &mut self.scratch, self.expected) {
                Read::Nothing => true,
                Read::Ended => false,
                Read::Requests => answer(conn, &self.poll, index, &self.answer, self.close),
            },
            Role::Stream => pour(conn, &self.scratch),
            Role::Swallow => swallow(conn, &mut self.scratch),
        };
        if !stays && let Some(slot) = self.conns.get_mut(index) {
            *slot = None;
            self.free.push(index);
        }
    }
}

enum Read {
    Nothing,
    /// Closed, failed, or without the opening that was expected.
    Ended,
    /// What came belongs to requests.
    Requests,
}

fn read(conn: &mut Conn, scratch: &mut [u8], expected: Option<Opening>) -> Read {
    let got = match conn.socket.read(scratch) {
        Ok(0) => return Read::Ended,
        Ok(got) => got,
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Read::Nothing,
        Err(_) => return Read::Ended,
    };
    conn.partial.extend_from_slice(&scratch[..got]);
    if !conn.opening {
        return Read::Requests;
    }
    let mut at = 0;
    let mut missing = expected;
    loop {
        match start(conn.partial.get(at..).unwrap_or_default()) {
            // Read from its beginning again when more has come.
            Start::Partial => return Read::Nothing,
            Start::Whole(opening, length) => {
                at += length;
                missing = missing.filter(|&expected| expected != opening);
            }
            Start::Other => break,
        }
    }
    conn.partial.drain(..at);
    conn.opening = false;
    if missing.is_some() { Read::Ended } else { Read::Requests }
}

fn answer(conn: &mut Conn, poll: &Poll, index: usize, answer: &[u8], close: bool) -> bool {
    while let Some(end) = head_end(&conn.partial) {
        if conn.partial.starts_with(b"GET /bulk ") {
            conn.role = Role::Stream;
            return poll.modify(&conn.socket, index as u64, Ready::OUT).is_ok();
        }
        if conn.partial.starts_with(b"POST /sink ") {
            conn.role = Role::Swallow;
            return true;
        }
        conn.partial.drain(..end);
        // An answer of a few KB always fits the socket buffer of a client that waits for it.
        if conn.socket.write(answer).ok() != Some(answer.len()) || close {
            return false;
        }
    }
    conn.partial.len() < 16 * 1024
}

fn pour(conn: &mut Conn, chunk: &[u8]) -> bool {
    for _ in 0..4 {
        match conn.socket.write(chunk) {
            Ok(sent) if sent < chunk.len() => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
    true
}

fn swallow(conn: &mut Conn, scratch: &mut [u8]) -> bool {
    // MSG_TRUNC on TCP discards in the kernel: the bench measures the balancer, not this copy.
    match rustix::net::recv(&conn.socket, scratch, RecvFlags::TRUNC) {
        Ok((_, 0)) => false,
        Ok(_) => true,
        Err(e) => e == rustix::io::Errno::AGAIN,
    }
}
