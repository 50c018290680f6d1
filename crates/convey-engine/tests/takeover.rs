//! A balancer is killed, and the next one goes on with its flows.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use common::Lab;
use common::world::{VIP, client, close, connect, connect_dsr, open, send, tuple};
use convey_core::conntrack::{Flow, FlowState, Memory, WORDS_V4, read_entry};
use convey_core::{ServerSpec, SnapshotSpec};
use convey_engine::memory::{ALIVE_WORDS, HEADER_BYTES, MAX_POOLS, PART_HEAD_BYTES};
use convey_engine::{Layout, Nanos, NotKept, PacketOptions, PacketSnapshot, SavedFlows, SlotTable};
use convey_engine::{PortRange, TakenOver, Worker, WorkerMemory};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, SYN};
use proptest::prelude::*;

const DNS: &str = "192.0.2.10:53";
const MINUTE: u64 = 60_000;
const ENTRY_BYTES: usize = WORDS_V4 * 4;

/// What the balancer leaves when it is killed: the bytes of its file, and what its slots stand for.
fn kill(lab: &mut Lab) -> (Vec<u8>, SlotTable) {
    let memory = lab.worker.take_memory(&lab.snapshot);
    let layout = Layout::new(lab.snapshot.mode(), &lab.options);
    let mut bytes = layout.header().to_vec();
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend(
        (0..ALIVE_WORDS).flat_map(|i| memory.alive.get(i).map_or(0, |w| w.load(Relaxed)).to_ne_bytes()),
    );
    let nat = (0..MAX_POOLS).map(|i| memory.nat.get(i).copied().unwrap_or(0));
    bytes.extend(nat.flat_map(u128::to_ne_bytes));
    for (words, wanted) in memory.flows.iter().zip(layout.words) {
        bytes.extend(whole_sets(words)[..wanted].iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()));
    }
    (bytes, lab.snapshot.slot_table().clone())
}

/// The part that sets lie in: memory of this process may begin between two.
fn whole_sets(words: &[AtomicU32]) -> &[AtomicU32] {
    &words[words.as_ptr().align_offset(128)..]
}

/// The flows in what [`kill`] left: where each lies in the file.
fn entries(bytes: &[u8]) -> Vec<(usize, Flow)> {
    let layout = bytes.first_chunk().and_then(Layout::parse).expect("a layout");
    let table = HEADER_BYTES + PART_HEAD_BYTES;
    let v4 = (table..table + layout.words[0] * 4).step_by(ENTRY_BYTES);
    v4.filter_map(|at| {
        let words: Vec<u32> = bytes[at..at + ENTRY_BYTES]
            .chunks(4)
            .map(|w| u32::from_ne_bytes(w.try_into().expect("four")))
            .collect();
        Some((at, read_entry(&words, layout.mode == convey_core::Mode::Dsr).ok()??))
    })
    .collect()
}

/// A worker of which NAT addresses are remembered, as where the memory is shared.
fn remembering(lab: &mut Lab) {
    lab.worker = Worker::in_memory(0, &lab.snapshot, shared(&lab.options));
}

fn shared(options: &PacketOptions) -> WorkerMemory {
    let (alive, nat) = (Memory::<AtomicU64>::own(ALIVE_WORDS), Memory::own(MAX_POOLS));
    WorkerMemory { alive, nat, ..WorkerMemory::own(options) }
}

/// The balancer that starts after it, with another configuration and slots of its own.
fn restart(
    lab: Lab,
    now_ms: u64,
    change: impl FnOnce(&mut SnapshotSpec, &mut PacketOptions),
) -> (Lab, TakenOver) {
    let (lab, report, _) = restart_with(lab, now_ms, change, |_| SlotTable::default());
    (lab, report)
}

/// As [`restart`], with the slots of the one before it. Gives the file it left, too.
fn restart_adopting(
    lab: Lab,
    now_ms: u64,
    change: impl FnOnce(&mut SnapshotSpec),
) -> (Lab, TakenOver, Vec<u8>) {
    restart_with(lab, now_ms, |spec, _| change(spec), |saved| saved.slot_table().clone())
}

