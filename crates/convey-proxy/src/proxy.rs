//! The proxy as its owner sees it: start, install, stop, close.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use convey_core::{EventSink, Snapshot};

use crate::error::ProxyError;
use crate::events::Events;
use crate::listener::ListenGroup;
use crate::shared::{Published, Shared};
use crate::worker;

/// A running proxy. Dropping it closes it.
///
/// The process must ignore SIGPIPE, as Rust programs and Node do: splice has no flag against it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    workers: usize,
    control: Mutex<Control>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Control {
    addresses: Vec<(Arc<str>, SocketAddr)>,
    stopped: bool,
}

impl Proxy {
    /// Binds every frontend and starts `workers` threads (at least one). Either all frontends listen or none
    /// does. `events` is called on the worker threads and must not block; it must not call into the proxy.
    ///
    /// # Errors
    /// [`ProxyError`] names the frontend and address, or the worker.
    pub fn start(snapshot: Arc<Snapshot>, workers: usize, events: EventSink) -> Result<Self, ProxyError> {
        let workers = workers.max(1);
        let plan = plan(&snapshot, &[], workers)?;
        let published = Published { routes: plan.routes(), snapshot };
        let shared = Arc::new(Shared::new(published, workers, Events::new(events)));
        let proxy = Self {
            shared: shared.clone(),
            workers,
            control: Mutex::new(Control { addresses: plan.addresses(), stopped: false }),
            threads: Mutex::default(),
        };
        for worker in 0..workers {
            let thread =
                worker::start(&shared, worker).map_err(|source| ProxyError::Worker { worker, source })?;
            lock(&proxy.threads).push(thread);
        }
        shared.set_groups(plan.groups);
        Ok(proxy)
    }

    /// Serves `snapshot` from now on. New listeners are bound first; on an error the old snapshot goes on.
    /// Listeners whose address stays are not touched, under whatever frontend name; those that go accept
    /// what waits in their queue first. Open connections go on in any case.
    ///
    /// # Errors
    /// [`ProxyError::Bind`] names the frontend that could not listen.
    pub fn install(&self, snapshot: Arc<Snapshot>) -> Result<(), ProxyError> {
        let mut control = lock(&self.control);
        let (_, old) = self.shared.groups();
        if control.stopped {
            let published = Published { snapshot, routes: Vec::new() };
            self.shared.published.store(Arc::new(published));
            return Ok(());
        }
        let plan = plan(&snapshot, &old, self.workers)?;
        let previous = self.shared.published.load_full();
        for gone in old.iter().filter(|g| plan.groups.iter().all(|kept| kept.id != g.id)) {
            // Never set before: a group that was removed does not come back.
            let _ = gone.retired.set(previous.clone());
        }
        let unchanged =
            old.len() == plan.groups.len() && old.iter().zip(&plan.groups).all(|(a, b)| a.id == b.id);
        self.shared.published.store(Arc::new(Published { routes: plan.routes(), snapshot }));
        control.addresses = plan.addresses();
        if !unchanged {
            self.shared.set_groups(plan.groups);
        }
        Ok(())
    }

    /// Where each frontend listens, by name, with the port the kernel chose for port 0.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        lock(&self.control).addresses.clone()
    }

    /// Closes the listeners after accepting what waits in their queues; open connections go on.
    pub fn stop_accepting(&self) {
        let mut control = lock(&self.control);
        if !control.stopped {
            control.stopped = true;
            let last = self.shared.published.load_full();
            for group in self.shared.groups().1 {
                // Never set before: listeners stop once.
                let _ = group.retired.set(last.clone());
            }
            self.shared.set_groups(Vec::new());
        }
    }

    /// Resets what is still open, counted as [`convey_core::Reason::DrainDeadline`], and joins every thread.
    /// Idempotent; a second caller returns when the first is done.
    pub fn close(&self) {
        lock(&self.control).stopped = true;
        self.shared.close();
        let mut threads = lock(&self.threads);
        for thread in threads.drain(..) {
            // Workers catch their panics themselves; there is nothing left to learn here.
            let _ = thread.join();
        }
        self.shared.set_groups(Vec::new());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

/// The listeners of a snapshot, in the order of its frontends.
struct Plan {
    names: Vec<Arc<str>>,
    groups: Vec<Arc<ListenGroup>>,
}

impl Plan {
    fn routes(&self) -> Vec<(u64, usize)> {
        self.groups.iter().enumerate().map(|(frontend, group)| (group.id, frontend)).collect()
    }

    fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.names.iter().cloned().zip(self.groups.iter().map(|g| g.local)).collect()
    }
}

/// Takes over from `old` what serves `snapshot` and binds the rest.
fn plan(snapshot: &Snapshot, old: &[Arc<ListenGroup>], workers: usize) -> Result<Plan, ProxyError> {
    let mut groups: Vec<Arc<ListenGroup>> = Vec::with_capacity(snapshot.frontends.len());
    for frontend in &snapshot.frontends {
        let kept = old.iter().find(|g| {
            g.serves(&frontend.name, frontend.listen) && groups.iter().all(|taken| taken.id != g.id)
        });
        let group = match kept {
            Some(group) => group.clone(),
            None => ListenGroup::bind(frontend.name.clone(), frontend.listen, workers)
                .map(Arc::new)
                .map_err(|source| ProxyError::Bind {
                    frontend: frontend.name.to_string(),
                    addr: frontend.listen,
                    source,
                })?,
        };
        groups.push(group);
    }
    Ok(Plan { names: snapshot.frontends.iter().map(|f| f.name.clone()).collect(), groups })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
