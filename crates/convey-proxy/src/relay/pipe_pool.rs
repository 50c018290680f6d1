//! Pipes for splice, kept per thread. A connection holds one only while there are bytes in it, so a few
//! serve thousands of connections and an idle one costs nothing.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Asked of the kernel; past fs.pipe-user-pages-soft an unprivileged process gets less.
pub(super) const PIPE_BYTES: usize = 256 * 1024;
/// Empty pipes kept for later.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A non-blocking pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
}

/// An empty pipe.
///
/// # Errors
/// The process is out of file descriptors or pipe pages; the caller copies instead.
pub(super) fn take() -> io::Result<Pipe> {
    if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
        return Ok(pipe);
    }
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    // A smaller pipe works too, with more calls.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    Ok(Pipe { read, write })
}

/// Gives back a pipe that must be empty.
pub(super) fn give_back(pipe: Pipe) {
    FREE.with_borrow_mut(|free| {
        if free.len() < KEPT {
            free.push(pipe);
        }
    });
}
