//! Takes back what a journal says, and only that.

use std::path::Path;

use convey_xdp::netlink::{self, Hook, InterfaceAddress};
use convey_xdp::{dsr, guard, kernel, nft};

use super::journal::{Entry, Found, Kind, Record, StateDir, VERIFIER_LOG};
use super::port_set::PortSet;
use super::{HostError, flows, namespaces, orphans, pins, sys, sysctl};

pub(crate) const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// What became of a record.
pub(crate) enum Outcome {
    /// It was taken back; in words.
    Undone(String),
    /// There was nothing to take back (any more), or another installation still needs it.
    Nothing,
    /// It was changed by someone else since, and left as it is; in words.
    Left(String),
}

/// What of killed balancers stays for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Their guards and ports, until the caller's own stand: in between the kernel would reset every flow it hears of, or
    /// let somebody connect from the port of one. And their flows.
    GuardsAndFlows,
    /// Their flows, until somebody has taken them over.
    Flows,
    /// Nothing.
    Nothing,
}

impl Leave {
    fn spares(self, record: &Record) -> bool {
        match record {
            Record::Flows { .. } | Record::Pins { .. } => self != Self::Nothing,
            record => self == Self::GuardsAndFlows && record.guards(),
        }
    }
}

/// Takes back every record of a journal, last first, and forgets it. Returns what was done, in words.
///
/// # Errors
/// The first failure; what is undone by then is no longer in the journal.
pub(crate) fn undo_journal(state: &StateDir, id: &str, entry: Entry) -> Result<Vec<String>, HostError> {
    undo_records(state, id, entry, Leave::Nothing)
}

fn undo_records(
    state: &StateDir,
    id: &str,
    mut entry: Entry,
    leave: Leave,
) -> Result<Vec<String>, HostError> {
    let peers = state.peers(id)?;
    let mut lines = Vec::new();
    let mut left = Vec::new();
    while let Some(record) = entry.records.pop() {
        if entry.kind == Kind::Balancer && leave.spares(&record) {
            left.insert(0, record);
            continue;
        }
        match undo_record(&record, &peers) {
            Ok(Outcome::Undone(line) | Outcome::Left(line)) => lines.push(line),
            Ok(Outcome::Nothing) => {}
            Err(error) => {
                entry.records.push(record);
                entry.records.append(&mut left);
                state.write(id, &entry)?;
                return Err(error);
            }
        }
    }
    if left.is_empty() {
        state.remove(id)?;
    } else {
        entry.records = left;
        state.write(id, &entry)?;
    }
    Ok(lines)
}

pub(crate) fn undo_record(record: &Record, peers: &[Found]) -> Result<Outcome, HostError> {
    match record {
        Record::Sysctl { key, set, saved } => undo_sysctl(key, set, saved, peers),
        Record::ReservedPorts { added } => undo_reserved_ports(added, peers),
        Record::Lro { interface } => undo_lro(interface, record, peers),
        Record::NftTable { name } => Ok(match nft::delete_table(name) {
            Ok(true) => Outcome::Undone(format!("removed the nft table {name}")),
            Ok(false) => Outcome::Nothing,
            Err(error) => return Err(error.into()),
        }),
        Record::GuardProgram { interface, index, handle } => Ok(if guard::remove_kept(*index, *handle)? {
            Outcome::Undone(format!("removed the guard from {interface}"))
        } else {
            Outcome::Nothing
        }),
        Record::EngineProgram { interface, index, handle } => {
            Ok(if kernel::remove_filter(*index, *handle)? {
                Outcome::Undone(format!("removed the engine's program from {interface}"))
            } else {
                Outcome::Nothing
            })
        }
        Record::EgressProgram { interface, index, handle } => Ok(if dsr::detach(*index, *handle)? {
            Outcome::Undone(format!("removed the egress program from {interface}"))
        } else {
            Outcome::Nothing
        }),
        Record::Flows { table, slots } => {
            flows::remove(table, slots)?;
            Ok(Outcome::Nothing)
        }
        Record::Pins { folder, slots, tables } => pins::undo_pins(record, peers, folder, [slots, tables]),
        Record::Clsact { interface, index } => undo_clsact(interface, *index, record, peers),
        Record::Address { interface, address, prefix } => {
            let Some(index) = netlink::interface_index(interface)? else { return Ok(Outcome::Nothing) };
            if peers.iter().any(|p| p.entry.records.contains(record)) {
                return Ok(Outcome::Nothing);
            }
            let at = InterfaceAddress { interface: index, address: *address, prefix: *prefix };
            Ok(if netlink::delete_address(at)? {
                Outcome::Undone(format!("removed {address}/{prefix} from {interface}"))
            } else {
                Outcome::Nothing
            })
        }
    }
}

