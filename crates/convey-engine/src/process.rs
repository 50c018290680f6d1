//! The decision: what becomes of one frame.
//!
//! A frame is parsed; it is for a frontend, or an answer from a server, or an ICMP error about one of the two,
//! or none of ours. Everything that can fail comes before the first byte or flow is changed.

use convey_core::conntrack::{Direction, Flow, FlowId};
use convey_packet::{Addr, Deltas, Fragment, Ip, IpError, Part, Ports, TCP, Tuple, UDP, rewrite};

use crate::accounts::{account, count_refusal};
use crate::follow;
use crate::hop_cache::HopCache;
use crate::icmp;
use crate::meta::{FrameMeta, Nanos};
use crate::next_hop::{NextHop, NextHops};
use crate::packet::{Obstacle, Packet};
use crate::selection::{Owner, Selection, flow_key, nat_paths, owner, select_server};
use crate::snapshot::{Method, PacketServer, PacketSnapshot};
use crate::transport::Transport;
use crate::verdict::{DropReason, Note, PassReason, Verdict};
use crate::worker::{NewFlow, Worker};

/// Spare bytes a buffer needs behind the frame so that an ICMP error can be built in place.
pub const REPLY_HEADROOM: usize = 64;

/// Decides about the frame in `buffer[..len]`, rewrites it in place and counts it.
///
/// `buffer` begins with the Ethernet header and should be [`REPLY_HEADROOM`] bytes longer than the frame.
/// `now` should never go back; if it does, it stands still.
pub fn process(
    buffer: &mut [u8],
    len: usize,
    meta: &FrameMeta,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &mut Worker,
    now: Nanos,
) -> Verdict {
    worker.begin(snapshot, now);
    let verdict = match decide(buffer, len, meta, snapshot, next_hops, worker) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    worker.count(&verdict);
    verdict
}

fn decide(
    buffer: &mut [u8],
    len: usize,
    meta: &FrameMeta,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &mut Worker,
) -> Result<Verdict, Verdict> {
    let len = len.min(buffer.len());
    let frame = &buffer[..len];
    let ip = Ip::parse(frame, meta.gso.is_some()).map_err(not_ip)?;
    if ip.is_icmp() {
        return icmp::decide(buffer, len, &ip, meta, snapshot, next_hops, worker);
    }
    if ip.fragment == Fragment::Later {
        return follow::follow(buffer, &ip, meta, snapshot, next_hops, worker);
    }
    if ip.protocol != TCP && ip.protocol != UDP {
        return Err(Verdict::Pass(PassReason::OtherProtocol));
    }
    let ports = Ports::parse(frame, &ip).map_err(|_| Verdict::Drop(DropReason::Truncated))?;
    let tuple = Tuple {
        source: ip.source,
        source_port: ports.source,
        destination: ip.destination,
        destination_port: ports.destination,
    };
    let owner = owner(ip.protocol, &tuple, snapshot, worker);
    if matches!(owner, Owner::Nobody) {
        return Err(Verdict::Pass(PassReason::NotVip));
    }
    if !ip.source.is_valid_source() || ip.source == ip.destination {
        return Err(Verdict::Drop(DropReason::BadSource));
    }
    let part = Part::parse(frame, &ip);
    if let Some(part) = &part {
        follow::check_first(&ip, part, worker).map_err(Verdict::Drop)?;
    }
    let verdict = match Transport::parse(frame, &ip, meta) {
        Err(reason) => Err(Verdict::Drop(reason)),
        Ok(transport) => {
            let packet = Packet { ip, ports, transport, part: part.as_ref(), meta };
            match owner {
                Owner::Frontend(slot) => from_client(buffer, &packet, slot, snapshot, next_hops, worker),
                Owner::Reply(id, flow) => {
                    from_server(buffer, &packet, (id, &flow), snapshot, next_hops, worker)
                }
                Owner::StrayReply => Err(packet.refuse(buffer, DropReason::NoFlow, snapshot)),
                Owner::Nobody => Err(Verdict::Pass(PassReason::NotVip)),
            }
        }
    };
    if let (Some(part), Err(Verdict::Drop(_) | Verdict::Reply(_))) = (&part, &verdict) {
        follow::refuse(&ip, part, worker);
    }
    verdict
}

