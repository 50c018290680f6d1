//! ICMP errors follow the flow of the packet they quote, in both directions, outer and quoted header translated
//! alike, so that path-MTU discovery works through the balancer.
//!
//! The outer source becomes the address under which the receiver knows the flow's other end, whoever sent the error: a
//! router that leads to the receiver too would drop its own address as forged, and it is nobody's business outside.

use convey_packet::{Addr, IcmpError, Ip, Tuple, icmp, rewrite};

use crate::meta::FrameMeta;
use crate::next_hop::NextHops;
use crate::packet::{forward, hop_without_answer};
use crate::selection::flow_key;
use crate::snapshot::{Method, NatPath, PacketSnapshot};
use crate::verdict::{DropReason, Note, PassReason, Verdict};
use crate::worker::Worker;

/// Where an ICMP error goes and how it is translated.
struct Translation {
    source: Addr,
    destination: Addr,
    /// The packet it is about, as the receiver knows it.
    quoted: Tuple,
    method: Method,
    /// Whose next hop it takes.
    towards: Addr,
}

pub(crate) fn decide(
    buffer: &mut [u8],
    len: usize,
    ip: &Ip,
    meta: &FrameMeta,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) -> Result<Verdict, Verdict> {
    let frame = &buffer[..len];
    let unrelated = Verdict::Pass(PassReason::IcmpUnrelated);
    let Some(error) = IcmpError::parse(frame, ip) else {
        return Err(if icmp::is_error(frame, ip) { unrelated } else { Verdict::Pass(PassReason::IcmpOther) });
    };
    if error.quoted.tuple.source != ip.destination {
        return Err(unrelated);
    }
    let to = towards_server(&error, ip, snapshot, worker)
        .or_else(|| towards_client(&error, snapshot, worker))
        .ok_or_else(|| about_no_flow(&error, snapshot).map_or(unrelated, Verdict::Drop))?;
    if !ip.source.is_valid_source() {
        return Err(Verdict::Drop(DropReason::BadSource));
    }
    // No error is sent about an error (RFC 1122, 3.2.2).
    let ends = [to.source, to.towards];
    let hop = hop_without_answer(ip, ends, to.method, meta.ingress_ifindex, next_hops)?;
    if to.method != Method::L2 {
        let outer = rewrite::rewrite_addresses(buffer, ip, to.source, to.destination);
        error.rewrite_quoted(buffer, ip, &to.quoted, outer);
    }
    worker.note(Note::IcmpTranslated);
    Ok(Verdict::Forward(forward(buffer, ip, to.method, &hop)))
}

/// Why an error about a packet that no flow is known of is dropped, if the packet was ours: the kernel never gets to
/// see it, for the guard goes by addresses and ports alone.
fn about_no_flow(error: &IcmpError, snapshot: &PacketSnapshot) -> Option<DropReason> {
    let (quoted, protocol) = (error.quoted.tuple, error.quoted.protocol);
    if snapshot.match_vip(protocol, quoted.source, quoted.source_port).is_some() {
        return Some(if snapshot.is_passthrough() { DropReason::NoFlow } else { DropReason::NoServer });
    }
    let is_ours = snapshot.options().nat_ports.contains(quoted.source_port)
        && snapshot.is_nat_path(&quoted_path(error));
    (snapshot.is_passthrough() && is_ours).then_some(DropReason::NoFlow)
}

/// The path a server's answer to the quoted packet would take.
fn quoted_path(error: &IcmpError) -> NatPath {
    let quoted = error.quoted.tuple;
    NatPath {
        nat: quoted.source.bits(),
        server: quoted.destination.bits(),
        port: quoted.destination_port,
        protocol: error.quoted.protocol,
    }
}

/// An error about an answer on its way to the client: it belongs to the server.
fn towards_server(
    error: &IcmpError,
    ip: &Ip,
    snapshot: &PacketSnapshot,
    worker: &Worker,
) -> Option<Translation> {
    let quoted = error.quoted.tuple;
    let slot = snapshot.match_vip(error.quoted.protocol, quoted.source, quoted.source_port)?;
    let met = flow_key(slot, error.quoted.protocol, &quoted.reversed(), None, snapshot, worker);
    let key = met.key;
    let frontend = snapshot.frontend(key.frontend)?;
    let flow = met.flow.map(|(_, flow)| flow);
    let server_slot = match flow {
        Some(flow) => flow.server,
        None if snapshot.is_passthrough() => return None,
        None if snapshot.is_minimal() => {
            let place = snapshot.place(frontend, &key);
            place.previous.or(place.server)?
        }
        None => snapshot.select(frontend, quoted.destination, key.client_port, key.port)?.1,
    };
    let server = snapshot.server(server_slot)?;
    let mut to = Translation {
        // By MAC address nothing is rewritten, and the route is that of the packet as it came.
        source: if server.method == Method::L2 { ip.source } else { frontend.address },
        destination: server.address,
        quoted: Tuple { source: server.address, ..quoted },
        method: server.method,
        towards: server.address,
    };
    if server.method == Method::Nat {
        let flow = flow?;
        let nat = Addr::from_bits(worker.nat_address(&flow)?);
        to.source = nat;
        to.quoted.source_port = server.port;
        to.quoted.destination = nat;
        to.quoted.destination_port = flow.nat_port;
    }
    Some(to)
}

/// An error about a packet on its way to the server (passthrough): it belongs to the client.
fn towards_client(error: &IcmpError, snapshot: &PacketSnapshot, worker: &Worker) -> Option<Translation> {
    let (_, flow) = worker.lookup_reply(&quoted_path(error), error.quoted.tuple.source_port)?;
    let frontend = snapshot.frontend(flow.frontend)?;
    let client = Addr::from_bits(flow.client);
    Some(Translation {
        source: frontend.address,
        destination: client,
        quoted: Tuple {
            source: client,
            source_port: flow.client_port,
            destination: frontend.address,
            destination_port: frontend.port,
        },
        method: Method::Nat,
        towards: client,
    })
}
