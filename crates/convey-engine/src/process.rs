//! The decision: what becomes of one frame.
//!
//! A frame is parsed; it is for a frontend, or an answer from a server, or an ICMP error about one of the two,
//! or none of ours. Everything that can fail comes before the first byte or flow is changed.

use convey_core::conntrack::{Direction, Flow, FlowId, FlowKey, FlowState, flags, tcp};
use convey_packet::{Addr, Deltas, Fragment, Ip, IpError, Part, Ports, TCP, Tuple, UDP, rewrite, tcp_flags};

use crate::accounts::{account, count_refusal};
use crate::fragments;
use crate::hop_cache::HopCache;
use crate::icmp;
use crate::meta::{FrameMeta, Nanos};
use crate::next_hop::{NextHop, NextHops};
use crate::packet::{Obstacle, Packet};
use crate::snapshot::{Method, NatPath, PacketFrontend, PacketServer, PacketSnapshot, Standing};
use crate::steering::client_hash;
use crate::transport::Transport;
use crate::verdict::{DropReason, Note, PassReason, Verdict};
use crate::worker::{Met, NewFlow, Worker};

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

/// Where a TCP or UDP packet belongs.
pub(crate) enum Owner {
    /// A client's packet for the frontend in this slot.
    Frontend(u16),
    /// A server's packet for this flow.
    Reply(FlowId, Flow),
    /// A server's packet for a NAT port that no flow holds.
    StrayReply,
    /// Not ours.
    Nobody,
}

/// Whose packet it is, by protocol, addresses and ports.
pub(crate) fn owner(protocol: u8, tuple: &Tuple, snapshot: &PacketSnapshot, worker: &Worker) -> Owner {
    if let Some(slot) = snapshot.match_vip(protocol, tuple.destination, tuple.destination_port) {
        return Owner::Frontend(slot);
    }
    if !snapshot.is_passthrough() || !snapshot.options().nat_ports.contains(tuple.destination_port) {
        return Owner::Nobody;
    }
    let path = NatPath {
        nat: tuple.destination.bits(),
        server: tuple.source.bits(),
        port: tuple.source_port,
        protocol,
    };
    match worker.lookup_reply(&path, tuple.destination_port) {
        Some((id, flow)) => Owner::Reply(id, flow),
        None if snapshot.is_nat_path(&path) => Owner::StrayReply,
        None => Owner::Nobody,
    }
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
        return fragments::follow(buffer, &ip, meta, snapshot, next_hops, worker);
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
        fragments::check_first(&ip, part, worker).map_err(Verdict::Drop)?;
    }
    let verdict = match Transport::parse(frame, &ip, meta) {
        Err(reason) => Err(Verdict::Drop(reason)),
        Ok(transport) => {
            let packet = Packet { ip, ports, transport, part, meta };
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
        fragments::refuse(&ip, part, worker);
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

/// The flow and server of a client's packet.
pub(crate) enum Selection<'a> {
    /// A flow we know.
    Known(FlowId, &'a Flow),
    /// A flow that may begin, with the server it gets; `replaces` is the one with the same key that ends for it.
    New { slot: usize, server: u16, replaces: Option<FlowId> },
    /// DSR: the packet begins no flow and goes where its hash says.
    HashRouted { slot: usize, server: u16 },
}

/// The flow or the server that a client's packet gets, or why it gets none. Changes nothing.
pub(crate) fn select_server<'a>(
    met: &'a Met,
    transport: &Transport,
    frontend: &PacketFrontend,
    snapshot: &PacketSnapshot,
    worker: &Worker,
) -> Result<Selection<'a>, DropReason> {
    let is_syn = matches!(transport, Transport::Tcp(t) if t.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN);
    let is_reset = matches!(transport, Transport::Tcp(t) if t.has(tcp_flags::RST));
    let is_tcp = matches!(transport, Transport::Tcp(_));
    let key = &met.key;
    let replaces = match &met.flow {
        Some((id, flow)) if !begins_anew(flow, transport, snapshot) => {
            return Ok(Selection::Known(*id, flow));
        }
        Some((id, flow)) => Some((*id, flow)),
        None => None,
    };
    if frontend.has_left() {
        return match replaces {
            // A conversation has nothing to lose.
            Some((id, flow)) if !is_tcp => Ok(Selection::Known(id, flow)),
            _ => Err(DropReason::FrontendLeft),
        };
    }
    if snapshot.is_passthrough() && is_tcp && !is_syn {
        return Err(DropReason::NoFlow);
    }
    let client = Addr::from_bits(key.client);
    let (slot, server) = match (snapshot.select(frontend, client, key.client_port, key.port), replaces) {
        (Some(selected), _) => selected,
        // Checks that fail everywhere may be wrong; a conversation has nothing to lose.
        (None, Some((id, flow))) if !is_tcp => return Ok(Selection::Known(id, flow)),
        (None, _) => return Err(DropReason::NoServer),
    };
    if is_reset {
        return Ok(Selection::HashRouted { slot, server });
    }
    // In DSR two forged packets make a connection, and one that a server ended is not seen to end: a limit
    // there would lock real clients out.
    if snapshot.is_passthrough() {
        check_limits(server, replaces.map(|(_, flow)| flow), frontend, snapshot)?;
    }
    // What it replaces leaves its place behind.
    if replaces.is_none() && !worker.has_room(met) {
        return Err(DropReason::FlowTableFull);
    }
    Ok(Selection::New { slot, server, replaces: replaces.map(|(id, _)| id) })
}

