//! Whose packet it is, and which flow or server it gets. Nothing here changes anything, so it is what `explain` asks.

use convey_core::conntrack::{Flow, FlowId, FlowKey, FlowState, flags, tcp};
use convey_packet::{Addr, Tuple, tcp_flags};

use crate::snapshot::{NatPath, PacketFrontend, PacketServer, PacketSnapshot, Placement, Standing};
use crate::steering::client_hash;
use crate::transport::Transport;
use crate::verdict::DropReason;
use crate::worker::{Met, Worker};

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

/// The flow and server of a client's packet.
pub(crate) enum Selection<'a> {
    /// A flow we know.
    Known(FlowId, &'a Flow),
    /// A flow that may begin, with the server it gets; `replaces` is the one with the same key that ends for it.
    New { slot: usize, server: u16, replaces: Option<FlowId> },
    /// DSR: the packet begins no flow and goes where its hash says; `replaces` is the flow with the same key that ends.
    HashRouted { slot: usize, server: u16, replaces: Option<FlowId> },
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
            None if snapshot.is_minimal() && !is_syn => go_on(snapshot.place(frontend, key), is_tcp),
            _ => Err(DropReason::FrontendLeft),
        };
    }
    // What a flow has begun goes on, whatever lists say by now. Where flows are not remembered every packet is judged.
    if let Some(access) = &frontend.access
        && !access.allows(Addr::from_bits(key.client).into())
    {
        return Err(DropReason::Denied);
    }
    if snapshot.is_minimal() {
        let begins = is_syn || replaces.is_some();
        return place(snapshot.place(frontend, key), is_tcp, begins, replaces);
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
        return Ok(Selection::HashRouted { slot, server, replaces: None });
    }
    // In DSR two forged packets make a connection, and one that a server ended is not seen to end: a limit
    // there would lock real clients out.
    if snapshot.is_passthrough() {
        check_limits(server, replaces.map(|(_, flow)| flow), (key.frontend, frontend), snapshot, worker)?;
    }
    // What it replaces leaves its place behind.
    if replaces.is_none() && !worker.has_room(met) {
        return Err(DropReason::FlowTableFull);
    }
    Ok(Selection::New { slot, server, replaces: replaces.map(|(id, _)| id) })
}

/// Minimal tracking: where a packet goes that belongs to no flow in the table, or ends its own.
fn place<'a>(
    place: Placement,
    is_tcp: bool,
    begins: bool,
    replaces: Option<(FlowId, &'a Flow)>,
) -> Result<Selection<'a>, DropReason> {
    let Placement { slot, server, previous } = place;
    let unremembered = previous.or(server);
    // Of datagrams nobody knows which begin something.
    let chosen = if begins { server } else { unremembered };
    let server = match (chosen, replaces) {
        (Some(server), _) => server,
        (None, Some((id, flow))) if !is_tcp => return Ok(Selection::Known(id, flow)),
        (None, _) => return Err(DropReason::NoServer),
    };
    let replaces = replaces.map(|(id, _)| id);
    let is_remembered =
        if begins { unremembered != Some(server) } else { !is_tcp && place.server != Some(server) };
    if is_remembered {
        Ok(Selection::New { slot, server, replaces })
    } else {
        Ok(Selection::HashRouted { slot, server, replaces })
    }
}

/// Minimal tracking: where a packet goes that begins nothing at a frontend that left.
fn go_on<'a>(place: Placement, is_tcp: bool) -> Result<Selection<'a>, DropReason> {
    let Placement { slot, previous, .. } = place;
    let server = previous.ok_or(DropReason::FrontendLeft)?;
    Ok(match is_tcp {
        true => Selection::HashRouted { slot, server, replaces: None },
        false => Selection::New { slot, server, replaces: None },
    })
}

/// The key of a client's packet, and what there is of it: under the frontend in `slot`, which listens there, unless
/// one that did before has the flow. `None` as `transport`: for any packet of the flow.
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
    let find = |key: FlowKey| match snapshot.frontend(key.frontend) {
        Some(f) if snapshot.is_minimal() && !f.has_left() && snapshot.place(f, &key).previous.is_none() => {
            Met::unasked(key)
        }
        _ => worker.find(&key),
    };
    let met = find(key);
    let goes_on = |met: &Met| {
        met.flow.is_some_and(|(_, flow)| !transport.is_some_and(|t| begins_anew(&flow, t, snapshot)))
    };
    let mut former = snapshot
        .former_vips(protocol, tuple.destination, tuple.destination_port)
        .filter(|former| *former != slot)
        .map(|frontend| find(FlowKey { frontend, ..key }));
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
    (slot, frontend): (u16, &PacketFrontend),
    snapshot: &PacketSnapshot,
    worker: &Worker,
) -> Result<(), DropReason> {
    let gauges = worker.gauges();
    let counted = replaced.filter(|flow| flow.has(flags::COUNTED));
    let at_limit = |open: u64, limit: u64, replaced: bool| {
        limit != 0 && open.saturating_sub(u64::from(replaced)) >= limit
    };
    if at_limit(gauges.open_in_total(snapshot), snapshot.max_connections(), counted.is_some()) {
        return Err(DropReason::LimitTotal);
    }
    if at_limit(gauges.open_at_frontend(slot, frontend), frontend.max_connections, counted.is_some()) {
        return Err(DropReason::LimitFrontend);
    }
    let on_same = counted.is_some_and(|flow| flow.server == server);
    match snapshot.server(server) {
        Some(s) if at_limit(gauges.open_at_server(server, s), s.max_connections, on_same) => {
            Err(DropReason::LimitServer)
        }
        _ => Ok(()),
    }
}

/// Where answers of `server` to a new flow may come along: the NAT address of the client first, then those to go
/// to when it has no port left.
pub(crate) fn nat_paths<'a>(
    frontend: &'a PacketFrontend,
    server: &PacketServer,
    key: &FlowKey,
) -> impl Iterator<Item = NatPath> + Clone + use<'a> {
    let sources = &frontend.nat_sources;
    let (server, port, protocol) = (server.address.bits(), server.port, frontend.protocol);
    // A client keeps to one address: some services tie a session to it.
    let first = client_hash(Addr::from_bits(key.client).into(), 0) as usize;
    (0..sources.len()).map(move |i| {
        let nat = sources[(first + i) % sources.len()].bits();
        NatPath { nat, server, port, protocol }
    })
}
