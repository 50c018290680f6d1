//! Sockets and program on the interfaces that are listened on, as they come and go.
//!
//! Whoever follows the network opens and closes here; the worker, which uses the sockets, is told by a [`Handover`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use convey_afpacket::workers::{Intake, Scope, lock};
use convey_core::{Event, EventSink};
use convey_engine::{EngineError, EngineErrorKind, InterfaceSink, NextHops, PacketOptions, XdpMode};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::program::Program;
use super::refusal;
use super::socket::{MAX_MTU, Xsk};
use crate::interface::{self, Facts, Refused};
use crate::{GuardRules, XdpError};

/// How long closing waits for the worker to let go of sockets: it looks after every batch.
const PATIENCE: Duration = Duration::from_secs(1);

/// Queues of an interface that are looked for.
const MOST_QUEUES: u32 = 1024;

/// What the worker is told.
#[derive(Debug)]
pub enum Change {
    /// These sockets, of one interface, are to be served.
    Opened {
        /// The interface.
        ifindex: u32,
        /// Whether frames may come with checksums that are still open.
        has_open_checksums: bool,
        /// A socket for each queue.
        sockets: Vec<Xsk>,
    },
    /// The sockets of this interface are to be closed.
    Closed {
        /// The interface.
        ifindex: u32,
    },
}

/// The way of sockets to the worker.
#[derive(Debug)]
pub struct Handover {
    changes: Mutex<Vec<Change>>,
    taken: Condvar,
    has_changes: AtomicBool,
    /// A worker looks.
    is_served: AtomicBool,
    /// Readable when there are changes.
    wake: OwnedFd,
    /// Frames that could not be given back to the kernel.
    pub not_given_back: AtomicU64,
    /// Frames whose checksum was open.
    pub open_checksums: AtomicU64,
}

impl Handover {
    fn new() -> io::Result<Self> {
        Ok(Self {
            changes: Mutex::default(),
            taken: Condvar::new(),
            has_changes: AtomicBool::new(false),
            is_served: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            not_given_back: AtomicU64::new(0),
            open_checksums: AtomicU64::new(0),
        })
    }

    /// For poll: readable when there are changes.
    pub fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// The worker's look at what has changed; `apply` has done with a change when it returns.
    pub fn take(&self, mut apply: impl FnMut(Change)) {
        self.is_served.store(true, Relaxed);
        if !self.has_changes.load(Relaxed) {
            return;
        }
        let mut changes = lock(&self.changes);
        self.has_changes.store(false, Relaxed);
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        changes.drain(..).for_each(&mut apply);
        self.taken.notify_all();
    }

    /// No worker looks any more: what it has not taken is closed.
    pub fn leave(&self) {
        self.is_served.store(false, Relaxed);
        lock(&self.changes).clear();
        self.taken.notify_all();
    }

    fn push(&self, change: Change) {
        lock(&self.changes).push(change);
        self.has_changes.store(true, Relaxed);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn wait_until_taken(&self) {
        let changes = lock(&self.changes);
        let waits = |changes: &mut Vec<Change>| !changes.is_empty() && self.is_served.load(Relaxed);
        let _ = self.taken.wait_timeout_while(changes, PATIENCE, waits);
    }
}

/// The sockets and the program of an engine.
pub struct Ports {
    state: Mutex<State>,
    handover: Arc<Handover>,
    events: EventSink,
    mode: XdpMode,
}

#[derive(Debug)]
struct State {
    program: Program,
    ports: BTreeMap<u32, Port>,
    refused: Refused,
    closed: bool,
    /// Frames lost, as told; of interfaces that are gone.
    told_drops: u64,
    former_drops: u64,
    told_checksums: bool,
}

#[derive(Debug)]
struct Port {
    mac: [u8; 6],
    has_open_checksums: bool,
    name: String,
    sockets: Vec<Arc<OwnedFd>>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Ports {
    /// Loads the program for these rules; no interface is listened on yet.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(rules: &GuardRules, options: &PacketOptions, events: EventSink) -> Result<Self, EngineError> {
        let program = Program::load(rules).map_err(|error| refusal::program(&error))?;
        let handover = Handover::new().map_err(EngineError::links)?;
        let state = State {
            program,
            ports: BTreeMap::new(),
            refused: Refused::new(!options.interfaces.is_empty(), events.clone()),
            closed: false,
            told_drops: 0,
            former_drops: 0,
            told_checksums: false,
        };
        Ok(Self { state: Mutex::new(state), handover: Arc::new(handover), events, mode: options.xdp_mode })
    }

    /// The way of sockets to the worker.
    pub fn handover(&self) -> &Arc<Handover> {
        &self.handover
    }

    /// A sink that has `guard` prepare interfaces first, and listens on those that it says are ready.
    pub fn sink(self: &Arc<Self>, guard: Option<InterfaceSink>) -> InterfaceSink {
        let this = self.clone();
        Arc::new(move |interfaces| {
            let ready = guard.as_ref().map_or_else(|| interfaces.to_vec(), |guard| guard(interfaces));
            this.set_interfaces(&ready)
        })
    }

    /// From now on an interface that cannot be listened on is a warning. Tells why the engine cannot start, if so.
    pub fn started(&self) -> Option<EngineError> {
        let mut state = lock(&self.state);
        let interfaces = state.ports.len();
        state.refused.started(interfaces)
    }

    /// What `rules` name is handed over, too.
    ///
    /// # Errors
    /// [`XdpError`]; what was handed over before still is.
    pub fn add_rules(&self, rules: &GuardRules) -> Result<(), XdpError> {
        lock(&self.state).program.add(rules)
    }

