//! Reading and ending flows beside a thread that begins and ends them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::super::{FlowKey, FlowState, Memory, Overflow};
use super::*;

const LIFETIMES: Lifetimes = Lifetimes([1000; FlowState::COUNT]);

/// A table in memory that lives as long as the process.
fn table(capacity: usize) -> FlowTable {
    let memory = FlowTable::words(capacity).map(|words| {
        let entries: Vec<u64> = vec![0; (words + 32) / 2];
        let words: Vec<AtomicU32> = entries.iter().flat_map(|_| [0, 0].map(AtomicU32::new)).collect();
        Memory::shared(words.leak(), Arc::new(()))
    });
    FlowTable::in_memory(memory, Overflow::Refuse, LIFETIMES, 7)
}

fn key(n: u32, is_v4: bool) -> FlowKey {
    let client = if is_v4 { 0xffff << 32 | u128::from(n) } else { 0x2001 << 112 | u128::from(n) };
    FlowKey { client, client_port: n as u16, port: 0, frontend: 3 }
}

/// Begins a flow whose every field tells its number.
fn begin(table: &FlowTable, n: u32, is_v4: bool) -> FlowId {
    let key = key(n, is_v4);
    let found = table.find(&key, Ticks(0));
    let claim = table.claim(&found, false, Ticks(0), |_| ()).unwrap();
    let mut flow = Flow {
        client: key.client,
        client_port: key.client_port,
        frontend: key.frontend,
        server: n as u16,
        nat_port: n as u16,
        next: [n, n],
        state: FlowState::Established,
        ..Flow::default()
    };
    table.publish(claim, &mut flow, |_| ()).unwrap()
}

fn all(reader: &FlowReader, most: usize) -> Vec<(FlowId, Flow)> {
    let mut flows = Vec::new();
    let mut at = 0;
    while at < reader.entries() {
        at = reader.read(at, most, |id, flow| {
            flows.push((id, flow));
            ControlFlow::Continue(())
        });
    }
    flows
}

#[test]
fn every_flow_of_both_families_is_seen_once_whatever_the_steps() {
    let table = table(4096);
    let wanted: HashSet<FlowId> =
        (0..1000).map(|n| begin(&table, n, true)).chain((0..500).map(|n| begin(&table, n, false))).collect();
    let reader = table.reader();
    assert!(reader.is_whole());
    for most in [1, 7, 1000, usize::MAX] {
        let seen = all(&reader, most);
        assert_eq!(seen.len(), wanted.len(), "steps of {most}");
        assert_eq!(seen.iter().map(|(id, _)| *id).collect::<HashSet<_>>(), wanted, "steps of {most}");
    }
}

#[test]
fn a_reader_that_has_enough_goes_on_with_the_next_flow() {
    let table = table(64);
    for n in 0..40 {
        begin(&table, n, n % 2 == 0);
    }
    let (reader, mut at, mut seen) = (table.reader(), 0, HashSet::new());
    while at < reader.entries() {
        at = reader.read(at, usize::MAX, |id, _| {
            assert!(seen.insert(id), "none comes twice");
            ControlFlow::Break(())
        });
    }
    assert_eq!(seen.len(), 40);
}

#[test]
fn memory_that_was_never_used_is_passed_over_without_counting() {
    let table = table(1 << 20);
    let id = begin(&table, 1, false);
    let reader = table.reader();
    let mut seen = Vec::new();
    let end = reader.read(0, 200, |id, _| {
        seen.push(id);
        ControlFlow::Continue(())
    });
    assert_eq!((seen, end), (vec![id], reader.entries()));
}

#[test]
fn memory_of_one_owner_is_told_to_be_unreadable() {
    let table = FlowTable::new(64, Overflow::Refuse, LIFETIMES, 7);
    begin(&table, 1, true);
    let reader = table.reader();
    assert!(!reader.is_whole());
    assert_eq!(all(&reader, 10), []);
}

#[test]
fn a_flow_is_read_whole_while_others_take_its_entry() {
    let table = table(64);
    let reader = table.reader();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200_000_u32 {
                let id = begin(&table, n, true);
                table.remove(id);
            }
            ends.store(true, Relaxed);
        });
        while !ends.load(Relaxed) {
            for (_, flow) in all(&reader, usize::MAX) {
                let n = flow.client as u32;
                assert_eq!((flow.server, flow.nat_port), (n as u16, n as u16));
                assert_eq!(flow.next, [n, n]);
            }
        }
    });
}

#[test]
fn a_flow_is_ended_once_however_many_try_and_whatever_packets_make_of_it_meanwhile() {
    let mut table = table(256);
    table.share();
    for round in 0..200_u32 {
        let id = begin(&table, round, true);
        let seen = table.get(id).unwrap();
        let ended: usize = std::thread::scope(|scope| {
            let packets = scope.spawn(|| {
                for state in [FlowState::Closing, FlowState::Established, FlowState::Closed] {
                    let Some(was) = table.get(id) else { return };
                    table.update(id, &was, &Flow { state, ..was });
                }
            });
            let enders: Vec<_> =
                (0..2).map(|_| scope.spawn(|| table.remove_same(id, &seen).is_some())).collect();
            packets.join().unwrap();
            enders.into_iter().map(|ender| usize::from(ender.join().unwrap())).sum()
        });
        assert_eq!(ended, 1, "round {round}");
        assert_eq!(table.get(id), None);
    }
    assert!(table.is_empty());
}

#[test]
fn the_flow_that_has_taken_the_entry_since_is_left_alone() {
    let table = table(64);
    let id = begin(&table, 1, true);
    let seen = table.get(id).unwrap();
    table.remove(id);
    // The same client comes again, to the same entry.
    assert_eq!(begin(&table, 1, true), id);
    assert_eq!(table.remove_same(id, &seen), None);
    assert!(table.get(id).is_some());
}
