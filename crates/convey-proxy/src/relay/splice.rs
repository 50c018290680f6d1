//! Moving bytes inside the kernel: socket to pipe, pipe to socket.

use std::io;

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe_pool::{PIPE_BYTES, Pipe};

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Takes what is there, as far as the pipe holds it. 0 is the end. `pipe` must be empty, see
/// [`super::direction`]. A short count says nothing about the socket: the pipe may be out of slots.
pub(super) fn fill(from: &TcpStream, pipe: &Pipe) -> io::Result<usize> {
    from.try_io(Interest::READABLE, || retry(|| splice(from, None, &pipe.write, None, PIPE_BYTES, FLAGS)))
}

/// Writes up to `bytes` of what the pipe holds.
pub(super) fn empty(pipe: &Pipe, to: &TcpStream, bytes: usize) -> io::Result<usize> {
    to.try_io(Interest::WRITABLE, || retry(|| splice(&pipe.read, None, to, None, bytes, FLAGS)))
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome.map_err(Into::into),
        }
    }
}
