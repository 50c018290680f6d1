//! Datagrams in fragments: the first one has the ports and decides, the later ones follow it by the datagram's
//! identification, their addresses rewritten alike. The checksum over the whole datagram stands in the first.
//!
//! Nothing is put together here. Bytes that were sent on before are dropped, so no server sees parts that overlap.
//! In passthrough each datagram gets an identification of ours: two clients behind one NAT address may choose the same.

use convey_core::conntrack::Direction;
use convey_packet::{Fragment, Ip, Part, TCP, Tuple, UDP, rewrite};

use crate::accounts::account;
use crate::fragments::{Key, Way};
use crate::meta::FrameMeta;
use crate::next_hop::NextHops;
use crate::packet::{Packet, forward, hop_without_answer};
use crate::snapshot::{Method, PacketServer, PacketSnapshot};
use crate::verdict::{DropReason, Forward, Note, PassReason, Verdict};
use crate::worker::Worker;

/// Whether a first fragment may begin its datagram.
#[cold]
pub(crate) fn check_first(ip: &Ip, part: &Part, worker: &Worker) -> Result<(), DropReason> {
    if !part.is_possible() {
        return Err(DropReason::FragmentBad);
    }
    match worker.fragments().way(&Key::of(ip, part), worker.now()) {
        Some(_) => Err(DropReason::FragmentOverlap),
        None => Ok(()),
    }
}

/// The later fragments of this datagram are dropped as the first one was.
#[cold]
pub(crate) fn refuse(ip: &Ip, part: &Part, worker: &Worker) {
    begin(ip, part, None, worker);
}

/// The later fragments of this datagram go where its first one goes, whose addresses and ports become `to`.
#[inline]
pub(crate) fn send_on(
    buffer: &mut [u8],
    packet: &Packet<'_>,
    to: &Tuple,
    from: Direction,
    (frontend, server): (u16, (u16, &PacketServer)),
    worker: &Worker,
) {
    if let Some(part) = packet.part {
        remember(buffer, packet, part, to, from, (frontend, server), worker);
    }
}

#[cold]
fn remember(
    buffer: &mut [u8],
    packet: &Packet<'_>,
    part: &Part,
    to: &Tuple,
    from: Direction,
    (frontend, server): (u16, (u16, &PacketServer)),
    worker: &Worker,
) {
    let method = server.1.method;
    let id = (method == Method::Nat).then(|| worker.fragments().next_id());
    if let Some(id) = id {
        part.write_id(buffer, &packet.ip, id);
    }
    let way = Way {
        source: to.source,
        destination: to.destination,
        towards: if method == Method::L2 { server.1.address } else { to.destination },
        method,
        id,
        slots: (frontend, server.0),
        from,
        flow: to.fingerprint(),
    };
    begin(&packet.ip, part, Some(way), worker);
    worker.note(Note::DatagramBegun);
}

fn begin(ip: &Ip, part: &Part, way: Option<Way>, worker: &Worker) {
    if worker.fragments().begin(Key::of(ip, part), part, way, worker.now()) {
        worker.note(Note::DatagramEvicted);
    }
}

/// What becomes of a later fragment.
#[cold]
pub(crate) fn follow(
    buffer: &mut [u8],
    ip: &Ip,
    meta: &FrameMeta,
    snapshot: &PacketSnapshot,
    next_hops: &NextHops,
    worker: &Worker,
) -> Result<Verdict, Verdict> {
    // Behind a later IPv6 fragment's header the transport may stand behind further ones (in the first fragment).
    let is_extension = ip.is_v6 && matches!(ip.protocol, 0 | 43 | 60);
    if !matches!(ip.protocol, TCP | UDP) && !is_extension {
        return Err(Verdict::Pass(PassReason::OtherProtocol));
    }
    debug_assert_eq!(ip.fragment, Fragment::Later);
    let part = Part::parse(buffer, ip).ok_or(Verdict::Drop(DropReason::Truncated))?;
    let (key, now) = (Key::of(ip, &part), worker.now());
    let early = Verdict::Pass(PassReason::Fragment);
    let way = worker.fragments().way(&key, now).ok_or(early)?;
    let way = way.ok_or(Verdict::Drop(DropReason::FragmentRefused))?;
    if !part.is_possible() {
        return Err(Verdict::Drop(DropReason::FragmentBad));
    }
    // The sender hears of it by the first fragment, which is as long.
    let ends = [way.source, way.towards];
    let hop = hop_without_answer(ip, ends, way.method, meta.ingress_ifindex, next_hops)?;
    worker.fragments().add(&key, &part, now).ok_or(early)?.map_err(Verdict::Drop)?;
    account(way.slots, way.from, (part.end - part.begin) as u32, snapshot, worker.index());
    if way.method != Method::L2 {
        if let Some(id) = way.id {
            part.write_id(buffer, ip, id);
        }
        rewrite::rewrite_addresses(buffer, ip, way.source, way.destination);
    }
    Ok(Verdict::Forward(Forward { flow: Some(way.flow), ..forward(buffer, ip, way.method, &hop) }))
}
