//! What of a [`Snapshot`] cannot be forwarded by packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use convey_core::{Frontend, Mode, Snapshot};
use convey_packet::Addr;

use super::build::{addresses, method};
use super::{Method, PacketSnapshot, PacketSpecError};
use crate::options::{ConnectionTracking, PacketOptions};

pub(super) fn check(
    snapshot: &Snapshot,
    options: &PacketOptions,
    previous: Option<&PacketSnapshot>,
) -> Result<(), PacketSpecError> {
    if snapshot.mode == Mode::Proxy {
        return Err(invalid("mode", "proxy mode forwards connections, not packets"));
    }
    if snapshot.limits.max_connections_per_client != 0 {
        let message = "is not available in passthrough and dsr mode; use frontends.<name>.max_connections";
        return Err(invalid("limits.max_connections_per_client", message));
    }
    let ports = options.nat_ports;
    if usize::from(ports.last).saturating_sub(usize::from(ports.first)) + 1 < options.workers.max(1)
        || ports.first > ports.last
        || ports.first == 0
    {
        let message = format!("{}-{} is no range with a port for every worker", ports.first, ports.last);
        return Err(invalid("passthrough.port_range", message));
    }
    if previous.is_some_and(|p| {
        p.options.workers != options.workers
            || p.options.nat_ports != ports
            || p.options.nat_addresses != options.nat_addresses
    }) {
        return Err(invalid(
            "passthrough",
            "workers, ports and NAT addresses cannot change while running; restart to change them",
        ));
    }
    if previous.is_some_and(|p| p.options.connection_tracking != options.connection_tracking) {
        return Err(invalid(TRACKING, "cannot change while running; restart to change it"));
    }
    check_tracking(snapshot, options)?;
    check_nat_addresses(snapshot.mode, options)?;
    for backend in &snapshot.backends {
        if let Some(server) = backend.servers.iter().find(|s| s.addr.ip().is_none()) {
            let key = format!("backends.{}.servers.{}.addr", backend.name, server.name);
            return Err(invalid(key, format!("packets cannot be sent to {}", server.addr)));
        }
    }
    for frontend in &snapshot.frontends {
        for listen in &frontend.listen {
            check_listen(snapshot, frontend, *listen, options)?;
        }
        check_ports(snapshot, frontend)?;
    }
    Ok(())
}

const TRACKING: &str = "dsr.connection_tracking";

/// Without flows there is nothing to translate answers by, and nothing to count.
fn check_tracking(snapshot: &Snapshot, options: &PacketOptions) -> Result<(), PacketSpecError> {
    if options.connection_tracking == ConnectionTracking::Full {
        return Ok(());
    }
    if snapshot.mode != Mode::Dsr {
        return Err(invalid(TRACKING, "\"minimal\" is available in dsr mode only"));
    }
    let limits = [("limits.max_connections".to_string(), snapshot.limits.max_connections)].into_iter();
    let frontends = snapshot.frontends.iter();
    let frontends = frontends.map(|f| (format!("frontends.{}.max_connections", f.name), f.max_connections));
    let servers = snapshot.backends.iter().flat_map(|b| {
        b.servers.iter().map(move |s| {
            (format!("backends.{}.servers.{}.max_connections", b.name, s.name), s.max_connections)
        })
    });
    match limits.chain(frontends).chain(servers).find(|(_, limit)| *limit != 0) {
        Some((key, _)) => {
            let message = format!("needs every connection counted, and {TRACKING} = \"minimal\" counts none");
            Err(invalid(key, message))
        }
        None => Ok(()),
    }
}

fn check_nat_addresses(mode: Mode, options: &PacketOptions) -> Result<(), PacketSpecError> {
    const KEY: &str = "passthrough.nat_addresses";
    if mode != Mode::Passthrough {
        return Ok(());
    }
    for ip in &options.nat_addresses {
        if !can_listen(*ip) {
            return Err(invalid(KEY, format!("{ip} cannot be the source of packets to servers")));
        }
        if !options.local_addresses.contains(ip) {
            let message = format!("{ip} is no address of this host, so answers to it would go elsewhere");
            return Err(invalid(KEY, message));
        }
    }
    Ok(())
}

