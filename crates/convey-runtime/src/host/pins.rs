//! What the kernel forwards by while no process lives: folders of pinned programs and tables, which a killed balancer, or
//! one that was to keep forwarding, has left; and one of our own.
//!
//! Beside a folder lie two files: what the slots in flows stand for, and how the tables lie. All three are in the journal
//! before they are made. Whoever goes on with a folder takes it into its own journal once it serves.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convey_engine::SlotTable;
use convey_xdp::kernel::{TableRecord, seed_in};
use convey_xdp::pins::{self, DEFAULT_BPFFS, PinFolder};

use super::conflicts::overlap;
use super::flows::{draft, open_own, remove_files, write_whole};
use super::journal::{NatClaim, Record, StateDir};
use super::undo::{self, Leave, Outcome};
use super::{Found, Host, HostError, sys};

/// Where a BPF file system is mounted: [`DEFAULT_BPFFS`] unless `CONVEY_BPFFS` says otherwise.
fn bpffs() -> PathBuf {
    let said = std::env::var_os("CONVEY_BPFFS").filter(|path| !path.is_empty());
    said.map_or_else(|| PathBuf::from(DEFAULT_BPFFS), PathBuf::from)
}

/// Where folders of every balancer are.
pub(super) fn parent() -> PathBuf {
    bpffs().join("convey")
}

/// A folder that a killed balancer left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftPins {
    /// The journals it stands in: two when a process was killed that was about to go on with it.
    journals: Vec<String>,
    record: Record,
}

/// A folder that can be gone on with.
#[derive(Debug)]
pub struct PinsToAdopt {
    left: LeftPins,
    /// The folder, held.
    pub folder: Arc<PinFolder>,
    /// What slots stand for.
    pub slots: SlotTable,
    /// How the tables lie.
    pub tables: TableRecord,
    /// The seed that flows are placed by.
    pub seed: u64,
}

/// Our own folder.
#[derive(Debug)]
pub(super) struct OwnPins {
    pub(super) folder: Arc<PinFolder>,
    record: Record,
    /// Whose it was.
    adopted: Option<LeftPins>,
}

impl LeftPins {
    /// Those of killed balancers that had one of these frontends, or NAT ports that are ours now: two must not forward by
    /// one port.
    pub(super) fn find(journals: &[Found], frontends: &[String], nat: &[NatClaim]) -> Vec<Self> {
        let has_port_of = |f: &Found| nat.iter().any(|a| f.entry.nat.iter().any(|b| overlap(a, b)));
        let has_frontend = |f: &Found| f.entry.frontends.iter().any(|name| frontends.contains(name));
        let ours = |f: &&Found| !f.in_use && (has_frontend(f) || has_port_of(f));
        let mut found: Vec<Self> = Vec::new();
        for journal in journals.iter().filter(ours) {
            for record in journal.entry.records.iter().filter(|r| matches!(r, Record::Pins { .. })) {
                match found.iter_mut().find(|left| left.record == *record) {
                    Some(left) => left.journals.push(journal.id.clone()),
                    None => found.push(Self { journals: vec![journal.id.clone()], record: record.clone() }),
                }
            }
        }
        found
    }

    fn open(&self) -> io::Result<PinsToAdopt> {
        let Record::Pins { folder, slots, tables } = &self.record else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let tables: TableRecord = serde_json::from_reader(BufReader::new(open_own(tables)?))?;
        tables.check_layout().map_err(io::Error::other)?;
        let slots = serde_json::from_reader(BufReader::new(open_own(slots)?))?;
        let folder = Arc::new(PinFolder::hold(folder)?);
        tables.check_pinned(&folder).map_err(io::Error::other)?;
        let seed = seed_in(&folder).map_err(io::Error::other)?;
        Ok(PinsToAdopt { left: self.clone(), folder, slots, tables, seed })
    }
}

impl Host {
    /// What killed balancers of these frontends left in the kernel. Those that cannot be gone on with are told in notes.
    pub fn pins_to_adopt(&mut self) -> Vec<PinsToAdopt> {
        let mut found = Vec::new();
        for left in &self.left_pins {
            match left.open() {
                Ok(pins) => found.push(pins),
                Err(error) => self.notes.push(format!(
                    "the flows of the killed {} are not taken over: {error}",
                    left.journals.join(", ")
                )),
            }
        }
        found
    }

    /// The folders that killed balancers of these frontends left.
    pub fn left_folders(&self) -> Vec<PathBuf> {
        let folder = |left: &LeftPins| match &left.record {
            Record::Pins { folder, .. } => Some(folder.clone()),
            _ => None,
        };
        self.left_pins.iter().filter_map(folder).collect()
    }

    /// Goes on with a folder. In the journal it stays another's until [`Host::engine_stands`].
    ///
    /// # Errors
    /// [`HostError::State`] when what slots stand for from now on cannot be written down.
    pub fn adopt_pins(&mut self, pins: PinsToAdopt, slots: &SlotTable) -> Result<(), HostError> {
        let Record::Pins { slots: file, .. } = &pins.left.record else { return Ok(()) };
        self.slots = Some(file.clone());
        let record = pins.left.record.clone();
        self.pins = Some(OwnPins { folder: pins.folder, record, adopted: Some(pins.left) });
        self.write_slots(slots)
    }

    /// Makes a folder of our own.
    ///
    /// # Errors
    /// [`HostError`]; there is none.
    pub fn make_pins(&mut self, slots: &SlotTable) -> Result<(), HostError> {
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.make_pins_in(&state, slots);
        state.close();
        result
    }

