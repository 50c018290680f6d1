//! Several threads write to one table.

use std::array;
use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::tests::{LIFE, Random, assert_counts, flow, flow_v6};
use super::*;
use crate::nat_ports::{Partition, PortPool};

const KEYS: u32 = 420;
const PORTS: Partition = Partition { first: 1024, last: 2523, stride: 1, remainder: 0 };

/// A table, the ports of its flows, and whether each is held as the flows have it.
struct Lab {
    table: FlowTable,
    ports: PortPool,
    held: Vec<AtomicBool>,
    now: AtomicU32,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let mut table = FlowTable::new(256, Overflow::Refuse, LIFE, seed);
        table.share();
        let held = (0..3000).map(|_| AtomicBool::new(false)).collect();
        Self { table, ports: PortPool::new(PORTS), held, now: AtomicU32::new(1) }
    }

    fn now(&self) -> Ticks {
        Ticks(self.now.load(Relaxed))
    }

    /// What a flow that has left held is given back, once.
    fn settle(&self, flow: &Flow) {
        assert!(self.held[usize::from(flow.nat_port)].swap(false, SeqCst), "settled twice: {flow:?}");
        let owner = self.ports.owner(flow.nat_port).expect("its port is held");
        assert!(self.ports.release(flow.nat_port, owner, self.now()));
    }

    /// Begins a flow, with a port. Whether it, and not another's, is there.
    fn begin(&self, mut flow: Flow, found: &Found, random: u32) -> bool {
        let now = self.now();
        flow.last_seen = now.0;
        let Some(claim) = self.table.claim(found, true, now, |f| self.settle(&f)) else { return false };
        let Some(taken) = self.ports.take(claim.id().bits() + 1, random, now, |_| true) else {
            self.table.abandon(claim);
            return false;
        };
        assert!(!self.held[usize::from(taken.port)].swap(true, SeqCst), "shared: {}", taken.port);
        flow.nat_port = taken.port;
        flow.flags = flags::HAS_PORT;
        self.table.publish(claim, &mut flow, |f| self.settle(&f)).is_ok()
    }

    /// At rest: one flow a key, which a lookup finds; each with its port, and no port without its flow; counts as
    /// counted anew.
    fn assert_sound(&self) {
        assert_counts(&self.table);
        let flows: Vec<Flow> = self.table.v4.flows().chain(self.table.v6.flows()).collect();
        let keys: HashSet<FlowKey> = flows.iter().map(Flow::key).collect();
        assert_eq!(keys.len(), flows.len(), "twins");
        for flow in &flows {
            let found = self.table.find(&flow.key(), self.now());
            let id = found.live.or(found.expired).expect("a flow that no lookup finds");
            assert_eq!(self.ports.owner(flow.nat_port), Some(id.bits() + 1), "{flow:?}");
        }
        assert_eq!(self.ports.held(), flows.len());
        assert_eq!(self.held.iter().filter(|h| h.load(SeqCst)).count(), flows.len());
    }

    /// One thing that a thread may do with the flow of some key.
    fn step(&self, random: &mut Random) {
        let n = random.below(KEYS);
        let fresh = if n.is_multiple_of(5) { flow_v6 } else { flow }(n, FlowState::SynSent, 0);
        let now = self.now();
        let found = self.table.find(&fresh.key(), now);
        let Some(id) = found.live else {
            self.begin(fresh, &found, random.below(u32::MAX));
            return;
        };
        let Some(was) = self.table.get(id) else { return };
        let what = random.below(16);
        match what {
            0..3 => {
                if let Some(flow) = self.table.remove(id) {
                    self.settle(&flow);
                }
            }
            3 => self.table.sweep(now, 64, |f| self.settle(&f)),
            4 => drop(self.now.fetch_add(random.below(3), Relaxed)),
            _ => {
                let state =
                    [FlowState::Established, FlowState::Closing, FlowState::Closed, FlowState::SynSent];
                let changed = Flow {
                    state: if what < 10 { state[random.below(4) as usize] } else { was.state },
                    last_seen: now.0,
                    next: array::from_fn(|_| random.below(u32::MAX)),
                    in_flight: array::from_fn(|_| random.below(256) as u8),
                    ..was
                };
                self.table.update(id, &was, &changed);
            }
        }
    }
}