fn check_listen(
    snapshot: &Snapshot,
    frontend: &Frontend,
    listen: SocketAddr,
    options: &PacketOptions,
) -> Result<(), PacketSpecError> {
    let key = frontend.listen_key.path(&frontend.name);
    if listen.ip().is_unspecified() {
        if addresses(listen, options).is_empty() {
            let message = format!(
                "{listen} stands for every IPv{} address of this host, which has none but loopback and link-local \
                 ones; give the host an address, or name one here",
                if listen.is_ipv4() { 4 } else { 6 }
            );
            return Err(invalid(key, message));
        }
    } else if !Addr::from(listen.ip()).is_valid_source() || is_mapped(listen.ip()) {
        return Err(invalid(
            key,
            format!("{} cannot be the address of packets; name one address", listen.ip()),
        ));
    }
    let is_passthrough = snapshot.mode == Mode::Passthrough;
    if is_passthrough && listen.port() == 0 {
        return Err(invalid(key, "port 0 (every port) is available in dsr mode only; name one port"));
    }
    let backend = &snapshot.backends[frontend.backend];
    for server in &backend.servers {
        let key = format!("backends.{}.servers.{}.addr", backend.name, server.name);
        // `check` has refused others.
        let Some(addr) = server.addr.ip() else { continue };
        if is_mapped(addr.ip()) || !Addr::from(addr.ip()).is_valid_source() {
            return Err(invalid(key, format!("packets cannot be sent to {}", addr.ip())));
        }
        if addr.is_ipv4() != listen.is_ipv4() {
            let message = format!("{} is not of the family of frontend \"{}\"", addr, frontend.name);
            return Err(invalid(key, message));
        }
        if addr.port() == 0 {
            return Err(invalid(key, "must have a port"));
        }
        let is_rewrite = method(snapshot.mode, backend, options) != Method::L2;
        let is_own = addr == listen
            || (addr.port() == listen.port() && addresses(listen, options).contains(&addr.ip().into()));
        if is_rewrite && is_own {
            return Err(invalid(key, format!("is the address of frontend \"{}\" itself", frontend.name)));
        }
    }
    Ok(())
}

/// Direct server return leaves ports as they are: a server's, which health checks ask, is one of its frontend's.
fn check_ports(snapshot: &Snapshot, frontend: &Frontend) -> Result<(), PacketSpecError> {
    if snapshot.mode != Mode::Dsr || frontend.listen.iter().any(|listen| listen.port() == 0) {
        return Ok(());
    }
    let ports: BTreeSet<u16> = frontend.listen.iter().map(SocketAddr::port).collect();
    let backend = &snapshot.backends[frontend.backend];
    let addressed = backend.servers.iter().filter_map(|s| Some((s, s.addr.ip()?.port())));
    let Some((server, port)) = addressed.into_iter().find(|(_, port)| !ports.contains(port)) else {
        return Ok(());
    };
    let of_frontend = match (ports.len(), ports.first(), ports.last()) {
        (1, Some(port), _) => port.to_string(),
        (n, Some(first), Some(last)) => format!("{n} ports from {first} to {last}"),
        _ => String::new(),
    };
    let message = format!(
        "has port {port} where frontend \"{}\" has {of_frontend}; direct server return cannot change the port",
        frontend.name,
    );
    Err(invalid(format!("backends.{}.servers.{}.addr", backend.name, server.name), message))
}

/// Whether packets from elsewhere can be addressed to it. A link-local IPv6 address names no interface.
pub(super) fn can_listen(ip: IpAddr) -> bool {
    let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !ip.is_loopback() && !is_link_local && !is_mapped(ip) && Addr::from(ip).is_valid_source()
}

/// Whether it is an IPv6 address that would pass for an IPv4 one.
fn is_mapped(ip: IpAddr) -> bool {
    ip.is_ipv6() && Addr::from(ip).is_v4()
}

pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> PacketSpecError {
    PacketSpecError { field: field.into(), message: message.into() }
}
