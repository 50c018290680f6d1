//! What would become of a packet, step by step, by the functions that forward; nothing is changed.

use std::net::{IpAddr, SocketAddr};

use convey_core::Protocol;
use convey_core::conntrack::{Direction, Flow};
use convey_packet::{Addr, TCP, Tcp, Tuple, UDP, tcp_flags};

use crate::next_hop::{Missing, NextHop, NextHops};
use crate::process::{Owner, Selection, flow_key, nat_paths, owner, select_server};
use crate::routes::{Path, Reject};
use crate::snapshot::{Method, PacketServer, PacketSnapshot};
use crate::transport::Transport;
use crate::worker::Worker;

/// The way of one packet through the balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// Name of the frontend it is for.
    pub frontend: Option<String>,
    /// State of its flow, where the flow table has one.
    pub flow: Option<&'static str>,
    /// Which way it goes.
    pub direction: Option<Direction>,
    /// The Maglev slot its hash names, where the table was asked.
    pub maglev_slot: Option<usize>,
    /// Backend, name and address of its server.
    pub server: Option<(String, String, SocketAddr)>,
    /// How the server is reached.
    pub method: Option<Method>,
    /// Source and destination once rewritten; a source port of 0 is one still to be taken.
    pub rewritten: Option<(SocketAddr, SocketAddr)>,
    /// Where it is sent.
    pub next_hop: Option<NextHop>,
    /// `forward`, or verdict and reason, such as `pass not_vip`, `refuse no_server`.
    pub verdict: String,
    /// All of that in sentences.
    pub steps: Vec<String>,
}

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
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
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
            e.step(format!("{host} is an address of this host: its packets to {destination} pass no link"));
            e.verdict("pass not_vip");
            return e;
        }
    }
    match owner(number, &tuple, snapshot, worker) {
        Owner::Frontend(slot) => from_client(&mut e, slot, &tuple, protocol, snapshot, next_hops, worker),
        Owner::Reply(id) => {
            let Some(flow) = worker.flow(id).copied() else { return e };
            e.direction = Some(Direction::FromServer);
            e.flow = Some(flow.state.name());
            e.step(format!("port {} belongs to a flow ({})", destination.port(), flow.state.name()));
            if let Some(server) = snapshot.server(flow.server) {
                e.server(server);
            }
            if let Some(frontend) = snapshot.frontend(flow.frontend) {
                e.frontend = Some(frontend.name.to_string());
                let client = socket(Addr::from_bits(flow.client), flow.client_port);
                e.rewritten = Some((socket(frontend.address, flow.port), client));
                e.rewritten_step();
                e.route(next_hops, frontend.address.into(), client.ip());
            }
        }
        Owner::StrayReply => {
            e.step(format!("no flow holds port {} towards {source}", destination.port()));
            e.verdict("refuse no_flow");
        }
        Owner::Nobody => {
            e.step(format!("no frontend listens on {destination} and no flow answers to it"));
            e.verdict("pass not_vip");
        }
    }
    e
}

fn from_client(
    e: &mut Explanation,
    slot: u16,
    tuple: &Tuple,
    protocol: Protocol,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) {
    let number = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let key = flow_key(slot, number, tuple, None, snapshot, worker);
    let Some(frontend) = snapshot.frontend(key.frontend) else { return };
    e.direction = Some(Direction::FromClient);
    e.frontend = Some(frontend.name.to_string());
    if frontend.has_left() {
        e.step(format!("frontend \"{}\" no longer listens there; it keeps the flows it has", frontend.name));
    } else {
        e.step(format!("frontend \"{}\" listens there", frontend.name));
    }
    let transport = match protocol {
        // Of a known flow, its next packet; else its first.
        Protocol::Tcp => {
            let is_known = worker.lookup(&key).and_then(|id| worker.flow(id)).is_some_and(Flow::is_live);
            let flags = if is_known { tcp_flags::ACK } else { tcp_flags::SYN };
            Transport::Tcp(Tcp { seq: 0, ack: 0, flags, payload_len: 0, window: 0, window_scale: None })
        }
        Protocol::Udp => Transport::Udp { payload_len: 0 },
    };
    let mut nat = None;
    let server_slot = match select_server(&key, &transport, frontend, snapshot, worker) {
        Ok(Selection::Known(_, flow)) => {
            e.flow = Some(flow.state.name());
            e.step(format!("the flow table knows it ({})", flow.state.name()));
            if let Some(address) = worker.nat_address(&flow) {
                nat = Some((Addr::from_bits(address), flow.nat_port));
            }
            flow.server
        }
        Ok(Selection::New { slot, server, .. } | Selection::HashRouted { slot, server }) => {
            e.step("the flow table does not know it".into());
            e.maglev_slot = Some(slot);
            e.step(format!("its hash names slot {slot} of the Maglev table"));
            server
        }
        Err(reason) => {
            e.step(format!("it is refused: {}", reason.name()));
            e.verdict(&format!("refuse {}", reason.name()));
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
        e.step("the server is its own client: it would take the packet for a forged one".into());
        e.verdict("refuse server_is_client");
        return;
    }
    e.route(next_hops, source.ip(), server.address.into());
}

impl Explanation {
    fn step(&mut self, text: String) {
        self.steps.push(text);
    }

    fn verdict(&mut self, verdict: &str) {
        self.verdict = verdict.into();
        self.steps.push(format!("verdict: {verdict}"));
    }

    fn server(&mut self, server: &PacketServer) {
        let address = socket(server.address, server.port);
        self.step(format!("server \"{}\" of backend \"{}\", {address}", server.name, server.backend));
        self.server = Some((server.backend.to_string(), server.name.to_string(), address));
        self.method = Some(server.method);
    }

    fn rewritten_step(&mut self) {
        if let Some((source, destination)) = self.rewritten {
            self.step(match self.method {
                Some(Method::L2) => "only its MAC addresses change".into(),
                _ if source.port() == 0 => {
                    format!("rewritten to {} (a free port) -> {destination}", source.ip())
                }
                _ => format!("rewritten to {source} -> {destination}"),
            });
        }
    }

    fn route(&mut self, next_hops: &NextHops, from: IpAddr, to: IpAddr) {
        let path = Path { source: from, destination: to, ingress: 0 };
        match next_hops.lookup(&path) {
            Ok(hop) if self.method == Some(Method::L2) && !hop.on_link => {
                self.step(format!("{to} is behind a router, which method \"l2\" does not reach"));
                self.verdict("drop server_not_on_link");
            }
            Ok(hop) => {
                self.next_hop = Some(hop);
                self.step(format!("sent on interface {} (MTU {})", hop.ifindex, hop.mtu));
                self.verdict("forward");
            }
            Err(Missing::Neighbour { address, ifindex }) => {
                self.step(format!("the MAC address of {address} on interface {ifindex} is not known yet"));
                self.verdict("drop no_next_hop");
            }
            Err(Missing::Route) => {
                self.step(format!("no route leads to {to}"));
                self.verdict("drop no_next_hop");
            }
            Err(Missing::Link { ifindex }) => {
                self.step(format!(
                    "the route to {to} is over interface {ifindex}, no Ethernet link that is up"
                ));
                self.verdict("drop no_next_hop");
            }
            Err(Missing::Rejected(reject)) => {
                let kind = match reject {
                    Reject::Blackhole => "blackhole",
                    Reject::Unreachable => "unreachable",
                    Reject::Prohibit => "prohibit",
                };
                self.step(format!("the route to {to} is of type {kind}"));
                self.verdict("drop route_rejected");
            }
        }
    }
}

fn socket(address: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
