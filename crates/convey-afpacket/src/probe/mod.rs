//! Health checks that ask a server the way clients reach it in direct server return: a SYN to the frontend's
//! address (the VIP), handed to the server's own MAC address, or one to the server's address whose answer must come
//! from the VIP. An ordinary connect can do neither: the VIP is an address of this host.
//!
//! One thread, one packet socket a family. The sockets ask for IP and IPv6 only, so they stand behind the guard: what
//! is forwarded is never copied to them. A probe ends the half-open connection at the server with a reset; nobody
//! there accepts it or logs it. The kernel here does not meddle: it lets nothing in at the probes' ports.
//!
//! The decisions are in `ledger`, which knows no socket and no clock.

mod filter;
mod frame;
mod ledger;
mod ports;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use convey_core::EventSink;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::slot::Slot;
use crate::supervise::supervise;
use crate::sys::{BATCH, Outgoing, PacketSocket};
use ledger::{Ledger, Sent};
use ports::Ports;

pub use ledger::{Done, Method, Outcome, Probe, Report, Surroundings};

/// Room for the answers of some thousand servers at once.
const BUFFER_BYTES: usize = 4 << 20;
/// Frames taken at once.
const SLOTS: usize = 16;
/// Source ports, taken in turn, so that a half-open connection whose reset was lost is not met by the next probe.
const PORTS: usize = 4;
/// How long the thread sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The probing thread. Dropping it ends the thread; what was asked and not answered is dropped too.
pub struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

struct Shared {
    asked: Mutex<Vec<(Probe, Done)>>,
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Prober {
    /// Opens the sockets in the calling thread's network namespace. CAP_NET_RAW is needed now and never again.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn start(surroundings: impl Surroundings + 'static, events: EventSink) -> io::Result<Self> {
        let ports = Ports::reserve(PORTS)?;
        let sockets = [libc::ETH_P_IP, libc::ETH_P_IPV6].map(|protocol| open(protocol, &ports));
        let [v4, v6] = sockets;
        let sockets = [v4?, v6?];
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { asked: Mutex::default(), wake, stop: AtomicBool::new(false) });
        let thread = {
            let shared = shared.clone();
            let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::new()).collect();
            std::thread::Builder::new().name("convey-probe".into()).spawn(move || {
                supervise("convey-probe", &events, |_| {
                    let ledger = Ledger::new(ports.numbers(), &surroundings);
                    run(&shared, &sockets, &mut slots, ledger);
                });
            })?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks, and calls `done` from the probing thread when it is known, by the probe's timeout at the latest. After
    /// a panic of the thread some are never called.
    pub fn ask(&self, probe: Probe, done: Done) {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push((probe, done));
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take()
            // Whoever it tells may be its last holder.
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic was caught and reported inside the thread.
            let _ = thread.join();
        }
    }
}

fn open(protocol: i32, ports: &Ports) -> io::Result<PacketSocket> {
    let socket = PacketSocket::open(BUFFER_BYTES)?;
    socket.filter(&filter::answers(protocol as u32, &ports.numbers()))?;
    socket.bind_to(protocol as u16)?;
    Ok(socket)
}

fn run<S: Surroundings>(
    shared: &Shared,
    sockets: &[PacketSocket; 2],
    slots: &mut [Slot],
    mut ledger: Ledger<'_, S>,
) {
    while !shared.stop.load(Relaxed) {
        wait(shared, sockets, ledger.due().map_or(IDLE, |due| due.saturating_duration_since(Instant::now())));
        let asked = std::mem::take(&mut *shared.asked.lock().unwrap_or_else(PoisonError::into_inner));
        for (probe, done) in asked {
            ledger.ask(probe, done, Instant::now());
        }
        let now = Instant::now();
        for socket in sockets {
            while let Ok(count @ 1..) = socket.receive(slots) {
                for slot in &slots[..count] {
                    ledger.hear(frame_of(slot), now);
                }
            }
        }
        ledger.look(Instant::now());
        send(sockets, &mut ledger);
    }
    ledger.leave();
    send(sockets, &mut ledger);
}

fn wait(shared: &Shared, sockets: &[PacketSocket; 2], at_most: Duration) {
    let [v4, v6] = sockets;
    let mut fds =
        [shared.wake.as_fd(), v4.as_fd(), v6.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, Some(&timeout));
    let mut count = [0; 8];
    let _ = rustix::io::read(&shared.wake, &mut count);
}

fn frame_of(slot: &Slot) -> &[u8] {
    let bytes = slot.buffer().get(crate::sys::VNET_HEADER_BYTES..).unwrap_or_default();
    bytes.get(..slot.len).unwrap_or_default()
}

/// Sends what the ledger has ready. A frame that is refused is as good as lost: it is sent again in its time.
fn send<S: Surroundings>(sockets: &[PacketSocket; 2], ledger: &mut Ledger<'_, S>) {
    let ready = ledger.take_ready();
    for batch in ready.chunks(BATCH) {
        let mut left = batch;
        while !left.is_empty() {
            let frames: Vec<Outgoing<'_>> = left
                .iter()
                .map(|Sent { ifindex, bytes, .. }| Outgoing { ifindex: *ifindex, bytes })
                .collect();
            let sent = match sockets[0].send(&frames) {
                Ok(sent) => sent.max(1),
                Err(error) => {
                    ledger.refused(&left[0], &error);
                    1
                }
            };
            left = left.get(sent..).unwrap_or_default();
        }
    }
}
