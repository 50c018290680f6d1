//! Why an XDP program cannot be on an interface: errno, cause and remedy.

use std::error::Error;
use std::io;

use aya::programs::ProgramError;
use convey_engine::{EngineError, EngineErrorKind};
use rustix::io::Errno;

use super::Facts;

/// What to do instead.
pub const OTHERS: &str = "use engine = \"tc\" or \"af_packet\", or name other interfaces with \"interfaces\"";

/// Bytes of an MTU that drivers take for a program without fragments: a page, less what the kernel puts around a frame.
const USUAL_MTU: u32 = 3498;

/// Somebody else's program is there already.
pub fn foreign_program(facts: &Facts) -> EngineError {
    let Facts { name, xdp_program, .. } = facts;
    EngineError::new(
        EngineErrorKind::Unsupported,
        format!(
            "Cannot attach an XDP program to {name}: it has another one already (id {}; EBUSY), which is not replaced",
            xdp_program.unwrap_or_default()
        ),
        format!("end what attached it (or: ip link set dev {name} xdp off), or use engine = \"tc\" or \"af_packet\""),
    )
    .caused_by(Errno::BUSY.into())
}

/// The kernel or the driver does not take the program. `error` hides the errno somewhere among its causes.
pub fn attach(facts: &Facts, error: &(dyn Error + 'static)) -> EngineError {
    let Facts { name, mtu, .. } = facts;
    let errno = errno(error);
    if matches!(errno, Some(Errno::BUSY | Errno::EXIST)) {
        return foreign_program(facts);
    }
    let (cause, remedy) = match errno {
        Some(Errno::OPNOTSUPP) if facts.driver().as_deref() == Some("virtio_net") => (
            format!(
                "Cannot attach an XDP program to {name}: its virtual card puts super-frames together and leaves checksums \
                 open, and cannot stop (EOPNOTSUPP)"
            ),
            format!(
                "ethtool -K {name} rx-gro-hw off; if that is not to be had, start the virtual machine with \
                 guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off; or use engine = \"tc\""
            ),
        ),
        Some(Errno::OPNOTSUPP) => (
            format!("Cannot attach an XDP program to {name}: its driver has no native XDP (EOPNOTSUPP)"),
            format!("{OTHERS}; for trials: xdp.mode = \"generic\""),
        ),
        Some(Errno::RANGE | Errno::INVAL | Errno::MSGSIZE) if *mtu > USUAL_MTU => (
            format!(
                "Cannot attach an XDP program to {name}: its MTU is {mtu}, and native XDP takes frames of one page ({})",
                code(errno)
            ),
            format!("lower it (ip link set dev {name} mtu {USUAL_MTU}), or {OTHERS}"),
        ),
        Some(Errno::RANGE | Errno::INVAL | Errno::MSGSIZE) => (
            format!("Cannot attach an XDP program to {name}: its driver refuses it ({})", code(errno)),
            format!(
                "the MTU of the other end of a veth must be {USUAL_MTU} at most, and super-frames (ethtool -K {name} lro off) \
                 are not for native XDP; or {OTHERS}"
            ),
        ),
        Some(Errno::PERM | Errno::ACCESS) => (
            format!("Cannot attach an XDP program to {name} ({})", code(errno)),
            "run as root or grant CAP_BPF and CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN \
             CAP_BPF)"
                .to_owned(),
        ),
        _ => (format!("Cannot attach an XDP program to {name}: {}", crate::error::reason(error)), OTHERS.to_owned()),
    };
    with(kind(errno), cause, remedy, errno)
}

/// What XDP sends by this interface gets nowhere, and nobody is told.
pub fn cannot_send(facts: &Facts) -> EngineError {
    let name = &facts.name;
    let (why, remedy) = match facts.kind.as_str() {
        "veth" => (
            format!(
                "the other end of the veth {name} has no XDP program and no GRO, without which it drops what XDP sends"
            ),
            "at the other end: ethtool -K <device> gro on, or attach a program that passes everything",
        ),
        _ => (
            format!("the driver of {name} cannot send what XDP redirects to it"),
            "an XDP program there may help",
        ),
    };
    with(
        EngineErrorKind::Unsupported,
        format!("Cannot forward by XDP on {name}: {why} (EOPNOTSUPP)"),
        format!("{remedy}; or {OTHERS}"),
        Some(Errno::OPNOTSUPP),
    )
}

/// What is told of packets whose checksum is open, which came by these interfaces.
pub fn open_checksums(names: &[&str], consequence: &str) -> String {
    format!(
        "Packets come by {} with checksums that their sender left open; {consequence}; at the sender's end of the cable: \
         ethtool -K <device> tx off",
        names.join(" or ")
    )
}

/// The interface could not be asked about.
pub fn unknown(ifindex: u32, source: io::Error) -> EngineError {
    let cause = format!("Cannot learn about the interface with index {ifindex}: {source}");
    EngineError::new(EngineErrorKind::Failed, cause, "it may have been removed").caused_by(source)
}

/// An error that this errno is behind.
pub fn with(kind: EngineErrorKind, cause: String, remedy: String, errno: Option<Errno>) -> EngineError {
    let error = EngineError::new(kind, cause, remedy);
    match errno {
        Some(errno) => error.caused_by(errno.into()),
        None => error,
    }
}

/// The kind of an error that this errno is behind.
pub fn kind(errno: Option<Errno>) -> EngineErrorKind {
    match errno {
        Some(Errno::PERM | Errno::ACCESS) => EngineErrorKind::Permission,
        Some(Errno::OPNOTSUPP | Errno::RANGE | Errno::INVAL | Errno::MSGSIZE | Errno::AFNOSUPPORT) => {
            EngineErrorKind::Unsupported
        }
        _ => EngineErrorKind::Failed,
    }
}

/// Its name, for those that attaching gives.
const fn code(errno: Option<Errno>) -> &'static str {
    match errno {
        Some(Errno::RANGE) => "ERANGE",
        Some(Errno::INVAL) => "EINVAL",
        Some(Errno::MSGSIZE) => "EMSGSIZE",
        Some(Errno::PERM) => "EPERM",
        Some(Errno::ACCESS) => "EACCES",
        _ => "errno unknown",
    }
}

/// The errno among the causes of an error.
pub fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // Some of aya's errors stand for the one in them, and name its causes as theirs.
        let io = match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::IOError(io)) => Some(io),
            _ => error.downcast_ref::<io::Error>(),
        };
        if let Some(found) = io.and_then(Errno::from_io_error) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
