//! The flows of a balancer in a file that is there when its process is not, and those that another one left.
//!
//! Beside the table of flows, which the workers write, stands what its slots mean, which is replaced whole before
//! anybody goes by other slots. Both are in the journal before they are made. The table is memory: it lies in the
//! state folder if that is on a tmpfs, else in `/dev/shm`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use convey_engine::{SavedFlows, SlotTable};
use serde::Serialize;

use super::journal::{Record, StateDir};
use super::{Found, Host, HostError, orphans, undo};

const TMPFS: u64 = 0x0102_1994;
pub(super) const SHARED_MEMORY: &str = "/dev/shm";

/// A table of flows that a killed balancer left, and the journal it stands in.
#[derive(Debug)]
pub(super) struct SavedTable {
    id: String,
    table: PathBuf,
    slots: PathBuf,
}

impl SavedTable {
    /// Those of killed balancers that had one of these frontends.
    pub(super) fn find(journals: &[Found], frontends: &[String]) -> Vec<Self> {
        let ours = |f: &&Found| !f.in_use && f.entry.frontends.iter().any(|name| frontends.contains(name));
        let records = journals.iter().filter(ours).flat_map(|f| f.entry.records.iter().map(|r| (&f.id, r)));
        records
            .filter_map(|(id, record)| match record {
                Record::Flows { table, slots } => {
                    Some(Self { id: id.clone(), table: table.clone(), slots: slots.clone() })
                }
                _ => None,
            })
            .collect()
    }

    fn read(&self) -> io::Result<SavedFlows> {
        let slots: SlotTable = serde_json::from_reader(BufReader::new(open_own(&self.slots)?))?;
        SavedFlows::read(BufReader::with_capacity(1 << 20, open_own(&self.table)?), slots)
    }
}

impl Host {
    /// The flows that killed balancers of these frontends left. They stay where they are until
    /// [`Host::forget_flows_left`].
    pub fn flows_left(&mut self) -> Vec<SavedFlows> {
        let mut flows = Vec::new();
        for left in &self.left {
            match left.read() {
                Ok(saved) => flows.push(saved),
                Err(error) => self.notes.push(format!(
                    "the flows of the killed {} cannot be taken over: {} or what belongs to it: {error}",
                    left.id,
                    left.table.display()
                )),
            }
        }
        flows
    }

    /// The flows that killed balancers left have been taken over, or will never be.
    ///
    /// # Errors
    /// [`HostError`]; `convey cleanup` tries again.
    pub fn forget_flows_left(&mut self) -> Result<(), HostError> {
        if self.left.is_empty() {
            return Ok(());
        }
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.forget_in(&state);
        state.close();
        result
    }

    fn forget_in(&mut self, state: &StateDir) -> Result<(), HostError> {
        for left in self.left.drain(..) {
            remove(&left.table, &left.slots)?;
            state.forget(&left.id, |r| matches!(r, Record::Flows { .. }))?;
        }
        Ok(())
    }

    /// Makes an empty file for the flows of this balancer, which is there until it is closed.
    ///
    /// # Errors
    /// [`HostError`]; no file is left.
    pub fn keep_flows(&mut self) -> Result<File, HostError> {
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.keep_flows_in(&state);
        state.close();
        result
    }

    fn keep_flows_in(&mut self, state: &StateDir) -> Result<File, HostError> {
        let directory = memory_folder(&self.spec.state_dir).ok_or_else(|| HostError::State {
            action: "keep flows in",
            path: self.spec.state_dir.clone(),
            source: io::Error::other("neither it nor /dev/shm is in memory (tmpfs)"),
        })?;
        let slots = self.spec.state_dir.join(format!("{}.slots", self.id));
        // Names in /dev/shm are anybody's.
        for n in 0..100 {
            let table = directory.join(orphans::table_name(&self.id, n));
            if table.symlink_metadata().is_ok() {
                continue;
            }
            let failed = |source| HostError::State { action: "make", path: table.clone(), source };
            let record = Record::Flows { table: table.clone(), slots: slots.clone() };
            self.entry.records.push(record);
            state.write(&self.id, &self.entry)?;
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&table);
            match made {
                Ok(file) => {
                    self.slots = Some(slots);
                    self.table = Some(orphans::lock(&file).and_then(|()| file.try_clone()).map_err(failed)?);
                    return Ok(file);
                }
                Err(error) => {
                    self.entry.records.pop();
                    state.write(&self.id, &self.entry)?;
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(failed(error));
                    }
                }
            }
        }
        Err(HostError::State {
            action: "make a file in",
            path: directory,
            source: io::ErrorKind::AlreadyExists.into(),
        })
    }

    /// There is no use for the file of [`Host::keep_flows`] after all.
    ///
    /// # Errors
    /// [`HostError`]; it goes with the rest then.
    pub fn give_up_flows(&mut self) -> Result<(), HostError> {
        (self.slots, self.table) = (None, None);
        let (flows, kept): (Vec<_>, Vec<_>) =
            self.entry.records.drain(..).partition(|r| matches!(r, Record::Flows { .. }));
        self.entry.records = kept;
        for record in flows {
            undo::undo_record(&record, &[])?;
        }
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = state.write(&self.id, &self.entry);
        state.close();
        result
    }

    /// Writes down what slots stand for, before anybody goes by them.
    ///
    /// # Errors
    /// [`HostError::State`]; flows will not be taken over then until it succeeds again.
    pub fn write_slots(&self, slots: &SlotTable) -> Result<(), HostError> {
        let Some(path) = &self.slots else { return Ok(()) };
        write_whole(path, slots)
    }
}

/// Writes what is there old or new, whatever happens; where that fails, nothing is there.
///
/// # Errors
/// [`HostError::State`].
pub(super) fn write_whole(path: &Path, what: &impl Serialize) -> Result<(), HostError> {
    let written = serde_json::to_vec(what).map_err(io::Error::from).and_then(|text| {
        let draft = draft(path);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        std::fs::rename(&draft, path)
    });
    if written.is_err() {
        // What stands there would be believed.
        let _ = std::fs::remove_file(path);
    }
    written.map_err(|source| HostError::State { action: "write", path: path.to_owned(), source })
}

/// Takes a table of flows away, and what belongs to it.
///
/// # Errors
/// [`HostError::State`].
pub(super) fn remove(table: &Path, slots: &Path) -> Result<(), HostError> {
    remove_files(&[table, slots, &draft(slots)])
}

/// Removes these as far as they are there.
///
/// # Errors
/// [`HostError::State`].
pub(super) fn remove_files(paths: &[&Path]) -> Result<(), HostError> {
    for path in paths {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HostError::State { action: "remove", path: path.to_path_buf(), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn draft(of: &Path) -> PathBuf {
    let extension = of.extension().unwrap_or_default().to_string_lossy();
    of.with_extension(format!("{extension}-draft"))
}

/// Where files are memory.
fn memory_folder(state_dir: &Path) -> Option<PathBuf> {
    let is_memory = |path: &&Path| rustix::fs::statfs(*path).is_ok_and(|fs| fs.f_type as u64 == TMPFS);
    [state_dir, Path::new(SHARED_MEMORY)].into_iter().find(is_memory).map(Path::to_owned)
}

/// Opens a file that nobody but this user, or root, can have made or changed.
pub(super) fn open_own(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    let owner = meta.uid();
    let is_own = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !meta.is_file() || !is_own || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("it is another user's"));
    }
    Ok(file)
}
