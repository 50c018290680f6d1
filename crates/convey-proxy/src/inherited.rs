//! Listening sockets that a service manager opened and passed on (socket activation, sd_listen_fds(3)).
//!
//! They are the manager's: it goes on holding them when this process ends, so that clients wait in their queues for
//! the next start instead of being refused. So nothing is done to them that the next owner would inherit: no filter
//! against handshakes, no SO_REUSEPORT, and only duplicates of ours are ever closed. They come once, with the process,
//! which is why they stand in a static.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use listenfd::ListenFd;
use socket2::{SockRef, Socket};

static PASSED_ON: OnceLock<Vec<(SocketAddr, TcpListener)>> = OnceLock::new();

/// What came of one of the descriptors, in their order: where it listens, or why it cannot be used.
pub type Passed = Result<SocketAddr, String>;

/// Takes the descriptors that `LISTEN_PID` and `LISTEN_FDS` tell of, which are gone from the environment then. To be
/// called once, before anything is bound; later calls find none.
pub fn take_from_environment() -> Vec<Passed> {
    let mut descriptors = ListenFd::from_env();
    let mut usable = Vec::new();
    let passed = (0..descriptors.len())
        .map(|index| {
            let listener = take(&mut descriptors, index)?;
            let at = listener.local_addr().map_err(|error| error.to_string())?;
            usable.push((at, listener));
            Ok(at)
        })
        .collect();
    let _ = PASSED_ON.set(usable);
    passed
}

fn take(descriptors: &mut ListenFd, index: usize) -> Result<TcpListener, String> {
    let taken = descriptors.take_tcp_listener(index).map_err(|_| "it is no TCP socket".to_owned())?;
    let listener = taken.ok_or("it was taken before")?;
    if !SockRef::from(&listener).is_listener().unwrap_or(false) {
        return Err("it does not listen (Accept=yes in the socket unit?)".to_owned());
    }
    Ok(listener)
}

/// A duplicate of the socket that listens on exactly `at`, if there is one.
///
/// # Errors
/// The process is out of file descriptors.
pub fn listener_at(at: SocketAddr) -> Option<io::Result<OwnedFd>> {
    let (_, listener) = PASSED_ON.get()?.iter().find(|(its, _)| *its == at)?;
    Some(listener.try_clone().map(OwnedFd::from))
}

/// The same, as a frontend uses it.
pub(crate) fn socket_at(at: SocketAddr) -> Option<io::Result<Socket>> {
    let socket = listener_at(at)?.map(Socket::from);
    Some(socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket)))
}
