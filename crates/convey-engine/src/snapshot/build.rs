//! From a [`Snapshot`] to the tables of the packet path.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use convey_core::conntrack::{FlowState, Lifetimes, Ticks};
use convey_core::selection::{MaglevTable, Member, member_seed};
use convey_core::{Backend, ConnCounters, Frontend, Mode, Protocol, Server, Snapshot};
use convey_packet::{Addr, TCP, UDP};

use super::{
    Method, NatPath, PacketBackend, PacketFrontend, PacketServer, PacketSnapshot, PacketSpecError, Standing,
    Tenure, Vip,
};
use crate::options::{DsrMethod, PacketOptions, Timeouts};

/// Slots are 16 bits, of which the last stands for none.
const MAX_SLOTS: usize = 65_535;

impl PacketSnapshot {
    /// Builds the tables for `snapshot`. Give the snapshot now in service as `previous`, so that flows keep
    /// their servers; `None` at the start. A backend whose servers and weights are as before keeps its table.
    ///
    /// # Errors
    /// A mode, address or port that cannot be forwarded by packets, with its key path.
    pub fn build(
        snapshot: &Snapshot,
        options: &PacketOptions,
        previous: Option<&PacketSnapshot>,
    ) -> Result<Self, PacketSpecError> {
        check(snapshot, options, previous)?;
        let generation = previous.map_or(1, |p| p.generation + 1);
        let is_gone = |t: &Tenure| previous.is_some_and(|p| p.is_gone(t));

        let mut servers = Slots::after(previous.map(|p| &*p.servers), |s| is_gone(&s.tenure));
        let mut backends = Vec::with_capacity(snapshot.backends.len());
        for backend in &snapshot.backends {
            let method = method(snapshot.mode, backend, options);
            let mut members = Vec::with_capacity(backend.servers.len());
            for server in &backend.servers {
                let slot = servers.place(
                    |old| {
                        *old.backend == *backend.name
                            && old.address == Addr::from(server.addr.ip())
                            && old.port == server.addr.port()
                            && Arc::ptr_eq(&old.counters, &server.counters)
                    },
                    |old| packet_server(backend, server, method, old.map(|o| o.tenure.clone())),
                );
                let slot = slot.ok_or_else(|| too_many("backends", "servers"))?;
                members.push(Member {
                    seed: member_seed(server.addr.to_string().as_bytes()),
                    weight: server.effective_weight(),
                    value: slot,
                });
            }
            backends.push(packet_backend(backend, members, previous));
        }

        let mut frontends = Slots::after(previous.map(|p| &*p.frontends), |f| is_gone(&f.tenure));
        let mut vips = HashMap::default();
        let mut nat_paths = HashSet::default();
        // Those on one address first: they keep it where another stands for every address.
        let (wildcard, exact): (Vec<_>, Vec<_>) =
            snapshot.frontends.iter().partition(|f| f.listen.ip().is_unspecified());
        for frontend in exact.into_iter().chain(wildcard) {
            let protocol = protocol_number(frontend.protocol);
            let port = frontend.listen.port();
            for address in addresses(frontend, options) {
                let vip = Vip { address: address.bits(), port, protocol };
                if vips.contains_key(&vip) {
                    continue;
                }
                let slot = frontends.place(
                    |old| {
                        old.name == frontend.name
                            && (old.protocol, old.address, old.port) == (protocol, address, port)
                            && Arc::ptr_eq(&old.counters, &frontend.counters)
                    },
                    |old| packet_frontend(frontend, address, options, old.map(|o| o.tenure.clone())),
                );
                vips.insert(vip, slot.ok_or_else(|| too_many("frontends", "frontends"))?);
                if snapshot.mode == Mode::Passthrough {
                    for nat in &*nat_sources(address, options) {
                        nat_paths.extend(snapshot.backends[frontend.backend].servers.iter().map(|s| {
                            NatPath {
                                nat: nat.bits(),
                                server: Addr::from(s.addr.ip()).bits(),
                                port: s.addr.port(),
                                protocol,
                            }
                        }));
                    }
                }
            }
        }

        let frontends = frontends.finish(generation, |f| &mut f.tenure);
        let servers = servers.finish(generation, |s| &mut s.tenure);
        if let Some(previous) = previous {
            nat_paths.extend(paths_of_retired(previous, &frontends, &servers));
        }
        let mut former_vips: HashMap<Vip, Vec<u16>, _> = HashMap::default();
        for (slot, frontend) in (0u16..).zip(&frontends) {
            if let Some(f) = frontend.as_ref().filter(|f| f.has_left()) {
                let vip = Vip { address: f.address.bits(), port: f.port, protocol: f.protocol };
                former_vips.entry(vip).or_default().push(slot);
            }
        }
        let no_workers = || (0..options.workers.max(1)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            version: snapshot.version,
            generation,
            mode: snapshot.mode,
            options: options.clone(),
            lifetimes: lifetimes(&options.timeouts, snapshot.mode),
            max_connections: snapshot.limits.max_connections,
            frontends,
            servers,
            backends,
            has_any_port: vips.keys().any(|v: &Vip| v.port == 0),
            vips,
            former_vips,
            nat_paths,
            totals: snapshot.totals.clone(),
            reasons: snapshot.reasons.clone(),
            adopted: previous.map_or_else(no_workers, |p| p.adopted.clone()),
        })
    }
}

