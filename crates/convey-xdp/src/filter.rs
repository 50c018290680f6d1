//! Our programs at the clsact hooks of an interface.
//!
//! Attached by netlink rather than by a link, so that they stay when the process that attached them ends, also in
//! a container whose bpffs goes with it. They are found again, and removed, by priority, handle and program name.

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::XdpError;
use crate::error::reason;
use crate::netlink::{self, Filter, Hook};

/// Out of the way of what people and other programs usually take (1, 49152 and what they count to).
const PRIORITY: u16 = 0xc0de;

/// The next free handle at the hook. A program can be attached there only once under one handle, so a caller that
/// writes the handle down *before* attaching can always undo.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn next_handle(interface: u32, hook: Hook) -> Result<u32, XdpError> {
    let taken: Vec<u32> = netlink::filters(interface, hook)?
        .iter()
        .filter(|f| f.priority == PRIORITY)
        .map(|f| f.handle)
        .collect();
    Ok((1..).find(|h| !taken.contains(h)).unwrap_or(1))
}

/// Attaches a loaded program to an interface that has a clsact qdisc. It outlives this process.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: u32,
    hook: Hook,
    handle: u32,
) -> Result<(), XdpError> {
    let interface = netlink::interface_name(interface)?;
    let at = match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    };
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: TcHandle::from(handle),
        classid: None,
    });
    let link = program
        .attach_with_options(&interface, at, options)
        .and_then(|link| program.take_link(link))
        .map_err(|e| XdpError::Attach {
            program: name,
            interface,
            reason: reason(&e),
            source: Some(Box::new(e)),
        })?;
    // Dropping it would detach the program; the kernel holds program and maps by the filter from here on.
    std::mem::forget(link);
    Ok(())
}

/// The filter with this handle, if it is still the program of this name.
///
/// # Errors
/// [`XdpError::Netlink`].
pub(crate) fn find(
    interface: u32,
    hook: Hook,
    handle: u32,
    program: &str,
) -> Result<Option<Filter>, XdpError> {
    Ok(netlink::filters(interface, hook)?
        .into_iter()
        .find(|f| f.priority == PRIORITY && f.handle == handle && f.name == program))
}

/// Takes the program away. Returns whether it was there.
pub(crate) fn detach(interface: u32, hook: Hook, handle: u32, program: &str) -> Result<bool, XdpError> {
    match find(interface, hook, handle, program)? {
        Some(filter) => netlink::delete_filter(interface, hook, &filter),
        None => Ok(false),
    }
}
