//! What programs in the kernel decided on packets that somebody watches, told as the decisions of a worker are. Nothing
//! is decided anew: what is told is what was done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use convey_core::conntrack::{Direction, FlowKey, FlowState};
use convey_core::{FlowFilter, Protocol, Watch};
use convey_packet::{Addr, Tuple};

use crate::explain::{number_of, socket};
use crate::explanation::{Explanation, Outcome, Step};
use crate::live::{LiveDecision, takes_choice, takes_ends, takes_flow};
use crate::meta::Nanos;
use crate::next_hop::NextHops;
use crate::selection::{Owner, owner};
use crate::snapshot::{Method, PacketSnapshot};
use crate::verdict::DropReason;
use crate::worker::Worker;

/// A program's decision on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// Of the packet.
    pub protocol: Protocol,
    /// Where it came from.
    pub source: SocketAddr,
    /// What it was sent to.
    pub destination: SocketAddr,
    /// What was decided.
    pub fate: Fate,
}

/// What a program did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was sent on.
    Forwarded(Forwarded),
    /// It was dropped.
    Dropped(DropReason),
}

/// How a packet was sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Slot of its frontend.
    pub frontend: u16,
    /// Slot of its server.
    pub server: u16,
    /// Which way.
    pub direction: Direction,
    /// The state that its flow was in; `None`: the flow table did not know it.
    pub met: Option<FlowState>,
    /// Its source and destination from then on; with [`Method::L2`] it keeps its own.
    pub rewritten: (SocketAddr, SocketAddr),
}

impl Decided {
    /// Tells those of `watches` that take it. Nobody, once whatever it belonged to has left the tables.
    pub fn tell(
        &self,
        watches: &[Arc<Watch<LiveDecision>>],
        snapshot: &PacketSnapshot,
        next_hops: &NextHops,
        worker: &mut Worker,
        now: Nanos,
    ) {
        if watches.is_empty() {
            return;
        }
        let told = |explanation: &Explanation, takes_ends: &dyn Fn(&FlowFilter) -> bool| {
            let takes = |watch: &&Arc<Watch<LiveDecision>>| {
                takes_ends(&watch.filter) && takes_choice(&watch.filter, explanation) && watch.has_room()
            };
            let Self { protocol, source, destination, .. } = *self;
            for watch in watches.iter().filter(takes) {
                let (at, explanation) = (SystemTime::now(), explanation.clone());
                watch.tell(LiveDecision { at, protocol, source, destination, explanation });
            }
        };
        match &self.fate {
            Fate::Forwarded(forwarded) => {
                let Some(e) = self.forwarded(forwarded, snapshot, next_hops) else { return };
                let (client, vip) = match forwarded.direction {
                    Direction::FromClient => (self.source, self.destination),
                    Direction::FromServer => (forwarded.rewritten.1, forwarded.rewritten.0),
                };
                let frontend = e.frontend.as_deref().unwrap_or_default();
                told(&e, &|filter| takes_flow(filter, self.protocol, frontend, client, vip));
            }
            Fate::Dropped(reason) => {
                let tuple = self.tuple();
                worker.begin(snapshot, now);
                let owner = match owner(number_of(self.protocol), &tuple, snapshot, worker) {
                    // For the program its time was over.
                    Owner::Reply(..) if *reason == DropReason::NoFlow => Owner::StrayReply,
                    owner => owner,
                };
                let Some(e) = self.dropped(*reason, &owner, snapshot) else { return };
                told(&e, &|filter| takes_ends(filter, &owner, self.protocol, &tuple, snapshot));
            }
        }
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            source: self.source.ip().into(),
            source_port: self.source.port(),
            destination: self.destination.ip().into(),
            destination_port: self.destination.port(),
        }
    }

    fn forwarded(
        &self,
        forwarded: &Forwarded,
        snapshot: &PacketSnapshot,
        next_hops: &NextHops,
    ) -> Option<Explanation> {
        let Forwarded { frontend, server: slot, direction, met, mut rewritten } = *forwarded;
        let (number, frontend) = (frontend, snapshot.frontend(frontend)?);
        let server = snapshot.server(slot)?;
        let mut e = Explanation::default();
        let to = match direction {
            Direction::FromServer => {
                e.answers(self.destination.port(), met?.name(), Some(server));
                e.frontend = Some(frontend.name.to_string());
                rewritten.1.ip()
            }
            Direction::FromClient => {
                e.listens(frontend);
                match met {
                    Some(state) => {
                        e.flow = Some(state.name());
                        e.steps.push(Step::KnownFlow { state: state.name() });
                    }
                    None => {
                        let key = FlowKey {
                            client: Addr::from(self.source.ip()).bits(),
                            client_port: self.source.port(),
                            port: self.destination.port(),
                            frontend: number,
                        };
                        let place = snapshot.place(frontend, &key);
                        e.by_table(place.slot, slot, frontend.balance, place, snapshot);
                    }
                }
                e.server(server);
                if server.method == Method::L2 {
                    rewritten = (self.source, self.destination);
                }
                server.address.into()
            }
        };
        e.rewritten = Some(rewritten);
        e.rewritten_step();
        e.route(next_hops, rewritten.0.ip(), to);
        if e.outcome != Outcome::Forward {
            // That way is gone again, but it was sent.
            e.steps.pop();
            e.outcome = Outcome::Forward;
        }
        // The slot has gone to another meanwhile.
        let end = if direction == Direction::FromServer { self.source } else { rewritten.1 };
        (server.method == Method::L2 || end.ip() == socket(server.address, 0).ip()).then_some(e)
    }

    fn dropped(&self, reason: DropReason, owner: &Owner, snapshot: &PacketSnapshot) -> Option<Explanation> {
        let mut e = Explanation::default();
        match owner {
            Owner::Frontend(slot) => e.listens(snapshot.frontend(*slot)?),
            Owner::Reply(_, flow) => {
                let server = snapshot.server(flow.server);
                e.answers(self.destination.port(), flow.state.name(), server);
                e.frontend = snapshot.frontend(flow.frontend).map(|frontend| frontend.name.to_string());
            }
            Owner::StrayReply => {
                e.steps.push(Step::StrayPort { port: self.destination.port(), server: self.source });
            }
            Owner::Nobody => return None,
        }
        if let (DropReason::Denied, Owner::Frontend(slot)) = (reason, owner)
            && let Some(frontend) = snapshot.frontend(*slot)
        {
            e.denied(self.source.ip(), frontend);
        } else if !matches!(owner, Owner::StrayReply) {
            e.steps.push(Step::Refused { reason });
        }
        e.outcome = Outcome::Drop(reason);
        Some(e)
    }
}
