//! One worker's loop: receive a batch, decide about each frame, send what is to be sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use convey_engine::{FrameMeta, Nanos, Verdict, Worker, process};

use crate::engine::Shared;
use crate::parking::Parking;
use crate::stats::{IoCounters, Loss};
use crate::supervise::STUBBORN;
use crate::sys::{BATCH, Outgoing, PacketSocket, Slot};
use crate::vnet::VnetHeader;
use crate::wake::Wake;

/// How long a worker waits for frames before it looks after its flows.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long it waits while frames are parked.
const PARKED_TIMEOUT: Duration = Duration::from_millis(1);

/// How often flows are looked after under load.
const TICK: Duration = Duration::from_millis(10);

/// How soon the same missing neighbour is reported again by a worker.
const RESOLVE_AGAIN: Duration = Duration::from_millis(100);

/// Pause after an error that would otherwise come again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Frames longer than this on average are super-frames.
const LARGE_FRAME_BYTES: usize = 8192;

/// Super-frames taken at once: 256 KB, which second-level caches hold.
const LARGE_BATCH: usize = 4;

/// A frame of the batch that is to leave.
#[derive(Clone, Copy)]
struct Departure {
    slot: usize,
    ifindex: u32,
}

/// What a worker thread owns, kept over a panic.
pub struct Runner {
    index: usize,
    shared: Arc<Shared>,
    io: Arc<IoCounters>,
    wake: Wake,
    worker: Worker,
    slots: Vec<Slot>,
    departures: Vec<Departure>,
    parking: Parking,
    /// Whether the socket's timeout is the short one.
    is_waiting: bool,
    missed: Option<(u32, std::net::IpAddr, Instant)>,
    in_hand: u64,
    /// Bytes of the last batch.
    bytes_in: usize,
    /// Slots the next batch may fill.
    offer: usize,
    ticked: Instant,
}

impl Runner {
    /// Worker `index` of `shared`.
    pub fn new(index: usize, shared: Arc<Shared>, wake: Wake) -> Self {
        Self {
            worker: shared.new_worker(index),
            io: shared.io[index].clone(),
            index,
            shared,
            wake,
            slots: (0..BATCH).map(|_| Slot::new()).collect(),
            departures: Vec::with_capacity(BATCH),
            parking: Parking::default(),
            is_waiting: false,
            missed: None,
            in_hand: 0,
            bytes_in: 0,
            offer: BATCH,
            ticked: Instant::now(),
        }
    }

    /// Runs until the engine closes; `panics` as [`crate::supervise::supervise`] tells.
    pub fn run(&mut self, panics: u32) {
        if panics > 0 {
            self.io.panics.fetch_add(1, Relaxed);
            self.io.lost(Loss::RxPanicked, std::mem::take(&mut self.in_hand));
        }
        if panics >= STUBBORN {
            self.worker.end_all(&self.shared.snapshot.load());
            self.worker = self.shared.new_worker(self.index);
        }
        let shared = self.shared.clone();
        let socket = &shared.sockets[self.index];
        while !shared.stopping() {
            match socket.receive(&mut self.slots[..self.offer]) {
                Ok(received) => {
                    self.forward(socket, received);
                    self.offer = offer_after(self.bytes_in, received);
                }
                Err(error) if is_timeout(&error) => self.tick(),
                // An interface went down or memory is short: it comes again until that is over.
                Err(_) => std::thread::sleep(ERROR_PAUSE),
            }
            if self.is_waiting || !self.parking.is_empty() {
                self.retry_parked(socket);
            }
            shared.questions[self.index].answer(&shared.snapshot, &shared.next_hops, &self.worker);
        }
        self.worker.end_all(&shared.snapshot.load());
        self.io.flows.store(0, Relaxed);
    }

