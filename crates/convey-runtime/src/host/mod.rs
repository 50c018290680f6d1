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
pub mod dsr_server;
mod error;
mod flows;
mod journal;
mod namespaces;
mod port_set;
mod step;
mod sys;
mod sysctl;
mod undo;

use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use convey_core::Protocol;
use convey_xdp::netlink::Hook;
use convey_xdp::{
    Endpoint, Guard, GuardDrops, GuardMethod, GuardRules, NatRange, netlink, protocol_name, protocol_number,
};

use address_lock::AddressLock;
use journal::{Entry, Found, Kind, NatClaim, Record, StateDir};
use undo::Leave;

pub use capabilities::{
    Capability, DropError, DropReport, MissingPrivilege, check_privileges, drop_capabilities,
    kept_capabilities,
};
pub use error::HostError;
pub use journal::{DEFAULT_STATE_DIR, state_dir};
pub use port_set::PortSet;
pub use step::Step;
pub use sys::exit_now;
pub use undo::cleanup;

/// Fewer ports than this for the host's own connections are worth a warning.
const FEW_PORTS: usize = 256;

/// What a balancer in a packet mode handles, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The interfaces whose frames it handles; may be empty until [`Host::set_interfaces`].
    pub interfaces: Vec<String>,
    /// What it handles: frontends (`vips`) and, in passthrough mode, servers and NAT ports.
    pub rules: GuardRules,
    /// How the kernel is kept out; `None` chooses.
    pub guard: Option<GuardMethod>,
    /// Where journals are kept: [`DEFAULT_STATE_DIR`].
    pub state_dir: PathBuf,
}

impl HostSpec {
    fn nat_ports(&self) -> PortSet {
        self.rules.nat.iter().map(|range| range.ports.clone()).collect()
    }

    /// Every change of the host that this asks for, in order; `id` names what has a name.
    pub fn plan(&self, id: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let ports = self.nat_ports();
        if !ports.is_empty() {
            steps.push(Step::ReservePorts(ports));
        }
        steps.extend(self.interfaces.iter().map(|i| Step::DisableLro { interface: i.clone() }));
        if !self.interfaces.is_empty() {
            steps.push(self.guard_step(id));
        }
        steps
    }

    fn guard_step(&self, id: &str) -> Step {
        Step::Guard {
            id: id.to_owned(),
            interfaces: self.interfaces.clone(),
            rules: self.rules.clone(),
            method: self.guard,
        }
    }
}

/// Every step in a form one could type; nothing is changed.
///
/// # Errors
/// [`HostError`] when the present state cannot be read.
pub fn dry_run(spec: &HostSpec) -> Result<Vec<String>, HostError> {
    let mut lines = Vec::new();
    for step in spec.plan("dry_run") {
        lines.extend(step.describe()?);
    }
    Ok(lines)
}

