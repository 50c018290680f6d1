//! The server's side of direct server return: the server answers clients itself, in the name of the VIP.
//!
//! Method `rewrite`: packets arrive at the server's own address, so replies must leave with the VIP as source.
//! A program at tc egress does that; it stays when this process ends. What goes to the VIP itself or to a
//! balancer is answered from the server's own address: those are health checks. Nothing in a packet tells a
//! balanced client from one that connected to the server directly, so balancers must be named; other hosts
//! that talk to the service directly (monitoring, say) are named the same way.
//!
//! Method `l2`: packets arrive at the VIP, which the server holds on its loopback and does not announce.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use convey_core::Protocol;
use convey_engine::DsrMethod;
use convey_xdp::dsr::{self, DsrRewrite};
use convey_xdp::{Endpoint, protocol_name, protocol_number};

use super::journal::{Entry, Kind, Record, StateDir};
use super::step::{Step, has_address, is_acceptable, nft_commands, required_index};
use convey_xdp::netlink;

use super::{HostError, interface_of, sys, sysctl, undo};

/// Announce no address that lives on another interface than the one asked; 2 and 8 are stricter.
const ARP_IGNORE: (&str, &str, &[&str]) = ("net.ipv4.conf.all.arp_ignore", "1", &["2", "8"]);
/// Name no address of another interface as the sender when asking.
const ARP_ANNOUNCE: (&str, &str, &[&str]) = ("net.ipv4.conf.all.arp_announce", "2", &[]);
const LOOPBACK: &str = "lo";

