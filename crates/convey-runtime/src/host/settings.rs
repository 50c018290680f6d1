//! Kernel parameters that an operator lets Convey set, kept until they are taken back by name. They are no balancer's:
//! neither its end nor [`super::cleanup`] touches them.

use std::path::Path;

use super::journal::{Entry, Kind, Record, StateDir};
use super::step::present_reserved;
use super::{HostError, PortSet, Step, sys, sysctl, undo};

/// A setting to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// A kernel parameter's value.
    Sysctl {
        /// Its name, as sysctl takes it.
        key: String,
        /// The value.
        value: String,
    },
    /// Ports for net.ipv4.ip_local_reserved_ports, beside those that are there.
    ReservePorts(PortSet),
}

/// Makes them, all or none. What has its value already is left alone. Returns what was done, in words.
///
/// # Errors
/// [`HostError`]; nothing was changed then, unless what was done could not be undone, which stays in the journal.
pub fn apply(state_dir: &Path, settings: &[Setting]) -> Result<Vec<String>, HostError> {
    let state = StateDir::open(state_dir)?;
    let result = apply_in(&state, settings);
    state.close();
    result
}

fn apply_in(state: &StateDir, settings: &[Setting]) -> Result<Vec<String>, HostError> {
    let id = journal_id();
    let now = Entry::new(Kind::Settings);
    // A restart has undone what an older one tells of.
    let former = state.journal(&id).filter(|former| former.boot == now.boot);
    let mut entry = former.clone().unwrap_or(now);
    entry.complete = true;
    let peers = state.peers(&id)?;
    let (mut lines, mut made) = (Vec::new(), Vec::new());
    let mut result = Ok(());
    for setting in settings {
        let step = step(setting);
        result = (|| {
            if is_made(setting)? {
                return Ok(());
            }
            let commands = step.describe()?;
            let Some(record) = step.record(&peers)? else { return Ok(()) };
            remember(&mut entry, &record);
            made.push(record.clone());
            state.write(&id, &entry)?;
            step.perform(Some(&record))?;
            lines.extend(commands);
            Ok(())
        })();
        if result.is_err() {
            break;
        }
    }
    if let Err(error) = result {
        // The first error is the one to report; what cannot be undone now stays in the journal.
        while let Some(record) = made.pop() {
            undo::undo_record(&record, &peers)?;
        }
        match former {
            Some(former) => state.write(&id, &former)?,
            None => state.remove(&id)?,
        }
        return Err(error);
    }
    Ok(lines)
}

fn is_made(setting: &Setting) -> Result<bool, HostError> {
    Ok(match setting {
        Setting::Sysctl { key, value } => sysctl::is_same(&sysctl::read(key)?, value),
        Setting::ReservePorts(ports) => ports.without(&present_reserved()?).is_empty(),
    })
}

fn step(setting: &Setting) -> Step {
    match setting {
        Setting::Sysctl { key, value } => {
            Step::Sysctl { key: key.clone(), value: value.clone(), acceptable: &[] }
        }
        Setting::ReservePorts(ports) => Step::ReservePorts(ports.clone()),
    }
}

/// What undoing takes: the value that was there last. One that somebody set meanwhile was meant.
fn remember(entry: &mut Entry, record: &Record) {
    match record {
        Record::Sysctl { key, .. } => {
            entry.records.retain(|r| !matches!(r, Record::Sysctl { key: k, .. } if k == key));
            entry.records.push(record.clone());
        }
        Record::ReservedPorts { added } => {
            let known = entry.records.iter().find_map(|r| match r {
                Record::ReservedPorts { added } => PortSet::parse(added),
                _ => None,
            });
            let all = known.unwrap_or_default().union(&PortSet::parse(added).unwrap_or_default());
            entry.records.retain(|r| !matches!(r, Record::ReservedPorts { .. }));
            entry.records.push(Record::ReservedPorts { added: all.to_string() });
        }
        _ => entry.records.push(record.clone()),
    }
}

/// Takes back what [`apply`] has set in this network namespace, where it still has that value. Returns what was done and
/// what was left, in words; nothing set is fine.
///
/// # Errors
/// [`HostError`]; what failed stays in the journal.
pub fn undo(state_dir: &Path) -> Result<Vec<String>, HostError> {
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let state = StateDir::open(state_dir)?;
    let id = journal_id();
    let now = Entry::new(Kind::Settings);
    let result = match state.journal(&id) {
        Some(entry) if entry.boot == now.boot => undo::undo_journal(&state, &id, entry),
        Some(_) => {
            state.remove(&id).map(|()| vec!["the host was restarted since: nothing is left".to_owned()])
        }
        None => Ok(Vec::new()),
    };
    state.close();
    result
}

/// One a network namespace.
fn journal_id() -> String {
    format!("settings_{}", sys::netns_id())
}
