//! One worker's loop: receive a batch, decide about each frame, send what is to be sent.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use convey_engine::{
    FrameMeta, Headers, Heir, IoCounters, Looked, Loss, Nanos, PacketSnapshot, PassReason, TakenOver,
    Verdict, Worker, WorkerMemory, process,
};
use convey_links::Wake;

use crate::coalesce::{Coalescer, TxFrame};
use crate::frames::FrameIo;
use crate::held::Held;
use crate::jumbo;
use crate::misses::Misses;
use crate::pending_frames::PendingFrames;
use crate::send_loss;
use crate::shared::Shared;
use crate::supervise::STUBBORN;
use crate::sys::{BATCH, Pieces, VNET_HEADER_BYTES};
use crate::user_path::UserPath;
use crate::vnet::VnetHeader;

/// How long a worker waits for frames before it looks after its flows.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long it waits while frames are pending.
const PENDING_TIMEOUT: Duration = Duration::from_millis(1);

/// How often flows are looked after under load.
const TICK: Duration = Duration::from_millis(10);

/// Pause after an error that would otherwise come again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Whether a frame whose neighbour is not known may wait for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Later,
    Never,
}

/// A frame of the batch that is to leave.
#[derive(Clone, Copy)]
struct TxEntry {
    /// Its number in the batch.
    at: usize,
    ifindex: u32,
    is_checked: bool,
    flow: Option<u32>,
    headers: Option<Headers>,
}

/// What a worker thread owns, kept over a panic.
pub struct Runner<F> {
    index: usize,
    shared: Arc<Shared>,
    io: Arc<IoCounters>,
    wake: Wake,
    worker: Worker,
    frames: F,
    tx_batch: Vec<TxEntry>,
    coalescer: Coalescer,
    pending: PendingFrames,
    held: Held,
    misses: Misses,
    in_hand: u64,
    ticked: Instant,
}

impl<F: FrameIo> Runner<F> {
    /// Worker `index` of `path`, with its flows in `memory`.
    pub fn new(index: usize, frames: F, path: &UserPath, memory: WorkerMemory) -> Self {
        let (shared, wake) = (path.shared().clone(), path.wake().clone());
        Self::with(index, frames, shared, wake, memory)
    }

    pub(crate) fn with(
        index: usize,
        frames: F,
        shared: Arc<Shared>,
        wake: Wake,
        memory: WorkerMemory,
    ) -> Self {
        let worker = shared.new_worker(index, memory);
        Self::of(index, frames, shared, wake, worker)
    }

    /// Worker `index` of `path`, which is `worker`.
    pub fn of_worker(index: usize, frames: F, path: &UserPath, worker: Worker) -> Self {
        let (shared, wake) = (path.shared().clone(), path.wake().clone());
        let worker = shared.know(index, worker);
        Self::of(index, frames, shared, wake, worker)
    }