/// How a server is to be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsrServerSpec {
    /// The address that clients know; the server listens on the same port.
    pub vip: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// As in the balancer's configuration.
    pub method: DsrMethod,
    /// The address under which the balancer knows this server.
    pub server_addr: IpAddr,
    /// Where replies leave; `None` takes the interface that has `server_addr` and those by which routes lead out of
    /// this network. Only `rewrite` uses it.
    pub interface: Option<String>,
    /// Addresses of balancers, whose health checks are answered from `server_addr`. The VIP's is known.
    pub balancers: Vec<IpAddr>,
    /// Where journals are kept: [`super::DEFAULT_STATE_DIR`].
    pub state_dir: PathBuf,
}

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
fn interfaces(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    if let Some(given) = &spec.interface {
        return Ok(vec![given.clone()]);
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

/// Every step in a form one could type; nothing is changed.
///
/// # Errors
/// [`HostError`]: the specification does not fit this host.
pub fn plan(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    let mut lines = Vec::new();
    for step in steps(spec)? {
        lines.extend(step.describe()?);
    }
    Ok(lines)
}

/// Prepares this host; prepared the same way already, it changes nothing. Returns what was done, in words.
///
/// # Errors
/// [`HostError`]; the host is as before, except that an earlier preparation for the same VIP is undone.
pub fn apply(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    check_family(spec)?;
    let state = StateDir::open(&spec.state_dir)?;
    let result = apply_in(&state, spec);
    state.close();
    result
}

fn apply_in(state: &StateDir, spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    let id = journal_id(spec.vip, spec.protocol);
    let mut lines = undo::reclaim(state, undo::Leave::GuardsAndFlows)?;
    if let Some(former) = state.journal(&id) {
        if former.complete && former.note == note(spec)? && missing(state, spec)?.is_empty() {
            return Ok(vec![format!("{} is prepared already", spec.vip)]);
        }
        lines.extend(undo::undo_journal(state, &id, former)?);
    }
    // Only now: a VIP that the other method had put on the loopback is gone.
    let steps = steps(spec)?;
    let mut entry = Entry::new(Kind::DsrServer);
    entry.note = note(spec)?;
    entry.frontends = vec![service(spec)];
    let peers = state.peers(&id)?;
    if spec.method == DsrMethod::Rewrite && peers.iter().any(|p| p.entry.frontends == entry.frontends) {
        return Err(HostError::Contradiction(format!(
            "replies of {} are rewritten to another VIP already; one service can have one VIP by this method: undo the \
             other (convey dsr-server <vip:port> --undo), or use method \"l2\"",
            service(spec)
        )));
    }

    // Held until everything is done: an interrupted preparation is recognised by its lock being free.
    let owner = state.own(&id)?;
    let mut result = state.write(&id, &entry);
    for step in &steps {
        result = result.and_then(|()| {
            let record = step.record(&peers)?;
            if let Some(record) = &record {
                entry.records.push(record.clone());
                state.write(&id, &entry)?;
            }
            step.perform(record.as_ref())?;
            lines.extend(done(step));
            Ok(())
        });
    }
    if result.is_ok() {
        entry.complete = true;
        result = state.write(&id, &entry);
    }
    if let Err(error) = result {
        // The first error is the one to report; what cannot be undone now stays in the journal.
        let _ = undo::undo_journal(state, &id, entry);
        return Err(error);
    }
    drop(owner);
    if spec.method == DsrMethod::Rewrite && spec.balancers.is_empty() {
        lines.push(format!(
            "note: only {} counts as a balancer; if health checks come from another address, name it",
            spec.vip.ip()
        ));
    }
    Ok(lines)
}

fn done(step: &Step) -> Vec<String> {
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

/// What is missing on this host, in words; nothing when it is prepared.
///
/// # Errors
/// [`HostError`] when it cannot be found out.
pub fn check(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    if !spec.state_dir.exists() && spec.method == DsrMethod::Rewrite {
        return Ok(vec![format!("{} was not prepared on this host", spec.vip)]);
    }
    if spec.method == DsrMethod::L2 {
        return missing_l2(spec);
    }
    let state = StateDir::open(&spec.state_dir)?;
    let result = missing(&state, spec);
    state.close();
    result
}

fn missing(state: &StateDir, spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    if spec.method == DsrMethod::L2 {
        return missing_l2(spec);
    }
    let mut lines = own_address(spec)?;
    let Some(entry) = state.journal(&journal_id(spec.vip, spec.protocol)) else {
        lines.push(format!("{} was not prepared on this host", spec.vip));
        return Ok(lines);
    };
    if entry.boot != Entry::new(Kind::DsrServer).boot {
        lines.push("the host was restarted since it was prepared".to_owned());
        return Ok(lines);
    }
    if lines.is_empty() && entry.note != note(spec)? {
        for interface in interfaces(spec)? {
            let is_rewritten =
                |r: &Record| matches!(r, Record::EgressProgram { interface: i, .. } if *i == interface);
            if !entry.records.iter().any(is_rewritten) {
                lines.push(format!("answers may leave by {interface}, where nothing rewrites them"));
            }
        }
        lines.push(format!("{} was prepared otherwise: {}", spec.vip, entry.note));
    }
    for record in &entry.records {
        if let Record::EgressProgram { interface, index, handle } = record {
            let attached = dsr::find(*index, *handle)?.is_some();
            if !attached {
                lines.push(format!("the egress program is not attached to {interface} any more"));
            }
        }
    }
    Ok(lines)
}

fn missing_l2(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    let mut lines = own_address(spec)?;
    if !has_address(required_index(LOOPBACK)?, spec.vip.ip())? {
        lines.push(format!("{} is not on {LOOPBACK}", spec.vip.ip()));
    }
    if spec.vip.is_ipv4() {
        for (key, value, acceptable) in [ARP_IGNORE, ARP_ANNOUNCE] {
            let present = sysctl::read(key)?;
            if !is_acceptable(&present, value, acceptable) {
                lines.push(format!("{key} is {present} and should be {value}"));
            }
        }
    }
    Ok(lines)
}

fn own_address(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    Ok(match interface_of(spec.server_addr)? {
        Some(_) => Vec::new(),
        None => vec![HostError::NotOurAddress(spec.server_addr).to_string()],
    })
}

/// Takes back what [`apply`] did for this VIP. Returns what was done, in words; nothing prepared is fine.
///
/// # Errors
/// [`HostError`]; what failed stays in the journal.
pub fn undo(vip: SocketAddr, protocol: Protocol, state_dir: &Path) -> Result<Vec<String>, HostError> {
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let state = StateDir::open(state_dir)?;
    let id = journal_id(vip, protocol);
    let result = match state.journal(&id) {
        Some(entry) => undo::undo_journal(&state, &id, entry),
        None => Ok(Vec::new()),
    };
    state.close();
    result
}

/// The same as commands for a host without convey: by nft and, for IPv4, by tc with the `nat` action.
///
/// # Errors
/// [`HostError`] when the interface is neither given nor found by `server_addr`.
pub fn print(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    check_family(spec)?;
    let vip = spec.vip.ip();
    if spec.method == DsrMethod::L2 {
        let mut lines = Vec::new();
        if vip.is_ipv4() {
            for (key, value, _) in [ARP_IGNORE, ARP_ANNOUNCE] {
                lines.push(format!("sysctl -w {key}={value}"));
            }
        }
        lines.extend(Step::Address { interface: LOOPBACK.to_owned(), address: vip }.describe()?);
        lines.push(format!("# undo: ip addr del {vip}/{} dev {LOOPBACK}", super::step::full_prefix(vip)));
        return Ok(lines);
    }
    let interfaces = interfaces(spec)?;
    let mut lines = vec!["# with nft (Linux 5.16 and later):".to_owned()];
    for (n, interface) in interfaces.iter().enumerate() {
        let chain = if n == 0 { "egress".to_owned() } else { format!("egress_{n}") };
        // The table is there after the first.
        lines.extend(nft_commands(&chain, interface, &rewrite(spec))?.into_iter().skip(n.min(1)));
    }
    lines.push("# undo: nft delete table netdev convey_dsr".to_owned());
    if vip.is_ipv4() {
        lines.push(
            "# or with tc, where the kernel has the actions nat and gact (packets without IP options):"
                .to_owned(),
        );
        for interface in &interfaces {
            lines.extend(tc_commands(spec, interface));
            lines.push(format!("# undo: tc qdisc del dev {interface} clsact"));
        }
    }
    Ok(lines)
}

fn tc_commands(spec: &DsrServerSpec, interface: &str) -> Vec<String> {
    let (server, vip, port) = (spec.server_addr, spec.vip.ip(), spec.vip.port());
    let select = format!(
        "u32 match ip protocol {} 0xff match ip src {server}/32 match ip sport {port} 0xffff",
        protocol_number(spec.protocol)
    );
    let filter = format!("tc filter add dev {interface} egress protocol ip");
    let mut lines = vec![format!("tc qdisc add dev {interface} clsact")];
    for excluded in spec.balancers.iter().filter(|b| b.is_ipv4() && **b != vip).chain([&vip]) {
        lines.push(format!("{filter} prio 1 {select} match ip dst {excluded}/32 action pass"));
    }
    lines.push(format!("{filter} prio 2 {select} action nat egress {server}/32 {vip}"));
    lines
}

fn steps(spec: &DsrServerSpec) -> Result<Vec<Step>, HostError> {
    check_family(spec)?;
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

fn check_family(spec: &DsrServerSpec) -> Result<(), HostError> {
    let (vip, server) = (spec.vip.ip(), spec.server_addr);
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

fn rewrite(spec: &DsrServerSpec) -> DsrRewrite {
    let addr = SocketAddr::new(spec.server_addr, spec.vip.port());
    DsrRewrite {
        server: Endpoint { protocol: spec.protocol, addr },
        vip: spec.vip.ip(),
        excluded: spec.balancers.clone(),
    }
}

fn service(spec: &DsrServerSpec) -> String {
    let at = match spec.method {
        DsrMethod::Rewrite => SocketAddr::new(spec.server_addr, spec.vip.port()),
        DsrMethod::L2 => spec.vip,
    };
    format!("{} {at}", protocol_name(spec.protocol))
}

/// A journal a VIP, protocol and network namespace.
fn journal_id(vip: SocketAddr, protocol: Protocol) -> String {
    let at: String =
        vip.to_string().chars().map(|c| if c.is_ascii_hexdigit() || c == '.' { c } else { '_' }).collect();
    format!("dsr_{}_{at}_{}", protocol_name(protocol), sys::netns_id())
}

/// The whole of a preparation in one line, to compare and to show.
fn note(spec: &DsrServerSpec) -> Result<String, HostError> {
    let mut text = match spec.method {
        DsrMethod::Rewrite => {
            let interfaces = interfaces(spec)?.join(" and ");
            format!("method rewrite, server {} on {interfaces}", spec.server_addr)
        }
        DsrMethod::L2 => "method l2".to_owned(),
    };
    if spec.method == DsrMethod::Rewrite {
        let mut balancers = spec.balancers.clone();
        balancers.sort();
        balancers.dedup();
        for balancer in balancers {
            let _ = write!(text, ", balancer {balancer}");
        }
    }
    Ok(text)
}
