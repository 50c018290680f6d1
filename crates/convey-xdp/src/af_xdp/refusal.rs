//! Why AF_XDP cannot be had: errno, cause and remedy.

use std::io;

use convey_engine::{EngineError, EngineErrorKind};
use rustix::io::Errno;

use super::socket::MAX_MTU;
use crate::interface::Facts;
use crate::interface::refusal::{OTHERS, kind, with};

/// A frame would not fit the memory shared with the kernel.
pub fn mtu(facts: &Facts) -> EngineError {
    let Facts { name, mtu, .. } = facts;
    EngineError::new(
        EngineErrorKind::Unsupported,
        format!("Cannot take frames from {name}: its MTU is {mtu}, AF_XDP takes {MAX_MTU} at most"),
        format!("lower it (ip link set dev {name} mtu {MAX_MTU}), or use engine = \"af_packet\""),
    )
}

/// A program was refused, or a map.
pub fn program(error: &crate::XdpError) -> EngineError {
    let cause = format!("Cannot set up the XDP program of AF_XDP: {error}");
    EngineError::new(
        EngineErrorKind::Failed,
        cause,
        "AF_XDP needs Linux 5.18 or later; use engine = \"af_packet\"",
    )
}

/// A socket could not be had.
pub fn socket(facts: &Facts, queue: u32, source: io::Error) -> EngineError {
    let errno = Errno::from_io_error(&source);
    let remedy = match errno {
        Some(Errno::PERM | Errno::ACCESS) => {
            "run as root or grant CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF)"
        }
        Some(Errno::NOBUFS) => {
            "raise the limit of locked memory (systemd: LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK"
        }
        Some(Errno::BUSY) => "end the other program that has an AF_XDP socket on this queue",
        Some(Errno::AFNOSUPPORT) => "this kernel was built without AF_XDP; use engine = \"af_packet\"",
        _ => OTHERS,
    };
    let cause = format!("Cannot open an AF_XDP socket on {}, queue {queue}: {source}", facts.name);
    with(kind(errno), cause, remedy.to_owned(), errno)
}
