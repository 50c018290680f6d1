//! What would become of a packet, step by step, by the functions that forward; nothing is changed.

use std::net::{IpAddr, SocketAddr};

use convey_core::Protocol;
use convey_core::conntrack::Direction;
use convey_core::selection::Balance;
use convey_packet::{Addr, TCP, Tcp, Tuple, UDP, tcp_flags};

use crate::explanation::{Explanation, Interface, Outcome, Step};
use crate::next_hop::{Missing, NextHops};
use crate::routes::Path;
use crate::selection::{Owner, Selection, flow_key, nat_paths, owner, select_server};
use crate::snapshot::{Method, PacketFrontend, PacketServer, PacketSnapshot, Placement};
use crate::transport::Transport;
use crate::verdict::{DropReason, PassReason};
use crate::worker::Worker;

/// Explains what would become of the first packet (TCP: a SYN) from `source` to `destination`, or, where a flow
/// is known, of its next. `worker` must be the one the packet is steered to.
pub fn explain(
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) -> Explanation {
    let number = number_of(protocol);
    let tuple = Tuple {
        source: source.ip().into(),
        source_port: source.port(),
        destination: destination.ip().into(),
        destination_port: destination.port(),
    };
    let mut e = Explanation::default();
    if snapshot.options().local_addresses.contains(&source.ip()) && !source.ip().is_unspecified() {
        let host = source.ip();
        if matches!(owner(number, &tuple, snapshot, worker), Owner::Frontend(_)) {
            e.steps.push(Step::OwnAddress { source: host, destination });
            return e.ended(Outcome::Pass(PassReason::NotVip));
        }
    }
    explain_tuple(e, protocol, None, &tuple, snapshot, next_hops, worker)
}

/// Of a packet with this tuple that has come in, or, without a `transport`, may come.
pub(crate) fn explain_tuple(
    mut e: Explanation,
    protocol: Protocol,
    transport: Option<Transport>,
    tuple: &Tuple,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) -> Explanation {
    let number = number_of(protocol);
    let source = socket(tuple.source, tuple.source_port);
    let destination = socket(tuple.destination, tuple.destination_port);
    match owner(number, tuple, snapshot, worker) {
        Owner::Frontend(slot) => {
            let of = (protocol, transport);
            from_client(&mut e, slot, tuple, of, snapshot, next_hops, worker);
        }
        Owner::Reply(_, flow) => {
            e.answers(destination.port(), flow.state.name(), snapshot.server(flow.server));
            if let Some(frontend) = snapshot.frontend(flow.frontend) {
                e.frontend = Some(frontend.name.to_string());
                let client = socket(Addr::from_bits(flow.client), flow.client_port);
                e.rewritten = Some((socket(frontend.address, frontend.port), client));
                e.rewritten_step();
                e.route(next_hops, frontend.address.into(), client.ip());
            }
        }
        Owner::StrayReply => {
            e.steps.push(Step::StrayPort { port: destination.port(), server: source });
            e.outcome = Outcome::Refuse(DropReason::NoFlow);
        }
        Owner::Nobody => {
            e.steps.push(Step::NotOurs { destination });
            e.outcome = Outcome::Pass(PassReason::NotVip);
        }
    }
    e
}

fn from_client(
    e: &mut Explanation,
    slot: u16,
    tuple: &Tuple,
    (protocol, transport): (Protocol, Option<Transport>),
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) {
    let met = flow_key(slot, number_of(protocol), tuple, transport.as_ref(), snapshot, worker);
    let key = met.key;
    let Some(frontend) = snapshot.frontend(key.frontend) else { return };
    e.listens(frontend);
    let transport = transport.unwrap_or_else(|| match protocol {
        // Of a known flow, its next packet; else its first.
        Protocol::Tcp => {
            let is_known = met.flow.is_some_and(|(_, flow)| flow.is_live());
            let flags = if is_known { tcp_flags::ACK } else { tcp_flags::SYN };
            Transport::Tcp(Tcp { seq: 0, ack: 0, flags, payload_len: 0, window: 0, window_scale: None })
        }
        Protocol::Udp => Transport::Udp { payload_len: 0 },
    });
    let mut nat = None;
    let server_slot = match select_server(&met, &transport, frontend, snapshot, worker) {
        Ok(Selection::Known(_, flow)) => {
            e.flow = Some(flow.state.name());
            e.steps.push(Step::KnownFlow { state: flow.state.name() });
            if let Some(address) = worker.nat_address(flow) {
                nat = Some((Addr::from_bits(address), flow.nat_port));
            }
            flow.server
        }
        Ok(Selection::New { slot, server, .. } | Selection::HashRouted { slot, server, .. }) => {
            e.by_table(slot, server, frontend.balance, snapshot.place(frontend, &key), snapshot);
            server
        }
        Err(DropReason::Denied) => {
            e.denied(tuple.source.into(), frontend);
            e.outcome = Outcome::Drop(DropReason::Denied);
            return;
        }
        Err(reason) => {
            e.steps.push(Step::Refused { reason });
            e.outcome = Outcome::Refuse(reason);
            return;
        }
    };
    let Some(server) = snapshot.server(server_slot) else { return };
    e.server(server);
    let (source, destination) = match server.method {
        Method::Nat => {
            let first = nat_paths(frontend, server, &key).next().map(|path| (Addr::from_bits(path.nat), 0));
            let (address, port) = nat.or(first).unwrap_or((frontend.address, 0));
            (socket(address, port), socket(server.address, server.port))
        }
        Method::Rewrite => {
            (socket(tuple.source, tuple.source_port), socket(server.address, tuple.destination_port))
        }
        Method::L2 => {
            (socket(tuple.source, tuple.source_port), socket(tuple.destination, tuple.destination_port))
        }
    };
    e.rewritten = Some((source, destination));
    e.rewritten_step();
    if server.method == Method::Rewrite && server.address == tuple.source {
        e.steps.push(Step::ServerIsClient);
        e.outcome = Outcome::Refuse(DropReason::ServerIsClient);
        return;
    }
    e.route(next_hops, source.ip(), server.address.into());
}

