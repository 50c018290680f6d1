//! One worker as its tasks see it.

use std::any::Any;
use std::sync::Arc;

use crate::shared::Shared;
use crate::shortage::Shortage;

/// Handed to every task of the worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub number: usize,
    /// Set while file descriptors are short; accepting pauses.
    pub fds_short: Shortage,
}

impl Worker {
    /// Name of its thread.
    pub fn name(number: usize) -> String {
        format!("convey-proxy-{number}")
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
