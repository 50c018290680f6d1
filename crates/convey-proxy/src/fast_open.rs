//! TCP Fast Open on listening sockets (RFC 7413).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The bit of net.ipv4.tcp_fastopen without which the kernel ignores the option on listening sockets.
const SERVER: u32 = 2;

/// Lets `pending` connections with data in their SYN wait for their handshake; 0 turns it off.
///
/// # Errors
/// As setsockopt(2): the kernel was built without, or forbids it.
pub(crate) fn set(listener: impl AsFd, pending: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(pending).unwrap_or(libc::c_int::MAX);
    // SAFETY: the value points to a live local of the size named, and the descriptor is open while it is borrowed.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What keeps this host from it, for people.
pub(crate) fn obstacle() -> Option<String> {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").ok()?;
    let value: u32 = setting.trim().parse().ok()?;
    (value & SERVER == 0).then(|| {
        format!(
            "net.ipv4.tcp_fastopen is {value}, without the bit for servers: connections begin in the ordinary way; \
             sysctl -w net.ipv4.tcp_fastopen={}",
            value | SERVER
        )
    })
}