impl Explanation {
    fn ended(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// It is for this frontend.
    pub(crate) fn listens(&mut self, frontend: &PacketFrontend) {
        self.direction = Some(Direction::FromClient);
        let name = frontend.name.to_string();
        self.frontend = Some(name.clone());
        self.steps.push(if frontend.has_left() {
            Step::ListensNoLonger { frontend: name }
        } else {
            Step::Listens { frontend: name }
        });
    }

    /// The lists of its frontend deny the client.
    pub(crate) fn denied(&mut self, client: IpAddr, frontend: &PacketFrontend) {
        let network = frontend.access.as_ref().and_then(|access| access.judge(client).network);
        self.steps.push(Step::Denied { client, network });
    }

    /// It comes from a server, to the port of a flow in this state.
    pub(crate) fn answers(&mut self, port: u16, state: &'static str, server: Option<&PacketServer>) {
        self.direction = Some(Direction::FromServer);
        self.flow = Some(state);
        self.steps.push(Step::FlowPort { port, state });
        if let Some(server) = server {
            self.server(server);
        }
    }

    /// The flow table does not know it: it gets the server in `server` by its slot of the Maglev table.
    pub(crate) fn by_table(
        &mut self,
        slot: usize,
        server: u16,
        balance: Balance,
        place: Placement,
        snapshot: &PacketSnapshot,
    ) {
        let by_source = matches!(balance, Balance::SourceHash { .. });
        self.maglev_slot = Some(slot);
        if snapshot.is_minimal() {
            self.table(slot, server, place, snapshot);
        } else {
            self.steps.extend([Step::NewFlow, Step::MaglevSlot { slot, by_source }]);
        }
    }

    /// Minimal tracking: what the table says of a flow that it does not remember.
    fn table(&mut self, slot: usize, server: u16, place: Placement, snapshot: &PacketSnapshot) {
        self.steps.push(if place.previous.is_some() { Step::NotRemembered } else { Step::NotTracked });
        self.steps.push(Step::MaglevSlot { slot, by_source: false });
        let other = place.previous.filter(|previous| *previous != server);
        if let Some(other) = other.and_then(|slot| snapshot.server(slot)) {
            let addr = socket(other.address, other.port);
            self.steps.push(Step::SlotMoved {
                backend: other.backend.to_string(),
                name: other.name.to_string(),
                addr,
            });
        }
    }

    pub(crate) fn server(&mut self, server: &PacketServer) {
        let address = socket(server.address, server.port);
        let (backend, name) = (server.backend.to_string(), server.name.to_string());
        self.steps.push(Step::Server { backend: backend.clone(), name: name.clone(), addr: address.into() });
        self.server = Some((backend, name, address.into()));
        self.method = Some(server.method);
    }

    pub(crate) fn rewritten_step(&mut self) {
        if let Some((source, destination)) = self.rewritten {
            self.steps.push(match self.method {
                Some(Method::L2) => Step::MacsOnly,
                _ => Step::Rewritten { source, destination },
            });
        }
    }

    pub(crate) fn route(&mut self, next_hops: &NextHops, from: IpAddr, to: IpAddr) {
        let path = Path { source: from, destination: to, ingress: 0 };
        let (step, outcome) = match next_hops.lookup(&path) {
            Ok(hop) if self.method == Some(Method::L2) && !hop.on_link => {
                (Step::BehindRouter { address: to }, Outcome::Drop(DropReason::ServerNotOnLink))
            }
            Ok(hop) => {
                self.next_hop = Some(hop);
                (Step::Sent { interface: Interface::of(hop.ifindex), mtu: hop.mtu }, Outcome::Forward)
            }
            Err(missing) => {
                let (step, reason) = match missing {
                    Missing::Neighbour { address, ifindex } => (
                        Step::NoNeighbour { address, interface: Interface::of(ifindex) },
                        DropReason::NoNextHop,
                    ),
                    Missing::Route => (Step::NoRoute { address: to }, DropReason::NoNextHop),
                    Missing::Link { ifindex } => (
                        Step::NoLink { address: to, interface: Interface::of(ifindex) },
                        DropReason::NoNextHop,
                    ),
                    Missing::Rejected(reject) => {
                        (Step::RouteRejected { address: to, reject }, DropReason::RouteRejected)
                    }
                };
                (step, Outcome::Drop(reason))
            }
        };
        self.steps.push(step);
        self.outcome = outcome;
    }
}

pub(crate) const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

pub(crate) fn socket(address: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
