//! Keeps the kernel from answering on the interfaces that are handled, for as long as they are, and after a kill.

use convey_xdp::netlink::Hook;
use convey_xdp::{Guard, GuardDrops, GuardMethod, netlink};

use super::journal::{Found, Record, StateDir};
use super::undo::{self, Leave};
use super::{Host, HostError, HostSpec, Step};

impl Host {
    /// Handles the frames of these interfaces, by index, and no others. Where the guard then stands,
    /// [`Host::interfaces`] tells. One that is gone is passed over.
    ///
    /// # Errors
    /// [`HostError`], the first, when an interface could not be prepared; the others are.
    pub fn set_interfaces(&mut self, interfaces: &[u32]) -> Result<(), HostError> {
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.set_interfaces_in(&state, interfaces);
        state.close();
        result
    }

    /// Handles the frames of these interfaces, by index, before the kernel sees them, so that no guard is needed. Gives
    /// those that could be prepared.
    pub fn set_unguarded(&mut self, interfaces: &[u32]) -> (Result<(), HostError>, Vec<u32>) {
        let state = match StateDir::open(&self.spec.state_dir) {
            Ok(state) => state,
            Err(error) => return (Err(error), Vec::new()),
        };
        let result = self.set_unguarded_in(&state, interfaces);
        state.close();
        result
    }

