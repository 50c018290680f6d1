//! The flow table as an operator sees it: what is listed of each flow, and what becomes of one that is ended.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use common::Lab;
use common::world::{VIP, close, connect, connect_dsr, open, send, tuple};
use convey_core::conntrack::{FlowTable, Memory};
use convey_core::{FlowFilter, FlowRow, FlowStage, Net, Protocol};
use convey_engine::{FlowView, Nanos, Seen, Worker, WorkerMemory};
use convey_testkit::PacketBuilder as P;

const DNS: &str = "192.0.2.10:53";
const CLIENT: &str = "198.51.100.7:4000";
const OTHER: &str = "198.51.200.8:5000";

/// The lab, with its flows where others may look at them.
fn listed(mut lab: Lab) -> (Lab, FlowView) {
    let flows = FlowTable::words(lab.options.capacity).map(|words| {
        let words: Vec<AtomicU32> = (0..words + 32).map(|_| AtomicU32::new(0)).collect();
        Memory::shared(words.leak(), Arc::new(()))
    });
    let memory = WorkerMemory { flows, ..WorkerMemory::own(&lab.options) };
    lab.worker = Worker::in_memory(0, &lab.snapshot, memory);
    let view = lab.worker.flow_view();
    assert!(view.is_whole());
    (lab, view)
}

fn list(lab: &Lab, view: &FlowView, filter: &FlowFilter, now_ms: u64) -> Vec<FlowRow> {
    let mut rows = Vec::new();
    let now = Nanos::from_millis(now_ms);
    assert_eq!(view.list(filter, &lab.snapshot, now, 0, (&mut rows, usize::MAX)), None);
    rows
}

fn end(lab: &mut Lab, view: &FlowView, filter: &FlowFilter, now_ms: u64) -> u64 {
    let mut seen: Vec<Seen> = Vec::new();
    let now = Nanos::from_millis(now_ms);
    assert_eq!(view.find(filter, &lab.snapshot, now, 0, (&mut seen, usize::MAX)), None);
    lab.worker.end_flows(&seen, &lab.snapshot, now)
}

#[test]
fn a_connection_is_listed_with_its_server_its_nat_port_and_when_it_is_forgotten() {
    let (mut lab, view) = listed(Lab::passthrough((40000, 40099), 3));
    let (nat, server) = connect(&mut lab, CLIENT, 1000);
    let rows = list(&lab, &view, &FlowFilter::default(), 3000);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.protocol, row.client.to_string()), (Protocol::Tcp, CLIENT.to_owned()));
    assert_eq!((row.vip.to_string(), row.stage), (VIP.to_owned(), FlowStage::Established));
    assert_eq!(row.nat.map(|nat| nat.to_string()), Some(nat));
    assert_eq!(row.server.as_ref().map(|(_, _, addr)| addr.to_string()), Some(server));
    let (idle, left) = (row.idle.unwrap(), row.expires_in.unwrap());
    assert!(idle.abs_diff(Duration::from_secs(2)) < Duration::from_millis(50), "{idle:?}");
    let lifetime = lab.options.timeouts.established;
    assert!(lifetime.abs_diff(idle + left) < Duration::from_millis(50), "{idle:?} and {left:?}");
    assert_eq!((row.age, row.packets, row.bytes), (None, None, None));
}

#[test]
fn a_flow_stands_where_its_packets_have_brought_it_and_one_whose_time_is_over_is_not_listed() {
    let (mut lab, view) = listed(Lab::passthrough((40000, 40099), 1));
    let stage = |lab: &Lab| list(lab, &view, &FlowFilter::default(), 1000).first().map(|row| row.stage);
    send(&mut lab, P::syn(CLIENT, VIP), 1000);
    assert_eq!(stage(&lab), Some(FlowStage::New));
    let (nat, server) = connect(&mut lab, CLIENT, 1000);
    assert_eq!(stage(&lab), Some(FlowStage::Established));
    close(&mut lab, CLIENT, &nat, &server, 1000);
    assert_eq!(stage(&lab), Some(FlowStage::Closed));
    assert_eq!(list(&lab, &view, &FlowFilter::default(), 10_000_000), []);
}

#[test]
fn every_part_of_a_filter_takes_the_flows_it_names_and_no_others() {
    let (mut lab, view) = listed(Lab::passthrough((40000, 40099), 1));
    connect(&mut lab, CLIENT, 1000);
    connect(&mut lab, OTHER, 1000);
    send(&mut lab, P::udp(CLIENT, DNS), 1000);
    let all = list(&lab, &view, &FlowFilter::default(), 1000);
    assert_eq!(all.len(), 3);
    let any = FlowFilter::default;
    let net = |address: &str, bits| Some(Net { address: address.parse().unwrap(), bits });
    let udp = all.iter().find(|row| row.protocol == Protocol::Udp).unwrap();
    let (backend, server, _) = udp.server.clone().unwrap();
    for (filter, count) in [
        (FlowFilter { protocol: Some(Protocol::Udp), ..any() }, 1),
        (FlowFilter { client: net("198.51.100.7", 32), ..any() }, 2),
        (FlowFilter { client: net("198.51.0.0", 16), ..any() }, 3),
        (FlowFilter { client: net("198.51.100.7", 32), client_port: Some(4001), ..any() }, 0),
        (FlowFilter { client_port: Some(5000), ..any() }, 1),
        (FlowFilter { vip: "192.0.2.10".parse().ok(), vip_port: Some(53), ..any() }, 1),
        (FlowFilter { vip: "192.0.2.11".parse().ok(), ..any() }, 0),
        (FlowFilter { frontend: Some(udp.frontend.to_string()), ..any() }, 1),
        (FlowFilter { frontend: Some("none".into()), ..any() }, 0),
        (FlowFilter { backend: Some(backend.to_string()), ..any() }, 3),
        (FlowFilter { server: Some(server.to_string()), ..any() }, 3),
        (FlowFilter { server: Some("none".into()), ..any() }, 0),
        (FlowFilter { stage: Some(FlowStage::Established), ..any() }, 2),
        (FlowFilter { stage: Some(FlowStage::New), ..any() }, 1),
    ] {
        assert_eq!(list(&lab, &view, &filter, 1000).len(), count, "{filter:?}");
    }
    assert_eq!(udp.packets, Some(1));
}