    fn of(index: usize, frames: F, shared: Arc<Shared>, wake: Wake, worker: Worker) -> Self {
        Self {
            worker,
            io: shared.io[index].clone(),
            index,
            shared,
            wake,
            coalescer: Coalescer::default(),
            frames,
            tx_batch: Vec::with_capacity(BATCH),
            pending: PendingFrames::default(),
            held: Held::default(),
            misses: Misses::default(),
            in_hand: 0,
            ticked: Instant::now(),
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Goes on with flows of a killed balancer; see [`Worker::take_over`].
    pub fn take_over(&mut self, heirs: &[Heir], snapshot: &PacketSnapshot, report: &mut TakenOver) {
        self.worker.take_over(heirs, snapshot, self.shared.now(), report);
        self.io.flows.store(self.worker.flows() as u64, Relaxed);
    }

    /// Runs until the engine closes; `panics` as [`crate::supervise::supervise`] tells.
    pub fn run(&mut self, panics: u32) {
        if panics > 0 {
            self.io.panics.fetch_add(1, Relaxed);
            self.io.lost(Loss::RxPanicked, std::mem::take(&mut self.in_hand));
        }
        if panics >= STUBBORN && !self.worker.is_in_kernel() {
            let snapshot = self.shared.snapshot.load();
            self.worker.end_all(&snapshot);
            let memory = self.worker.take_memory(&snapshot);
            drop(snapshot);
            self.worker = self.shared.new_worker(self.index, memory);
        }
        let shared = self.shared.clone();
        // Who has asked may go on asking.
        let mut was_asked = false;
        while !shared.stopping() {
            let waits = was_asked || !self.pending.is_empty() || !self.held.is_empty();
            let timeout = if waits { PENDING_TIMEOUT } else { RECEIVE_TIMEOUT };
            match self.frames.receive(timeout) {
                Ok(received) => self.forward(received, Retry::Later),
                Err(error) if is_timeout(&error) => self.tick(),
                // An interface went down or memory is short: it comes again until that is over.
                Err(_) => std::thread::sleep(ERROR_PAUSE),
            }
            if !self.pending.is_empty() {
                self.retry_pending();
            }
            if !self.held.is_empty() {
                self.follow_held();
            }
            let requests = &shared.requests[self.index];
            was_asked =
                requests.serve(&shared.snapshot, &shared.next_hops, &mut self.worker, || shared.now());
        }
        if !shared.keeps_flows() {
            self.worker.end_all(&shared.snapshot.load());
            self.io.flows.store(0, Relaxed);
        }
    }

    fn forward(&mut self, received: usize, retry: Retry) {
        let snapshot = self.shared.snapshot.load();
        let next_hops = self.shared.next_hops.load();
        let now = self.shared.now();
        let begun = self.shared.fragments.begun();
        let watches = self.shared.watches.current();
        for decided in self.frames.take_decided() {
            decided.tell(&watches, &snapshot, &next_hops, &mut self.worker, now);
        }
        self.tx_batch.clear();
        self.in_hand = received as u64;
        for at in 0..received {
            let (ingress, len) = match self.frames.arrival(at) {
                Ok(arrival) => arrival,
                Err(loss) => {
                    self.io.lost(loss, 1);
                    continue;
                }
            };
            let header =
                VnetHeader::parse(self.frames.bytes(at).first_chunk().unwrap_or(&[0; VNET_HEADER_BYTES]));
            let meta: FrameMeta = header.meta(ingress);
            let frame = self.frames.buffer_mut(at).get_mut(VNET_HEADER_BYTES..).unwrap_or_default();
            let looked = if watches.is_empty() {
                None
            } else {
                let bytes = frame.get(..len).unwrap_or_default();
                Looked::at(&watches, bytes, &meta, &snapshot, &next_hops, &mut self.worker, now)
            };
            let verdict = process(frame, len, &meta, &snapshot, &next_hops, &mut self.worker, now);
            if let Some(looked) = looked {
                looked.decided(&verdict, frame);
            }
            match verdict {
                Verdict::Forward(f) => {
                    self.frames.prepare_tx(at, header.forwarded(), f.len);
                    self.frames.forwards(at, &next_hops);
                    let is_checked = header.is_checked();
                    let (ifindex, flow, headers) = (f.egress_ifindex, f.flow, f.headers);
                    self.tx_batch.push(TxEntry { at, ifindex, is_checked, flow, headers });
                }
                Verdict::Reply(r) => {
                    self.frames.prepare_tx(at, VnetHeader::plain(), r.len);
                    let ifindex = r.egress_ifindex;
                    self.tx_batch.push(TxEntry { at, ifindex, is_checked: false, flow: None, headers: None });
                }
                // The engine has left the bytes as they came.
                Verdict::Unresolved { address, ifindex: Some(ifindex) } => {
                    let now = Instant::now();
                    if retry == Retry::Later {
                        self.pending.push(ingress, self.frames.bytes(at), (ifindex, address), now);
                    }
                    if self.misses.is_news((ifindex, address), now) {
                        self.wake.resolve(ifindex, address);
                    }
                }
                // Its first fragment may come yet.
                Verdict::Pass(PassReason::Fragment) if retry == Retry::Later => {
                    let lost = self.held.hold(ingress, self.frames.bytes(at), begun, Instant::now());
                    self.io.lost(Loss::FragmentNotHeld, lost);
                }
                Verdict::Pass(_) => self.frames.pass(at),
                Verdict::Unresolved { ifindex: None, .. } | Verdict::Drop(_) => (),
            }
        }
        self.send();
        self.in_hand = 0;
        if self.ticked.elapsed() >= TICK {
            self.tick_at(now, &snapshot);
        }
    }

    /// Frames whose neighbour has become known go through the engine once more, and no more than once.
    fn retry_pending(&mut self) {
        while !self.shared.stopping() {
            let next_hops = self.shared.next_hops.load();
            let Some(frame) = self.pending.next_ready(&next_hops, Instant::now()) else { break };
            drop(next_hops);
            self.frames.refill(frame.ifindex, &frame.bytes);
            self.io.retried.fetch_add(1, Relaxed);
            self.forward(1, Retry::Never);
        }
    }

    /// Fragments whose first has come go through the engine once more.
    fn follow_held(&mut self) {
        let (fragments, now) = (&self.shared.fragments, self.shared.now());
        let followed = self.held.take_followed(fragments.begun(), |frame| {
            fragments.is_followed(frame.bytes.get(VNET_HEADER_BYTES..).unwrap_or_default(), now)
        });
        // Afterwards: this thread may have been held up for longer than it holds fragments.
        let now = Instant::now();
        while let Some(frame) = self.held.expire(now) {
            self.frames.refill(frame.ifindex, &frame.bytes);
            self.frames.pass(0);
        }
        for frame in followed {
            self.frames.refill(frame.ifindex, &frame.bytes);
            self.io.followed.fetch_add(1, Relaxed);
            self.forward(1, Retry::Later);
        }
    }

    /// Sends what the batch has for the network, in order.
    fn send(&mut self) {
        let mut begin = 0;
        for at in 0..self.tx_batch.len() {
            if jumbo::is_jumbo(self.frames.bytes(self.tx_batch[at].at)) {
                self.send_run(begin..at);
                self.send_cut(at);
                begin = at + 1;
            }
        }
        self.send_run(begin..self.tx_batch.len());
    }

    /// Sends a super-frame that is too long to leave whole.
    fn send_cut(&self, at: usize) {
        let TxEntry { at, ifindex, .. } = self.tx_batch[at];
        let Some(parts) = jumbo::cut(self.frames.bytes(at)) else {
            self.io.lost(Loss::TxTooBig, 1);
            return;
        };
        for jumbo::Part { headers, payload } in parts {
            let pieces = [IoSlice::new(&headers), IoSlice::new(payload)];
            if let Err(error) = self.frames.send(&[Pieces { ifindex, pieces: &pieces }]) {
                self.io.lost(send_loss::of(&error), 1);
            }
        }
    }

    /// Sends these frames of the batch, runs of a flow as super-frames.
    fn send_run(&mut self, run: Range<usize>) {
        if run.is_empty() {
            return;
        }
        self.coalescer.clear();
        let (io, tx_batch) = (&self.frames, &self.tx_batch);
        let tx_frame = |at: usize| {
            let TxEntry { at, ifindex, is_checked, flow, headers } = tx_batch[at];
            TxFrame { ifindex, bytes: io.bytes(at), is_checked, flow, headers }
        };
        for at in run {
            self.coalescer.add(at, tx_frame);
        }
        self.coalescer.finish(tx_frame);

        // The pieces of each group follow each other.
        let mut pieces = [IoSlice::new(&[]); 2 * BATCH];
        let mut frames = [Pieces { ifindex: 0, pieces: &[] }; BATCH];
        let mut ends = [0; BATCH];
        let (mut groups, mut end) = (0, 0);
        for group in self.coalescer.groups() {
            let header = group.header();
            let skipped = header.map_or(0, <[u8]>::len);
            let bodies = group.members().map(|at| tx_frame(at).bytes.get(skipped..).unwrap_or_default());
            for (piece, bytes) in pieces[end..].iter_mut().zip(header.into_iter().chain(bodies)) {
                *piece = IoSlice::new(bytes);
                end += 1;
            }
            ends[groups] = end;
            groups += 1;
        }
        let mut begin = 0;
        for ((frame, group), end) in frames.iter_mut().zip(self.coalescer.groups()).zip(ends) {
            *frame = Pieces { ifindex: group.ifindex(), pieces: &pieces[begin..end] };
            begin = end;
        }

        let mut refused = None;
        let mut at = 0;
        while at < groups {
            match io.send(&frames[at..groups]) {
                Ok(sent) => at += sent.max(1),
                Err(error) => {
                    if let Some(group) = self.coalescer.groups().nth(at) {
                        if group.len() > 1 && error.raw_os_error() == Some(libc::EINVAL) {
                            refused = Some(at);
                            self.send_apart(group.members().map(tx_frame));
                        } else {
                            // Never tried again: the sender's own retransmission is the queue.
                            self.io.lost(send_loss::of(&error), group.len() as u64);
                        }
                    }
                    at += 1;
                }
            }
        }
        if let Some(group) = refused {
            self.coalescer.refuse(group);
        }
    }

    /// Sends the frames of a group that the kernel does not take as one: an older kernel, with UDP.
    fn send_apart<'a>(&self, frames: impl Iterator<Item = TxFrame<'a>>) {
        for TxFrame { ifindex, bytes, .. } in frames {
            if let Err(error) = self.frames.send(&[Pieces { ifindex, pieces: &[IoSlice::new(bytes)] }]) {
                self.io.lost(send_loss::of(&error), 1);
            }
        }
    }

    fn tick(&mut self) {
        let snapshot = self.shared.snapshot.load();
        self.tick_at(self.shared.now(), &snapshot);
    }

    fn tick_at(&mut self, now: Nanos, snapshot: &PacketSnapshot) {
        self.worker.tick(snapshot, now);
        self.io.flows.store(self.worker.flows() as u64, Relaxed);
        self.ticked = Instant::now();
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
