//! A host with links, and a keeper at work in it.
#![allow(dead_code)] // Each test binary uses its part.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convey_engine::{Missing, NextHops, Path};
use convey_links::{LinkSink, NextHopKeeper, Wake, Wanted, channel};
pub use convey_testkit::netns::{Netns, link};

/// A host with `front` (10.0.0.1/24) and `back` (10.1.0.1/24), each with a gateway .254 at its other end.
pub fn host() -> (Netns, Netns) {
    let (host, peer) = (Netns::new("host"), Netns::new("peer"));
    for (device, subnet) in [("front", 0), ("back", 1)] {
        link(&host, &peer, device, subnet, Some(254), "");
    }
    (host, peer)
}

pub fn index(ns: &Netns, name: &str) -> u32 {
    ns.ifindex(name)
}

pub fn path(source: &str, destination: &str) -> Path {
    Path { source: source.parse().unwrap(), destination: destination.parse().unwrap(), ingress: 0 }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[derive(Default)]
pub struct Sink {
    closing: AtomicBool,
    pub wanted: Mutex<Wanted>,
    pub listening: Mutex<Vec<u32>>,
    pub next_hops: Mutex<Arc<NextHops>>,
    pub addresses: Mutex<Vec<IpAddr>>,
    pub warnings: Mutex<Vec<String>>,
}

impl LinkSink for Sink {
    fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }
    fn wanted(&self) -> Wanted {
        self.wanted.lock().unwrap().clone()
    }
    fn listen_on(&self, interfaces: &[u32]) -> io::Result<bool> {
        *self.listening.lock().unwrap() = interfaces.to_vec();
        Ok(true)
    }
    fn publish(&self, next_hops: Arc<NextHops>) {
        *self.next_hops.lock().unwrap() = next_hops;
    }
    fn addresses(&self, addresses: &[IpAddr]) {
        *self.addresses.lock().unwrap() = addresses.to_vec();
    }
    fn warn(&self, message: String) {
        self.warnings.lock().unwrap().push(message);
    }
}

/// A keeper at work in a namespace, until dropped.
pub struct Following {
    pub sink: Arc<Sink>,
    pub wake: Wake,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    pub fn new(ns: &Netns, wanted: Wanted) -> Self {
        let sink = Arc::new(Sink { wanted: Mutex::new(wanted), ..Sink::default() });
        let (wake, inbox) = channel().unwrap();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = ns.spawn({
            let sink = sink.clone();
            move || {
                let mut keeper = NextHopKeeper::start(sink, inbox).unwrap();
                ready.send(()).unwrap();
                keeper.run();
            }
        });
        started.recv().unwrap();
        Self { sink, wake, thread: Some(thread) }
    }

    pub fn way(&self, source: &str, destination: &str) -> Result<(u32, IpAddr), Missing> {
        self.sink.next_hops.lock().unwrap().way(&path(source, destination))
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(15);
        while !holds(self) {
            assert!(Instant::now() < end, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.sink.closing.store(true, Relaxed);
        self.wake.refresh();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
