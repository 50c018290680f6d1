//! A thread that looks after something about twice a second until it is told to stop.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(500);

/// Dropping it stops the thread and waits for its end.
#[derive(Debug)]
pub(crate) struct PeriodicTask {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PeriodicTask {
    /// Calls `look` until it returns false.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn start(look: impl Fn() -> bool + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new().name("convey-periodic".into()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) && look() {}
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for PeriodicTask {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            // What it looks after may be dropped by the thread itself, as its last holder.
            && thread.thread().id() != thread::current().id()
        {
            // A panic in there was nobody's business but its own.
            let _ = thread.join();
        }
    }
}