fn restart_with(
    mut lab: Lab,
    now_ms: u64,
    change: impl FnOnce(&mut SnapshotSpec, &mut PacketOptions),
    adopt: impl FnOnce(&SavedFlows) -> SlotTable,
) -> (Lab, TakenOver, Vec<u8>) {
    let (bytes, slots) = kill(&mut lab);
    let saved = SavedFlows::read(&*bytes, slots).expect("a file");
    let (mut spec, mut options) = (lab.config.spec().clone(), lab.options.clone());
    change(&mut spec, &mut options);
    let config = convey_core::Snapshot::first(spec, 1).expect("a snapshot");
    let snapshot =
        PacketSnapshot::build_adopting(&config, &options, &adopt(&saved), Nanos(0)).expect("tables");
    let snapshot = std::sync::Arc::new(snapshot);
    let worker = Worker::in_memory(0, &snapshot, shared(&options));
    let mut lab = Lab { config, options, snapshot, worker, ..lab };
    let mut report = TakenOver::default();
    let now = Nanos::from_millis(now_ms);
    for heirs in saved.divide(&lab.snapshot, now, &mut report) {
        lab.worker.take_over(&heirs, &lab.snapshot, now, &mut report);
    }
    (lab, report, bytes)
}

fn passthrough(ports: (u16, u16), servers: usize) -> Lab {
    let mut lab = Lab::passthrough(ports, servers);
    remembering(&mut lab);
    lab
}

