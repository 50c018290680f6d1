//! Decisions on packets as they are made, for those who watch.
//!
//! A packet that a watch's filter takes is explained before it is decided about, by the same functions and the same
//! tables; the decision itself then puts right what could not be known before: the NAT port that was taken, and what
//! became of it. Not watched: fragments but the first, ICMP, what is for nobody here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use convey_core::conntrack::FlowState;
use convey_core::{FlowFilter, FlowStage, Protocol, Watch};
use convey_packet::{Addr, Fragment, Ip, Ports, TCP, Tuple, UDP};

use crate::explain::{explain_tuple, socket};
use crate::explanation::{Explanation, Outcome, Step};
use crate::meta::{FrameMeta, Nanos};
use crate::next_hop::NextHops;
use crate::selection::{Owner, owner};
use crate::snapshot::PacketSnapshot;
use crate::transport::Transport;
use crate::verdict::{DropReason, Verdict};
use crate::worker::Worker;

/// A decision that was made on a packet, or on a connection of proxy mode.
#[derive(Debug, Clone)]
pub struct LiveDecision {
    /// When.
    pub at: SystemTime,
    /// Of the packet.
    pub protocol: Protocol,
    /// Where it came from.
    pub source: SocketAddr,
    /// What it was sent to.
    pub destination: SocketAddr,
    /// The decision.
    pub explanation: Explanation,
}

/// A packet that somebody watches, before it is decided about.
#[derive(Debug)]
pub struct Looked {
    watches: Vec<Arc<Watch<LiveDecision>>>,
    decision: LiveDecision,
    is_gso: bool,
}

impl Looked {
    /// Looks at the frame in `frame`, unless none of `watches` takes it.
    pub fn at(
        watches: &[Arc<Watch<LiveDecision>>],
        frame: &[u8],
        meta: &FrameMeta,
        snapshot: &PacketSnapshot,
        next_hops: &NextHops,
        worker: &mut Worker,
        now: Nanos,
    ) -> Option<Self> {
        // So that flows whose time is over are so in both.
        worker.begin(snapshot, now);
        let is_gso = meta.gso.is_some();
        let (ip, tuple) = tuple_of(frame, is_gso)?;
        let protocol = if ip.protocol == UDP { Protocol::Udp } else { Protocol::Tcp };
        let owner = owner(ip.protocol, &tuple, snapshot, worker);
        let taken = |watch: &&Arc<Watch<LiveDecision>>| {
            takes_ends(&watch.filter, &owner, protocol, &tuple, snapshot) && watch.has_room()
        };
        let mut watches: Vec<_> = watches.iter().filter(taken).cloned().collect();
        if watches.is_empty() {
            return None;
        }
        let transport = Transport::parse(frame, &ip, meta).ok();
        let e = Explanation::default();
        let explanation = explain_tuple(e, protocol, transport, &tuple, snapshot, next_hops, worker);
        watches.retain(|watch| takes_choice(&watch.filter, &explanation));
        let (source, destination) =
            (socket(tuple.source, tuple.source_port), socket(tuple.destination, tuple.destination_port));
        let decision = LiveDecision { at: SystemTime::now(), protocol, source, destination, explanation };
        (!watches.is_empty()).then_some(Self { watches, decision, is_gso })
    }

    /// It was decided about so; `buffer` is what the frame has become.
    pub fn decided(mut self, verdict: &Verdict, buffer: &[u8]) {
        let e = &mut self.decision.explanation;
        let (outcome, reason) = match verdict {
            Verdict::Forward(forward) => {
                let frame = buffer.get(..forward.len).unwrap_or_default();
                if let Some((_, to)) = tuple_of(frame, self.is_gso) {
                    e.is_now(socket(to.source, to.source_port), socket(to.destination, to.destination_port));
                }
                (Outcome::Forward, None)
            }
            Verdict::Reply(reply) => (Outcome::Refuse(reply.reason), Some(reply.reason)),
            Verdict::Pass(reason) => (Outcome::Pass(*reason), None),
            Verdict::Drop(reason) => (Outcome::Drop(*reason), Some(*reason)),
            Verdict::Unresolved { .. } => (Outcome::Drop(DropReason::NoNextHop), None),
        };
        if let Some(reason) = reason
            && e.outcome.reason() != outcome.reason()
        {
            e.steps.push(Step::Refused { reason });
        }
        e.outcome = outcome;
        for watch in &self.watches {
            watch.tell(self.decision.clone());
        }
    }
}

impl Explanation {
    /// Its addresses have become these.
    fn is_now(&mut self, from: SocketAddr, to: SocketAddr) {
        self.rewritten = Some((from, to));
        for step in &mut self.steps {
            if let Step::Rewritten { source, destination } = step {
                (*source, *destination) = (from, to);
            }
        }
    }
}

/// Of a whole packet or a first fragment of TCP or UDP.
fn tuple_of(frame: &[u8], is_gso: bool) -> Option<(Ip, Tuple)> {
    let ip = Ip::parse(frame, is_gso).ok()?;
    if !matches!(ip.protocol, TCP | UDP) || ip.fragment == Fragment::Later {
        return None;
    }
    let ports = Ports::parse(frame, &ip).ok()?;
    let tuple = Tuple {
        source: ip.source,
        source_port: ports.source,
        destination: ip.destination,
        destination_port: ports.destination,
    };
    Some((ip, tuple))
}

/// Whether the two ends and the frontend are the filter's.
pub(crate) fn takes_ends(
    filter: &FlowFilter,
    owner: &Owner,
    protocol: Protocol,
    tuple: &Tuple,
    snapshot: &PacketSnapshot,
) -> bool {
    let (slot, client, vip) = match owner {
        Owner::Frontend(slot) => (
            *slot,
            socket(tuple.source, tuple.source_port),
            socket(tuple.destination, tuple.destination_port),
        ),
        Owner::Reply(_, flow) => {
            let Some(frontend) = snapshot.frontend(flow.frontend) else { return false };
            let client = socket(Addr::from_bits(flow.client), flow.client_port);
            (flow.frontend, client, socket(frontend.address, frontend.port))
        }
        // It belongs to no client.
        Owner::StrayReply => {
            let any = FlowFilter { protocol: filter.protocol, ..FlowFilter::default() };
            return *filter == any && filter.takes_frontend(protocol, "");
        }
        Owner::Nobody => return false,
    };
    let name = snapshot.frontend(slot).map(|frontend| &*frontend.name).unwrap_or_default();
    takes_flow(filter, protocol, name, client, vip)
}

/// Whether a flow of this client with this frontend is the filter's.
pub(crate) fn takes_flow(
    filter: &FlowFilter,
    protocol: Protocol,
    frontend: &str,
    client: SocketAddr,
    vip: SocketAddr,
) -> bool {
    filter.takes_frontend(protocol, frontend) && filter.takes_client(client) && filter.takes_vip(vip)
}

/// Whether server and state are.
pub(crate) fn takes_choice(filter: &FlowFilter, e: &Explanation) -> bool {
    let takes_server = match &e.server {
        Some((backend, name, _)) => filter.takes_server(backend, name),
        None => filter.backend.is_none() && filter.server.is_none(),
    };
    let state = e.flow.and_then(|name| FlowState::ALL.into_iter().find(|state| state.name() == name));
    takes_server && filter.takes_stage(state.map_or(FlowStage::New, FlowStage::of))
}
