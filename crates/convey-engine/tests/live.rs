//! Decisions as those who watch get them: made by the packet path, and no others.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::Lab;
use common::world::{VIP, connect, tuple};
use convey_core::conntrack::FlowState;
use convey_core::{FlowFilter, FlowStage, Net, Watches, Watching};
use convey_engine::{
    Decided, DropReason, Fate, Forwarded, FrameMeta, LiveDecision, Looked, Nanos, Outcome, REPLY_HEADROOM,
    Step, process,
};
use convey_testkit::PacketBuilder as P;

const CLIENT: &str = "198.51.100.7:4000";
const LB1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];

fn watch(filter: FlowFilter) -> (Arc<Watches<LiveDecision>>, Watching<LiveDecision>) {
    let watches: Arc<Watches<LiveDecision>> = Arc::default();
    let watching = watches.begin(filter, 100).unwrap();
    (watches, watching)
}

/// As a worker does it. Gives the frame as it leaves.
fn send(lab: &mut Lab, watches: &Watches<LiveDecision>, packet: P) -> Vec<u8> {
    let mut frame = packet.macs(LB1, GATEWAY).build();
    let len = frame.len();
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let watches = watches.current();
    let now = Nanos::from_millis(1000);
    let looked = Looked::at(&watches, &frame, &meta, &lab.snapshot, &lab.next_hops, &mut lab.worker, now);
    frame.resize(len + REPLY_HEADROOM, 0);
    let verdict = process(&mut frame, len, &meta, &lab.snapshot, &lab.next_hops, &mut lab.worker, now);
    if let Some(looked) = looked {
        looked.decided(&verdict, &frame);
    }
    frame
}

#[test]
fn the_first_packet_of_a_flow_is_told_with_the_server_and_the_port_it_really_got() {
    let mut lab = Lab::passthrough((40000, 40099), 3);
    let (watches, watching) = watch(FlowFilter::default());
    let frame = send(&mut lab, &watches, P::syn(CLIENT, VIP));
    let told = watching.take().decisions;
    let [decision] = &told[..] else { panic!("{told:?}") };
    assert_eq!((decision.source.to_string(), decision.destination.to_string()), (CLIENT.into(), VIP.into()));
    let e = &decision.explanation;
    let (nat, server) = tuple(&frame);
    assert_eq!(e.rewritten.map(|(from, to)| (from.to_string(), to.to_string())), Some((nat, server.clone())));
    assert_eq!(e.server.as_ref().map(|(_, _, addr)| addr.to_string()), Some(server));
    assert_eq!((e.outcome, e.flow), (Outcome::Forward, None));
    let (source, destination) = e.rewritten.unwrap();
    assert!(e.steps.contains(&Step::Rewritten { source, destination }), "{:?}", e.steps);
}

#[test]
fn an_answer_is_told_as_one_and_belongs_to_its_client() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let (nat, server) = connect(&mut lab, CLIENT, 1000);
    let client = Some(Net { address: "198.51.100.7".parse().unwrap(), bits: 32 });
    let (watches, watching) = watch(FlowFilter { client, client_port: Some(4000), ..FlowFilter::default() });
    send(&mut lab, &watches, P::tcp(&server, &nat).seq(5001, 1001));
    let told = watching.take().decisions;
    let [decision] = &told[..] else { panic!("{told:?}") };
    assert_eq!(decision.explanation.flow, Some("established"));
    assert_eq!(decision.explanation.rewritten.map(|(_, to)| to.to_string()), Some(CLIENT.to_owned()));
}

#[test]
fn a_packet_that_is_refused_is_told_with_the_reason() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    let (watches, watching) = watch(FlowFilter::default());
    send(&mut lab, &watches, P::tcp(CLIENT, VIP).seq(7, 8));
    connect(&mut lab, CLIENT, 1000);
    send(&mut lab, &watches, P::syn("198.51.100.9:1", VIP));
    let told = watching.take().decisions;
    let reasons: Vec<_> = told.iter().map(|it| it.explanation.outcome.reason()).collect();
    assert_eq!(reasons, [Some("no_flow"), Some("ports_exhausted")]);
    for decision in &told {
        let says = |step: &Step| matches!(step, Step::Refused { .. });
        let steps = &decision.explanation.steps;
        assert_eq!(steps.iter().filter(|step| says(step)).count(), 1, "{steps:?}");
    }
}

