//! The listeners of a proxy over its configurations: which are kept, bound, moved and retired.
//!
//! Invariants: a set that cannot be bound whole changes nothing, and old listeners go on throughout; a
//! listener that goes closes only when no handshake is under way on it and its queue is served, so that no
//! client whose connect succeeded is reset.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{Event, Frontend, Protocol, Snapshot};

use crate::error::ProxyError;
use crate::handshakes::half_open;
use crate::listener::ListenGroup;
use crate::published::Published;
use crate::shared::Shared;
use crate::udp;

/// How long handshakes under way may take before their listener closes all the same: a SYN-ACK that was lost
/// is sent again after a second.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(2);
/// The same where the kernel does not tell how many there are.
const HANDSHAKE_BLIND: Duration = Duration::from_millis(200);
const HANDSHAKE_POLL: Duration = Duration::from_millis(2);

/// The listeners in service and those on their way out.
#[derive(Debug)]
pub(crate) struct Listeners {
    shared: Arc<Shared>,
    workers: usize,
    udp: udp::Groups,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    /// Frontends of those that serve.
    names: Vec<Arc<str>>,
    /// In the order of the snapshot's frontends and their addresses.
    serving: Vec<Arc<ListenGroup>>,
    /// Accepting what is under way.
    leaving: Vec<Arc<ListenGroup>>,
    /// Served to the end; they close with the last worker's handle.
    closing: Vec<Weak<ListenGroup>>,
    stopped: bool,
}

impl State {
    /// What the workers are to serve.
    fn accepting(&self) -> Vec<Arc<ListenGroup>> {
        self.serving.iter().chain(&self.leaving).cloned().collect()
    }

    /// What still holds an address and is about to let go of it.
    fn going(&self) -> Vec<Arc<ListenGroup>> {
        self.leaving.iter().cloned().chain(self.closing.iter().filter_map(Weak::upgrade)).collect()
    }
}

impl Listeners {
    /// Takes charge of what [`Plan::first`] bound.
    pub fn new(shared: Arc<Shared>, workers: usize, plan: Plan) -> Self {
        let Plan { names, groups, udp: plan, .. } = plan;
        let udp = udp::Groups::default();
        shared.set_udp_groups(udp.commit(plan, &shared.published.load_full()));
        let state =
            State { names, serving: groups, leaving: Vec::new(), closing: Vec::new(), stopped: false };
        Self { shared, workers, udp, state: Mutex::new(state), settled: Condvar::new() }
    }

    /// Has the workers serve the first listeners and waits until they do.
    pub fn begin(&self) {
        let serving = self.state().serving.clone();
        let version = self.shared.set_groups(serving);
        self.shared.wait_applied(version);
    }

