//! The proxy as its owner sees it: start, install, stop, close.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use convey_core::{Event, EventSink, FlowCursor, FlowFilter, FlowPage, Snapshot, Watches};

use crate::choice::Choice;
use crate::descriptors::Descriptors;
use crate::error::ProxyError;
use crate::events::Events;
use crate::listeners::{Listeners, Plan, listens};
use crate::log::{LogError, LogSpec};
use crate::published::Published;
use crate::shared::Shared;
use crate::source;
use crate::thread;

/// A running proxy. Dropping it closes it.
///
/// The process must ignore SIGPIPE, as Rust programs and Node do: splice has no flag against it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: Arc<Listeners>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Proxy {
    /// Binds every frontend and starts `workers` threads (at least one). Either all frontends listen or none
    /// does. `events` is called on the worker threads and must not block; it must not call into the proxy.
    ///
    /// # Errors
    /// [`ProxyError`] names the frontend and address, the backend and source address, or the worker, or how many file descriptors are missing.
    pub fn start(snapshot: Arc<Snapshot>, workers: usize, events: EventSink) -> Result<Self, ProxyError> {
        let workers = workers.max(1);
        let descriptors = Descriptors::of(workers, listens(&snapshot).count());
        if !descriptors.suffice() {
            return Err(ProxyError::Descriptors(descriptors));
        }
        source::check(&snapshot, None)?;
        let warning = descriptors.warning(snapshot.limits.max_connections);
        let plan = Plan::first(&snapshot, workers)?;
        let options = plan.set_options(&snapshot, &[]);
        let published = Published { routes: plan.routes(), snapshot };
        let shared = Arc::new(Shared::new(published, workers, Events::new(events)));
        let listeners = Arc::new(Listeners::new(shared.clone(), workers, plan));
        let proxy = Self { shared: shared.clone(), listeners, threads: Mutex::default() };
        for worker in 0..workers {
            let thread =
                thread::start(&shared, worker).map_err(|source| ProxyError::Worker { worker, source })?;
            lock(&proxy.threads).push(thread);
        }
        proxy.listeners.begin();
        for message in warning.into_iter().chain(options) {
            shared.events.send(Event::Warning { message });
        }
        Ok(proxy)
    }

    /// Serves `snapshot` from now on. All new listeners are bound first; on an error the old snapshot goes on
    /// and every old listener with it. Listeners whose address stays are not touched, under whatever frontend
    /// name. Those that go close in the background (see [`Proxy::settle`]) once the handshakes that are under
    /// way are complete and served; their addresses may be bound anew by this very call. Open connections go
    /// on in any case. Does not wait for anything.
    ///
    /// # Errors
    /// [`ProxyError::Bind`] names the frontend that could not listen and who holds its address, [`ProxyError::Source`]
    /// and [`ProxyError::Transparent`] the backend whose source cannot be had.
    pub fn install(&self, snapshot: Arc<Snapshot>) -> Result<(), ProxyError> {
        source::check(&snapshot, Some(&self.shared.published.load().snapshot))?;
        self.listeners.install(snapshot)
    }

    /// Waits until the listeners that [`Proxy::install`] and [`Proxy::stop_accepting`] removed are closed:
    /// milliseconds as a rule, two seconds when clients do not end their handshakes.
    pub fn settle(&self) {
        self.listeners.settle();
    }

    /// Where frontends listen, by name, with the port the kernel chose for port 0. A listener that is closed
    /// is not among them.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.listeners.addresses()
    }

    /// A page of at most `limit` of the open connections that `filter` takes, from `cursor` on. Connections that are
    /// open throughout the listing are told once; others may be.
    pub fn connections(&self, filter: &FlowFilter, cursor: FlowCursor, limit: usize) -> FlowPage {
        self.shared.connections.list(filter, cursor, limit)
    }

    /// Cuts the open connections that `filter` takes, and tells how many. Both peers get a RST, as far as they have not
    /// been sent their FIN.
    pub fn end_connections(&self, filter: &FlowFilter) -> u64 {
        self.shared.connections.end(filter)
    }

    /// Logs connections by `spec` from now on, none with `None`; those that are open go on with what they began with.
    ///
    /// # Errors
    /// [`LogError`]; what was in service goes on.
    pub fn log_connections(&self, spec: Option<&LogSpec>) -> Result<(), LogError> {
        self.shared.log.set(spec)
    }

    /// What [`Proxy::log_connections`] was told last.
    pub fn logged(&self) -> Option<LogSpec> {
        self.shared.log.spec()
    }

    /// Opens the log's file anew by its name, after it was moved away; `None` where there is no file of its own.
    ///
    /// # Errors
    /// [`LogError`]; the one that was open goes on.
    pub fn reopen_log(&self) -> Option<Result<(), LogError>> {
        self.shared.log.reopen()
    }

    /// Lines of connections that were lost because they could not be written in time.
    pub fn lost_log_lines(&self) -> u64 {
        self.shared.log.lost()
    }

    /// Where it is watched which servers connections get.
    pub fn watches(&self) -> &Arc<Watches<Choice>> {
        &self.shared.watches
    }

    /// Closes all listeners as [`Proxy::install`] closes those that go; open connections go on.
    pub fn stop_accepting(&self) {
        self.listeners.stop();
    }

    /// Resets what is still open, counted as [`convey_core::Reason::DrainDeadline`], and joins every thread.
    /// Idempotent; a second caller returns when the first is done.
    pub fn close(&self) {
        self.shared.close();
        let mut threads = lock(&self.threads);
        for thread in threads.drain(..) {
            // Workers catch their panics themselves; there is nothing left to learn here.
            let _ = thread.join();
        }
        self.shared.log.finish();
        self.listeners.close();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is replaced whole, so it is valid even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