fn not_ip(error: IpError) -> Verdict {
    match error {
        IpError::NotIp => Verdict::Pass(PassReason::NotIp),
        IpError::Vlan => Verdict::Pass(PassReason::Vlan),
        IpError::Multicast => Verdict::Pass(PassReason::Multicast),
        IpError::OpaqueExtension => Verdict::Pass(PassReason::OpaqueExtension),
        IpError::Truncated => Verdict::Drop(DropReason::Truncated),
        IpError::BadHeader => Verdict::Drop(DropReason::BadIpHeader),
        IpError::BadChecksum => Verdict::Drop(DropReason::BadIpChecksum),
        IpError::ExtensionChain => Verdict::Drop(DropReason::ExtensionChain),
    }
}

fn from_client(
    buffer: &mut [u8],
    packet: &Packet<'_>,
    slot: u16,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &mut Worker,
) -> Result<Verdict, Verdict> {
    let not_vip = Verdict::Pass(PassReason::NotVip);
    let met = flow_key(slot, packet.ip.protocol, &packet.tuple(), Some(&packet.transport), snapshot, worker);
    let (key, slot) = (met.key, met.key.frontend);
    let frontend = snapshot.frontend(slot).ok_or(not_vip)?;
    let selection = match select_server(&met, &packet.transport, frontend, snapshot, worker) {
        Ok(selection) => selection,
        Err(reason) => {
            count_refusal(reason, frontend, snapshot);
            // Whoever is not wanted learns nothing.
            if reason == DropReason::Denied {
                return Err(Verdict::Drop(reason));
            }
            return Err(packet.refuse(buffer, reason, snapshot));
        }
    };
    let server_slot = match &selection {
        Selection::Known(_, flow) => flow.server,
        Selection::New { server, .. } | Selection::HashRouted { server, .. } => *server,
    };
    let server = snapshot.server(server_slot).ok_or(Verdict::Drop(DropReason::NoServer))?;
    if server.method == Method::Rewrite && server.address == packet.ip.source {
        return Err(packet.refuse(buffer, DropReason::ServerIsClient, snapshot));
    }
    let from = match &selection {
        _ if server.method != Method::Nat => packet.ip.source,
        Selection::Known(_, flow) => worker.nat_address(flow).map_or(frontend.address, Addr::from_bits),
        _ => nat_paths(frontend, server, &key)
            .next()
            .map_or(frontend.address, |path| Addr::from_bits(path.nat)),
    };
    let hop = next_hop(packet, [from, server.address], server.method, next_hops, &mut worker.hops)
        .map_err(|obstacle| stopped_by(obstacle, buffer, packet, snapshot, worker))?;

    let flow = match selection {
        Selection::Known(id, flow) => {
            Some(worker.advance(id, flow, Direction::FromClient, &packet.transport, snapshot))
        }
        Selection::New { server: chosen, replaces, .. } => {
            if let Some(old) = replaces {
                worker.end_flow(old, snapshot);
            }
            let nat = (server.method == Method::Nat).then(|| nat_paths(frontend, server, &key));
            let new = NewFlow { met: &met, server: chosen, nat };
            match worker.begin_flow(&new, &packet.transport, snapshot) {
                Ok(flow) => Some(flow),
                // DSR needs no state to go on.
                Err(_) if server.method != Method::Nat => None,
                Err(reason) => {
                    count_refusal(reason, frontend, snapshot);
                    return Err(packet.refuse(buffer, reason, snapshot));
                }
            }
        }
        Selection::HashRouted { replaces, .. } => {
            if let Some(old) = replaces {
                worker.end_flow(old, snapshot);
            }
            None
        }
    };
    if snapshot.is_minimal() {
        let place = snapshot.place(frontend, &key);
        if place.previous.is_some() && place.server != Some(server_slot) {
            snapshot.went_elsewhere(frontend, place.slot, worker.now());
        }
    }
    let flow = flow.unwrap_or_else(|| {
        // Without flows that is how packets go.
        if !snapshot.is_minimal() {
            worker.note(Note::HashRouted);
        }
        Flow { frontend: slot, server: server_slot, ..Flow::default() }
    });
    account(
        (flow.frontend, flow.server),
        Direction::FromClient,
        packet.transport.payload_len(),
        snapshot,
        worker.index(),
    );
    let to = towards_server(packet, &flow, server, worker);
    if server.method != Method::L2 {
        let deltas = Deltas::between(&packet.tuple(), &to);
        rewrite::rewrite_tuple(buffer, &packet.ip, &to, deltas, packet.is_partial());
    }
    let slots = (flow.frontend, (flow.server, server));
    follow::send_on(buffer, packet, &to, Direction::FromClient, slots, worker);
    Ok(packet.forward(buffer, &to, server.method, &hop))
}