#[test]
fn pages_go_on_where_the_last_has_ended() {
    let (mut lab, view) = listed(Lab::passthrough((40000, 40099), 1));
    let clients: Vec<String> = (0..25).map(|n| format!("198.51.100.7:{}", 4000 + n)).collect();
    for client in &clients {
        connect(&mut lab, client, 1000);
    }
    let (mut told, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = from {
        let mut rows = Vec::new();
        let now = Nanos::from_millis(1000);
        from = view.list(&FlowFilter::default(), &lab.snapshot, now, at, (&mut rows, 10));
        assert!(rows.len() <= 10);
        told.extend(rows.into_iter().map(|row| row.client.to_string()));
        pages += 1;
    }
    told.sort();
    assert_eq!((told, pages), (clients, 3));
}

#[test]
fn an_ended_flow_gives_its_nat_port_back_counts_out_and_its_next_packet_belongs_to_no_flow() {
    // One port for each of two.
    let (mut lab, view) = listed(Lab::passthrough((40000, 40001), 1));
    let (nat, server) = connect(&mut lab, CLIENT, 1000);
    let (_, other_server) = connect(&mut lab, OTHER, 1000);
    assert_eq!(open(&lab), (2, 2));
    assert_eq!(
        send(&mut lab, P::syn("198.51.100.9:1", VIP), 1000).reason.as_deref(),
        Some("tcp_reset.ports_exhausted"),
        "no port is left"
    );
    let client = Some(Net { address: "198.51.100.7".parse().unwrap(), bits: 32 });
    let filter = FlowFilter { client, ..FlowFilter::default() };
    assert_eq!(end(&mut lab, &view, &filter, 1000), 1);
    assert_eq!(end(&mut lab, &view, &filter, 1000), 0, "it ends once");
    assert_eq!((open(&lab), lab.worker.flows()), ((2, 1), 1));
    for (packet, whose) in
        [(P::tcp(CLIENT, VIP).seq(1001, 5001), "client"), (P::tcp(&server, &nat), "server")]
    {
        let out = send(&mut lab, packet, 1000);
        assert_eq!(
            (out.verdict.as_str(), out.reason.as_deref()),
            ("reply", Some("tcp_reset.no_flow")),
            "{whose}"
        );
    }
    let goes_on = send(&mut lab, P::tcp(OTHER, VIP).seq(1001, 5001), 1000);
    assert_eq!(tuple(&goes_on.frame()).1, other_server, "the other one goes on");
    assert_eq!(
        tuple(&send(&mut lab, P::syn("198.51.100.9:1", VIP), 2000).frame()).0,
        nat,
        "the port is free"
    );
}

#[test]
fn a_flow_that_has_come_since_is_not_ended_in_place_of_the_one_that_was_seen() {
    let (mut lab, view) = listed(Lab::passthrough((40000, 40099), 1));
    connect(&mut lab, CLIENT, 1000);
    let (mut seen, now) = (Vec::<Seen>::new(), Nanos::from_millis(1000));
    view.find(&FlowFilter::default(), &lab.snapshot, now, 0, (&mut seen, usize::MAX));
    assert_eq!(end(&mut lab, &view, &FlowFilter::default(), 1000), 1);
    connect(&mut lab, CLIENT, 1000);
    assert_eq!(lab.worker.end_flows(&seen, &lab.snapshot, now), 0);
    assert_eq!(list(&lab, &view, &FlowFilter::default(), 1000).len(), 1);
}

#[test]
fn in_dsr_a_flow_is_told_without_a_nat_address_and_comes_again_with_the_next_packet_once_ended() {
    let (mut lab, view) = listed(Lab::dsr(3));
    let server = connect_dsr(&mut lab, CLIENT, 1000);
    let rows = list(&lab, &view, &FlowFilter::default(), 1000);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.nat, row.vip.to_string()), (None, VIP.to_owned()));
    assert_eq!(end(&mut lab, &view, &FlowFilter::default(), 1000), 1);
    assert_eq!(list(&lab, &view, &FlowFilter::default(), 1000), []);
    assert_eq!(tuple(&send(&mut lab, P::tcp(CLIENT, VIP).seq(1001, 5001), 1000).frame()).1, server);
    assert_eq!(list(&lab, &view, &FlowFilter::default(), 1000).len(), 1);
}
