//! What a server lacks.

use convey_engine::DsrMethod;
use convey_xdp::dsr;

use super::super::journal::{Entry, Kind, Record, StateDir};
use super::super::step::{has_address, is_acceptable, required_index};
use super::super::{HostError, interface_of, sysctl};
use super::discover::interfaces;
use super::steps::{ARP_ANNOUNCE, ARP_IGNORE, check_addresses};
use super::{DsrServerSpec, LOOPBACK, journal_id, note};
use crate::Problem;

/// What is missing on this host, in words; nothing when it is prepared.
///
/// # Errors
/// [`HostError`] when it cannot be found out.
pub fn check(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    Ok(problems(spec)?.iter().map(ToString::to_string).collect())
}

/// What is missing on this host; nothing when it is prepared.
///
/// # Errors
/// [`HostError`] when it cannot be found out.
pub fn problems(spec: &DsrServerSpec) -> Result<Vec<Problem>, HostError> {
    check_addresses(spec)?;
    if !spec.state_dir.exists() && spec.method == DsrMethod::Rewrite {
        return Ok(vec![not_prepared(spec)]);
    }
    if spec.method == DsrMethod::L2 {
        return missing_l2(spec);
    }
    let state = StateDir::open(&spec.state_dir)?;
    let result = missing(&state, spec);
    state.close();
    result
}

pub(super) fn missing(state: &StateDir, spec: &DsrServerSpec) -> Result<Vec<Problem>, HostError> {
    if spec.method == DsrMethod::L2 {
        return missing_l2(spec);
    }
    let mut lines = own_address(spec)?;
    let Some(entry) = state.journal(&journal_id(spec.vip, spec.protocol)) else {
        lines.push(not_prepared(spec));
        return Ok(lines);
    };
    if entry.boot != Entry::new(Kind::DsrServer).boot {
        lines.push(found("restarted", "the host was restarted since it was prepared".to_owned()));
        return Ok(lines);
    }
    if lines.is_empty() && entry.note != note(spec)? {
        for interface in interfaces(spec)? {
            let is_rewritten =
                |r: &Record| matches!(r, Record::EgressProgram { interface: i, .. } if *i == interface);
            if !entry.records.iter().any(is_rewritten) {
                lines.push(found(
                    "uncovered",
                    format!("answers may leave by {interface}, where nothing rewrites them"),
                ));
            }
        }
        lines.push(found("otherwise", format!("{} was prepared otherwise: {}", spec.vip, entry.note)));
    }
    for record in &entry.records {
        if let Record::EgressProgram { interface, index, handle } = record {
            let attached = dsr::find(*index, *handle)?.is_some();
            if !attached {
                lines.push(found(
                    "detached",
                    format!("the egress program is not attached to {interface} any more"),
                ));
            }
        }
    }
    Ok(lines)
}

fn found(kind: &'static str, fact: String) -> Problem {
    Problem { kind, fact, consequence: String::new(), remedy: String::new() }
}

fn not_prepared(spec: &DsrServerSpec) -> Problem {
    found("not_prepared", format!("{} was not prepared on this host", spec.vip))
}

fn missing_l2(spec: &DsrServerSpec) -> Result<Vec<Problem>, HostError> {
    let mut lines = own_address(spec)?;
    if !has_address(required_index(LOOPBACK)?, spec.vip.ip())? {
        lines.push(found("not_held", format!("{} is not on {LOOPBACK}", spec.vip.ip())));
    }
    if spec.vip.is_ipv4() {
        for (key, value, acceptable) in [ARP_IGNORE, ARP_ANNOUNCE] {
            let present = sysctl::read(key)?;
            if !is_acceptable(&present, value, acceptable) {
                lines.push(found("sysctl", format!("{key} is {present} and should be {value}")));
            }
        }
    }
    Ok(lines)
}

fn own_address(spec: &DsrServerSpec) -> Result<Vec<Problem>, HostError> {
    Ok(match interface_of(spec.server_addr)? {
        Some(_) => Vec::new(),
        None => vec![found("not_ours", HostError::NotOurAddress(spec.server_addr).to_string())],
    })
}
