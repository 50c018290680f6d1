//! What a balancer shares with others on this host: addresses, NAT ports, the ports left to the host itself.

use std::collections::HashMap;

use convey_core::Protocol;
use convey_xdp::{Endpoint, NatRange, protocol_name, protocol_number};

use super::address_lock::AddressLock;
use super::journal::{Found, NatClaim};
use super::{HostError, HostSpec, PortSet, name, step, sysctl};

/// Fewer ports than this for the host's own connections are worth a warning.
const FEW_PORTS: usize = 256;

/// Locks these frontends, unless another balancer serves one.
///
/// # Errors
/// [`HostError::SecondInstance`] names it.
pub(super) fn lock_all(frontends: &[Endpoint], peers: &[Found]) -> Result<Vec<AddressLock>, HostError> {
    let served: HashMap<&str, u32> = peers
        .iter()
        .filter(|p| p.in_use)
        .flat_map(|p| p.entry.frontends.iter().map(|name| (name.as_str(), p.entry.pid)))
        .collect();
    let lock = |frontend: &Endpoint| match served.get(name(frontend).as_str()) {
        Some(&pid) => Err(HostError::SecondInstance {
            protocol: protocol_name(frontend.protocol),
            address: frontend.addr,
            holder: Some(pid),
        }),
        None => AddressLock::take(*frontend),
    };
    frontends.iter().map(lock).collect()
}

/// The NAT ports as journals name them.
pub(super) fn claims(spec: &HostSpec) -> Vec<NatClaim> {
    let claim = |range: &NatRange| NatClaim {
        protocol: protocol_number(range.protocol),
        address: range.addr,
        from: *range.ports.start(),
        to: *range.ports.end(),
    };
    spec.rules.nat.iter().map(claim).collect()
}

/// Whether they have a port in common.
pub(super) fn overlap(a: &NatClaim, b: &NatClaim) -> bool {
    a.protocol == b.protocol && a.address == b.address && a.from <= b.to && b.from <= a.to
}

/// Two balancers that translate from one port would take each other's replies.
pub(super) fn check_nat(spec: &HostSpec, peers: &[Found]) -> Result<(), HostError> {
    let ours = claims(spec);
    for peer in peers.iter().filter(|p| p.in_use) {
        for (a, b) in ours.iter().flat_map(|a| peer.entry.nat.iter().map(move |b| (a, b))) {
            if overlap(a, b) {
                return Err(HostError::NatPortsTaken {
                    ports: format!("{}-{}", a.from, a.to),
                    address: a.address,
                    holder: peer.entry.pid,
                });
            }
        }
    }
    let ports = spec.nat_ports();
    if ports.is_empty() {
        return Ok(());
    }
    match ports_left(&step::present_reserved()?.union(&ports))? {
        Some((0, range)) => Err(HostError::NoPortsLeft { ports: ports.to_string(), range }),
        _ => Ok(()),
    }
}

/// How many ports the kernel may still choose for itself, and from which range.
fn ports_left(reserved: &PortSet) -> Result<Option<(usize, String)>, HostError> {
    let text = sysctl::read("net.ipv4.ip_local_port_range")?;
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(from)), Some(Ok(to))) = (ends.next(), ends.next()) else { return Ok(None) };
    Ok(Some(((from..=to).filter(|port| !reserved.contains(*port)).count(), format!("{from}-{to}"))))
}

/// Whether a program listens there: a second bind is refused then, also with SO_REUSEADDR.
fn is_bound(frontend: &Endpoint) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if frontend.addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let Ok(socket) = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None) else {
        return false;
    };
    let reuse = rustix::net::sockopt::set_socket_reuseaddr(&socket, true);
    reuse.is_ok() && rustix::net::bind(&socket, &frontend.addr) == Err(rustix::io::Errno::ADDRINUSE)
}

/// What an operator should know: ports that are scarce, programs that listen where a frontend does.
///
/// # Errors
/// [`HostError`] when the present state cannot be read.
pub(super) fn warnings(spec: &HostSpec) -> Result<Vec<String>, HostError> {
    let mut warnings = Vec::new();
    let reserved = step::present_reserved()?.union(&spec.nat_ports());
    if let Some((free, range)) = ports_left(&reserved)?
        && free < FEW_PORTS
        && !spec.nat_ports().is_empty()
    {
        warnings.push(format!(
            "the NAT ports leave the host {free} ports of {range} for its own connections; a smaller range or a \
             wider net.ipv4.ip_local_port_range gives it more"
        ));
    }
    for frontend in spec.rules.vips.iter().filter(|f| f.protocol == Protocol::Tcp) {
        if is_bound(frontend) {
            warnings.push(format!(
                "another program of this host listens on {}; its clients will reach the backend instead",
                frontend.addr
            ));
        }
    }
    Ok(warnings)
}
