//! What a packet mode does to the host, and how it is taken back.
//!
//! Forwarding happens in user space, behind an AF_PACKET tap, so little is needed: the kernel must not answer
//! what is forwarded ([`convey_xdp::Guard`]), must not use the NAT ports for itself, and must not coalesce frames
//! into what cannot be sent on (LRO). Left alone, because it does not matter here: `ip_forward` and
//! `send_redirects` (the kernel sees none of the forwarded packets), `rp_filter` (the tap comes first, and what
//! is sent never enters the kernel's input), `accept_local`, `ip_nonlocal_bind`.
//!
//! Invariants: what undoing takes is on disk before a change is made; undoing changes back only what still has
//! the value that was set; several balancers and prepared servers of one network namespace share what they
//! share, and the last one restores it. Everything acts in the network namespace of the calling thread.

mod address_lock;
pub mod capabilities;
mod conflicts;
pub mod dsr_server;
mod error;
mod flows;
mod guarding;
mod journal;
mod namespaces;
mod orphans;
pub mod pins;
mod plan;
mod port_set;
mod reserved_ports;
pub mod service_manager;
pub mod settings;
mod step;
mod sys;
mod sysctl;
mod undo;

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use convey_xdp::{Endpoint, Guard, GuardMethod, GuardRules, netlink, protocol_name};

use address_lock::AddressLock;
use conflicts::{check_nat, claims, lock_all};
use journal::{Entry, Found, Kind, Record, StateDir};
use undo::Leave;

pub use capabilities::{
    Capability, DropError, DropReport, MissingPrivilege, check_privileges, drop_capabilities,
    kept_capabilities,
};
pub use error::HostError;
pub use journal::{DEFAULT_STATE_DIR, VERIFIER_LOG, state_dir};
pub use plan::{HostSpec, dry_run};
pub use port_set::PortSet;
pub use step::Step;
pub use sys::{clock_is_synchronized, exit_now, lro};
pub use undo::cleanup;

/// A prepared host. [`Host::close`] takes everything back; dropping it does, too.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    id: String,
    entry: Entry,
    locks: Vec<AddressLock>,
    guard: Option<Guard>,
    /// Flows that killed balancers of these frontends left.
    left: Vec<flows::SavedTable>,
    /// What the kernel forwards by that killed balancers of these frontends left.
    left_pins: Vec<pins::LeftPins>,
    /// What it forwards by without us.
    pins: Option<pins::OwnPins>,
    /// The engine forwards.
    serves: bool,
    /// Where is written down what the slots of our own flows stand for.
    slots: Option<PathBuf>,
    /// Their table, whose lock says that its owner lives.
    table: Option<File>,
    /// Says to others that the journal's owner lives.
    owner: Option<File>,
    notes: Vec<String>,
}

impl Host {
    /// Prepares the host: reclaims what killed predecessors left, locks the frontends' addresses, makes every
    /// change of [`HostSpec::plan`]. Sockets of the engine should be open by then: from here on the kernel does
    /// not answer.
    ///
    /// # Errors
    /// [`HostError`]; the host is as before.
    pub fn install(spec: &HostSpec) -> Result<Self, HostError> {
        let state = StateDir::open(&spec.state_dir)?;
        let result = Self::install_in(&state, spec);
        state.close();
        result
    }

