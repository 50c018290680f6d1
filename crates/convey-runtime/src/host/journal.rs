//! What to undo, on disk before it is done.
//!
//! A folder (`/run/convey`) holds `<id>.json` for each balancer and each prepared server, and `<id>.lock`, locked
//! by the process that owns it for as long as it lives. A journal whose lock is free was left by a killed process.
//! Whoever looks at or changes any of it holds the folder's own lock.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{HostError, sys};

/// Where journals are kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/convey";

/// What the kernel's verifier said of a program it refused, in that folder.
pub const VERIFIER_LOG: &str = "verifier.log";

/// Where what to undo is remembered: [`DEFAULT_STATE_DIR`] unless `CONVEY_STATE_DIR` says otherwise.
pub fn state_dir() -> PathBuf {
    std::env::var_os("CONVEY_STATE_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), PathBuf::from)
}

/// One change of the host, with what undoing it takes. An interface's index outlives its being renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Record {
    /// A kernel parameter. `saved` is the value from before the *first* of the journals that changed it.
    Sysctl { key: String, set: String, saved: String },
    /// Ports added to net.ipv4.ip_local_reserved_ports that nobody else had put there.
    ReservedPorts { added: String },
    /// LRO was on.
    Lro { interface: String },
    /// A table of nft's netdev family.
    NftTable { name: String },
    /// A clsact qdisc, to be removed when nothing hangs on it any more.
    Clsact { interface: String, index: u32 },
    /// The guard's program at clsact ingress, which keeps the kernel silent until the next start.
    GuardProgram { interface: String, index: u32, handle: u32 },
    /// The program of engine "tc" at clsact ingress, where there is no TCX.
    EngineProgram { interface: String, index: u32, handle: u32 },
    /// The egress program of a server.
    EgressProgram { interface: String, index: u32, handle: u32 },
    /// The flows of a running balancer: their table, and what its slots stand for.
    Flows { table: PathBuf, slots: PathBuf },
    /// What the kernel forwards by without its balancer: a folder of pinned programs and tables, what slots stand for, and
    /// how the tables lie.
    Pins { folder: PathBuf, slots: PathBuf, tables: PathBuf },
    /// An address on an interface.
    Address { interface: String, address: IpAddr, prefix: u8 },
}

impl Record {
    /// Whether it is part of what keeps the kernel out of what is forwarded: from answering it, and from connecting from
    /// its ports.
    pub fn guards(&self) -> bool {
        matches!(
            self,
            Self::NftTable { .. }
                | Self::GuardProgram { .. }
                | Self::Clsact { .. }
                | Self::ReservedPorts { .. }
        )
    }
}

/// What kind of installation a journal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A running balancer: what it changed goes when it does.
    Balancer,
    /// A prepared server: stays until it is undone.
    DsrServer,
    /// Kernel parameters set at an operator's wish: stay until they are taken back.
    Settings,
}

impl Kind {
    /// Whether it stays when the process that made it has ended.
    pub fn stays(self) -> bool {
        self != Self::Balancer
    }
}

/// NAT ports of a running balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatClaim {
    pub protocol: u8,
    pub address: IpAddr,
    pub from: u16,
    pub to: u16,
}

/// The content of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub version: u32,
    pub kind: Kind,
    /// Everything was applied; until then even a server's preparation is a leftover when its process is gone.
    pub complete: bool,
    pub boot: String,
    pub netns: String,
    pub pid: u32,
    /// "tcp 192.0.2.1:80".
    pub frontends: Vec<String>,
    pub nat: Vec<NatClaim>,
    /// How a server was prepared, to tell whether asking again changes anything.
    pub note: String,
    /// In the order in which they were made.
    pub records: Vec<Record>,
}

impl Entry {
    /// An empty journal of this process and network namespace.
    pub fn new(kind: Kind) -> Self {
        Self {
            version: 1,
            kind,
            complete: false,
            boot: boot_id(),
            netns: sys::netns_id(),
            pid: std::process::id(),
            frontends: Vec::new(),
            nat: Vec::new(),
            note: String::new(),
            records: Vec::new(),
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The folder, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// A journal of someone.
#[derive(Debug)]
pub struct Found {
    pub id: String,
    pub entry: Entry,
    /// Its owner lives, or it is meant to outlive its owner.
    pub in_use: bool,
}

impl StateDir {
    /// Makes the folder if it is missing and waits for its lock.
    ///
    /// # Errors
    /// [`HostError::State`]; [`HostError::StateNotOurs`] when others may write to it.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let failed = |action, source| HostError::State { action, path: path.to_owned(), source };
        loop {
            match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create the folder", e));
                }
                _ => {}
            }
            let meta = std::fs::symlink_metadata(path).map_err(|e| failed("look at", e))?;
            let me = rustix::process::geteuid().as_raw();
            if !meta.is_dir() || (meta.uid() != me && meta.uid() != 0) || meta.mode() & 0o022 != 0 {
                return Err(HostError::StateNotOurs { path: path.to_owned() });
            }
            let file = path.join(".lock");
            let lock = match open_lock(&file) {
                // The last user took the folder away between the two calls.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| failed("open the lock file of", e))?,
            };
            while let Err(e) = flock(&lock, FlockOperation::LockExclusive) {
                if e != rustix::io::Errno::INTR {
                    return Err(failed("lock", e.into()));
                }
            }
            // Whoever had the lock before may have removed the file: then this lock guards nothing.
            if is_same_file(&lock, &file) {
                return Ok(Self { path: path.to_owned(), lock });
            }
        }
    }