/// The paths of flows whose frontend or server has left: answers along them still belong to the packet path, not to
/// the kernel, until the slot is free.
fn paths_of_retired(
    previous: &PacketSnapshot,
    frontends: &[Option<PacketFrontend>],
    servers: &[Option<PacketServer>],
) -> Vec<NatPath> {
    let left_servers: HashSet<(u128, u16)> = servers
        .iter()
        .flatten()
        .filter(|s| s.tenure.retired.is_some())
        .map(|s| (s.address.bits(), s.port))
        .collect();
    let left_sources: HashSet<u128> = frontends
        .iter()
        .flatten()
        .filter(|f| f.tenure.retired.is_some())
        .flat_map(|f| f.nat_sources.iter().map(|a| a.bits()))
        .collect();
    let is_left = |p: &&NatPath| left_servers.contains(&(p.server, p.port)) || left_sources.contains(&p.nat);
    previous.nat_paths.iter().filter(is_left).copied().collect()
}

/// Slots on their way from one snapshot to the next.
struct Slots<T> {
    slots: Vec<Option<T>>,
    placed: Vec<bool>,
}

impl<T: Clone> Slots<T> {
    fn after(previous: Option<&[Option<T>]>, is_gone: impl Fn(&T) -> bool) -> Self {
        let slots: Vec<Option<T>> = previous
            .unwrap_or_default()
            .iter()
            .map(|s| s.as_ref().filter(|s| !is_gone(s)).cloned())
            .collect();
        Self { placed: vec![false; slots.len()], slots }
    }

    /// Puts what `make` makes where its predecessor lies, else in a free slot. `None`: no slot is left.
    fn place(&mut self, is_same: impl Fn(&T) -> bool, make: impl FnOnce(Option<&T>) -> T) -> Option<u16> {
        let known = self.slots.iter().position(|s| s.as_ref().is_some_and(&is_same));
        let at = match known.or_else(|| self.slots.iter().position(Option::is_none)) {
            Some(at) => at,
            None if self.slots.len() < MAX_SLOTS => {
                self.slots.push(None);
                self.placed.push(false);
                self.slots.len() - 1
            }
            None => return None,
        };
        self.slots[at] = Some(make(self.slots[at].as_ref()));
        self.placed[at] = true;
        u16::try_from(at).ok()
    }

    /// All slots; those nothing was put in are retired as of `generation`.
    fn finish(mut self, generation: u64, tenure: impl Fn(&mut T) -> &mut Tenure) -> Vec<Option<T>> {
        for (slot, placed) in self.slots.iter_mut().zip(self.placed) {
            if let Some(slot) = slot {
                let tenure = tenure(slot);
                tenure.retired = if placed { None } else { tenure.retired.or(Some(generation)) };
            }
        }
        self.slots
    }
}

fn packet_server(backend: &Backend, server: &Server, method: Method, tenure: Option<Tenure>) -> PacketServer {
    PacketServer {
        backend: backend.name.clone(),
        name: server.name.clone(),
        address: server.addr.ip().into(),
        port: server.addr.port(),
        method,
        max_connections: server.max_connections,
        counters: server.counters.clone(),
        backend_counters: Arc::<ConnCounters>::clone(&backend.counters),
        configured: match server.effective_weight() {
            _ if !server.up => Standing::Down,
            0 => Standing::Draining,
            _ => Standing::Up,
        },
        tenure: tenure.unwrap_or_default(),
    }
}

fn packet_frontend(
    f: &Frontend,
    address: Addr,
    options: &PacketOptions,
    tenure: Option<Tenure>,
) -> PacketFrontend {
    PacketFrontend {
        name: f.name.clone(),
        protocol: protocol_number(f.protocol),
        address,
        port: f.listen.port(),
        nat_sources: nat_sources(address, options),
        max_connections: f.max_connections,
        counters: f.counters.clone(),
        reasons: f.reasons.clone(),
        backend: f.backend,
        tenure: tenure.unwrap_or_default(),
    }
}

