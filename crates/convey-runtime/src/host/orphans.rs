//! Tables of flows in shared memory, and folders of pins, that nobody can take over any more: their balancer was killed,
//! and its network namespace is gone, or the journal that named them.
//!
//! A table or folder says by its name which namespace it is of, and by its lock that its balancer lives; a folder also
//! which journal it is in. What cannot be told for certain stays.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use convey_xdp::pins::{self, journal_of};

use super::flows::{SHARED_MEMORY, open_own};
use super::{namespaces, sys};

/// The inode of the first PID namespace, in which all processes are seen.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// A file name for the table of the balancer `id` in this network namespace.
pub(super) fn table_name(id: &str, attempt: u32) -> String {
    format!("convey_{}_{id}_{attempt}.flows", sys::netns_id())
}

/// The network namespace in such a name, and the balancer.
fn parse(name: &str) -> Option<(&str, &str)> {
    parse_pins(name.strip_prefix("convey_")?.strip_suffix(".flows")?)
}

/// Says that the owner of a table lives, for as long as `table` or a mapping of it is there.
pub(super) fn lock(table: &File) -> std::io::Result<()> {
    // Who looks whether it is locked lets go of it at once.
    Ok(flock(table, FlockOperation::LockExclusive)?)
}

struct Orphan {
    path: PathBuf,
    namespace: String,
    id: String,
}

/// Removes tables of killed balancers whose network namespace is gone, and folders of pins of those and of ones in this
/// namespace that are in no journal. Returns what was removed, and what could not be, in words.
pub(super) fn remove() -> Vec<String> {
    let sees_all =
        std::fs::metadata("/proc/self/ns/pid").is_ok_and(|m: Metadata| m.ino() == FIRST_PID_NAMESPACE);
    let mut lines = remove_pins(sees_all);
    if sees_all {
        lines.extend(remove_tables());
    }
    lines
}

fn remove_pins(sees_all: bool) -> Vec<String> {
    let here = sys::netns_id();
    let Ok(folders) = std::fs::read_dir(super::pins::parent()) else { return Vec::new() };
    let folders: Vec<PathBuf> = folders.flatten().map(|folder| folder.path()).collect();
    let is_noted = |folder: &Path| journal_of(folder).is_some_and(|journal| journal.exists());
    let (mut lines, mut living) = (Vec::new(), None);
    for folder in folders {
        let Some((namespace, id)) = folder.file_name().and_then(|name| parse_pins(name.to_str()?)) else {
            continue;
        };
        let why = if namespace == here && !is_noted(&folder) {
            "no journal names it"
        } else if namespace != here && sees_all {
            let living = living.get_or_insert_with(namespaces::living);
            if living.as_ref().is_none_or(|all| all.contains(namespace)) {
                continue;
            }
            "its network namespace is gone"
        } else {
            continue;
        };
        match pins::remove(&folder) {
            Ok(true) => lines.push(format!("removed the programs and tables of {id}: {why}")),
            Ok(false) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => lines.push(format!("{} could not be removed: {error}", folder.display())),
        }
    }
    lines
}

/// The network namespace in the name of a folder of pins, and the balancer.
fn parse_pins(name: &str) -> Option<(&str, &str)> {
    let (namespace, id) = name.split_once('_')?;
    let is_namespace = namespace.starts_with("cookie-") || namespace.starts_with("inode-");
    (is_namespace && id.starts_with("balancer_")).then_some((namespace, id))
}

fn remove_tables() -> Vec<String> {
    let killed = of_killed_balancers(Path::new(SHARED_MEMORY));
    if killed.is_empty() {
        return Vec::new();
    }
    // After the tables were found: a balancer that starts now is none of them.
    let Some(living) = namespaces::living() else { return Vec::new() };
    let gone = killed.into_iter().filter(|orphan| !living.contains(&orphan.namespace));
    gone.filter_map(|Orphan { path, id, .. }| match std::fs::remove_file(&path) {
        Ok(()) => Some(format!("removed the flows of {id}: its network namespace is gone")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{} could not be removed: {error}", path.display())),
    })
    .collect()
}

fn of_killed_balancers(folder: &Path) -> Vec<Orphan> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let orphan = |name: &str| {
        let (namespace, id) = parse(name)?;
        let path = folder.join(name);
        let table = open_own(&path).ok()?;
        flock(&table, FlockOperation::NonBlockingLockShared).ok()?;
        Some(Orphan { path, namespace: namespace.to_owned(), id: id.to_owned() })
    };
    files.flatten().filter_map(|file| orphan(file.file_name().to_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_name_tells_its_namespace_and_balancer_and_other_names_tell_nothing() {
        let namespace = sys::netns_id();
        let name = table_name("balancer_7_0", 3);
        assert_eq!(parse(&name), Some((namespace.as_str(), "balancer_7_0_3")));
        for foreign in
            ["convey_balancer_7_0_0.flows", "convey_x_balancer_7.flows", "cookie-1_balancer.flows", "x"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