    /// Where the journal of this id is.
    pub fn journal_file(&self, id: &str) -> PathBuf {
        self.file(id, "json")
    }

    fn file(&self, id: &str, extension: &str) -> PathBuf {
        self.path.join(format!("{id}.{extension}"))
    }

    /// Every journal in the folder, whatever its network namespace. Files that are none are passed over.
    ///
    /// # Errors
    /// [`HostError::State`].
    pub fn journals(&self) -> Result<Vec<Found>, HostError> {
        let failed = |source| HostError::State { action: "list", path: self.path.clone(), source };
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Some(id) = path.file_stem().and_then(|s| s.to_str()) else { continue };
            let Some(entry) = read_entry(&path) else { continue };
            let stays = entry.kind.stays() && entry.complete && entry.boot == boot_id();
            let in_use = stays || !self.lock_is_free(id);
            found.push(Found { id: id.to_owned(), entry, in_use });
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The journals of this network namespace and boot, without that of `except`.
    ///
    /// # Errors
    /// [`HostError::State`].
    pub fn peers(&self, except: &str) -> Result<Vec<Found>, HostError> {
        let (boot, netns) = (boot_id(), sys::netns_id());
        let mut found = self.journals()?;
        found.retain(|f| f.id != except && f.entry.boot == boot && f.entry.netns == netns);
        Ok(found)
    }

    /// One journal by its id.
    pub fn journal(&self, id: &str) -> Option<Entry> {
        read_entry(&self.file(id, "json"))
    }

    fn lock_is_free(&self, id: &str) -> bool {
        match open_lock_existing(&self.file(id, "lock")) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => true,
        }
    }

    /// Takes the lock of a journal, which says "my owner lives" until the returned file is closed.
    ///
    /// # Errors
    /// [`HostError::State`], also when someone else has it.
    pub fn own(&self, id: &str) -> Result<File, HostError> {
        let path = self.file(id, "lock");
        let failed = |source| HostError::State { action: "lock", path: path.clone(), source };
        let file = open_lock(&path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        Ok(file)
    }

    /// Writes a journal so that it is whole on disk, old or new, whatever happens.
    ///
    /// # Errors
    /// [`HostError::State`].
    pub fn write(&self, id: &str, entry: &Entry) -> Result<(), HostError> {
        let path = self.file(id, "json");
        let draft = self.file(id, "draft");
        let failed = |source| HostError::State { action: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(entry).map_err(|e| failed(e.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&draft, &path).map_err(failed)?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// Takes records out of a journal, and the journal away with its last one.
    ///
    /// # Errors
    /// [`HostError::State`].
    pub fn forget(&self, id: &str, which: impl Fn(&Record) -> bool) -> Result<(), HostError> {
        let Some(mut entry) = self.journal(id) else { return Ok(()) };
        entry.records.retain(|record| !which(record));
        if entry.records.is_empty() { self.remove(id) } else { self.write(id, &entry) }
    }

    /// Forgets a journal.
    ///
    /// # Errors
    /// [`HostError::State`].
    pub fn remove(&self, id: &str) -> Result<(), HostError> {
        for extension in ["json", "lock", "draft"] {
            let path = self.file(id, extension);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(HostError::State { action: "remove", path, source: e });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Unlocks, and takes the folder away when nothing is left in it.
    pub fn close(self) {
        let empty = std::fs::read_dir(&self.path)
            .is_ok_and(|files| files.flatten().all(|f| f.file_name() == ".lock"));
        if empty {
            // Under the lock: who waits for it sees that its file is gone, and starts over.
            let _ = std::fs::remove_file(self.path.join(".lock"));
            let _ = std::fs::remove_dir(&self.path);
        }
        drop(self.lock);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn open_lock_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

fn read_entry(path: &Path) -> Option<Entry> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