/// The addresses a frontend has: its own, or every one of its family that packets can have.
fn addresses(frontend: &Frontend, options: &PacketOptions) -> Vec<Addr> {
    let listen = frontend.listen.ip();
    if !listen.is_unspecified() {
        return vec![listen.into()];
    }
    let fits = |ip: &&IpAddr| ip.is_ipv4() == listen.is_ipv4() && can_listen(**ip);
    options.local_addresses.iter().filter(fits).map(|ip| Addr::from(*ip)).collect()
}

/// Whether packets from elsewhere can be addressed to it. A link-local IPv6 address names no interface.
fn can_listen(ip: IpAddr) -> bool {
    let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !ip.is_loopback() && !is_link_local && !is_mapped(ip) && Addr::from(ip).is_valid_source()
}

fn packet_backend(
    backend: &Backend,
    members: Vec<Member>,
    previous: Option<&PacketSnapshot>,
) -> PacketBackend {
    let same = previous
        .and_then(|p| p.backends.iter().find(|b| *b.name == *backend.name))
        .filter(|b| b.members == members);
    let table = match same {
        Some(b) => b.table.clone(),
        None => MaglevTable::build(&members).map(Arc::new),
    };
    PacketBackend { name: backend.name.clone(), members, table }
}

fn method(mode: Mode, backend: &Backend, options: &PacketOptions) -> Method {
    if mode == Mode::Passthrough {
        return Method::Nat;
    }
    match options.backend_dsr.get(&*backend.name).copied().unwrap_or(options.dsr) {
        DsrMethod::Rewrite => Method::Rewrite,
        DsrMethod::L2 => Method::L2,
    }
}

fn nat_sources(vip: Addr, options: &PacketOptions) -> Arc<[Addr]> {
    let all: BTreeSet<&IpAddr> = options.nat_addresses.iter().collect();
    let fit: Vec<Addr> =
        all.into_iter().map(|ip| Addr::from(*ip)).filter(|a| a.is_v4() == vip.is_v4()).collect();
    if fit.is_empty() { Arc::from([vip]) } else { fit.into() }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

fn lifetimes(t: &Timeouts, mode: Mode) -> Lifetimes {
    let mut lifetimes = Lifetimes([0; FlowState::COUNT]);
    let closing = if mode == Mode::Dsr { t.dsr_fin } else { t.fin };
    for (state, span) in [
        (FlowState::SynSent, t.syn),
        (FlowState::SynReceived, t.syn),
        (FlowState::Established, t.established),
        (FlowState::Closing, closing),
        (FlowState::Closed, t.closed),
        (FlowState::UdpNew, t.udp),
        (FlowState::UdpReplied, t.udp),
        (FlowState::UdpStream, t.udp_stream),
    ] {
        lifetimes.0[state as usize] = Ticks::span(span);
    }
    lifetimes
}

fn check(
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
    check_nat_addresses(snapshot.mode, options)?;
    for frontend in &snapshot.frontends {
        check_frontend(snapshot, frontend, options)?;
    }
    Ok(())
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

fn check_frontend(
    snapshot: &Snapshot,
    frontend: &Frontend,
    options: &PacketOptions,
) -> Result<(), PacketSpecError> {
    let key = format!("frontends.{}.listen_addr", frontend.name);
    let listen = frontend.listen;
    if listen.ip().is_unspecified() {
        if addresses(frontend, options).is_empty() {
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
        if is_mapped(server.addr.ip()) || !Addr::from(server.addr.ip()).is_valid_source() {
            return Err(invalid(key, format!("packets cannot be sent to {}", server.addr.ip())));
        }
        if server.addr.is_ipv4() != listen.is_ipv4() {
            let message = format!("{} is not of the family of frontend \"{}\"", server.addr, frontend.name);
            return Err(invalid(key, message));
        }
        if server.addr.port() == 0 {
            return Err(invalid(key, "must have a port"));
        }
        if !is_passthrough && listen.port() != 0 && server.addr.port() != listen.port() {
            let message = format!(
                "has port {} where frontend \"{}\" has {}; direct server return cannot change the port",
                server.addr.port(),
                frontend.name,
                listen.port()
            );
            return Err(invalid(key, message));
        }
        let is_rewrite = method(snapshot.mode, backend, options) != Method::L2;
        let is_own = server.addr == listen
            || (server.addr.port() == listen.port()
                && addresses(frontend, options).contains(&server.addr.ip().into()));
        if is_rewrite && is_own {
            return Err(invalid(key, format!("is the address of frontend \"{}\" itself", frontend.name)));
        }
    }
    Ok(())
}

/// Whether it is an IPv6 address that would pass for an IPv4 one.
fn is_mapped(ip: IpAddr) -> bool {
    ip.is_ipv6() && Addr::from(ip).is_v4()
}

fn too_many(field: &str, what: &str) -> PacketSpecError {
    invalid(field, format!("more than {MAX_SLOTS} {what}, those with connections left included"))
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> PacketSpecError {
    PacketSpecError { field: field.into(), message: message.into() }
}