fn from_server(
    buffer: &mut [u8],
    packet: &Packet<'_>,
    (id, flow): (FlowId, &Flow),
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &mut Worker,
) -> Result<Verdict, Verdict> {
    let no_flow = Verdict::Drop(DropReason::NoFlow);
    let frontend = snapshot.frontend(flow.frontend).ok_or(no_flow)?;
    let client = Addr::from_bits(flow.client);
    let hop = next_hop(packet, [frontend.address, client], Method::Nat, next_hops, &mut worker.hops)
        .map_err(|obstacle| stopped_by(obstacle, buffer, packet, snapshot, worker))?;
    worker.advance(id, flow, Direction::FromServer, &packet.transport, snapshot);
    account(
        (flow.frontend, flow.server),
        Direction::FromServer,
        packet.transport.payload_len(),
        snapshot,
        worker.index(),
    );
    let to = Tuple {
        source: frontend.address,
        source_port: frontend.port,
        destination: client,
        destination_port: flow.client_port,
    };
    let deltas = Deltas::between(&packet.tuple(), &to);
    rewrite::rewrite_tuple(buffer, &packet.ip, &to, deltas, packet.is_partial());
    if packet.part.is_some()
        && let Some(server) = snapshot.server(flow.server)
    {
        let slots = (flow.frontend, (flow.server, server));
        follow::send_on(buffer, packet, &to, Direction::FromServer, slots, worker);
    }
    Ok(packet.forward(buffer, &to, Method::Nat, &hop))
}

/// The next hop of a packet that becomes one from and to these addresses, and may go on there.
fn next_hop(
    packet: &Packet<'_>,
    addresses: [Addr; 2],
    method: Method,
    next_hops: &NextHops,
    found: &mut HopCache,
) -> Result<NextHop, Obstacle> {
    let hop = packet.next_hop(addresses, next_hops, found)?;
    packet.check_route(method, &hop)?;
    Ok(hop)
}

/// The verdict on a packet that cannot go on: its sender is told while the worker's ICMP budget lasts.
fn stopped_by(
    obstacle: Obstacle,
    buffer: &mut [u8],
    packet: &Packet<'_>,
    snapshot: &PacketSnapshot,
    worker: &mut Worker,
) -> Verdict {
    match obstacle {
        Obstacle::Told(error) => {
            let may_tell = worker.take_icmp_budget(snapshot.options().icmp_per_second);
            packet.tell_sender(buffer, error, may_tell)
        }
        Obstacle::Silent(verdict) => verdict,
    }
}

/// The tuple of a client's packet once rewritten.
fn towards_server(packet: &Packet<'_>, flow: &Flow, server: &PacketServer, worker: &Worker) -> Tuple {
    let from = packet.tuple();
    match (server.method, worker.nat_address(flow)) {
        (Method::Nat, Some(nat)) => Tuple {
            source: Addr::from_bits(nat),
            source_port: flow.nat_port,
            destination: server.address,
            destination_port: server.port,
        },
        (Method::L2, _) => from,
        _ => Tuple { destination: server.address, ..from },
    }
}
