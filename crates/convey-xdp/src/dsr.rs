//! The server's side of direct server return: `dsr_egress.c` at the clsact egress hook, where it stays when the
//! command that attached it ends.

use std::net::IpAddr;

use aya::maps::HashMap as BpfHashMap;
use aya::programs::SchedClassifier;
use aya::{EbpfLoader, maps::MapData};

use crate::error::reason;
use crate::netlink::{self, Filter, Hook};
use crate::{Endpoint, XdpError, filter};

const PROGRAM: &str = "convey_dsr";

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

/// The next free handle for [`attach`].
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn next_handle(interface: u32) -> Result<u32, XdpError> {
    filter::next_handle(interface, Hook::Egress)
}

/// Attaches the program to the interface, which needs a clsact qdisc. It outlives this process.
///
/// # Errors
/// [`XdpError`]; nothing is attached then.
pub fn attach(interface: u32, handle: u32, rewrite: &DsrRewrite) -> Result<(), XdpError> {
    let link_header_bytes = netlink::link_header_bytes(interface)?;
    let refused = |e: &(dyn std::error::Error + 'static)| XdpError::load(PROGRAM, e);
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
        .ok_or_else(|| XdpError::object(PROGRAM, "the object has no such program"))?
        .try_into()
        .map_err(|e: aya::programs::ProgramError| refused(&e))?;
    program.load().map_err(|e| refused(&e))?;
    filter::attach(program, PROGRAM, interface, Hook::Egress, handle)
}

/// The filter with this handle, if it is still our program.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn find(interface: u32, handle: u32) -> Result<Option<Filter>, XdpError> {
    filter::find(interface, Hook::Egress, handle, PROGRAM)
}

/// Takes the program with this handle away. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn detach(interface: u32, handle: u32) -> Result<bool, XdpError> {
    filter::detach(interface, Hook::Egress, handle, PROGRAM)
}