    fn install_in(state: &StateDir, spec: &HostSpec) -> Result<Self, HostError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let notes = undo::reclaim(state, Leave::GuardsAndFlows)?;
        // Another network namespace may have left a journal of this name.
        let id = loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let id = format!("balancer_{}_{n}", std::process::id());
            if state.journal(&id).is_none() {
                break id;
            }
        };
        let peers = state.peers(&id)?;
        // The address first: it is what an operator knows a second instance by.
        let locks = lock_all(&spec.rules.vips, &peers)?;
        check_nat(spec, &peers)?;
        let mut host = Self {
            spec: spec.clone(),
            entry: Entry::new(Kind::Balancer),
            locks,
            guard: None,
            left: flows::SavedTable::find(&peers, &names(&spec.rules.vips)),
            left_pins: pins::LeftPins::find(&peers, &names(&spec.rules.vips), &claims(spec)),
            pins: None,
            serves: false,
            slots: None,
            table: None,
            owner: Some(state.own(&id)?),
            notes,
            id,
        };
        host.notes.extend(conflicts::warnings(&host.spec)?);
        host.entry.frontends = names(&spec.rules.vips);
        host.entry.nat = claims(spec);
        let mut result = state.write(&host.id, &host.entry);
        for step in spec.plan(&host.id) {
            result = result.and_then(|()| host.apply(state, &peers, &step));
        }
        if !spec.interfaces.is_empty() {
            result = result
                .and_then(|()| indices(&spec.interfaces))
                .and_then(|indices| host.guard_stands(state, &indices));
        }
        if let Err(error) = result {
            // The first error is the one to report; what cannot be undone now stays in the journal.
            let _ = host.take_back(state);
            return Err(error);
        }
        Ok(host)
    }

    fn apply(&mut self, state: &StateDir, peers: &[Found], step: &Step) -> Result<(), HostError> {
        let record = step.record(peers)?;
        if let Some(record) = &record {
            self.entry.records.push(record.clone());
            state.write(&self.id, &self.entry)?;
        }
        step.perform(record.as_ref())?;
        if let Step::Guard { id, interfaces, rules, method } = step {
            let guard = Guard::install(id, &indices(interfaces)?, rules, *method)?;
            if let Some(why) = guard.bpf_refused() {
                self.notes.push(format!("nft keeps the kernel out, because BPF is refused: {why}"));
            }
            if guard.method() == GuardMethod::Bpf {
                self.entry.records.retain(|r| !matches!(r, Record::NftTable { .. }));
                state.write(&self.id, &self.entry)?;
            }
            self.guard = Some(guard);
        }
        Ok(())
    }

    /// Follows a reload: new addresses are locked and guarded before old ones are released.
    ///
    /// # Errors
    /// [`HostError`]; the former rules' needs are still met then.
    pub fn set_rules(&mut self, rules: &GuardRules) -> Result<(), HostError> {
        let spec = HostSpec { rules: rules.clone(), ..self.spec.clone() };
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.update_in(&state, &spec);
        state.close();
        result?;
        self.spec = spec;
        Ok(())
    }

    fn update_in(&mut self, state: &StateDir, spec: &HostSpec) -> Result<(), HostError> {
        let peers = state.peers(&self.id)?;
        check_nat(spec, &peers)?;
        let added: Vec<Endpoint> = spec
            .rules
            .vips
            .iter()
            .filter(|f| !self.locks.iter().any(|lock| lock.endpoint() == **f))
            .copied()
            .collect();
        let new_locks = lock_all(&added, &peers)?;
        let index_list = indices(&spec.interfaces)?;
        let (old_ports, new_ports) = (self.spec.nat_ports(), spec.nat_ports());
        if !new_ports.without(&old_ports).is_empty() {
            self.reserve(state, &peers, &old_ports.union(&new_ports))?;
        }
        if let Some(guard) = &mut self.guard {
            guard.update(&index_list, &spec.rules)?;
        }
        if !old_ports.without(&new_ports).is_empty() {
            self.reserve(state, &peers, &new_ports)?;
        }
        self.locks.retain(|lock| spec.rules.vips.contains(&lock.endpoint()));
        self.locks.extend(new_locks);
        self.entry.frontends = names(&spec.rules.vips);
        self.entry.nat = claims(spec);
        state.write(&self.id, &self.entry)
    }

    /// What an operator should know: reclaimed leftovers, why nft was chosen, ports that are scarce.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds what somebody else has found that an operator should know.
    pub fn add_note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Takes everything back and releases the addresses; stop the engine first. Returns what was done and what
    /// was left because somebody changed it meanwhile, in words.
    ///
    /// # Errors
    /// [`HostError`]; what failed stays in the journal for [`cleanup`].
    pub fn close(mut self) -> Result<Vec<String>, HostError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Vec<String>, HostError> {
        if self.owner.is_none() {
            return Ok(Vec::new());
        }
        let state = StateDir::open(&self.spec.state_dir)?;
        let result = self.take_back(&state);
        state.close();
        result
    }

    fn take_back(&mut self, state: &StateDir) -> Result<Vec<String>, HostError> {
        self.guard = None;
        let unpinned = self.unpin();
        let lines = undo::undo_journal(state, &self.id, self.entry.clone());
        self.owner = None;
        self.locks.clear();
        unpinned?;
        lines
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nobody is left to tell; the journal keeps what could not be undone.
        let _ = self.finish();
    }
}

/// Why this process may not load programs for the kernel (empty when it may), and whether the kernel knows the checksum
/// flag for IPv6.
pub fn try_bpf() -> (String, bool) {
    let refused = convey_xdp::kernel::try_program().err().unwrap_or_default();
    (refused, convey_xdp::kernel::takes_csum_ipv6())
}

fn indices(interfaces: &[String]) -> Result<Vec<u32>, HostError> {
    interfaces.iter().map(|name| step::required_index(name)).collect()
}

fn names(frontends: &[Endpoint]) -> Vec<String> {
    frontends.iter().map(name).collect()
}

/// A frontend as journals name it.
fn name(frontend: &Endpoint) -> String {
    format!("{} {}", protocol_name(frontend.protocol), frontend.addr)
}

/// The address of a server or balancer as the given host has it, e.g. for messages.
pub(crate) fn interface_of(address: IpAddr) -> Result<Option<String>, HostError> {
    let found = netlink::addresses()?.into_iter().find(|a| a.address == address);
    Ok(match found {
        Some(at) => Some(netlink::interface_name(at.interface)?),
        None => None,
    })
}
