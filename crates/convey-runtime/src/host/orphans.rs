//! Tables of flows in shared memory that nobody can take over any more: their balancer was killed, its network
//! namespace is gone, and the journal that named them may be, too.
//!
//! A table says by its name which namespace it is of, and by its lock that its balancer lives. What cannot be told for
//! certain stays.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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
    let (namespace, id) = name.strip_prefix("convey_")?.strip_suffix(".flows")?.split_once('_')?;
    let is_namespace = namespace.starts_with("cookie-") || namespace.starts_with("inode-");
    (is_namespace && id.starts_with("balancer_")).then_some((namespace, id))
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

/// Removes tables of killed balancers whose network namespace is gone. Returns what was removed, and what could not
/// be, in words.
pub(super) fn remove() -> Vec<String> {
    let sees_all =
        std::fs::metadata("/proc/self/ns/pid").is_ok_and(|m: Metadata| m.ino() == FIRST_PID_NAMESPACE);
    if !sees_all {
        return Vec::new();
    }
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
