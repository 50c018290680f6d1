//! What becomes of interfaces on which an XDP program cannot be.

use std::collections::HashMap;

use convey_core::{Event, EventSink};
use convey_engine::EngineError;
use rustix::io::Errno;

use crate::netlink::interface_name;

/// Refusals so far. Up to the start they keep the engine from starting, from then on each is told once.
pub struct Refused {
    events: EventSink,
    /// Interfaces are named in the configuration: each must do.
    are_named: bool,
    /// Why not, by interface, as it was told.
    told: HashMap<u32, String>,
    /// The first that keeps the engine from starting, and the first of those that do not.
    failed: Option<EngineError>,
    passed_over: Option<EngineError>,
    started: bool,
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Refused {
    /// None yet.
    pub fn new(are_named: bool, events: EventSink) -> Self {
        let told = HashMap::new();
        Self { events, are_named, told, failed: None, passed_over: None, started: false }
    }

    /// An interface was refused.
    pub fn add(&mut self, ifindex: u32, error: EngineError) {
        // One that is gone by now needs no excuse.
        if interface_name(ifindex).is_err() {
            return;
        }
        // Every Ethernet link that is up is listened on unless some are named: bridges and the like cannot be meant.
        let may_lack = !self.are_named && error.errno() == Some(Errno::OPNOTSUPP.raw_os_error());
        if !self.started && !may_lack {
            self.failed.get_or_insert(error);
            return;
        }
        let message = format!("{error}; packets that arrive there are not forwarded");
        // It is tried again every second; once is enough to say.
        if self.told.get(&ifindex) != Some(&message) {
            self.told.retain(|&ifindex, _| interface_name(ifindex).is_ok());
            self.told.insert(ifindex, message.clone());
            if self.started {
                (self.events)(Event::Warning { message });
            } else {
                self.passed_over.get_or_insert(error);
            }
        }
    }

    /// An interface does, after all.
    pub fn remove(&mut self, ifindex: u32) {
        self.told.remove(&ifindex);
    }

    /// The engine starts on so many interfaces: tells why it cannot, if so, or which were passed over.
    pub fn started(&mut self, interfaces: usize) -> Option<EngineError> {
        self.started = true;
        let (failed, passed_over) = (self.failed.take(), self.passed_over.take());
        // Why an interface was refused says more than that there is none.
        let failed = failed.or(if interfaces == 0 { passed_over } else { None });
        if failed.is_none() {
            for message in self.told.values() {
                (self.events)(Event::Warning { message: message.clone() });
            }
        }
        failed
    }
}