    /// Serves `snapshot` from now on; see [`crate::Proxy::install`].
    pub fn install(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Result<(), ProxyError> {
        let mut state = self.state();
        if state.stopped {
            self.shared.publish(Published { snapshot, routes: Vec::new() });
            return Ok(());
        }
        let plan = Plan::over(&snapshot, &state.serving, &state.going(), &self.udp, self.workers)?;
        for message in plan.set_options(&snapshot, &state.serving) {
            self.shared.events.send(Event::Warning { message });
        }
        let unchanged = state.serving.iter().map(|g| g.id).eq(plan.groups.iter().map(|g| g.id));
        let previous = self.shared.published.load_full();
        let gone: Vec<_> = state.serving.iter().filter(|g| !contains(&plan.groups, g)).cloned().collect();
        for group in &gone {
            // Never set before: a group that was removed does not come back.
            let _ = group.retired.set(previous.clone());
        }
        self.shared.publish(Published { routes: plan.routes(), snapshot });
        state.names = plan.names;
        state.serving = plan.groups;
        let udp = self.udp.commit(plan.udp, &previous);
        if self.shared.set_udp_groups(udp) || !unchanged {
            self.retire(&mut state, gone);
        }
        Ok(())
    }

    /// Retires every listener, once.
    pub fn stop(self: &Arc<Self>) {
        let mut state = self.state();
        if state.stopped {
            return;
        }
        state.stopped = true;
        let last = self.shared.published.load_full();
        let gone = std::mem::take(&mut state.serving);
        self.shared.set_udp_groups(self.udp.commit(udp::Plan::default(), &last));
        for group in &gone {
            // Never set before: listeners stop once.
            let _ = group.retired.set(last.clone());
        }
        self.retire(&mut state, gone);
    }

    /// Lets go of everything at once; the workers have ended.
    pub fn close(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.serving.clear();
        let last = self.shared.published.load_full();
        self.shared.set_udp_groups(self.udp.commit(udp::Plan::default(), &last));
        self.shared.set_groups(state.accepting());
        drop(state);
        self.settle();
    }

    /// Waits until no listener is on its way out, so that its address is free.
    pub fn settle(&self) {
        let mut state = self.state();
        while !(state.leaving.is_empty() && state.closing.is_empty()) {
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Where frontends listen, by name, each address once.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let state = self.state();
        let tcp = state.names.iter().cloned().zip(state.serving.iter().map(|g| g.local));
        tcp.chain(self.udp.addresses()).collect()
    }

    /// Publishes the listeners of `state` with `gone` beside them, which close in the background.
    fn retire(self: &Arc<Self>, state: &mut State, gone: Vec<Arc<ListenGroup>>) {
        gone.iter().for_each(|group| group.refuse_handshakes());
        state.leaving.extend(gone.iter().cloned());
        let accepting = self.shared.set_groups(state.accepting());
        if gone.is_empty() {
            return;
        }
        let listeners = self.clone();
        let leaving = gone.clone();
        let spawned = thread::Builder::new().name("convey-retire".to_owned()).spawn(move || {
            // A worker that was busy may not have begun to accept on a listener that came a moment ago.
            listeners.shared.wait_applied(accepting);
            let deadline = Instant::now() + HANDSHAKE_PATIENCE;
            for group in leaving.iter().filter(|group| !group.inherited) {
                listeners.await_handshakes(group.local, deadline);
            }
            let version = listeners.release(&mut listeners.state(), &leaving);
            listeners.shared.wait_applied(version);
            let closed: Vec<_> = leaving.iter().map(Arc::downgrade).collect();
            // The last handles: the sockets close here, before anybody is told that they have.
            drop(leaving);
            let mut state = listeners.state();
            state.closing.retain(|group| !closed.iter().any(|c| c.ptr_eq(group)));
            drop(state);
            listeners.settled.notify_all();
        });
        if spawned.is_err() {
            // No thread to be had: what is half open is lost, what waits in the queues is served.
            self.release(state, &gone);
            state.closing.clear();
        }
    }

    /// Has the workers serve the queues of `gone` to the end and leave them.
    fn release(&self, state: &mut State, gone: &[Arc<ListenGroup>]) -> u64 {
        state.leaving.retain(|group| !contains(gone, group));
        state.closing.extend(gone.iter().map(Arc::downgrade));
        self.shared.set_groups(state.accepting())
    }

    fn await_handshakes(&self, at: SocketAddr, deadline: Instant) {
        let blind = Instant::now() + HANDSHAKE_BLIND;
        // Twice: a SYN that was past the filter when it was attached may become a request a moment later.
        let mut clear = 0;
        while clear < 2 && Instant::now() < deadline && !self.shared.is_closing() {
            thread::sleep(HANDSHAKE_POLL);
            match half_open(at) {
                Ok(0) => clear += 1,
                Ok(_) => clear = 0,
                Err(_) if Instant::now() < blind => {}
                Err(_) => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is replaced whole, so it is valid even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contains(groups: &[Arc<ListenGroup>], group: &ListenGroup) -> bool {
    groups.iter().any(|g| g.id == group.id)
}

/// The listeners of a snapshot, in the order of its frontends and their addresses.
pub(crate) struct Plan {
    names: Vec<Arc<str>>,
    /// Index of each one's frontend.
    frontends: Vec<usize>,
    groups: Vec<Arc<ListenGroup>>,
    udp: udp::Plan,
}

impl Plan {
    /// Binds every frontend of `snapshot`.
    pub fn first(snapshot: &Snapshot, workers: usize) -> Result<Self, ProxyError> {
        Self::over(snapshot, &[], &[], &udp::Groups::default(), workers)
    }

    /// Takes over from `serving` what serves `snapshot` and binds the rest, if need be beside those that are
    /// `going` and those of `serving` that nobody takes over.
    fn over(
        snapshot: &Snapshot,
        serving: &[Arc<ListenGroup>],
        going: &[Arc<ListenGroup>],
        udp: &udp::Groups,
        workers: usize,
    ) -> Result<Self, ProxyError> {
        let udp = udp.plan(snapshot, workers)?;
        let wanted: Vec<(usize, &Frontend, SocketAddr)> =
            listens(snapshot).filter(|(_, frontend, _)| frontend.protocol == Protocol::Tcp).collect();
        let mut groups: Vec<Option<Arc<ListenGroup>>> = vec![None; wanted.len()];
        let mut taken = HashSet::new();
        for (slot, (_, frontend, listen)) in wanted.iter().enumerate() {
            let mut kept = serving.iter().filter(|g| g.serves(frontend, *listen));
            groups[slot] = kept.find(|g| taken.insert(g.id)).cloned();
        }
        let (kept, leaving): (Vec<_>, Vec<_>) = serving.iter().cloned().partition(|g| taken.contains(&g.id));
        let going: Vec<_> = leaving.into_iter().chain(going.iter().cloned()).collect();
        let mut beside = Vec::new();
        for (slot, &(_, frontend, listen)) in wanted.iter().enumerate() {
            if groups[slot].is_some() {
                continue;
            }
            let (group, old) = claim(frontend, listen, workers, &going).map_err(|source| {
                let holder = kept.iter().chain(groups.iter().flatten()).find(|g| g.overlaps(listen));
                ProxyError::Bind {
                    frontend: frontend.name.to_string(),
                    addr: listen,
                    holder: holder.map(|g| g.frontend.to_string()),
                    source,
                }
            })?;
            let group = Arc::new(group);
            if !old.is_empty() {
                beside.push((frontend, listen, group.clone(), old));
            }
            groups[slot] = Some(group);
        }
        // Not before all are bound: what a client has begun on a listener that goes again is reset.
        for (frontend, addr, group, old) in beside {
            group.listen(&old).map_err(|source| ProxyError::Bind {
                frontend: frontend.name.to_string(),
                addr,
                holder: None,
                source,
            })?;
        }
        let (names, frontends) =
            wanted.iter().map(|(index, frontend, _)| (frontend.name.clone(), *index)).unzip();
        Ok(Self { names, frontends, groups: groups.into_iter().flatten().collect(), udp })
    }

    /// Sets what of the listeners' options can change while they live. Returns warnings: of those of `known`, which
    /// were there before, only about what is new.
    pub fn set_options(&self, snapshot: &Snapshot, known: &[Arc<ListenGroup>]) -> Vec<String> {
        let mut warnings = Vec::new();
        for (group, &index) in self.groups.iter().zip(&self.frontends) {
            let frontend = &snapshot.frontends[index];
            let name = &frontend.name;
            if let Some(why) = group.no_mptcp.as_ref().filter(|_| !contains(known, group)) {
                warnings.push(format!("frontend {name} listens for plain TCP, not for Multipath TCP: {why}"));
            }
            if let Some(why) = group.set_fast_open(frontend.sockets.fast_open) {
                warnings.push(format!("frontend {name} has no TCP Fast Open: {why}"));
            }
        }
        warnings.dedup();
        warnings
    }

    /// Listener ids and the frontends they belong to, in the order of ids.
    pub fn routes(&self) -> Vec<(u64, usize)> {
        let mut routes: Vec<_> =
            self.groups.iter().map(|group| group.id).zip(self.frontends.iter().copied()).collect();
        routes.extend(self.udp.routes());
        routes.sort_unstable();
        routes
    }
}

/// Every listening address: index of its frontend, the frontend, the address.
pub(crate) fn listens(snapshot: &Snapshot) -> impl Iterator<Item = (usize, &Frontend, SocketAddr)> {
    let frontends = snapshot.frontends.iter().enumerate();
    frontends.flat_map(|(index, f)| f.listen.iter().map(move |listen| (index, f, *listen)))
}

/// Binds `listen`, beside those of `going` that are in the way; returns these.
fn claim(
    frontend: &Frontend,
    listen: SocketAddr,
    workers: usize,
    going: &[Arc<ListenGroup>],
) -> io::Result<(ListenGroup, Vec<Arc<ListenGroup>>)> {
    match ListenGroup::bind(frontend.name.clone(), listen, workers, frontend.sockets) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // One of the service manager's never lets go of its address.
            let in_the_way = |g: &&Arc<ListenGroup>| !g.inherited && g.overlaps(listen);
            let old: Vec<_> = going.iter().filter(in_the_way).cloned().collect();
            if old.is_empty() {
                return Err(error);
            }
            let name = frontend.name.clone();
            let group = ListenGroup::bind_beside(name, listen, workers, frontend.sockets, &old)?;
            Ok((group, old))
        }
        bound => Ok((bound?, Vec::new())),
    }
}
