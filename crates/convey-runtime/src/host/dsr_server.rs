//! The server's side of direct server return: the server answers clients itself, in the name of the VIP.
//!
//! Method `rewrite`: packets arrive at the server's own address, so replies must leave with the VIP as source.
//! A program at tc egress does that; it stays when this process ends. What goes to the VIP itself or to a
//! balancer is answered from the server's own address: those are health checks. Nothing in a packet tells a
//! balanced client from one that connected to the server directly, so balancers must be named; other hosts
//! that talk to the service directly (monitoring, say) are named the same way.
//!
//! Method `l2`: packets arrive at the VIP, which the server holds on its loopback and does not announce.

mod discover;
mod missing;
mod print;
mod steps;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use convey_core::Protocol;
use convey_engine::DsrMethod;
use convey_xdp::protocol_name;

use super::journal::{Entry, Kind, StateDir};
use super::{HostError, sys, undo};

pub use discover::discover_server_addr;
pub use missing::{check, problems};
pub use print::print;

use discover::beside;
pub use discover::interfaces;
use missing::missing;
use steps::{check_addresses, done, steps};

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
    /// Where replies leave; none takes the interface that has `server_addr` and those by which routes lead out of
    /// this network. Only `rewrite` uses it.
    pub interfaces: Vec<String>,
    /// Addresses of balancers, whose health checks are answered from `server_addr`. The VIP's is known.
    pub balancers: Vec<IpAddr>,
    /// Where journals are kept: [`super::DEFAULT_STATE_DIR`].
    pub state_dir: PathBuf,
}

/// Every step in a form one could type, none where all is done already; nothing is changed.
///
/// # Errors
/// [`HostError`]: the specification does not fit this host.
pub fn plan(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    check_addresses(spec)?;
    if spec.state_dir.exists()
        && let Ok(state) = StateDir::open(&spec.state_dir)
    {
        let former = state.journal(&journal_id(spec.vip, spec.protocol));
        let is_prepared = former.map_or(Ok(false), |former| is_prepared(&state, spec, &former));
        state.close();
        if is_prepared? {
            return Ok(Vec::new());
        }
    }
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
    check_addresses(spec)?;
    let state = StateDir::open(&spec.state_dir)?;
    let result = apply_in(&state, spec);
    state.close();
    result
}

fn apply_in(state: &StateDir, spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    let id = journal_id(spec.vip, spec.protocol);
    let mut lines = undo::reclaim(state, undo::Leave::GuardsAndFlows)?;
    if let Some(former) = state.journal(&id) {
        if is_prepared(state, spec, &former)? {
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
    if spec.method == DsrMethod::Rewrite {
        let beside = beside(spec)?;
        if !beside.is_empty() {
            lines.push(format!(
                "note: answers to hosts in a network of {} itself keep their source; if clients are there, name every \
                 interface with --interface",
                beside.join(" or ")
            ));
        }
    }
    if spec.method == DsrMethod::Rewrite && spec.balancers.is_empty() {
        lines.push(format!(
            "note: only {} counts as a balancer; if health checks connect from another address, name it (but not with check = \
             \"vip\", which is answered as clients are)",
            spec.vip.ip()
        ));
    }
    Ok(lines)
}

/// Whether it was done already, in the same way, and all of it is still there.
fn is_prepared(state: &StateDir, spec: &DsrServerSpec, former: &Entry) -> Result<bool, HostError> {
    Ok(former.complete && former.note == note(spec)? && missing(state, spec)?.is_empty())
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
        Some(entry) => undo::undo_journal(&state, &id, entry).map(|mut lines| {
            if lines.is_empty() {
                lines.push(format!(
                    "{vip} is taken back; other services of this host need all that it needed"
                ));
            }
            lines
        }),
        None => Ok(Vec::new()),
    };
    state.close();
    result
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
