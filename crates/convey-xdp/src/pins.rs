//! A folder of a BPF file system, in which maps and links outlive the process that made them.
//!
//! Its own lock says that somebody lives who goes by it. Everything in it is told by its name: a map has the name it has
//! in the object, a link is named after its hook and interface.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use crate::kernel::Hook;

/// Where BPF file systems are mounted by custom.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// Numbers the kernel's `struct statfs` tells a BPF file system by.
const BPF_FS: u64 = 0xcafe_4a11;

/// Where a folder says which journal it is in.
const JOURNAL: &str = "journal";

/// A folder, held for as long as this lives or until it is released.
#[derive(Debug)]
pub struct PinFolder {
    path: PathBuf,
    lock: Mutex<Option<File>>,
}

impl PinFolder {
    /// Makes a folder that is not there yet, and its parent if need be.
    ///
    /// # Errors
    /// What the system answers; [`io::ErrorKind::AlreadyExists`]; it is no BPF file system, or the parent is another
    /// user's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let parent = path.parent().unwrap_or(path);
        let root = parent.parent().unwrap_or(parent);
        if !is_bpffs(root) {
            let root = root.display();
            return Err(io::Error::other(format!(
                "{root} is no BPF file system; mount one (mount -t bpf bpf {root}), or name another folder where one is \
                 mounted by CONVEY_BPFFS"
            )));
        }
        match DirBuilder::new().mode(0o700).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => check_owner(parent)?,
        }
        DirBuilder::new().mode(0o700).create(path)?;
        Self::hold(path)
    }

    /// Takes a folder that is there and that nobody holds.
    ///
    /// # Errors
    /// What the system answers; [`io::ErrorKind::WouldBlock`] when somebody holds it.
    pub fn hold(path: &Path) -> io::Result<Self> {
        check_owner(path)?;
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let lock = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) })
    }

    /// Somebody else may hold it from now on.
    pub fn release(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes which journal it is in, for [`journal_of`].
    ///
    /// # Errors
    /// What the system answers.
    pub fn note_journal(&self, journal: &Path) -> io::Result<()> {
        let draft = self.path.join("journal_draft");
        gone(std::fs::remove_file(&draft))?;
        std::os::unix::fs::symlink(journal, &draft)?;
        std::fs::rename(draft, self.path.join(JOURNAL))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the link of an interface is pinned.
    pub fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.path.join(Self::link_name(hook, ifindex))
    }

    /// The name of a link in any folder.
    pub fn link_name(hook: Hook, ifindex: u32) -> String {
        format!("link_{}_{ifindex}", hook.name())
    }

    /// Every link in it, other hooks' included: its hook's name, its interface, where it is.
    pub fn links(&self) -> Vec<(String, u32, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        let link = |path: PathBuf| {
            let (hook, ifindex) = path.file_name()?.to_str()?.strip_prefix("link_")?.rsplit_once('_')?;
            Some((hook.to_owned(), ifindex.parse().ok()?, path.clone()))
        };
        entries.flatten().filter_map(|entry| link(entry.path())).collect()
    }
}

/// The journal that a folder is in.
pub fn journal_of(folder: &Path) -> Option<PathBuf> {
    std::fs::read_link(folder.join(JOURNAL)).ok()
}

/// Takes a folder away with everything in it, links first: what is pinned nowhere else ends. Tells whether it was there.
///
/// # Errors
/// What the system answers; [`io::ErrorKind::WouldBlock`] when somebody holds it.
pub fn remove(path: &Path) -> io::Result<bool> {
    let folder = match PinFolder::hold(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    remove_held(&folder)?;
    Ok(true)
}

/// As [`remove`], by whoever holds it.
///
/// # Errors
/// What the system answers.
pub fn remove_held(folder: &PinFolder) -> io::Result<()> {
    let path = &folder.path;
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
    let is_link = |path: &Path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"link_"));
    names.sort_by_key(|path| !is_link(path));
    for name in names {
        gone(std::fs::remove_file(name))?;
    }
    gone(std::fs::remove_dir(path))?;
    if let Some(parent) = path.parent() {
        // Others' folders may be in it.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 & 0xffff_ffff == BPF_FS)
}

/// The root of a BPF file system is anybody's to make folders in.
fn check_owner(path: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    let me = rustix::process::geteuid().as_raw();
    let is_own = meta.is_dir() && (meta.uid() == me || meta.uid() == 0) && meta.mode() & 0o022 == 0;
    if is_own {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is another user's", path.display())))
}
