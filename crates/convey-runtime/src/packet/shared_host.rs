//! The prepared host, as the engine's thread and installs change it.

use std::sync::Mutex;

use convey_core::{Event, EventSink};
use convey_engine::{PacketSnapshot, SlotTable, WorkerMemory};
use convey_xdp::GuardRules;

use super::{lock, takeover};
use crate::host::{self, Host, HostError, HostSpec, state_dir};

/// The prepared host. The engine's thread brings interfaces, ours brings rules.
pub(super) struct SharedHost {
    pub(super) state: Mutex<SharedHostState>,
    pub(super) events: EventSink,
}

#[derive(Debug, Default)]
pub(super) struct SharedHostState {
    pub(super) host: Option<Host>,
    pub(super) failed: Option<HostError>,
    /// Why the guard does not stand on some interface, as last told.
    refused: Option<String>,
    /// What slots stand for, as it was written down.
    slots: SlotTable,
    /// From now on notes of the host are events; those of the start are read with the statistics.
    pub(super) started: bool,
}

impl std::fmt::Debug for SharedHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedHost").field("state", &self.state).finish_non_exhaustive()
    }
}

impl SharedHost {
    pub(super) fn new(host: Host, events: EventSink) -> Self {
        let state = SharedHostState { host: Some(host), ..SharedHostState::default() };
        Self { state: Mutex::new(state), events }
    }

    /// Prepares these interfaces, and keeps the kernel from answering there if it is to be guarded; returns those that
    /// are ready.
    pub(super) fn prepare_interfaces(&self, interfaces: &[u32], is_guarded: bool) -> Vec<u32> {
        let mut state = lock(&self.state);
        let SharedHostState { host: Some(host), started, .. } = &mut *state else { return Vec::new() };
        let known = host.notes().len();
        let (done, ready) = if is_guarded {
            let done = host.set_interfaces(interfaces);
            (done, host.interfaces())
        } else {
            host.set_unguarded(interfaces)
        };
        if *started {
            for message in host.notes().iter().skip(known) {
                (self.events)(Event::Warning { message: message.clone() });
            }
            // The engine tries again every second; once is enough to say.
            let refused = done.err().map(|e| format!("{e}; packets that arrive there are not forwarded"));
            if let Some(message) = &refused
                && state.refused != refused
            {
                (self.events)(Event::Warning { message: message.clone() });
            }
            state.refused = refused;
        } else if let Err(error) = done {
            state.failed = Some(error);
        }
        ready
    }

    /// Prepares an interface for a filter of the engine's that outlives this process; its handle, or why not.
    pub(super) fn prepare_filter(&self, ifindex: u32) -> Result<u32, String> {
        match &mut lock(&self.state).host {
            Some(host) => host.prepare_filter(ifindex).map_err(|error| error.to_string()),
            None => Err("the balancer is closed".to_owned()),
        }
    }

    /// Memory for the flows of this balancer that outlives it.
    pub(super) fn memory(&self, packet: &PacketSnapshot) -> Vec<WorkerMemory> {
        lock(&self.state).host.as_mut().map_or_else(Vec::new, |host| takeover::memory(host, packet))
    }

    pub(super) fn guard_rules(&self, wanted: &GuardRules) -> Result<(), HostError> {
        match &mut lock(&self.state).host {
            Some(host) => host.set_rules(wanted),
            None => Ok(()),
        }
    }

    /// What slots stand for is on disk before a flow names them.
    pub(super) fn write_slots(&self, packet: &PacketSnapshot) {
        let mut state = lock(&self.state);
        let SharedHostState { host: Some(host), slots, .. } = &mut *state else { return };
        let identities = packet.slot_table();
        if *identities == *slots {
            return;
        }
        match host.write_slots(identities) {
            Ok(()) => *slots = identities.clone(),
            Err(error) => {
                *slots = SlotTable::default();
                let message =
                    format!("Flows of this balancer would not outlive it if it were killed: {error}");
                (self.events)(Event::Warning { message });
            }
        }
    }

    /// The engine that was to go by pinned tables does not stand.
    pub(super) fn give_up_pins(&self) {
        if let Some(host) = &mut lock(&self.state).host
            && let Err(error) = host.give_up_pins()
        {
            host.add_note(format!("what was pinned is still there: {error}"));
        }
    }

    /// Leaves everything to the next start; in words.
    pub(super) fn leave(&self) -> Option<String> {
        let host = lock(&self.state).host.take()?;
        host.leave();
        Some("the kernel goes on forwarding until the next start, or `convey cleanup`".to_owned())
    }

    pub(super) fn close(&self) -> Vec<String> {
        let host = lock(&self.state).host.take();
        host.map_or_else(Vec::new, |host| {
            host.close().unwrap_or_else(|error| {
                vec![format!(
                    "could not take everything back: {error}; `convey cleanup` or the next start tries again"
                )]
            })
        })
    }
}

pub(super) fn host_spec(rules: GuardRules, interfaces: Vec<String>) -> HostSpec {
    HostSpec { interfaces, rules, guard: None, state_dir: state_dir() }
}

/// In proxy mode the kernel has to answer again where a killed balancer of a packet mode had kept it silent.
pub(crate) fn reclaim_leftovers(events: &EventSink) {
    if !rustix::process::geteuid().is_root() {
        // It could not have left anything, and could not take it back.
        return;
    }
    let lines = host::cleanup(&state_dir()).unwrap_or_else(|error| {
        vec![format!("what a killed balancer left on this host could not be taken back: {error}")]
    });
    for message in lines {
        (events)(Event::Warning { message });
    }
}
