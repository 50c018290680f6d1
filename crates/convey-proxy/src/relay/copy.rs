//! Moving bytes through user space: one scratch buffer a thread, and reads and writes that need no second
//! call to learn that a socket is empty or full.

use std::cell::RefCell;
use std::io;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Where reads start; doubled while they come back full.
pub(super) const SMALLEST_READ: usize = 16 * 1024;
/// Size of the scratch buffer.
pub(super) const LARGEST_READ: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST_READ].into());
}

/// Lends the thread's buffer.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| f(scratch))
}

/// Reads what is there. 0 is the end.
///
/// # Errors
/// `WouldBlock` when there is nothing; the socket's own otherwise.
pub(super) fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    once(from, Interest::READABLE, || {
        let capacity = buffer.len();
        let (_, read) = recv(from, &mut *buffer, RecvFlags::empty())?;
        Ok((read, read > 0 && read < capacity))
    })
}

/// Throws away what is there, without copying it. Returns how much; 0 is the end.
///
/// # Errors
/// As [`read`].
pub(super) fn discard(from: &TcpStream) -> io::Result<usize> {
    with_scratch(|scratch| {
        once(from, Interest::READABLE, || {
            // The buffer is only measured: with MSG_TRUNC, tcp(7) copies nothing.
            let capacity = scratch.len();
            let (_, read) = recv(from, &mut *scratch, RecvFlags::TRUNC)?;
            Ok((read, read > 0 && read < capacity))
        })
    })
}

/// Writes what fits.
///
/// # Errors
/// `WouldBlock` when nothing does; the socket's own otherwise.
pub(super) fn write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    once(to, Interest::WRITABLE, || {
        let written = send(to, bytes, SendFlags::NOSIGNAL)?;
        Ok((written, written < bytes.len()))
    })
}

/// Runs `call` when the socket is ready. When it reports that the socket is exhausted (a short read leaves it
/// empty but for bytes after a TCP urgent mark, which wait for the next segment; a short write full), readiness is cleared as though it had blocked: the next edge brings it back,
/// and the call that would only answer EAGAIN is saved.
fn once(
    socket: &TcpStream,
    interest: Interest,
    mut call: impl FnMut() -> rustix::io::Result<(usize, bool)>,
) -> io::Result<usize> {
    let mut outcome = None;
    let result = socket.try_io(interest, || {
        loop {
            match call() {
                Err(rustix::io::Errno::INTR) => {}
                Ok((bytes, true)) => {
                    outcome = Some(bytes);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok((bytes, false)) => return Ok(bytes),
                Err(error) => return Err(error.into()),
            }
        }
    });
    outcome.map_or(result, Ok)
}