/// The key of a client's packet, and what there is of it: under the frontend in `slot`, which listens there, unless one that did before has
/// the flow. `None` as `transport`: for any packet of the flow.
pub(crate) fn flow_key(
    slot: u16,
    protocol: u8,
    tuple: &Tuple,
    transport: Option<&Transport>,
    snapshot: &PacketSnapshot,
    worker: &Worker,
) -> Met {
    let key = FlowKey {
        client: tuple.source.bits(),
        client_port: tuple.source_port,
        port: tuple.destination_port,
        frontend: slot,
    };
    let met = worker.find(&key);
    let goes_on = |met: &Met| {
        met.flow.is_some_and(|(_, flow)| !transport.is_some_and(|t| begins_anew(&flow, t, snapshot)))
    };
    let mut former = snapshot
        .former_vips(protocol, tuple.destination, tuple.destination_port)
        .filter(|former| *former != slot)
        .map(|frontend| worker.find(&FlowKey { frontend, ..key }));
    if met.flow.is_some() {
        return met;
    }
    former.find(goes_on).unwrap_or(met)
}

/// Whether a client's packet ends the live flow it belongs to and begins another with the same key.
fn begins_anew(flow: &Flow, transport: &Transport, snapshot: &PacketSnapshot) -> bool {
    let standing = snapshot.server(flow.server).map_or(Standing::Removed, PacketServer::standing);
    match transport {
        Transport::Tcp(t) if t.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN => {
            let is_own = tcp::is_own_syn(flow, t, snapshot.is_passthrough());
            let may_leave = flow.state.is_half_open() && standing != Standing::Up;
            // In passthrough the server judges a SYN on a live connection, and its answer is seen. In DSR it is
            // not, nor were its FIN and its reset: the client knows best.
            let trusts_client = !snapshot.is_passthrough() || may_leave;
            flow.state == FlowState::Closed || standing.is_gone() || trusts_client && !is_own
        }
        Transport::Tcp(_) => false,
        Transport::Udp { .. } => standing.is_gone(),
    }
}

/// Whether another connection to `server` keeps to the limits, the one it replaces not counted.
fn check_limits(
    server: u16,
    replaced: Option<&Flow>,
    frontend: &PacketFrontend,
    snapshot: &PacketSnapshot,
) -> Result<(), DropReason> {
    let counted = replaced.filter(|flow| flow.has(flags::COUNTED));
    let at_limit = |open: u64, limit: u64, replaced: bool| {
        limit != 0 && open.saturating_sub(u64::from(replaced)) >= limit
    };
    if at_limit(snapshot.totals().open(), snapshot.max_connections(), counted.is_some()) {
        return Err(DropReason::LimitTotal);
    }
    if at_limit(frontend.counters.open(), frontend.max_connections, counted.is_some()) {
        return Err(DropReason::LimitFrontend);
    }
    let on_same = counted.is_some_and(|flow| flow.server == server);
    match snapshot.server(server) {
        Some(s) if at_limit(s.counters.open(), s.max_connections, on_same) => Err(DropReason::LimitServer),
        _ => Ok(()),
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
        Selection::HashRouted { .. } => None,
    };
    let flow = flow.unwrap_or_else(|| {
        worker.note(Note::HashRouted);
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
    fragments::send_on(buffer, packet, &to, Direction::FromClient, slots, worker);
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
    if let Some(server) = snapshot.server(flow.server) {
        let slots = (flow.frontend, (flow.server, server));
        fragments::send_on(buffer, packet, &to, Direction::FromServer, slots, worker);
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

/// Where answers of `server` to a new flow may come along: the NAT address of the client first, then those to go
/// to when it has no port left.
pub(crate) fn nat_paths(
    frontend: &PacketFrontend,
    server: &PacketServer,
    key: &FlowKey,
) -> impl Iterator<Item = NatPath> + Clone + use<> {
    let sources = frontend.nat_sources.clone();
    let (server, port, protocol) = (server.address.bits(), server.port, frontend.protocol);
    // A client keeps to one address: some services tie a session to it.
    let first = client_hash(Addr::from_bits(key.client).into(), 0) as usize;
    (0..sources.len()).map(move |i| {
        let nat = sources[(first + i) % sources.len()].bits();
        NatPath { nat, server, port, protocol }
    })
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
