//! This server's own address, and the interfaces by which its answers leave.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use convey_xdp::netlink;

use super::super::{HostError, interface_of};
use super::{DsrServerSpec, LOOPBACK};

/// The address this host uses towards the VIP, for want of one given; where it holds the VIP itself (method `l2`,
/// prepared before), the one it uses towards a balancer or elsewhere. Sends nothing.
pub fn discover_server_addr(vip: SocketAddr, balancers: &[IpAddr]) -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849), which only the default route leads to.
    let elsewhere: IpAddr = match vip {
        SocketAddr::V4(_) => [192, 0, 2, 1].into(),
        SocketAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    };
    let towards = [vip.ip()].into_iter().chain(balancers.iter().copied()).chain([elsewhere]);
    let found = towards.filter(|to| to.is_ipv4() == vip.is_ipv4()).find_map(|to| {
        // A VIP that is held here leads to itself.
        source_towards(SocketAddr::new(to, vip.port())).filter(|own| *own != vip.ip())
    });
    found.or_else(|| {
        let is_usable = |a: &IpAddr| {
            a.is_ipv4() == vip.is_ipv4()
                && *a != vip.ip()
                && !a.is_loopback()
                && !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local())
        };
        netlink::addresses().ok()?.into_iter().map(|a| a.address).find(is_usable)
    })
}

fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv6() { ([0u16; 8], 0).into() } else { ([0u8; 4], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Where replies leave: what was given, or the interface with the server's address and every one that leads out of
/// its network: which of them an answer takes depends on the client.
///
/// # Errors
/// [`HostError`]: the server's address is not this host's, or the kernel does not tell.
pub fn interfaces(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    if !spec.interfaces.is_empty() {
        let mut given = spec.interfaces.clone();
        given.dedup();
        return Ok(given);
    }
    let home = interface_of(spec.server_addr)?.ok_or(HostError::NotOurAddress(spec.server_addr))?;
    let mut interfaces = vec![home];
    for index in convey_links::uplinks(spec.server_addr.is_ipv4()).map_err(HostError::Routes)? {
        // One that has just gone leads nowhere.
        let Ok(name) = netlink::interface_name(index) else { continue };
        if name != LOOPBACK && !interfaces.contains(&name) {
            interfaces.push(name);
        }
    }
    Ok(interfaces)
}

/// Further interfaces with an address: what goes to a host in a network of theirs is answered by them, unchanged. None
/// where the interfaces were given.
pub(super) fn beside(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    if !spec.interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let covered = interfaces(spec)?;
    let mut beside = Vec::new();
    for held in netlink::addresses()? {
        let leads_nowhere = matches!(held.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let Ok(name) = netlink::interface_name(held.interface) else { continue };
        let is_other =
            held.address.is_ipv4() == spec.server_addr.is_ipv4() && name != LOOPBACK && !leads_nowhere;
        if is_other && !covered.contains(&name) && !beside.contains(&name) {
            beside.push(name);
        }
    }
    Ok(beside)
}
