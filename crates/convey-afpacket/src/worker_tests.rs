//! A worker between made-up frames and a made-up network: no root, no socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;

use convey_core::{Protocol, Snapshot};
use convey_engine::{EngineSetup, Link, NextHops, PacketOptions, PacketSnapshot, Route};
use convey_links::channel;
use convey_testkit::PacketBuilder;
use convey_testkit::spec::passthrough;

use super::*;
use crate::scope::Scope;
use crate::shared::Intake;

#[path = "worker_flow_tests.rs"]
mod flows;

struct NoFrames;

impl Intake for NoFrames {
    fn listen(&self, _: &Scope, _: &[u32]) -> io::Result<()> {
        Ok(())
    }
}

const VIP: &str = "192.0.2.10:80";
const SERVER: &str = "10.0.0.11:80";

/// Hands out batches, then ends the engine; keeps what is sent, or refuses it.
struct Made {
    batches: VecDeque<Vec<Vec<u8>>>,
    batch: Vec<(u32, Vec<u8>, usize)>,
    sent: Arc<std::sync::Mutex<Vec<u32>>>,
    refusals: RefCell<VecDeque<i32>>,
    when_empty: Box<dyn FnMut() + Send>,
}

impl FrameIo for Made {
    fn receive(&mut self, _timeout: Duration) -> io::Result<usize> {
        let Some(batch) = self.batches.pop_front() else {
            (self.when_empty)();
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.batch = batch
            .into_iter()
            .map(|frame| {
                let len = frame.len();
                let mut bytes = vec![0; VNET_HEADER_BYTES];
                bytes.extend(frame);
                bytes.resize(bytes.len() + 64, 0);
                (1, bytes, len)
            })
            .collect();
        Ok(self.batch.len())
    }
    fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        let len = bytes.len() - VNET_HEADER_BYTES;
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len() + 64, 0);
        self.batch = vec![(ifindex, bytes, len)];
    }
    fn arrival(&self, at: usize) -> Result<(u32, usize), Loss> {
        Ok((self.batch[at].0, self.batch[at].2))
    }
    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        &mut self.batch[at].1
    }
    fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], len: usize) {
        self.batch[at].1[..VNET_HEADER_BYTES].copy_from_slice(&vnet);
        self.batch[at].2 = len;
    }
    fn bytes(&self, at: usize) -> &[u8] {
        &self.batch[at].1[..VNET_HEADER_BYTES + self.batch[at].2]
    }
    fn send(&self, frames: &[Pieces<'_>]) -> io::Result<usize> {
        if let Some(errno) = self.refusals.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.sent.lock().unwrap().extend(frames.iter().map(|f| f.ifindex));
        Ok(frames.len())
    }
}

fn shared() -> Arc<Shared> {
    let spec = passthrough(&[("tcp", VIP, Protocol::Tcp), ("udp", VIP, Protocol::Udp)], SERVER, true);
    let options = PacketOptions { capacity: 1024, ..PacketOptions::default() };
    let snapshot = PacketSnapshot::build(&Snapshot::first(spec, 1).unwrap(), &options, None).unwrap();
    let scope = Scope::of(&snapshot);
    let setup = EngineSetup::new(Arc::new(snapshot), Arc::new(|_| ()));
    Arc::new(Shared::new(setup, 1, Arc::new(NoFrames), scope))
}

/// Servers behind the gateway fe80::1 of link 2, which link 3 has too, resolved on these links.
fn next_hops(resolved: &[u32]) -> Arc<NextHops> {
    let gateway: IpAddr = "fe80::1".parse().unwrap();
    Arc::new(NextHops::new(
        [1, 2, 3].map(|ifindex| Link { ifindex, mac: [2; 6], mtu: 1500 }),
        [
            Route::by(gateway, 64, 3, None),
            Route::by(gateway, 64, 2, None),
            Route::by(IpAddr::from([10, 0, 0, 0]), 8, 2, Some(gateway)),
        ],
        resolved.iter().map(|ifindex| ((*ifindex, gateway), [9; 6])),
    ))
}

fn syn(port: u16) -> Vec<u8> {
    PacketBuilder::syn(&format!("198.51.100.7:{port}"), VIP)
        .macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe])
        .build()
}

struct Outcome {
    sent: Vec<u32>,
    dropped: u64,
    shared: Arc<Shared>,
}

/// Runs a worker over these frames, one batch each; `when_empty` is called whenever there is none left.
fn run(
    frames: &[Vec<u8>],
    refusals: &[i32],
    when_empty: impl FnMut(&Arc<Shared>, u32) + Send + 'static,
) -> Outcome {
    run_with(&[3], frames, refusals, when_empty)
}

/// As [`run`], with the server's neighbour known.
fn run_resolved(frames: &[Vec<u8>], when_empty: impl FnMut(&Arc<Shared>, u32) + Send + 'static) -> Outcome {
    run_with(&[2], frames, &[], when_empty)
}