#[test]
fn of_two_threads_that_begin_one_flow_the_first_of_the_chain_stays_whoever_publishes_last() {
    for make in [flow, flow_v6] {
        for first_publishes_first in [true, false] {
            let lab = Lab::new(3);
            let flow = Flow { flags: flags::HAS_PORT, ..make(1, FlowState::SynSent, 1) };
            let found = lab.table.find(&flow.key(), Ticks(1));
            let claims = [0, 1].map(|_| lab.table.claim(&found, true, Ticks(1), |_| {}).unwrap());
            let ids = claims.each_ref().map(Claim::id);
            let mut in_turn = claims.into_iter().zip([7, 8]).collect::<Vec<_>>();
            if !first_publishes_first {
                in_turn.reverse();
            }
            let mut ended = Vec::new();
            let results: Vec<_> = in_turn
                .into_iter()
                .map(|(claim, nat_port)| {
                    let mut flow = Flow { nat_port, ..flow };
                    lab.table.publish(claim, &mut flow, |f| ended.push(f.nat_port)).map_err(|f| f.nat_port)
                })
                .collect();
            let second = if first_publishes_first { Err(7) } else { Ok(ids[1]) };
            assert_eq!(
                results,
                if first_publishes_first { [Ok(ids[0]), second] } else { [second, Ok(ids[0])] }
            );
            assert_eq!(ended, [8], "that of the flow further along");
            assert_eq!(lab.table.lookup(&flow.key(), Ticks(1)), Some(ids[0]));
            assert_eq!(lab.table.len(), 1);
            assert_counts(&lab.table);
        }
    }
}

#[test]
fn what_another_thread_has_begun_in_place_of_an_expired_flow_is_not_ended() {
    let lab = Lab::new(3);
    let old = flow(1, FlowState::SynSent, 1);
    assert!(lab.begin(old, &lab.table.find(&old.key(), Ticks(1)), 1));
    lab.now.store(100, Relaxed);
    let found = lab.table.find(&old.key(), Ticks(100));
    assert!(found.expired.is_some());
    assert!(lab.begin(old, &found, 1));
    let kept = lab.table.lookup(&old.key(), Ticks(100));
    // It had looked the key up before.
    assert!(!lab.begin(old, &found, 1));
    assert_eq!(lab.table.lookup(&old.key(), Ticks(100)), kept);
    lab.assert_sound();
}

#[test]
fn threads_that_begin_change_and_end_flows_at_will_leave_one_a_key_with_its_port_and_right_counts() {
    for threads in 2..=4 {
        let lab = Lab::new(threads);
        let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..threads {
                let (lab, stop, steps) = (&lab, &stop, &steps);
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ thread);
                    while !stop.load(Relaxed) {
                        (0..100).for_each(|_| lab.step(&mut random));
                        steps.fetch_add(100, Relaxed);
                    }
                });
            }
            thread::sleep(Duration::from_millis(700));
            stop.store(true, Relaxed);
        });
        assert!(steps.into_inner() > 1000);
        lab.assert_sound();
        lab.table.take_all(|f| lab.settle(&f));
        lab.assert_sound();
        assert!(lab.table.is_empty() && lab.ports.held() == 0);
    }
}

#[test]
fn threads_that_begin_the_same_flows_at_the_same_time_leave_one_of_each() {
    let lab = Lab::new(9);
    let barrier = Barrier::new(3);
    for round in 0..200 {
        thread::scope(|scope| {
            for thread in 0..3 {
                let (lab, barrier) = (&lab, &barrier);
                scope.spawn(move || {
                    let fresh: Vec<Flow> =
                        (0..60).map(|n| flow(round * 60 + n, FlowState::SynSent, 0)).collect();
                    barrier.wait();
                    for flow in fresh {
                        let found = lab.table.find(&flow.key(), lab.now());
                        if found.live.is_none() {
                            lab.begin(flow, &found, thread * 1000 + round);
                        }
                    }
                });
            }
        });
        lab.assert_sound();
        assert_eq!(lab.table.len(), 60);
        lab.table.take_all(|f| lab.settle(&f));
    }
}
