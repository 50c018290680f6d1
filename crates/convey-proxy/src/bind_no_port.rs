//! A source address without a source port, which socket2 has no option for.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Binds `socket` to `source` and leaves the port to connect(2). A port that bind(2) chooses is the socket's alone on
/// that address; one that connect(2) chooses serves one connection to each server at the same time.
///
/// # Errors
/// As bind(2).
pub(crate) fn bind_no_port(socket: &Socket, source: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    // IPv6 sockets take the option at this level, too.
    // SAFETY: the value points to a live local of the size named, and the descriptor is open while `socket` is
    // borrowed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(source, 0).into())
}