    fn forward(&mut self, socket: &PacketSocket, received: usize) {
        let snapshot = self.shared.snapshot.load();
        let next_hops = self.shared.next_hops.load();
        let now = self.shared.now();
        self.departures.clear();
        self.in_hand = received as u64;
        self.bytes_in = self.slots[..received].iter().map(|slot| slot.len).sum();
        for index in 0..received {
            let slot = &mut self.slots[index];
            if slot.truncated {
                self.io.lost(Loss::RxTooLong, 1);
                continue;
            }
            let header = VnetHeader::parse(&slot.vnet());
            let meta: FrameMeta = header.meta(slot.ifindex);
            let len = slot.len;
            let verdict = process(slot.frame_mut(), len, &meta, &snapshot, &next_hops, &mut self.worker, now);
            match verdict {
                Verdict::Forward(f) => {
                    slot.depart(header.forwarded(), f.len);
                    self.departures.push(Departure { slot: index, ifindex: f.egress_ifindex });
                }
                Verdict::Reply(r) => {
                    slot.depart(VnetHeader::plain(), r.len);
                    self.departures.push(Departure { slot: index, ifindex: r.egress_ifindex });
                }
                // The engine has left the bytes as they came.
                Verdict::Unresolved { address, ifindex: Some(ifindex) } => {
                    self.parking.park(meta.ingress_ifindex, slot.bytes(), address, Instant::now());
                    self.missing(ifindex, address);
                }
                Verdict::Unresolved { ifindex: None, .. } | Verdict::Pass(_) | Verdict::Drop(_) => (),
            }
        }
        self.send(socket);
        self.in_hand = 0;
        if self.ticked.elapsed() >= TICK {
            self.tick_at(now, &snapshot);
        }
    }

    /// Frames whose neighbour has become known go through the engine once more.
    fn retry_parked(&mut self, socket: &PacketSocket) {
        loop {
            let next_hops = self.shared.next_hops.load();
            let Some(frame) = self.parking.next_ready(&next_hops, Instant::now()) else { break };
            drop(next_hops);
            self.slots[0].refill(frame.ifindex, &frame.bytes);
            self.io.retried.fetch_add(1, Relaxed);
            self.forward(socket, 1);
        }
        if self.is_waiting == self.parking.is_empty() {
            self.is_waiting = !self.parking.is_empty();
            let timeout = if self.is_waiting { PARKED_TIMEOUT } else { RECEIVE_TIMEOUT };
            // With the former timeout parked frames are looked at later, no worse.
            let _ = socket.wait_at_most(timeout);
        }
    }

    fn send(&self, socket: &PacketSocket) {
        let mut frames = [Outgoing { ifindex: 0, bytes: &[] }; BATCH];
        for (frame, d) in frames.iter_mut().zip(&self.departures) {
            *frame = Outgoing { ifindex: d.ifindex, bytes: self.slots[d.slot].bytes() };
        }
        let mut rest = &frames[..self.departures.len().min(BATCH)];
        while !rest.is_empty() {
            match socket.send(rest) {
                Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                Err(error) => {
                    // Never tried again: the sender's own retransmission is the queue.
                    self.io.lost(Loss::of_send(&error), 1);
                    rest = &rest[1..];
                }
            }
        }
    }

    fn missing(&mut self, ifindex: u32, address: std::net::IpAddr) {
        let now = Instant::now();
        if self.missed.is_some_and(|(i, a, at)| (i, a) == (ifindex, address) && now < at + RESOLVE_AGAIN) {
            return;
        }
        self.missed = Some((ifindex, address, now));
        self.wake.resolve(ifindex, address);
    }

    fn tick(&mut self) {
        let snapshot = self.shared.snapshot.load();
        self.tick_at(self.shared.now(), &snapshot);
    }

    fn tick_at(&mut self, now: Nanos, snapshot: &convey_engine::PacketSnapshot) {
        self.worker.tick(snapshot, now);
        self.io.flows.store(self.worker.flows() as u64, Relaxed);
        self.ticked = Instant::now();
    }
}

/// How many slots to offer after a batch of so many bytes: super-frames are sent before they fall out of the cache.
fn offer_after(bytes: usize, received: usize) -> usize {
    if bytes > received * LARGE_FRAME_BYTES { LARGE_BATCH } else { BATCH }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::TimedOut)
}