fn undo_sysctl(key: &str, set: &str, saved: &str, peers: &[Found]) -> Result<Outcome, HostError> {
    let needed = peers
        .iter()
        .flat_map(|p| &p.entry.records)
        .any(|r| matches!(r, Record::Sysctl { key: k, .. } if k == key));
    if needed || set == saved {
        return Ok(Outcome::Nothing);
    }
    let present = match sysctl::read(key) {
        Ok(present) => present,
        // The interface whose parameter it was is gone.
        Err(HostError::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Outcome::Nothing);
        }
        Err(error) => return Err(error),
    };
    if sysctl::is_same(&present, saved) {
        return Ok(Outcome::Nothing);
    }
    if !sysctl::is_same(&present, set) {
        return Ok(Outcome::Left(format!(
            "left {key} at {present}: someone changed it from {set} meanwhile"
        )));
    }
    sysctl::write(key, saved)?;
    Ok(Outcome::Undone(format!("set {key} back to {saved}")))
}

/// The ports a set of journals has added to the reserved ones.
pub(crate) fn reserved_by(peers: &[Found]) -> PortSet {
    peers
        .iter()
        .flat_map(|p| &p.entry.records)
        .filter_map(|r| match r {
            Record::ReservedPorts { added } => PortSet::parse(added),
            _ => None,
        })
        .fold(PortSet::default(), |all, ports| all.union(&ports))
}

fn undo_reserved_ports(added: &str, peers: &[Found]) -> Result<Outcome, HostError> {
    let ours = PortSet::parse(added).unwrap_or_default().without(&reserved_by(peers));
    let present_text = sysctl::read(RESERVED_PORTS)?;
    let Some(present) = PortSet::parse(&present_text) else {
        return Ok(Outcome::Left(format!("left {RESERVED_PORTS} at {present_text:?}: it cannot be read")));
    };
    let next = present.without(&ours);
    if next == present {
        return Ok(Outcome::Nothing);
    }
    sysctl::write(RESERVED_PORTS, &next.to_string())?;
    Ok(Outcome::Undone(format!("gave back the reserved ports {ours}")))
}

fn undo_lro(interface: &str, record: &Record, peers: &[Found]) -> Result<Outcome, HostError> {
    if peers.iter().any(|p| p.entry.records.contains(record)) || sys::lro(interface) != Some(false) {
        return Ok(Outcome::Nothing);
    }
    sys::set_lro(interface, true)
        .map_err(|source| HostError::Offload { interface: interface.to_owned(), source })?;
    Ok(Outcome::Undone(format!("switched LRO of {interface} on again")))
}

fn undo_clsact(interface: &str, index: u32, record: &Record, peers: &[Found]) -> Result<Outcome, HostError> {
    let used = peers.iter().any(|p| p.entry.records.contains(record))
        || !netlink::filters(index, Hook::Egress)?.is_empty()
        || !netlink::filters(index, Hook::Ingress)?.is_empty();
    if used || !netlink::delete_clsact(index)? {
        return Ok(Outcome::Nothing);
    }
    Ok(Outcome::Undone(format!("removed the clsact qdisc of {interface}")))
}

/// Takes back what killed processes left in this network namespace, and forgets what a reboot or the end of another
/// namespace has taken. Returns what was done, in words; nothing of a living installation or of another living namespace is touched.
///
/// # Errors
/// [`HostError`]; what failed stays in its journal and is tried again next time.
pub fn cleanup(state_dir: &Path) -> Result<Vec<String>, HostError> {
    if !state_dir.exists() {
        return Ok(orphans::remove());
    }
    let state = StateDir::open(state_dir)?;
    let lines = reclaim(&state, Leave::Nothing);
    // That of a program which the kernel refused.
    let _ = std::fs::remove_file(state_dir.join(VERIFIER_LOG));
    state.close();
    lines
}

pub(crate) fn reclaim(state: &StateDir, leave: Leave) -> Result<Vec<String>, HostError> {
    let now = Entry::new(Kind::Balancer);
    let (mut lines, mut living) = (Vec::new(), None);
    for found in state.journals()? {
        let is_elsewhere = found.entry.boot == now.boot && found.entry.netns != now.netns;
        // What stays needs no process, but it goes with its namespace.
        if found.in_use && !(is_elsewhere && found.entry.kind.stays()) {
            continue;
        }
        let forget = |found: &Found| -> Result<(), HostError> {
            for record in &found.entry.records {
                match record {
                    Record::Flows { table, slots } => flows::remove(table, slots)?,
                    Record::Pins { folder, slots, tables } => {
                        // A reboot has taken the folder, and another may have its name.
                        let is_there = found.entry.boot == now.boot;
                        pins::remove(is_there.then_some(folder), [slots, tables])?;
                    }
                    _ => {}
                }
            }
            state.remove(&found.id)
        };
        if is_elsewhere {
            let living = living.get_or_insert_with(namespaces::living);
            if living.as_ref().is_some_and(|all| !all.contains(&found.entry.netns)) {
                forget(&found)?;
                lines.push(format!("forgot {}: its network namespace is gone", found.id));
            }
        } else if found.entry.boot != now.boot {
            forget(&found)?;
            lines.push(format!("forgot {}: the host was restarted since", found.id));
        } else {
            let pid = found.entry.pid;
            let undone = undo_records(state, &found.id, found.entry, leave)?;
            lines.extend(undone.into_iter().map(|line| format!("{line} (of process {pid}, which is gone)")));
        }
    }
    lines.extend(orphans::remove());
    Ok(lines)
}