/// Both directions of a connection are as they were.
fn goes_on(lab: &mut Lab, client: &str, nat: &str, server: &str, now_ms: u64) {
    let out = send(lab, P::tcp(client, VIP).seq(1001, 5001).payload(b"on"), now_ms);
    assert_eq!(tuple(&out.frame()), (nat.to_owned(), server.to_owned()));
    let out = send(lab, P::tcp(server, nat).seq(5001, 1003).payload(b"and on"), now_ms);
    assert_eq!(tuple(&out.frame()), (VIP.to_owned(), client.to_owned()));
    let frame = out.frame();
    let sum = |bytes: &[u8]| {
        let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    assert_eq!(sum(&frame[14..34]), 0xffff, "the IPv4 checksum");
    let length = (frame.len() - 34) as u32;
    let pseudo = sum(&frame[26..34]) + 6 + length;
    let total = sum(&frame[34..]) + pseudo;
    assert_eq!((total & 0xffff) + (total >> 16), 0xffff, "the TCP checksum");
}

#[test]
fn connections_keep_server_and_nat_port_in_both_directions_though_slots_weights_and_seed_are_others() {
    let mut lab = passthrough((40000, 40099), 3);
    let flows: Vec<_> = (0..30).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    let (mut lab, report) = restart(lab, 2000, |spec, options| {
        options.seed = 77;
        options.capacity = 4096;
        spec.frontends.reverse();
        for backend in &mut spec.backends {
            backend.servers.reverse();
            backend.servers.iter_mut().take(1).for_each(|s| s.weight = 0);
        }
    });
    assert_eq!((report.kept, report.to_string().as_str()), (30, "took over 30 flows of a killed balancer"));
    assert_eq!(open(&lab).1, 30);
    for (client, (nat, server)) in &flows {
        goes_on(&mut lab, client, nat, server, 2000);
    }
    for (client, (nat, server)) in &flows {
        close(&mut lab, client, nat, server, 3000);
    }
    assert_eq!(open(&lab).1, 0);
}

/// Frontend and server slot of each flow, by its client's port.
fn slots_of(bytes: &[u8]) -> BTreeMap<u16, (u16, u16)> {
    entries(bytes).iter().map(|(_, flow)| (flow.client_port, (flow.frontend, flow.server))).collect()
}

/// Turns the order of everything and puts a new server first.
fn shuffle(spec: &mut SnapshotSpec) {
    spec.frontends.reverse();
    spec.backends.reverse();
    for backend in spec.backends.iter_mut().filter(|b| b.name == "v4") {
        backend.servers.reverse();
        let added = ServerSpec {
            name: "added".into(),
            addr: "10.0.0.200:8080".parse().expect("an address"),
            ..backend.servers[0].clone()
        };
        backend.servers.insert(0, added);
    }
}

#[test]
fn slots_survive_a_restart_so_that_flows_keep_the_numbers_they_have() {
    let mut lab = passthrough((40000, 40099), 3);
    let flows: Vec<_> = (0..30).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    let table = lab.snapshot.slot_table().clone();
    let (mut lab, report, before) = restart_adopting(lab, 2000, shuffle);
    assert_eq!(report.kept, 30);
    let now = lab.snapshot.slot_table();
    assert!(table.frontends.iter().all(|(slot, f)| now.frontends.get(slot) == Some(f)));
    assert!(table.servers.iter().all(|(slot, s)| now.servers.get(slot) == Some(s)));
    assert_eq!(now.servers.iter().count(), table.servers.iter().count() + 1);
    for (client, (nat, server)) in &flows {
        goes_on(&mut lab, client, nat, server, 2000);
    }
    assert_eq!(slots_of(&kill(&mut lab).0), slots_of(&before));
}

#[test]
fn slots_that_cannot_be_adopted_are_translated() {
    let mut lab = passthrough((40000, 40099), 3);
    let flows: Vec<_> = (0..30).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    let (mut lab, report, before) =
        restart_with(lab, 2000, |spec, _| shuffle(spec), |_| SlotTable::default());
    assert_eq!(report.kept, 30);
    for (client, (nat, server)) in &flows {
        goes_on(&mut lab, client, nat, server, 2000);
    }
    assert_ne!(slots_of(&kill(&mut lab).0), slots_of(&before));
}

#[test]
fn with_tables_that_are_gone_on_with_what_left_keeps_its_slot_its_address_and_its_paths() {
    let lab = passthrough((40000, 40099), 3);
    let saved = lab.snapshot.slot_table().clone();
    let paths: Vec<_> = lab.snapshot.nat_paths().copied().collect();
    let mut spec = lab.config.spec().clone();
    spec.frontends[0].listen = vec!["192.0.2.77:81".parse().unwrap()];
    let servers = &mut spec.backends[0].servers;
    let left = servers.remove(0);
    let new =
        convey_core::ServerSpec { name: "new".into(), addr: "10.0.0.99:80".parse().unwrap(), ..left.clone() };
    servers.insert(0, new);
    let config = convey_core::Snapshot::first(spec, 1).unwrap();
    let now = PacketSnapshot::build_keeping(&config, &lab.options, &saved, &paths, Nanos(0)).unwrap();
    for (slot, identity) in saved.servers.iter() {
        assert_eq!(now.slot_table().servers.get(slot), Some(identity));
        let server = now.server(slot).unwrap();
        assert_eq!(server.has_left(), identity.name == left.name, "{}", identity.name);
    }
    let added = now.servers().find(|(_, server)| &*server.name == "new").unwrap().0;
    assert_eq!(saved.servers.get(added), None);
    let (slot, former) = saved.frontends.iter().next().unwrap();
    assert!(now.frontend(slot).unwrap().has_left());
    assert!(now.vips().any(|(_, ip, port)| (ip, port) == (former.address, former.port)));
    assert!(paths.iter().all(|path| now.nat_paths().any(|p| p == path)), "answers to flows are known");
    assert!(!now.has_ended_slots(), "nobody has looked for flows yet");
    // A reload keeps them, too.
    let next = PacketSnapshot::build(&config, &lab.options, Some(&now)).unwrap();
    assert_eq!(next.slot_table(), now.slot_table());
    assert!(paths.iter().all(|path| next.nat_paths().any(|p| p == path)));
}

#[test]
fn after_a_restart_a_new_server_gets_no_slot_that_a_saved_flow_names() {
    let mut lab = passthrough((40000, 40099), 3);
    (0..30).for_each(|n| drop(connect(&mut lab, &client(n), 1000)));
    let table = lab.snapshot.slot_table().clone();
    let (lab, _, _) = restart_adopting(lab, 2000, |spec| {
        shuffle(spec);
        spec.backends.iter_mut().for_each(|b| b.servers.retain(|s| s.name != "s1"));
    });
    let now = lab.snapshot.slot_table();
    let slot_of = |table: &SlotTable, name: &str| {
        table.servers.iter().find(|(_, s)| s.name == name).map(|(slot, _)| slot)
    };
    let (removed, added) = (slot_of(&table, "s1").unwrap(), slot_of(now, "added").unwrap());
    assert!(now.servers.get(removed).is_none());
    assert!(table.servers.get(added).is_none(), "{added} was another server's");
}

#[test]
fn exactly_the_ports_of_kept_flows_are_held_and_they_come_free_with_them() {
    let mut lab = passthrough((40000, 40009), 1);
    let flows: Vec<_> = (0..4).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    let (mut lab, _) = restart(lab, 2000, |_, _| {});
    let held: HashSet<String> = flows.iter().map(|(_, (nat, _))| nat.clone()).collect();
    let mut others: Vec<String> = (10..16).map(|n| connect(&mut lab, &client(n), 2000).0).collect();
    assert!(others.iter().all(|nat| !held.contains(nat)));
    assert_eq!(
        send(&mut lab, P::syn(&client(20), VIP), 2000).reason.as_deref(),
        Some("tcp_reset.ports_exhausted")
    );
    let (first, (nat, server)) = &flows[0];
    close(&mut lab, first, nat, server, 2500);
    others.push(connect(&mut lab, &client(20), 2600).0);
    assert_eq!(others.last(), Some(nat));
}

#[test]
fn a_flow_has_the_age_it_had() {
    let mut lab = passthrough((40000, 40099), 1);
    let (idle, (nat, server)) = (client(1), connect(&mut lab, &client(1), 1000));
    let (mut lab, report) = restart(lab, 100 * MINUTE, |_, _| {});
    assert_eq!(report.kept, 1);
    send(&mut lab, P::tcp(&idle, VIP).seq(1001, 5001).payload(b"x"), 123 * MINUTE);
    let (mut lab, report) = restart(lab, 200 * MINUTE, |_, _| {});
    assert_eq!(report.kept, 1);
    goes_on(&mut lab, &idle, &nat, &server, 201 * MINUTE);
    let (_, report) = restart(lab, 326 * MINUTE, |_, _| {});
    assert_eq!((report.kept, report.to_string().contains("could not")), (0, false), "its time was over");
}

#[test]
fn what_has_no_counterpart_is_counted_by_its_reason_and_the_rest_goes_on() {
    let mut lab = passthrough((40000, 40099), 3);
    let flows: Vec<_> = (0..60).map(|n| (client(n), connect(&mut lab, &client(n), 1000))).collect();
    let on = |server: &str| flows.iter().filter(|(_, (_, s))| s.starts_with(server)).count() as u64;
    let high = |nat: &str| nat.rsplit(':').next().unwrap().parse::<u16>().unwrap() > 40049;
    let (mut lab, report) = restart(lab, 2000, |spec, options| {
        spec.backends[0].servers.retain(|s| s.name != "s1");
        options.nat_ports = PortRange { first: 40000, last: 40049 };
    });
    let kept: Vec<_> =
        flows.iter().filter(|(_, (nat, s))| !s.starts_with("10.0.0.11:") && !high(nat)).collect();
    assert_eq!(report.lost(NotKept::NoServer), on("10.0.0.11:"));
    assert_eq!(report.lost(NotKept::NoPort), 60 - on("10.0.0.11:") - kept.len() as u64);
    assert_eq!(report.kept, kept.len() as u64);
    for (client, (nat, server)) in kept {
        goes_on(&mut lab, client, nat, server, 2000);
    }
    let (_, report) = restart(lab, 3000, |spec, _| spec.frontends.retain(|f| f.listen[0].port() != 80));
    assert_eq!((report.kept, report.lost(NotKept::NoFrontend)), (0, open_flows(&flows, high)));
}

fn open_flows(flows: &[(String, (String, String))], high: impl Fn(&str) -> bool) -> u64 {
    flows.iter().filter(|(_, (nat, s))| !s.starts_with("10.0.0.11:") && !high(nat)).count() as u64
}

#[test]
fn a_conversation_of_datagrams_keeps_its_port_and_a_handshake_is_finished_by_the_next_balancer() {
    let mut lab = passthrough((40000, 40099), 2);
    let (nat, server) = tuple(&send(&mut lab, P::udp(&client(1), DNS), 1000).frame());
    send(&mut lab, P::udp(&server, &nat), 1000);
    let (to, from) = tuple(&send(&mut lab, P::syn(&client(2), VIP), 1000).frame());
    let (mut lab, report) = restart(lab, 1500, |_, _| {});
    assert_eq!(report.kept, 2);
    assert_eq!(tuple(&send(&mut lab, P::udp(&client(1), DNS), 2000).frame()), (nat.clone(), server.clone()));
    assert_eq!(tuple(&send(&mut lab, P::udp(&server, &nat), 2000).frame()).1, client(1));
    send(&mut lab, P::tcp(&from, &to).flags(SYN | ACK).seq(5000, 1001), 2000);
    send(&mut lab, P::tcp(&client(2), VIP).seq(1001, 5001), 2000);
    goes_on(&mut lab, &client(2), &to, &from, 2000);
    assert_eq!(open(&lab).1, 2);
}

#[test]
fn with_several_nat_addresses_every_flow_keeps_its_own() {
    let mut world = common::world("passthrough");
    world.nat_ports = (40000, 40019);
    world.servers.truncate(1);
    let addresses: Vec<IpAddr> =
        ["192.0.2.21", "192.0.2.22", "192.0.2.23"].map(|a| a.parse().unwrap()).into();
    let options = PacketOptions {
        nat_addresses: addresses.clone(),
        local_addresses: addresses,
        ..common::options(&world)
    };
    let mut lab = Lab::with(&world, common::spec(&world), options);
    remembering(&mut lab);
    let flows: Vec<_> = (0..40).map(|n| (client(n), connect(&mut lab, &client(n * 7), 1000))).collect();
    let (_, report) = restart(lab, 2000, |_, options| {
        options.nat_addresses.remove(0);
    });
    let gone = flows.iter().filter(|(_, (nat, _))| nat.starts_with("192.0.2.21:")).count() as u64;
    assert!(gone > 0 && gone < 40);
    assert_eq!((report.kept, report.lost(NotKept::NoPort)), (40 - gone, gone));
}

#[test]
fn in_dsr_connections_stay_with_their_server_where_the_table_says_another() {
    let mut lab = Lab::dsr(2);
    let flows: Vec<_> = (0..40).map(|n| (client(n), connect_dsr(&mut lab, &client(n), 1000))).collect();
    let (mut lab, report) = restart(lab, 2000, |spec, _| {
        for server in spec.backends.iter_mut().flat_map(|b| &mut b.servers).filter(|s| s.name == "s1") {
            server.weight = 0;
        }
    });
    assert_eq!(report.kept, 40);
    for (client, server) in &flows {
        let out = send(&mut lab, P::tcp(client, VIP).payload(b"on"), 2000);
        assert_eq!(tuple(&out.frame()).1, *server);
    }
}

#[test]
fn a_flow_that_was_on_its_way_when_the_process_died_is_there_once() {
    let mut lab = passthrough((40000, 40099), 1);
    connect(&mut lab, &client(1), 1000);
    let (mut bytes, slots) = kill(&mut lab);
    let [(at, flow)] = entries(&bytes)[..] else { panic!("one flow") };
    assert_eq!(flow.state, FlowState::Established);
    for copy in 1..4 {
        bytes.copy_within(at..at + ENTRY_BYTES, HEADER_BYTES + PART_HEAD_BYTES + copy * 10 * ENTRY_BYTES);
    }
    assert!(entries(&bytes).len() > 2);
    let saved = SavedFlows::read(&*bytes, slots).unwrap();
    let mut report = TakenOver::default();
    let now = Nanos::from_millis(2000);
    let mut worker = Worker::new(0, &lab.snapshot);
    for heirs in saved.divide(&lab.snapshot, now, &mut report) {
        worker.take_over(&heirs, &lab.snapshot, now, &mut report);
    }
    assert_eq!((report.kept, worker.flows()), (1, 1));
}

#[test]
fn what_was_left_days_ago_is_over_though_its_ticks_have_come_round() {
    let wrap_ms = (1u64 << 48) / 1_000_000;
    // Killed at a minute, or when the ticks have come round already.
    for killed in [MINUTE, wrap_ms + MINUTE] {
        for (later, kept) in [(MINUTE, 1), (40 * 60 * MINUTE, 0), (wrap_ms, 0), (3 * wrap_ms + 100, 0)] {
            let mut lab = passthrough((40000, 40099), 1);
            connect(&mut lab, &client(1), killed - 500);
            let snapshot = lab.snapshot.clone();
            lab.worker.tick(&snapshot, Nanos::from_millis(killed - 600));
            lab.worker.tick(&snapshot, Nanos::from_millis(killed));
            let (_, report) = restart(lab, killed + later, |_, _| {});
            assert_eq!(report.kept, kept, "killed at {killed}, {later} ms later");
        }
    }
}

#[test]
fn a_file_that_is_cut_short_or_none_of_ours_is_an_error() {
    let (bytes, slots) = kill(&mut passthrough((40000, 40099), 1));
    for len in [0, 1, 39, HEADER_BYTES, bytes.len() - 1] {
        assert!(SavedFlows::read(&bytes[..len], slots.clone()).is_err(), "{len}");
    }
    assert!(SavedFlows::read(&[0xff; 10_000][..], slots.clone()).is_err());
    assert!(SavedFlows::read(&*bytes, slots).is_ok());
}

/// What flips in one entry: its number, the byte in it, the new value.
fn damage() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    prop::collection::vec((0usize..40, 0usize..ENTRY_BYTES, prop_oneof![any::<u8>(), 0u8..10]), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_a_restart_into_any_servers_in_any_order_a_kept_flow_keeps_slot_and_server(
        order in Just((0usize..8).collect::<Vec<_>>()).prop_shuffle(), left in 1usize..8, added in 0u8..8,
    ) {
        let mut lab = passthrough((40000, 40099), 8);
        let flows: BTreeMap<u16, _> =
            (0..60).map(|n| (1024 + n as u16, (client(n), connect(&mut lab, &client(n), 1000)))).collect();
        let (mut lab, report, before) = restart_adopting(lab, 2000, |spec| {
            let servers = &mut spec.backends.iter_mut().find(|b| b.name == "v4").unwrap().servers;
            let old = servers.clone();
            servers.clear();
            for n in 0..added {
                let addr = format!("10.0.1.{}:8080", n + 1).parse().unwrap();
                servers.push(ServerSpec { name: format!("added{n}"), addr, ..old[0].clone() });
            }
            servers.extend(order.iter().take(left).filter_map(|n| old.get(*n)).cloned());
        });
        let (before, bytes) = (slots_of(&before), kill(&mut lab).0);
        let after = slots_of(&bytes);
        prop_assert_eq!(after.len() as u64, report.kept);
        for (port, slots) in after {
            prop_assert_eq!(before[&port], slots);
            let server = lab.snapshot.server(slots.1).unwrap();
            prop_assert_eq!(&format!("{}:{}", std::net::IpAddr::from(server.address), server.port), &flows[&port].1.1);
        }
    }

    #[test]
    fn whatever_lies_in_the_file_no_two_flows_share_a_port_or_a_key_and_nothing_panics(
        damage in damage(), is_random in any::<bool>(), slots_kept in 0u16..6,
    ) {
        let mut lab = passthrough((40000, 40099), 2);
        for n in 0..30 {
            connect(&mut lab, &client(n), 1000);
        }
        for n in 30..40 {
            send(&mut lab, P::udp(&client(n), DNS), 1000);
        }
        let (mut bytes, mut slots) = kill(&mut lab);
        let table = HEADER_BYTES + PART_HEAD_BYTES;
        let used: Vec<usize> = entries(&bytes).iter().map(|(at, _)| *at).collect();
        let mut random = 7u32;
        for (entry, at, value) in damage {
            bytes[used[entry % used.len()] + at] = value;
            if is_random {
                // An entry of nothing but noise.
                let free = table + (entry * 31 + at) % 400 * ENTRY_BYTES;
                for byte in &mut bytes[free..free + ENTRY_BYTES] {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (random >> 24) as u8;
                }
            }
        }
        slots.servers = (0..slots_kept).map(|slot| slots.servers.get(slot).cloned()).collect();
        let saved = SavedFlows::read(&*bytes, slots).unwrap();
        let mut report = TakenOver::default();
        let now = Nanos::from_millis(2000);
        let mut worker = Worker::new(0, &lab.snapshot);
        for heirs in saved.divide(&lab.snapshot, now, &mut report) {
            worker.take_over(&heirs, &lab.snapshot, now, &mut report);
        }
        lab.worker = worker;
        // It works, and ends everything it took.
        for n in 100..110 {
            send(&mut lab, P::syn(&client(n), VIP), 2000);
        }
        let (bytes, _) = kill(&mut lab);
        let (mut ports, mut keys) = (HashSet::new(), HashSet::new());
        for (_, flow) in entries(&bytes) {
            prop_assert!(ports.insert((flow.pool, flow.nat_port)), "{flow:?}");
            prop_assert!(keys.insert(flow.key()), "{flow:?}");
            prop_assert!((40000..=40099).contains(&flow.nat_port));
        }
    }
}

#[test]
fn flows_that_minimal_tracking_remembers_go_on_though_the_table_would_send_them_elsewhere() {
    let mut lab = Lab::minimal(4);
    remembering(&mut lab);
    let drain = |spec: &mut SnapshotSpec, at: usize| spec.backends[0].servers[at].draining = true;
    lab.reload_at(1000, |spec| drain(spec, 0));
    let connect = |lab: &mut Lab, n| connect_dsr(lab, &client(n), 2000);
    let begun: Vec<String> = (0..200).map(|n| connect(&mut lab, n)).collect();
    let remembered = lab.worker.flows();
    assert!(remembered > 20, "{remembered}");
    lab.reload_at(3000, |spec| drain(spec, 1));
    let (mut lab, report, _) = restart_adopting(lab, 4000, |_| {});
    assert_eq!(report.kept, remembered as u64);
    let at_drained = |server: &&String| **server == "10.0.0.12:80";
    let (mut stayed, mut draining) = (0, 0);
    for (n, server) in (0..).zip(&begun) {
        let now = tuple(&send(&mut lab, P::tcp(&client(n), VIP), 5000).frame()).1;
        if at_drained(&server) {
            draining += 1;
            stayed += usize::from(now == *server);
        } else {
            assert_eq!(now, *server, "{n}");
        }
    }
    // Of those at the server that drains now, the remembered ones.
    assert!(0 < stayed && stayed < draining, "{stayed} of {draining}");
    assert_eq!(lab.worker.flows(), remembered);
}
