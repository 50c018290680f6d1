//! The server's side of direct server return: `dsr_egress.c` at the clsact egress hook.
//!
//! Attached by netlink rather than by a link, so that it stays when the command that attached it ends, without
//! a bpffs to pin it in. It is found again, and removed, by its program name, priority and handle.

use std::net::IpAddr;

use aya::maps::HashMap as BpfHashMap;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{EbpfLoader, maps::MapData};

use crate::error::reason;
use crate::netlink::{self, Filter, Hook};
use crate::{Endpoint, XdpError};

const PROGRAM: &str = "convey_dsr";
/// Out of the way of what people and other programs usually take (1, 49152 and what they count to).
const PRIORITY: u16 = 0xc0de;

/// One service of a server whose replies leave with another source address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsrRewrite {
    /// The server's own address and port.
    pub server: Endpoint,
    /// The address clients know.
    pub vip: IpAddr,
    /// Destinations that are answered from the server's own address; the VIP is one without being named.
    pub excluded: Vec<IpAddr>,
}

/// Takes the next free handle at the hook. A program can be attached there only once under one handle, so a
/// caller that writes the handle down *before* attaching can always undo.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn next_handle(interface: u32) -> Result<u32, XdpError> {
    let taken: Vec<u32> = netlink::filters(interface, Hook::Egress)?
        .iter()
        .filter(|f| f.priority == PRIORITY)
        .map(|f| f.handle)
        .collect();
    Ok((1..).find(|h| !taken.contains(h)).unwrap_or(1))
}

/// Attaches the program to the interface, which needs a clsact qdisc. It outlives this process.
///
/// # Errors
/// [`XdpError`]; nothing is attached then.
pub fn attach(interface: u32, handle: u32, rewrite: &DsrRewrite) -> Result<(), XdpError> {
    let name = netlink::interface_name(interface)?;
    let link_header_bytes = netlink::link_header_bytes(interface)?;
    let refused = |e: &dyn std::error::Error| XdpError::Load { program: PROGRAM, reason: reason(e) };
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("link_header_bytes", &link_header_bytes, true)
        .load(convey_bpf::dsr_egress())
        .map_err(|e| refused(&e))?;

    let no_map = |map| XdpError::Map { map, reason: "the object has no such map".into() };
    let error = |map: &'static str, e: &dyn std::error::Error| XdpError::Map { map, reason: reason(e) };
    let mut excluded: BpfHashMap<&mut MapData, [u8; 16], u32> =
        BpfHashMap::try_from(ebpf.map_mut("excluded").ok_or_else(|| no_map("excluded"))?)
            .map_err(|e| error("excluded", &e))?;
    for ip in rewrite.excluded.iter().chain([&rewrite.vip]) {
        excluded.insert(convey_bpf::address(*ip), 1, 0).map_err(|e| error("excluded", &e))?;
    }
    let mut rewrites: BpfHashMap<&mut MapData, [u8; 20], [u8; 16]> =
        BpfHashMap::try_from(ebpf.map_mut("rewrites").ok_or_else(|| no_map("rewrites"))?)
            .map_err(|e| error("rewrites", &e))?;
    rewrites
        .insert(rewrite.server.key(), convey_bpf::address(rewrite.vip), 0)
        .map_err(|e| error("rewrites", &e))?;

    let program: &mut SchedClassifier = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| XdpError::Load { program: PROGRAM, reason: "the object has no such program".into() })?
        .try_into()
        .map_err(|e: aya::programs::ProgramError| refused(&e))?;
    program.load().map_err(|e| refused(&e))?;
    let attach_error = |e: &dyn std::error::Error| XdpError::Attach {
        program: PROGRAM,
        interface: name.clone(),
        reason: reason(e),
    };
    let link = program
        .attach_with_options(
            &name,
            TcAttachType::Egress,
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: TcHandle::from(handle),
                classid: None,
            }),
        )
        .map_err(|e| attach_error(&e))?;
    let link = program.take_link(link).map_err(|e| attach_error(&e))?;
    // Dropping it would detach the program; the kernel holds program and maps by the filter from here on.
    std::mem::forget(link);
    Ok(())
}

/// The filter with this handle, if it is still our program.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn find(interface: u32, handle: u32) -> Result<Option<Filter>, XdpError> {
    Ok(netlink::filters(interface, Hook::Egress)?
        .into_iter()
        .find(|f| f.priority == PRIORITY && f.handle == handle && f.name == PROGRAM))
}

/// Takes the program with this handle away. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn detach(interface: u32, handle: u32) -> Result<bool, XdpError> {
    match find(interface, handle)? {
        Some(filter) => netlink::delete_filter(interface, Hook::Egress, &filter),
        None => Ok(false),
    }
}
