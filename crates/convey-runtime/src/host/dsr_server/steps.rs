//! What preparing a server takes, and what it cannot be combined with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use convey_engine::DsrMethod;
use convey_xdp::dsr::DsrRewrite;
use convey_xdp::{Endpoint, protocol_name};

use super::super::step::{Step, required_index};
use super::super::{HostError, interface_of, sysctl};
use super::discover::interfaces;
use super::{DsrServerSpec, LOOPBACK};

/// Announce no address that lives on another interface than the one asked; 2 and 8 are stricter.
pub(super) const ARP_IGNORE: (&str, &str, &[&str]) = ("net.ipv4.conf.all.arp_ignore", "1", &["2", "8"]);
/// Name no address of another interface as the sender when asking.
pub(super) const ARP_ANNOUNCE: (&str, &str, &[&str]) = ("net.ipv4.conf.all.arp_announce", "2", &[]);

/// Every step, in order.
///
/// # Errors
/// [`HostError`]: the specification does not fit this host.
pub(super) fn steps(spec: &DsrServerSpec) -> Result<Vec<Step>, HostError> {
    check_addresses(spec)?;
    if interface_of(spec.server_addr)?.is_none() {
        return Err(HostError::NotOurAddress(spec.server_addr));
    }
    if let Some(holder) = interface_of(spec.vip.ip())?
        && (spec.method == DsrMethod::Rewrite || holder != LOOPBACK)
    {
        return Err(HostError::Contradiction(format!(
            "{} is on {holder} of this host, which would answer for it in the balancer's place; remove it \
             (ip addr del … dev {holder}), or run this on a server",
            spec.vip.ip()
        )));
    }
    if spec.method == DsrMethod::L2 {
        let mut steps = Vec::new();
        if spec.vip.is_ipv4() {
            // Before the address: it must not be announced for a moment.
            steps.extend([ARP_IGNORE, ARP_ANNOUNCE].map(|(key, value, acceptable)| Step::Sysctl {
                key: key.to_owned(),
                value: value.to_owned(),
                acceptable,
            }));
        }
        steps.push(Step::Address { interface: LOOPBACK.to_owned(), address: spec.vip.ip() });
        return Ok(steps);
    }
    let mut steps = Vec::new();
    for interface in interfaces(spec)? {
        required_index(&interface)?;
        steps.push(Step::Clsact { interface: interface.clone() });
        steps.push(Step::EgressProgram { interface, rewrite: rewrite(spec) });
    }
    Ok(steps)
}

/// Whether the addresses are those of a client's peer and of a host, and fit each other.
///
/// # Errors
/// [`HostError::Contradiction`].
pub(super) fn check_addresses(spec: &DsrServerSpec) -> Result<(), HostError> {
    let (vip, server) = (spec.vip.ip(), spec.server_addr);
    for (role, address) in [("the VIP", vip), ("the server's address", server)] {
        if let Some(what) = nobodys(address) {
            return Err(HostError::Contradiction(format!("{address} is {what}, which {role} cannot be")));
        }
    }
    if vip.is_ipv4() != server.is_ipv4() {
        return Err(HostError::Contradiction(format!(
            "the VIP {vip} and the server's address {server} must be of one family; give the server's other address"
        )));
    }
    if vip == server {
        return Err(HostError::Contradiction(format!(
            "{vip} cannot be both the VIP and the server's own address; give the one the balancer sends to"
        )));
    }
    if spec.vip.port() == 0 {
        return Err(HostError::Contradiction(format!("{vip} needs a port, as in {vip}:80")));
    }
    Ok(())
}

/// What an address is that no single host answers by over a network.
fn nobodys(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the wildcard address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else {
        None
    }
}

/// What the program at egress is to do.
pub(super) fn rewrite(spec: &DsrServerSpec) -> DsrRewrite {
    let addr = SocketAddr::new(spec.server_addr, spec.vip.port());
    DsrRewrite {
        server: Endpoint { protocol: spec.protocol, addr },
        vip: spec.vip.ip(),
        excluded: spec.balancers.clone(),
    }
}

/// What was done by a step, in words.
pub(super) fn done(step: &Step) -> Vec<String> {
    match step {
        Step::EgressProgram { interface, rewrite } => vec![format!(
            "replies of {} {} leave {interface} with the source {}",
            protocol_name(rewrite.server.protocol),
            rewrite.server.addr,
            rewrite.vip
        )],
        Step::Address { interface, address } => vec![format!("{address} is held on {interface}")],
        Step::Sysctl { key, .. } => {
            sysctl::read(key).map(|value| vec![format!("{key} is {value}")]).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}