/// A prepared host. [`Host::close`] takes everything back; dropping it does, too.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    id: String,
    entry: Entry,
    locks: Vec<AddressLock>,
    guard: Option<Guard>,
    /// Flows that killed balancers of these frontends left.
    left: Vec<flows::Left>,
    /// Where is written down what the slots of our own flows stand for.
    slots: Option<PathBuf>,
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
            left: flows::Left::find(&peers, &names(&spec.rules.vips)),
            slots: None,
            owner: Some(state.own(&id)?),
            notes,
            id,
        };
        host.notes.extend(host.warnings()?);
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
    fn guard_stands(&mut self, state: &StateDir, indices: &[u32]) -> Result<(), HostError> {
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

    /// Makes `ports` the ones that are reserved for this balancer.
    fn reserve(&mut self, state: &StateDir, peers: &[Found], ports: &PortSet) -> Result<(), HostError> {
        let present = step::present_reserved()?;
        let ours = self.reserved();
        let shared = undo::reserved_by(peers);
        let foreign = present.without(&shared).without(&ours);
        let added = ports.without(&foreign);
        // On disk stands what may have been added, before and after: undoing takes away no more than is there.
        self.set_reserved_record(&ours.union(&added));
        state.write(&self.id, &self.entry)?;
        let next = foreign.union(&shared).union(&added);
        if next != present {
            sysctl::write(undo::RESERVED_PORTS, &next.to_string())?;
        }
        self.set_reserved_record(&added);
        state.write(&self.id, &self.entry)
    }

    fn reserved(&self) -> PortSet {
        self.entry
            .records
            .iter()
            .find_map(|r| match r {
                Record::ReservedPorts { added } => PortSet::parse(added),
                _ => None,
            })
            .unwrap_or_default()
    }

    fn set_reserved_record(&mut self, ports: &PortSet) {
        let added = ports.to_string();
        match self.entry.records.iter_mut().find(|r| matches!(r, Record::ReservedPorts { .. })) {
            Some(record) => *record = Record::ReservedPorts { added },
            None => self.entry.records.push(Record::ReservedPorts { added }),
        }
    }

    /// What an operator should know: reclaimed leftovers, why nft was chosen, ports that are scarce.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds what somebody else has found that an operator should know.
    pub fn add_note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// How the kernel is kept out.
    pub fn guard_method(&self) -> Option<GuardMethod> {
        self.guard.as_ref().map(Guard::method)
    }

    /// Packets kept from the kernel, where the guard counts them.
    pub fn guard_drops(&self) -> Option<GuardDrops> {
        self.guard.as_ref().and_then(|guard| guard.drops().ok().flatten())
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
        let lines = undo::undo_journal(state, &self.id, self.entry.clone());
        self.owner = None;
        self.locks.clear();
        lines
    }

    fn warnings(&self) -> Result<Vec<String>, HostError> {
        let mut warnings = Vec::new();
        let reserved = step::present_reserved()?.union(&self.spec.nat_ports());
        if let Some((free, range)) = ports_left(&reserved)?
            && free < FEW_PORTS
            && !self.spec.nat_ports().is_empty()
        {
            warnings.push(format!(
                "the NAT ports leave the host {free} ports of {range} for its own connections; a smaller range or a \
                 wider net.ipv4.ip_local_port_range gives it more"
            ));
        }
        for frontend in self.spec.rules.vips.iter().filter(|f| f.protocol == Protocol::Tcp) {
            if is_bound(frontend) {
                warnings.push(format!(
                    "another program of this host listens on {}; its clients will reach the backend instead",
                    frontend.addr
                ));
            }
        }
        Ok(warnings)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nobody is left to tell; the journal keeps what could not be undone.
        let _ = self.finish();
    }
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

fn lock_all(frontends: &[Endpoint], peers: &[Found]) -> Result<Vec<AddressLock>, HostError> {
    let served: HashMap<&str, u32> = peers
        .iter()
        .filter(|p| p.in_use)
        .flat_map(|p| p.entry.frontends.iter().map(|name| (name.as_str(), p.entry.pid)))
        .collect();
    let lock = |frontend: &Endpoint| match served.get(name(frontend).as_str()) {
        Some(&pid) => Err(HostError::SecondInstance {
            protocol: protocol_name(frontend.protocol),
            address: frontend.addr,
            holder: Some(pid),
        }),
        None => AddressLock::take(*frontend),
    };
    frontends.iter().map(lock).collect()
}

fn claims(spec: &HostSpec) -> Vec<NatClaim> {
    let claim = |range: &NatRange| NatClaim {
        protocol: protocol_number(range.protocol),
        address: range.addr,
        from: *range.ports.start(),
        to: *range.ports.end(),
    };
    spec.rules.nat.iter().map(claim).collect()
}

/// Two balancers that translate from one port would take each other's replies.
fn check_nat(spec: &HostSpec, peers: &[Found]) -> Result<(), HostError> {
    let ours = claims(spec);
    for peer in peers.iter().filter(|p| p.in_use) {
        for (a, b) in ours.iter().flat_map(|a| peer.entry.nat.iter().map(move |b| (a, b))) {
            if a.protocol == b.protocol && a.address == b.address && a.from <= b.to && b.from <= a.to {
                return Err(HostError::NatPortsTaken {
                    ports: format!("{}-{}", a.from, a.to),
                    address: a.address,
                    holder: peer.entry.pid,
                });
            }
        }
    }
    let ports = spec.nat_ports();
    if ports.is_empty() {
        return Ok(());
    }
    match ports_left(&step::present_reserved()?.union(&ports))? {
        Some((0, range)) => Err(HostError::NoPortsLeft { ports: ports.to_string(), range }),
        _ => Ok(()),
    }
}

/// How many ports the kernel may still choose for itself, and from which range.
fn ports_left(reserved: &PortSet) -> Result<Option<(usize, String)>, HostError> {
    let text = sysctl::read("net.ipv4.ip_local_port_range")?;
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(from)), Some(Ok(to))) = (ends.next(), ends.next()) else { return Ok(None) };
    Ok(Some(((from..=to).filter(|port| !reserved.contains(*port)).count(), format!("{from}-{to}"))))
}

/// Whether a program listens there: a second bind is refused then, also with SO_REUSEADDR.
fn is_bound(frontend: &Endpoint) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if frontend.addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let Ok(socket) = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None) else {
        return false;
    };
    let reuse = rustix::net::sockopt::set_socket_reuseaddr(&socket, true);
    reuse.is_ok() && rustix::net::bind(&socket, &frontend.addr) == Err(rustix::io::Errno::ADDRINUSE)
}

/// The address of a server or balancer as the given host has it, e.g. for messages.
pub(crate) fn interface_of(address: IpAddr) -> Result<Option<String>, HostError> {
    let found = netlink::addresses()?.into_iter().find(|a| a.address == address);
    Ok(match found {
        Some(at) => Some(netlink::interface_name(at.interface)?),
        None => None,
    })
}