    fn make_pins_in(&mut self, state: &StateDir, slots: &SlotTable) -> Result<(), HostError> {
        let parent = parent();
        for n in 0..100 {
            let name = format!("{}_{}_{n}", sys::netns_id(), self.id);
            let folder = parent.join(&name);
            if folder.symlink_metadata().is_ok() {
                continue;
            }
            let file = |extension| self.spec.state_dir.join(format!("{}.{extension}", self.id));
            let (slots_file, tables) = (file("slots"), file("tables"));
            let record = Record::Pins { folder: folder.clone(), slots: slots_file.clone(), tables };
            self.entry.records.push(record.clone());
            state.write(&self.id, &self.entry)?;
            let made = PinFolder::create(&folder).and_then(|made| {
                made.note_journal(&state.journal_file(&self.id))?;
                Ok(made)
            });
            match made {
                Ok(made) => {
                    self.slots = Some(slots_file);
                    self.pins = Some(OwnPins { folder: Arc::new(made), record, adopted: None });
                    return self.write_slots(slots);
                }
                Err(error) => {
                    self.entry.records.pop();
                    state.write(&self.id, &self.entry)?;
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(HostError::Pins { path: folder, source: error });
                    }
                }
            }
        }
        Err(HostError::Pins { path: parent, source: io::ErrorKind::AlreadyExists.into() })
    }

    /// The folder in use.
    pub fn pins(&self) -> Option<Arc<PinFolder>> {
        self.pins.as_ref().map(|pins| pins.folder.clone())
    }

    /// Where is written down how its tables lie.
    pub fn tables_file(&self) -> Option<PathBuf> {
        match self.pins.as_ref().map(|pins| &pins.record) {
            Some(Record::Pins { tables, .. }) => Some(tables.clone()),
            _ => None,
        }
    }

    /// There is no use for the folder: another engine is tried. One that was gone on with stays with its journal.
    ///
    /// # Errors
    /// [`HostError`]; it goes with the rest then.
    pub fn give_up_pins(&mut self) -> Result<(), HostError> {
        let Some(OwnPins { folder, record, adopted }) = self.pins.take() else { return Ok(()) };
        self.slots = None;
        folder.release();
        if adopted.is_some() {
            return Ok(());
        }
        self.entry.records.retain(|r| *r != record);
        undo::undo_record(&record, &[])?;
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = state.write(&self.id, &self.entry);
        state.close();
        result
    }

    /// The engine serves: a folder that it has gone on with is ours, other folders of killed balancers of these frontends
    /// go, and guards of any killed balancer.
    ///
    /// # Errors
    /// [`HostError`]; `convey cleanup` or the next start tries again.
    pub fn engine_stands(&mut self) -> Result<(), HostError> {
        self.serves = true;
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.pins_stand(&state).and_then(|()| {
            self.notes.extend(undo::reclaim(&state, Leave::Flows)?);
            Ok(())
        });
        state.close();
        result
    }

    fn pins_stand(&mut self, state: &StateDir) -> Result<(), HostError> {
        let adopted = self.pins.as_mut().and_then(|pins| pins.adopted.take());
        if let (Some(_), Some(pins)) = (&adopted, &self.pins) {
            self.entry.records.push(pins.record.clone());
            state.write(&self.id, &self.entry)?;
            let noted = pins.folder.note_journal(&state.journal_file(&self.id));
            noted.map_err(|source| HostError::State {
                action: "write to",
                path: pins.folder.path().to_owned(),
                source,
            })?;
        }
        for left in self.left_pins.drain(..) {
            if adopted.as_ref() != Some(&left)
                && let Record::Pins { folder, slots, tables } = &left.record
            {
                remove(Some(folder), [slots, tables])?;
            }
            for id in &left.journals {
                state.forget(id, |record| *record == left.record)?;
            }
        }
        Ok(())
    }

    /// Leaves everything as it is for the next start, as if the process were killed.
    pub fn leave(mut self) {
        if let Some(pins) = self.pins.take() {
            pins.folder.release();
        }
        self.owner = None;
        self.locks.clear();
    }

    /// Takes our own folder away; what was gone on with and does not serve yet stays.
    pub(super) fn unpin(&mut self) -> Result<(), HostError> {
        let Some(OwnPins { folder, adopted, .. }) = self.pins.take() else { return Ok(()) };
        if adopted.is_some() {
            folder.release();
            return Ok(());
        }
        pins::remove_held(&folder).map_err(|source| removing(folder.path(), source))
    }
}

/// Writes down how tables lie.
///
/// # Errors
/// [`HostError::State`]; they cannot be gone on with then.
pub fn write_tables(file: &Path, record: &TableRecord) -> Result<(), HostError> {
    write_whole(file, record)
}

pub(super) fn undo_pins(
    record: &Record,
    peers: &[Found],
    folder: &Path,
    files: [&PathBuf; 2],
) -> Result<Outcome, HostError> {
    // Whoever was about to go on with it has it in the other journal.
    if peers.iter().any(|p| p.entry.records.contains(record)) {
        return Ok(Outcome::Nothing);
    }
    Ok(if remove(Some(folder), files)? {
        Outcome::Undone(format!("removed the programs and tables of {}", folder.display()))
    } else {
        Outcome::Nothing
    })
}

/// Takes a folder away, and the files beside it. Tells whether there was one.
///
/// # Errors
/// [`HostError::State`].
pub(super) fn remove(folder: Option<&Path>, files: [&PathBuf; 2]) -> Result<bool, HostError> {
    let was_there = match folder {
        None => false,
        Some(folder) => match pins::remove(folder) {
            // A living balancer's, whatever the journal says.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            removed => removed.map_err(|source| removing(folder, source))?,
        },
    };
    let [slots, tables] = files;
    remove_files(&[slots, &draft(slots), tables, &draft(tables)])?;
    Ok(was_there)
}

fn removing(folder: &Path, source: io::Error) -> HostError {
    HostError::State { action: "remove", path: folder.to_owned(), source }
}
