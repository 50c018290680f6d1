//! How a program comes on an interface, and why it does not.

use convey_engine::{EngineError, EngineErrorKind, FilterSink, XdpMode};

use crate::XdpError;
use crate::interface::{self, can_send, refusal};
use crate::kernel::{Hook, Kernel, lacks_tcx};
use crate::netlink::interface_name;

/// What the configuration and the host leave of the ways there are.
pub(super) struct WayOn {
    pub(super) mode: XdpMode,
    /// Who prepares a clsact filter; `None`: there is to be none.
    pub(super) on_filter: Option<FilterSink>,
    /// Whether the kernel may have TCX.
    pub(super) tcx: bool,
}

impl WayOn {
    /// Puts the program on an interface.
    pub(super) fn attach(&self, kernel: &mut Kernel, ifindex: u32) -> Result<(), EngineError> {
        match kernel.hook {
            Hook::Tc => self.attach_tc(kernel, ifindex).map_err(|error| refused(Hook::Tc, &error)),
            Hook::Xdp => attach_xdp(kernel, ifindex, self.mode),
        }
    }

    /// Puts the program on an interface: by a link at TCX, by a filter where the kernel has no TCX.
    fn attach_tc(&self, kernel: &mut Kernel, ifindex: u32) -> Result<(), XdpError> {
        match &self.on_filter {
            Some(on_filter) if !self.tcx => attach_filter(kernel, ifindex, on_filter),
            on_filter => match (kernel.attach(ifindex, XdpMode::Native), on_filter) {
                (Err(error), Some(on_filter)) if lacks_tcx(&error) => {
                    attach_filter(kernel, ifindex, on_filter)
                }
                (attached, _) => attached,
            },
        }
    }
}

/// By a filter at clsact, which `on_filter` prepares.
fn attach_filter(kernel: &mut Kernel, ifindex: u32, on_filter: &FilterSink) -> Result<(), XdpError> {
    let handle = on_filter(ifindex).map_err(|reason| XdpError::Attach {
        program: Hook::Tc.program(),
        interface: interface_name(ifindex).unwrap_or_else(|_| ifindex.to_string()),
        reason: format!("there is no TCX (before Linux 6.6), and no clsact qdisc: {reason}"),
        source: None,
    })?;
    kernel.attach_filter(ifindex, handle)
}

/// Puts the program on an interface, if it is fit for it.
fn attach_xdp(kernel: &mut Kernel, ifindex: u32, mode: XdpMode) -> Result<(), EngineError> {
    let facts = interface::admit(ifindex, kernel.has_pin(ifindex))?;
    kernel.attach(ifindex, mode).map_err(|error| match error {
        XdpError::Attach { source: Some(source), .. } => refusal::attach(&facts, &*source),
        other => refused(Hook::Xdp, &other),
    })?;
    // Of a veth the answer is the other end's; cards that could not send are asked when the way is looked for.
    if mode == XdpMode::Native && facts.kind == "veth" && !can_send(ifindex) {
        kernel.detach(ifindex);
        return Err(refusal::cannot_send(&facts));
    }
    Ok(())
}

/// Why an engine cannot start.
pub(super) fn refused(hook: Hook, error: &XdpError) -> EngineError {
    let what = match hook {
        Hook::Tc => "tc",
        Hook::Xdp => "xdp",
    };
    let errno = match error {
        XdpError::Load { errno, .. } => errno.map(rustix::io::Errno::from_raw_os_error),
        XdpError::Attach { source: Some(source), .. } => refusal::errno(&**source),
        _ => None,
    };
    let kind = match refusal::kind(errno) {
        EngineErrorKind::Permission => EngineErrorKind::Permission,
        _ => EngineErrorKind::Unsupported,
    };
    let mut refused = refusal::with(
        kind,
        format!("The program of engine \"{what}\" cannot be used: {error}"),
        "run as root or grant CAP_BPF and CAP_NET_ADMIN, or use engine \"af_packet\"".to_owned(),
        errno,
    );
    if let XdpError::Load { log, .. } = error {
        refused.log.clone_from(log);
    }
    refused
}