    /// Nothing is handed over but what `rules` name.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn remove_stale_rules(&self, rules: &GuardRules) -> Result<(), XdpError> {
        lock(&self.state).program.remove_stale(rules)
    }

    /// Takes the program from every interface, and listens on none again.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        while let Some((ifindex, _)) = state.ports.pop_first() {
            state.program.detach(ifindex);
            self.handover.push(Change::Closed { ifindex });
        }
    }

    /// Listens on these interfaces and no others; on which it does.
    fn set_interfaces(&self, interfaces: &[u32]) -> Vec<u32> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.closed {
            return Vec::new();
        }
        let gone: Vec<u32> = state.ports.keys().filter(|i| !interfaces.contains(i)).copied().collect();
        for &ifindex in &gone {
            if let Some(port) = state.ports.remove(&ifindex) {
                state.former_drops += drops(&port);
            }
            state.program.detach(ifindex);
            self.handover.push(Change::Closed { ifindex });
        }
        if !gone.is_empty() {
            // Until then its queues are taken.
            self.handover.wait_until_taken();
        }
        for &ifindex in interfaces {
            if state.ports.contains_key(&ifindex) {
                continue;
            }
            match self.open(&mut state.program, ifindex) {
                Ok(port) => {
                    state.refused.remove(ifindex);
                    state.ports.insert(ifindex, port);
                }
                Err(error) => state.refused.add(ifindex, error),
            }
        }
        state.ports.keys().copied().collect()
    }

    fn open(&self, program: &mut Program, ifindex: u32) -> Result<Port, EngineError> {
        let facts = interface::admit(ifindex, false)?;
        if facts.mtu > MAX_MTU {
            return Err(refusal::mtu(&facts));
        }
        program.attach(ifindex, self.mode).map_err(|error| interface::refusal::attach(&facts, &error))?;
        let opened = self.sockets(&facts, ifindex).and_then(|sockets| {
            let fds: Vec<Arc<OwnedFd>> = sockets.iter().map(|socket| socket.fd().clone()).collect();
            program.connect(ifindex, facts.mac, &fds).map_err(|error| refusal::program(&error))?;
            Ok((sockets, fds))
        });
        match opened {
            Ok((sockets, fds)) => {
                let has_open_checksums = facts.has_open_checksums();
                self.handover.push(Change::Opened { ifindex, has_open_checksums, sockets });
                Ok(Port { mac: facts.mac, has_open_checksums, name: facts.name, sockets: fds })
            }
            Err(error) => {
                program.detach(ifindex);
                Err(error)
            }
        }
    }

    /// A socket for each queue: the kernel says which was the last.
    fn sockets(&self, facts: &Facts, ifindex: u32) -> Result<Vec<Xsk>, EngineError> {
        let mut zero_copy = facts.kind.is_empty();
        let mut sockets = Vec::new();
        for queue in 0..MOST_QUEUES {
            let mut opened = Xsk::open(ifindex, queue, facts.mtu, zero_copy);
            if zero_copy
                && let Err(error) = &opened
                && queue == 0
            {
                let message = format!(
                    "Interface {} has no zero-copy AF_XDP ({error}): frames are copied between it and the balancer",
                    facts.name
                );
                (self.events)(Event::Warning { message });
                zero_copy = false;
                opened = Xsk::open(ifindex, queue, facts.mtu, false);
            }
            match opened {
                Ok(socket) => sockets.push(socket),
                Err(error) if queue > 0 && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) => return Err(refusal::socket(facts, queue, error)),
            }
        }
        Ok(sockets)
    }
}

impl Intake for Ports {
    /// Interfaces have come by the sink; what concerns us is told before a snapshot is installed.
    fn listen(&self, _scope: &Scope, _interfaces: &[u32]) -> io::Result<()> {
        Ok(())
    }

    fn take_drops(&self, _worker: usize) -> u64 {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let now: u64 = state.ports.values().map(drops).sum::<u64>()
            + state.former_drops
            + state.program.unserved()
            + self.handover.not_given_back.load(Relaxed);
        let new = now.saturating_sub(state.told_drops);
        state.told_drops = now.max(state.told_drops);
        if !state.told_checksums && self.handover.open_checksums.load(Relaxed) > 0 {
            state.told_checksums = true;
            let names: Vec<&str> = state
                .ports
                .values()
                .filter(|port| port.has_open_checksums)
                .map(|port| port.name.as_str())
                .collect();
            let message =
                interface::refusal::open_checksums(&names, "the balancer completes them, which costs time");
            (self.events)(Event::Warning { message });
        }
        new
    }

    fn next_hops(&self, next_hops: &Arc<NextHops>) {
        let mut guard = lock(&self.state);
        let State { program, ports, .. } = &mut *guard;
        for (&ifindex, port) in ports {
            let Some(link) = next_hops.links().usable(ifindex) else { continue };
            if port.mac != link.mac && program.readdress(ifindex, link.mac).is_ok() {
                port.mac = link.mac;
            }
        }
    }
}

/// Frames for which a socket had no room.
fn drops(port: &Port) -> u64 {
    let statistics = port.sockets.iter().filter_map(|socket| sockopt::xdp_statistics(socket).ok());
    statistics.map(|s| s.rx_dropped + s.rx_ring_full.unwrap_or(0)).sum()
}

/// The worker cannot give frames back to the kernel.
pub fn no_way_back(error: &XdpError) -> EngineError {
    EngineError::new(EngineErrorKind::Failed, error.to_string(), "use engine = \"af_packet\"")
}
