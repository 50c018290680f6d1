//! A worker thread: its runtime, the listeners it serves, and what happens when it panics.
//!
//! Invariants: a panic never leaves the thread silently dead: it is reported and the worker starts again
//! with the same sockets; its connections end and their guards give back what they held.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use convey_core::Event;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task;

use crate::accept;
use crate::events::Subject;
use crate::shared::Shared;
use crate::shortage::Shortage;
use crate::udp::Relays;
use crate::worker::{Worker, panic_message};

/// Pause before a worker that panicked starts again; doubled up to the longest.
const RESTART_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a listener that could not be taken over is tried again.
const RETRY_LISTENER: Duration = Duration::from_millis(100);

/// Starts the thread of worker `number`; returns once its runtime stands.
///
/// # Errors
/// The thread or its runtime could not be made.
pub(crate) fn start(shared: &Arc<Shared>, number: usize) -> io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    let (ready, outcome) = mpsc::channel();
    let thread = thread::Builder::new().name(Worker::name(number)).spawn(move || {
        let runtime = match new_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The receiver waits below until this arrives.
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        drop(ready);
        live(&shared, number, runtime);
    })?;
    outcome.recv().map_err(|_| io::Error::other("the thread ended at once"))??;
    Ok(thread)
}

/// Runs the worker, again after each panic, until the proxy closes.
fn live(shared: &Arc<Shared>, number: usize, first: Runtime) {
    let mut runtime = Some(first);
    let mut pause = RESTART_PAUSE;
    while !shared.is_closing() {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let runtime = match runtime.take() {
                Some(runtime) => runtime,
                None => new_runtime()?,
            };
            let worker = Arc::new(Worker { shared: shared.clone(), number, fds_short: Shortage::default() });
            runtime.block_on(serve(&worker));
            io::Result::Ok(())
        }));
        let (cause, panicked) = match run {
            Ok(Ok(())) => return,
            Ok(Err(error)) => (format!("no runtime: {error}"), false),
            Err(panic) => (panic_message(&*panic), true),
        };
        let event = if panicked {
            Event::WorkerPanicked { worker: Worker::name(number), cause, restarted: true }
        } else {
            Event::Warning { message: format!("{} cannot start again: {cause}", Worker::name(number)) }
        };
        shared.events.send_guarded(event);
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_RESTART_PAUSE);
    }
}

fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

struct Accepting {
    stop: Arc<Notify>,
    task: task::JoinHandle<()>,
}

/// Keeps an accept loop running for every listener until the proxy closes.
async fn serve(worker: &Arc<Worker>) {
    let shared = &worker.shared;
    let mut accepting: HashMap<u64, Accepting> = HashMap::new();
    let mut relays = Relays::default();
    while !shared.is_closing() {
        let (version, groups) = shared.groups();
        let gone: Vec<u64> =
            accepting.keys().copied().filter(|id| groups.iter().all(|g| g.id != *id)).collect();
        for id in gone {
            if let Some(old) = accepting.remove(&id) {
                old.stop.notify_one();
                propagate(old.task.await);
            }
        }
        let mut complete = relays.follow(worker, shared.udp_groups());
        for group in groups {
            if accepting.contains_key(&group.id) {
                continue;
            }
            let listener = match group.handle(worker.number).and_then(TcpListener::from_std) {
                Ok(listener) => listener,
                Err(error) => {
                    complete = false;
                    let message = format!(
                        "{} cannot watch the listener {} of frontend {}: {error}; it tries again",
                        Worker::name(worker.number),
                        group.local,
                        group.frontend
                    );
                    let subject = Subject("watch", group.frontend.clone(), "".into());
                    shared.events.send_thinned(subject, || Event::Warning { message });
                    continue;
                }
            };
            let stop = Arc::new(Notify::new());
            let task = task::spawn(accept::run(worker.clone(), group.clone(), listener, stop.clone()));
            accepting.insert(group.id, Accepting { stop, task });
        }
        if complete {
            shared.report_applied(worker.number, version);
            changed(worker, &mut accepting, &mut relays).await;
        } else {
            tokio::time::sleep(RETRY_LISTENER).await;
        }
    }
}

/// Waits until there is something to do; an accept loop that panicked takes the worker with it.
async fn changed(worker: &Worker, accepting: &mut HashMap<u64, Accepting>, relays: &mut Relays) {
    let mut changed = pin!(worker.shared.changed(worker.number));
    poll_fn(|cx| {
        for running in accepting.values_mut() {
            if let Poll::Ready(outcome) = Pin::new(&mut running.task).poll(cx) {
                propagate(outcome);
                return Poll::Ready(());
            }
        }
        if let Poll::Ready(outcome) = relays.poll(cx) {
            propagate(outcome);
            return Poll::Ready(());
        }
        changed.as_mut().poll(cx)
    })
    .await;
}

fn propagate(outcome: Result<(), task::JoinError>) {
    if let Err(error) = outcome
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}
