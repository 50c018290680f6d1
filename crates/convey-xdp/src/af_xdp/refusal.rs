//! Why an interface cannot be listened on: errno, cause and remedy.

use std::error::Error;
use std::io;

use convey_engine::{EngineError, EngineErrorKind};
use rustix::io::Errno;

use super::link::Facts;
use super::socket::MAX_MTU;

const OTHERS: &str = "use engine = \"af_packet\", or name other interfaces with \"interfaces\"";

/// Somebody else's program is there already.
pub fn foreign_program(facts: &Facts) -> EngineError {
    let Facts { name, xdp_program, .. } = facts;
    EngineError::new(
        EngineErrorKind::Unsupported,
        format!(
            "Cannot attach an XDP program to {name}: it has another one already (id {}; EBUSY), which is not replaced",
            xdp_program.unwrap_or_default()
        ),
        format!("end what attached it (or: ip link set dev {name} xdp off), or use engine = \"af_packet\""),
    )
    .caused_by(Errno::BUSY.into())
}

/// A frame would not fit the memory shared with the kernel.
pub fn mtu(facts: &Facts) -> EngineError {
    let Facts { name, mtu, .. } = facts;
    EngineError::new(
        EngineErrorKind::Unsupported,
        format!("Cannot take frames from {name}: its MTU is {mtu}, AF_XDP takes {MAX_MTU} at most"),
        format!("lower it (ip link set dev {name} mtu {MAX_MTU}), or use engine = \"af_packet\""),
    )
}

/// The kernel or the driver does not take the program. `error` hides the errno somewhere among its causes.
pub fn attach(facts: &Facts, error: &(dyn Error + 'static)) -> EngineError {
    let name = &facts.name;
    let errno = errno(error);
    let remedy = match errno {
        Some(Errno::OPNOTSUPP) => OTHERS.to_owned(),
        Some(Errno::BUSY | Errno::EXIST) => return foreign_program(facts),
        Some(Errno::RANGE | Errno::INVAL | Errno::MSGSIZE) => {
            format!("an MTU above 3500 bytes or super-frames (LRO) are not for native XDP; {OTHERS}")
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "run as root or grant CAP_BPF and CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN \
             CAP_BPF)"
                .to_owned()
        }
        _ => OTHERS.to_owned(),
    };
    let cause = match errno {
        Some(Errno::OPNOTSUPP) => {
            format!("Cannot attach an XDP program to {name}: its driver has no native XDP (EOPNOTSUPP)")
        }
        _ => {
            format!("Cannot attach an XDP program to {name} in native mode: {}", crate::error::reason(error))
        }
    };
    with(kind(errno), cause, remedy, errno)
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

/// The interface could not be asked about.
pub fn unknown(ifindex: u32, source: io::Error) -> EngineError {
    let cause = format!("Cannot learn about the interface with index {ifindex}: {source}");
    EngineError::new(EngineErrorKind::Failed, cause, "it may have been removed").caused_by(source)
}

fn with(kind: EngineErrorKind, cause: String, remedy: String, errno: Option<Errno>) -> EngineError {
    let error = EngineError::new(kind, cause, remedy);
    match errno {
        Some(errno) => error.caused_by(errno.into()),
        None => error,
    }
}

fn kind(errno: Option<Errno>) -> EngineErrorKind {
    match errno {
        Some(Errno::PERM | Errno::ACCESS) => EngineErrorKind::Permission,
        Some(Errno::OPNOTSUPP | Errno::RANGE | Errno::INVAL | Errno::MSGSIZE | Errno::AFNOSUPPORT) => {
            EngineErrorKind::Unsupported
        }
        _ => EngineErrorKind::Failed,
    }
}

fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
