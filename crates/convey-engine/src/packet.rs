//! A TCP or UDP packet, checked, and the pieces of a decision both directions share.

use convey_packet::{Addr, Fragment, Ip, Part, Ports, Tuple, reply, rewrite};

use crate::hop_cache::HopCache;
use crate::meta::{Checksum, FrameMeta};
use crate::next_hop::{Missing, NextHop, NextHops};
use crate::options::Refusal;
use crate::routes::{Path, Reject};
use crate::snapshot::{Method, PacketSnapshot};
use crate::transport::Transport;
use crate::verdict::{DropReason, Forward, Headers, Reply, ReplyKind, Verdict};

/// The longest IPv6 packet whose header can tell its length.
const MAX_IPV6_LEN: usize = 40 + 65_535;

/// A hop-by-hop header with a jumbo payload option and nothing else.
const JUMBO_LEN: usize = 8;

/// A checked packet for a frontend or from a server.
pub(crate) struct Packet<'a> {
    pub(crate) ip: Ip,
    pub(crate) ports: Ports,
    pub(crate) transport: Transport,
    /// Of a first fragment: its part of the datagram.
    pub(crate) part: Option<&'a Part>,
    pub(crate) meta: &'a FrameMeta,
}

/// Why a packet cannot go on to its next hop.
pub(crate) enum Obstacle {
    /// Its sender is told by ICMP, as far as the budget goes.
    Told(reply::Error),
    /// It meets this verdict.
    Silent(Verdict),
}

impl Packet<'_> {
    pub(crate) fn tuple(&self) -> Tuple {
        Tuple {
            source: self.ip.source,
            source_port: self.ports.source,
            destination: self.ip.destination,
            destination_port: self.ports.destination,
        }
    }

    /// Whether the transport checksum field holds only the pseudo-header sum.
    pub(crate) fn is_partial(&self) -> bool {
        matches!(self.meta.checksum, Checksum::Partial { start, .. } if usize::from(start) == self.ip.l4)
    }

    /// Bytes of the option that tells the length of a super-frame too long for an IPv6 header. Its segments have none.
    fn jumbo_len(&self) -> usize {
        if self.ip.is_v6 && self.ip.len() > MAX_IPV6_LEN { JUMBO_LEN } else { 0 }
    }

    /// Length of the longest IP packet the frame stands for.
    fn longest(&self) -> usize {
        match self.meta.gso {
            None => self.ip.len(),
            Some(gso) => {
                let headers = self.ip.len() - self.transport.payload_len() as usize - self.jumbo_len();
                self.ip.len().min(headers + usize::from(gso.size))
            }
        }
    }

    /// TTL and size: what a router checks before it sends a packet on.
    pub(crate) fn check_route(&self, method: Method, hop: &NextHop) -> Result<(), Obstacle> {
        if method == Method::L2 && !hop.on_link {
            return Err(Obstacle::Silent(Verdict::Drop(DropReason::ServerNotOnLink)));
        }
        // L2 is a switch: only MACs change (no TTL), and the frame fits the link it came from.
        if method != Method::L2 && self.ip.ttl <= 1 {
            Err(Obstacle::Told(reply::Error::TimeExceeded))
        } else if self.longest() > hop.mtu as usize {
            Err(Obstacle::Told(reply::Error::TooBig { mtu: hop.mtu }))
        } else {
            Ok(())
        }
    }

    /// The next hop of the packet once its addresses are these.
    pub(crate) fn next_hop(
        &self,
        [from, to]: [Addr; 2],
        next_hops: &NextHops,
        found: &mut HopCache,
    ) -> Result<NextHop, Obstacle> {
        found.find(next_hops, from, to, self.meta.ingress_ifindex).map_err(|missing| match missing {
            Missing::Rejected(Reject::Unreachable) => Obstacle::Told(reply::Error::Unreachable),
            Missing::Rejected(Reject::Prohibit) => Obstacle::Told(reply::Error::Prohibited),
            other => Obstacle::Silent(without_next_hop(other, to)),
        })
    }

    /// Turns the packet into the ICMP error about it, or drops it where `may_tell` forbids that.
    pub(crate) fn tell_sender(&self, buffer: &mut [u8], error: reply::Error, may_tell: bool) -> Verdict {
        let (kind, reason) = match error {
            reply::Error::TimeExceeded => (ReplyKind::TimeExceeded, DropReason::TtlExceeded),
            reply::Error::TooBig { .. } => (ReplyKind::TooBig, DropReason::TooBig),
            reply::Error::Unreachable | reply::Error::Prohibited => {
                (ReplyKind::Unreachable, DropReason::RouteRejected)
            }
        };
        if !may_tell {
            return Verdict::Drop(reason);
        }
        match reply::build_icmp_error(buffer, &self.ip, error) {
            Some(len) => {
                Verdict::Reply(Reply { egress_ifindex: self.meta.ingress_ifindex, len, kind, reason })
            }
            None => Verdict::Drop(DropReason::NoRoom),
        }
    }

    /// Sends the packet, whose addresses and ports are `tuple` now, on to `hop`.
    pub(crate) fn forward(&self, frame: &mut [u8], tuple: &Tuple, method: Method, hop: &NextHop) -> Verdict {
        let forward = forward(frame, &self.ip, method, hop);
        Verdict::Forward(Forward { flow: Some(tuple.fingerprint()), headers: self.headers(), ..forward })
    }

    fn headers(&self) -> Option<Headers> {
        let Ip { is_v6, protocol, l3, l4, end, .. } = self.ip;
        let payload = match self.transport {
            Transport::Tcp(tcp) => end - tcp.payload_len as usize,
            Transport::Udp { .. } => l4 + 8,
        };
        let is_plain = l4 - l3 == if is_v6 { 40 } else { 20 } && self.ip.fragment == Fragment::No;
        is_plain.then_some(Headers { is_v6, protocol, l4: l4 as u16, payload: payload as u16 })
    }

    /// Refuses the packet: a reset where that is wanted and possible, else nothing.
    pub(crate) fn refuse(&self, buffer: &mut [u8], reason: DropReason, snapshot: &PacketSnapshot) -> Verdict {
        if snapshot.options().refusal == Refusal::Reset
            && let Transport::Tcp(tcp) = &self.transport
            && let Some(len) = reply::build_tcp_reset(buffer, &self.ip, self.ports, tcp)
        {
            let egress_ifindex = self.meta.ingress_ifindex;
            return Verdict::Reply(Reply { egress_ifindex, len, kind: ReplyKind::TcpReset, reason });
        }
        Verdict::Drop(reason)
    }
}