#[test]
fn what_a_filter_does_not_take_and_what_is_for_nobody_is_not_told() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let other = FlowFilter { vip_port: Some(81), ..FlowFilter::default() };
    let established = FlowFilter { stage: Some(FlowStage::Established), ..FlowFilter::default() };
    let server = FlowFilter { server: Some("none".into()), ..FlowFilter::default() };
    for filter in [other, established, server] {
        let (watches, watching) = watch(filter.clone());
        send(&mut lab, &watches, P::syn("198.51.100.9:1", VIP));
        assert!(watching.take().decisions.is_empty(), "{filter:?}");
    }
    let (watches, watching) = watch(FlowFilter::default());
    send(&mut lab, &watches, P::syn(CLIENT, "192.0.2.99:80"));
    assert!(watching.take().decisions.is_empty());
}

#[test]
fn a_packet_is_forwarded_the_same_whether_or_not_somebody_watches() {
    let mut plain = Lab::passthrough((40000, 40099), 3);
    let mut watched = Lab::passthrough((40000, 40099), 3);
    let none: Arc<Watches<LiveDecision>> = Arc::default();
    let (watches, _watching) = watch(FlowFilter::default());
    for n in 0..50 {
        let client = format!("198.51.100.7:{}", 5000 + n);
        let frames = [(&mut plain, &none), (&mut watched, &watches)]
            .map(|(lab, watches)| send(lab, watches, P::syn(&client, VIP)));
        assert_eq!(frames[0], frames[1], "{client}");
    }
}

/// A program's decision that is the same as this one of a worker on a packet from a client.
fn by_program(lab: &Lab, told: &LiveDecision, met: Option<FlowState>) -> Decided {
    let e = &told.explanation;
    let (_, _, address) = e.server.clone().unwrap();
    let address = address.ip().unwrap();
    let server =
        lab.snapshot.servers().find(|(_, s)| (s.address, s.port) == (address.ip().into(), address.port()));
    let frontend = lab.snapshot.frontends().find(|(_, f)| Some(&*f.name) == e.frontend.as_deref());
    let forwarded = Forwarded {
        frontend: frontend.unwrap().0,
        server: server.unwrap().0,
        direction: e.direction.unwrap(),
        met,
        rewritten: e.rewritten.unwrap(),
    };
    let LiveDecision { protocol, source, destination, .. } = *told;
    Decided { protocol, source, destination, fate: Fate::Forwarded(forwarded) }
}

/// What is told of it to one with this filter.
fn told_of(lab: &mut Lab, decided: &Decided, filter: FlowFilter) -> Vec<LiveDecision> {
    let (watches, watching) = watch(filter);
    decided.tell(
        &watches.current(),
        &lab.snapshot,
        &lab.next_hops,
        &mut lab.worker,
        Nanos::from_millis(1000),
    );
    watching.take().decisions
}

#[test]
fn what_a_program_decided_is_told_as_a_worker_would_and_to_whoever_wants_it() {
    let mut lab = Lab::passthrough((40000, 40099), 3);
    let (watches, watching) = watch(FlowFilter::default());
    let packets = [
        (P::syn(CLIENT, VIP), None, FlowStage::New),
        (P::syn(CLIENT, VIP), Some(FlowState::SynSent), FlowStage::New),
    ];
    for (packet, met, stage) in packets {
        send(&mut lab, &watches, packet);
        let by_worker = watching.take().decisions.remove(0);
        let decided = by_program(&lab, &by_worker, met);
        let is = |stage| FlowFilter { stage: Some(stage), ..FlowFilter::default() };
        let told = told_of(&mut lab, &decided, is(stage));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].explanation, by_worker.explanation);
        assert!(told_of(&mut lab, &decided, is(FlowStage::Established)).is_empty());
        let other = FlowFilter { frontend: Some("other".into()), ..FlowFilter::default() };
        assert!(told_of(&mut lab, &decided, other).is_empty());
        let Fate::Forwarded(forwarded) = decided.fate else { panic!("{decided:?}") };
        let gone = Forwarded { server: 999, ..forwarded };
        assert!(
            told_of(&mut lab, &Decided { fate: Fate::Forwarded(gone), ..decided }, FlowFilter::default())
                .is_empty()
        );
    }
}

#[test]
fn what_a_program_dropped_is_told_with_the_reason_unless_it_is_nobodys() {
    let mut lab = Lab::passthrough((40000, 40099), 1);
    let dropped = |destination: &str| Decided {
        protocol: convey_core::Protocol::Tcp,
        source: CLIENT.parse().unwrap(),
        destination: destination.parse().unwrap(),
        fate: Fate::Dropped(DropReason::BadTcpFlags),
    };
    let told = told_of(&mut lab, &dropped(VIP), FlowFilter::default());
    let e = &told[0].explanation;
    assert_eq!(e.outcome, Outcome::Drop(DropReason::BadTcpFlags));
    assert_eq!(e.steps[1..], [Step::Refused { reason: DropReason::BadTcpFlags }], "{:?}", e.steps);
    assert!(told_of(&mut lab, &dropped("192.0.2.99:80"), FlowFilter::default()).is_empty());
}
