//! What the kernel knows of a socket, for the rare moments in which a timer asks: it costs a system call.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::TcpStream;

/// The state of a socket that was reset, timed out, or closed in both directions (tcp_states.h).
const TCP_CLOSE: u8 = 7;

/// What has gone through a socket. Two looks are equal exactly when nothing moved in between: neither bytes nor
/// a FIN, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    acked: u64,
    /// Bytes and FIN that have arrived, read or not.
    received: u64,
    state: u8,
}

impl Progress {
    /// Bytes and FIN of ours that the peer has acknowledged.
    pub fn acked(self) -> u64 {
        self.acked
    }
}

/// One look at a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub progress: Progress,
    /// Bytes or the FIN wait to be sent or acknowledged.
    pub queued: bool,
    /// Since the peer was last heard of. Keepalive counts, so it bounds how long ago something moved.
    pub silent_for: Duration,
}

impl Look {
    /// Whether the connection is over for the kernel: nothing that is queued will be delivered any more.
    pub fn is_closed(&self) -> bool {
        self.progress.state == TCP_CLOSE
    }
}

/// Looks at `socket`; nothing if the kernel refuses, which it does for no open TCP or Unix socket.
pub(super) fn look(socket: &TcpStream) -> Option<Look> {
    // SAFETY: tcp_info is plain old data, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: value and length point to live locals of the size named, and the descriptor is open while
    // `socket` is borrowed.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return look_unix(socket);
    }
    Some(Look {
        progress: Progress {
            acked: info.tcpi_bytes_acked,
            received: info.tcpi_bytes_received,
            state: info.tcpi_state,
        },
        queued: info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0,
        silent_for: Duration::from_millis(info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv).into()),
    })
}

/// What a Unix socket tells: how much waits, in the peer's queue and in ours.
fn look_unix(socket: &TcpStream) -> Option<Look> {
    let (mut waits_there, mut waits_here): (libc::c_int, libc::c_int) = (0, 0);
    // SAFETY: both calls write one c_int, to live locals of that type, and the descriptor is open while `socket` is
    // borrowed.
    let done = unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut waits_there) == 0
            && libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut waits_here) == 0
    };
    done.then_some(Look {
        // What has been taken is not counted, so what has not stands for it: it changes when the other does.
        progress: Progress { acked: waits_there as u64, received: waits_here as u64, state: 0 },
        queued: waits_there > 0,
        silent_for: Duration::ZERO,
    })
}