/// The next hop of a packet with these addresses that came in on `ingress`.
fn next_hop(next_hops: &NextHops, from: Addr, to: Addr, ingress: u32) -> Result<NextHop, Missing> {
    next_hops.lookup(&Path { source: from.into(), destination: to.into(), ingress })
}

/// The verdict on a packet that cannot be sent on and is not answered.
fn without_next_hop(missing: Missing, to: Addr) -> Verdict {
    match missing {
        Missing::Neighbour { ifindex, address } => Verdict::Unresolved { address, ifindex: Some(ifindex) },
        Missing::Rejected(_) => Verdict::Drop(DropReason::RouteRejected),
        Missing::Route | Missing::Link { .. } => Verdict::Unresolved { address: to.into(), ifindex: None },
    }
}

/// The next hop of a packet that becomes one from `from` to `to`, and whose sender is told nothing when it may not go
/// on there: too old, not on the link as `method` wants it, or too long.
pub(crate) fn hop_without_answer(
    ip: &Ip,
    [from, to]: [Addr; 2],
    method: Method,
    ingress: u32,
    next_hops: &NextHops,
) -> Result<NextHop, Verdict> {
    if method != Method::L2 && ip.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExceeded));
    }
    let hop = next_hop(next_hops, from, to, ingress).map_err(|missing| without_next_hop(missing, to))?;
    if method == Method::L2 && !hop.on_link {
        return Err(Verdict::Drop(DropReason::ServerNotOnLink));
    }
    if ip.len() > hop.mtu as usize {
        return Err(Verdict::Drop(DropReason::TooBig));
    }
    Ok(hop)
}

/// Sends the packet at `ip` on to `hop`.
pub(crate) fn forward(frame: &mut [u8], ip: &Ip, method: Method, hop: &NextHop) -> Forward {
    if method != Method::L2 {
        rewrite::decrement_ttl(frame, ip);
    }
    rewrite::rewrite_macs(frame, hop.destination, hop.source);
    Forward { egress_ifindex: hop.ifindex, len: ip.end, flow: None, headers: None }
}