    fn set_unguarded_in(
        &mut self,
        state: &StateDir,
        interfaces: &[u32],
    ) -> (Result<(), HostError>, Vec<u32>) {
        let (mut ready, mut names, mut failed) = (Vec::new(), Vec::new(), Ok(()));
        let peers = match state.peers(&self.id) {
            Ok(peers) => peers,
            Err(error) => return (Err(error), ready),
        };
        for &index in interfaces {
            let Ok(interface) = netlink::interface_name(index) else { continue };
            match self.apply(state, &peers, &Step::DisableLro { interface: interface.clone() }) {
                Ok(()) => {
                    ready.push(index);
                    names.push(interface);
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        self.spec.interfaces = names;
        // Guards of killed balancers stay until the engine serves.
        let leave = if self.serves { Leave::Flows } else { Leave::GuardsAndFlows };
        match undo::reclaim(state, leave) {
            Ok(notes) => self.notes.extend(notes),
            Err(error) => failed = failed.and(Err(error)),
        }
        (failed, ready)
    }

    /// The interfaces on which the guard stands, by index.
    pub fn interfaces(&self) -> Vec<u32> {
        self.guard.as_ref().map(Guard::interfaces).unwrap_or_default()
    }

    fn set_interfaces_in(&mut self, state: &StateDir, interfaces: &[u32]) -> Result<(), HostError> {
        let peers = state.peers(&self.id)?;
        let (former, mut failed) = (self.interfaces(), Ok(()));
        let (mut indices, mut names) = (Vec::new(), Vec::new());
        for &index in interfaces {
            let Ok(interface) = netlink::interface_name(index) else { continue };
            // By index: a device made anew under its name has its offloads on again.
            if !former.contains(&index)
                && let Err(error) =
                    self.apply(state, &peers, &Step::DisableLro { interface: interface.clone() })
            {
                failed = failed.and(Err(error));
                continue;
            }
            indices.push(index);
            names.push(interface);
        }
        let spec = HostSpec { interfaces: names, ..self.spec.clone() };
        match &mut self.guard {
            Some(guard) => {
                failed = failed.and(guard.update(&indices, &spec.rules).map_err(HostError::from));
            }
            None if indices.is_empty() => (),
            None => self.apply(state, &peers, &spec.guard_step(&self.id))?,
        }
        // One whose guard was refused is tried again with the next change.
        let guarded = self.interfaces();
        let is_guarded = |name: &String| {
            spec.interfaces.iter().zip(&indices).any(|(n, i)| n == name && guarded.contains(i))
        };
        self.spec.interfaces = spec.interfaces.iter().filter(|n| is_guarded(n)).cloned().collect();
        let stands = self.guard_stands(state, &guarded);
        failed.and(stands)
    }

    /// The guard is on these interfaces: it is made to outlive this process there, and those of killed
    /// predecessors may go.
    pub(super) fn guard_stands(&mut self, state: &StateDir, indices: &[u32]) -> Result<(), HostError> {
        if self.guard.is_none() {
            return Ok(());
        }
        let peers = state.peers(&self.id)?;
        if self.guard_method() == Some(GuardMethod::Bpf) {
            self.leave_guard_behind(state, &peers, indices)?;
            for &index in indices {
                let kept = |r: &Record| matches!(r, Record::GuardProgram { index: i, .. } if *i == index);
                if !self.entry.records.iter().any(kept)
                    && let Err(error) = self.keep_guard(state, &peers, index)
                {
                    let note = format!(
                        "the kernel is kept out only while this process lives, so that a restart resets open \
                         flows: {error}"
                    );
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
            }
        }
        self.notes.extend(undo::reclaim(state, Leave::Flows)?);
        Ok(())
    }

    fn keep_guard(&mut self, state: &StateDir, peers: &[Found], index: u32) -> Result<(), HostError> {
        let interface = netlink::interface_name(index)?;
        self.apply(state, peers, &Step::Clsact { interface: interface.clone() })?;
        let handle = convey_xdp::next_handle(index, Hook::Ingress)?;
        let record = Record::GuardProgram { interface, index, handle };
        self.entry.records.push(record.clone());
        state.write(&self.id, &self.entry)?;
        let kept = self.guard.as_mut().map_or(Ok(()), |guard| guard.keep_after_death(index, handle));
        if kept.is_err() {
            self.entry.records.retain(|r| *r != record);
            state.write(&self.id, &self.entry)?;
        }
        Ok(kept?)
    }

    /// Gives an interface, by its index, a clsact qdisc, and notes down that the engine's program will be a filter there.
    /// Returns the filter's handle.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn prepare_filter(&mut self, index: u32) -> Result<u32, HostError> {
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.prepare_filter_in(&state, index);
        state.close();
        result
    }

    fn prepare_filter_in(&mut self, state: &StateDir, index: u32) -> Result<u32, HostError> {
        let peers = state.peers(&self.id)?;
        let interface = netlink::interface_name(index)?;
        self.apply(state, &peers, &Step::Clsact { interface: interface.clone() })?;
        let handle = convey_xdp::next_handle(index, Hook::Ingress)?;
        // One of an interface that was taken before is done with.
        self.entry.records.retain(|r| !matches!(r, Record::EngineProgram { index: i, .. } if *i == index));
        self.entry.records.push(Record::EngineProgram { interface, index, handle });
        state.write(&self.id, &self.entry)?;
        Ok(handle)
    }

    /// Takes the guard from interfaces that are not handled any more, or are gone.
    fn leave_guard_behind(
        &mut self,
        state: &StateDir,
        peers: &[Found],
        handled: &[u32],
    ) -> Result<(), HostError> {
        let left = |r: &Record| match r {
            Record::GuardProgram { index, .. } | Record::Clsact { index, .. } => !handled.contains(index),
            _ => false,
        };
        let (gone, kept): (Vec<_>, Vec<_>) = self.entry.records.drain(..).partition(left);
        self.entry.records = kept;
        let mut failed = Ok(());
        // The last made first, as always: a qdisc goes after what hangs on it.
        for record in gone.into_iter().rev() {
            if let Err(error) = undo::undo_record(&record, peers) {
                self.entry.records.push(record);
                failed = Err(error);
            }
        }
        state.write(&self.id, &self.entry)?;
        failed
    }

    /// How the kernel is kept out.
    pub fn guard_method(&self) -> Option<GuardMethod> {
        self.guard.as_ref().map(Guard::method)
    }

    /// Packets kept from the kernel, where the guard counts them.
    pub fn guard_drops(&self) -> Option<GuardDrops> {
        self.guard.as_ref().and_then(|guard| guard.drops().ok().flatten())
    }
}
