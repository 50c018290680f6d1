//! Connects to abstract Unix sockets for the control plane: Node.js pads their names with zeros to the longest there can
//! be, which is the name of another socket.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Connects to the stream socket that has this name, given without the zero byte before it, and does not wait.
///
/// # Errors
/// As connect(2): `ECONNREFUSED` where nobody listens, `EAGAIN` where the queue of connections is full.
pub fn connect_abstract(name: &str) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(socket)
}