fn run_with(
    resolved: &[u32],
    frames: &[Vec<u8>],
    refusals: &[i32],
    mut when_empty: impl FnMut(&Arc<Shared>, u32) + Send + 'static,
) -> Outcome {
    let shared = shared();
    shared.next_hops.store(next_hops(resolved));
    let sent = Arc::default();
    let mut calls = 0;
    let made = Made {
        batches: frames.iter().map(|frame| vec![frame.clone()]).collect(),
        batch: Vec::new(),
        sent: Arc::clone(&sent),
        refusals: RefCell::new(refusals.iter().copied().collect()),
        when_empty: {
            let shared = shared.clone();
            Box::new(move || {
                calls += 1;
                when_empty(&shared, calls);
            })
        },
    };
    let (wake, _inbox) = channel().unwrap();
    let memory = WorkerMemory::own(shared.snapshot.load().options());
    let mut runner = Runner::with(0, made, shared.clone(), wake, memory);
    runner.run(0);
    let dropped = runner.worker.counters().dropped(convey_engine::DropReason::NoNextHop);
    let sent = sent.lock().unwrap().clone();
    Outcome { sent, dropped, shared }
}

#[test]
fn a_frame_whose_gateway_has_a_twin_on_another_link_waits_for_its_own_and_the_worker_does_not_spin() {
    let outcome = run(&[syn(1000)], &[], |shared, calls| match calls {
        // It would never come here if it spun.
        1..=5 => (),
        6 => shared.next_hops.store(next_hops(&[2, 3])),
        _ => shared.end(),
    });
    assert_eq!(outcome.sent, [2]);
    assert_eq!(outcome.dropped, 1, "it met its missing neighbour once");
}

#[test]
fn a_worker_with_frames_that_wait_ends_when_it_is_told_to() {
    let frames: Vec<_> = (1000..1010).map(syn).collect();
    let outcome = run(&frames, &[], |shared, _| shared.end());
    assert_eq!(outcome.sent, [0; 0]);
    assert_eq!(outcome.dropped, 10);
}

#[test]
fn a_refused_send_is_counted_by_its_cause_and_the_next_frame_goes_out() {
    let refused = run(&[syn(1), syn(2)], &[libc::ENETDOWN], |shared, calls| match calls {
        1 => shared.next_hops.store(next_hops(&[2])),
        2 => (),
        _ => shared.end(),
    });
    assert_eq!(refused.sent, [2], "the second of two");
    assert_eq!(refused.shared.io[0].get(Loss::TxLinkDown), 1);
}

/// A datagram of three fragments.
fn fragments(id: u16) -> [Vec<u8>; 3] {
    let datagram = PacketBuilder::udp("198.51.100.7:1000", VIP).payload(&[7; 3000]).id(id);
    let frames = datagram.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).cut(1200);
    frames.iter().map(PacketBuilder::build).collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn fragments_that_came_before_their_first_follow_it() {
    let [first, middle, last] = fragments(7);
    let outcome = run_resolved(&[last, middle, first], |shared, calls| {
        if calls > 3 {
            shared.end();
        }
    });
    assert_eq!(outcome.sent, [2, 2, 2]);
    assert_eq!(outcome.shared.io[0].followed.load(Relaxed), 2);
}

#[test]
fn fragments_that_another_worker_has_the_first_of_follow_it() {
    let [first, middle, last] = fragments(9);
    let mut sent_first = false;
    let outcome = run_resolved(&[middle, last], move |shared, calls| {
        if !std::mem::replace(&mut sent_first, true) {
            let memory = WorkerMemory::own(shared.snapshot.load().options());
            let mut other = shared.new_worker(0, memory);
            let mut frame = first.clone();
            let (snapshot, next_hops) = (shared.snapshot.load(), shared.next_hops.load());
            let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
            let len = frame.len();
            let verdict = process(&mut frame, len, &meta, &snapshot, &next_hops, &mut other, shared.now());
            assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
        }
        if calls > 3 {
            shared.end();
        }
    });
    assert_eq!(outcome.sent, [2, 2]);
}

#[test]
fn fragments_without_a_first_are_given_up_and_the_worker_goes_on() {
    let [_, middle, last] = fragments(10);
    let begun = Instant::now();
    let outcome = run_resolved(&[middle, last], move |shared, _| {
        std::thread::sleep(Duration::from_millis(5));
        if begun.elapsed() > Duration::from_millis(100) {
            shared.end();
        }
    });
    assert_eq!(outcome.sent, [0; 0]);
    assert_eq!(outcome.shared.io[0].get(Loss::FragmentNotHeld), 0);
}

#[test]
fn a_fragment_follows_its_first_though_its_worker_was_held_up_for_longer_than_it_holds_fragments() {
    let parts = PacketBuilder::udp("198.51.100.7:4000", VIP)
        .payload(&[7; 1000])
        .macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe])
        .cut(800)
        .iter()
        .map(PacketBuilder::build)
        .collect::<Vec<_>>();
    let [first, later] = <[Vec<u8>; 2]>::try_from(parts).unwrap();
    let outcome = run_resolved(&[later], move |shared, _| {
        std::thread::sleep(2 * crate::held::MAX_WAIT);
        // Meanwhile another worker has the first.
        let others = Made {
            batches: [vec![first.clone()]].into(),
            batch: Vec::new(),
            sent: Arc::default(),
            refusals: RefCell::default(),
            when_empty: {
                let shared = shared.clone();
                Box::new(move || shared.end())
            },
        };
        let memory = WorkerMemory::own(shared.snapshot.load().options());
        Runner::with(0, others, shared.clone(), channel().unwrap().0, memory).run(0);
    });
    assert_eq!(outcome.sent, [2], "the later one");
}
