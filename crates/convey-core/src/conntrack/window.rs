//! Which TCP segments a receiver would take: sequence number arithmetic and the windows both sides advertise.
//!
//! Of a window only the power of two it does not exceed is kept, and it is counted from the last byte sent: a window
//! may seem up to twice as wide as it is, and never narrower.

use convey_packet::{Tcp, tcp_flags};

use super::flight;
use super::flow::Flow;

/// How far an acknowledgement may lie behind the newest, at least: it was overtaken.
pub(super) const OLD_ACKNOWLEDGEMENT: u32 = 66_000;
/// The scale of a SYN that offers none.
pub(super) const NO_SCALE: u8 = 15;
/// The largest scale (RFC 7323, 2.3).
pub(super) const MAX_SCALE: u8 = 14;

/// Whether sequence number `a` lies behind `b`.
pub(super) const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// Whether `value` lies in (`from`, `to`].
pub(super) const fn is_within(value: u32, from: u32, to: u32) -> bool {
    let distance = value.wrapping_sub(from);
    distance != 0 && distance <= to.wrapping_sub(from)
}

/// The least power of two not below `bytes`; at most 30, which is the largest window scaled by the most.
pub(super) const fn exponent(bytes: u32) -> u8 {
    if bytes <= 1 { 0 } else { (32 - (bytes - 1).leading_zeros()) as u8 }
}

/// The scale that a SYN offers.
pub(super) fn scale(tcp: &Tcp) -> u8 {
    tcp.window_scale.map_or(NO_SCALE, |scale| scale.min(MAX_SCALE))
}

/// The largest window side `of` has advertised, in bytes, rounded up to a power of two.
pub(super) fn window(flow: &Flow, of: usize) -> u32 {
    1 << flow.window[of].min(30)
}

/// Whether the segment lies in the windows of both sides (as nf_conntrack has it, after Rooij, "Real stateful TCP
/// packet filtering"): its bytes in the one the other side advertised, its acknowledgement in its own.
pub(super) fn is_in_window(flow: &Flow, me: usize, tcp: &Tcp) -> bool {
    let peer = 1 - me;
    let (theirs, mine) = (window(flow, peer), window(flow, me));
    let not_beyond = !is_after(tcp.seq, flow.next[me].wrapping_add(theirs));
    let not_behind = !is_after(flow.next[me].wrapping_sub(theirs), tcp.end_seq());
    // Every segment of a connection carries an acknowledgement; without one half of the check would be missing.
    tcp.has(tcp_flags::ACK) && not_beyond && not_behind && {
        let oldest = flow.acked(peer).wrapping_sub(mine.max(OLD_ACKNOWLEDGEMENT));
        // It may acknowledge bytes that never counted here, as far as its side would have taken them.
        let newest = flow.next[peer].wrapping_add(mine);
        !is_after(oldest, tcp.ack) && !is_after(tcp.ack, newest)
    }
}

/// Takes over the window of a segment that counts.
pub(super) fn widen(flow: &mut Flow, me: usize, tcp: &Tcp) {
    let scale = if flow.scale[me] > MAX_SCALE { 0 } else { flow.scale[me] };
    flow.window[me] = flow.window[me].max(exponent(u32::from(tcp.window) << scale));
}

/// Both SYNs are known: windows are scaled only if both offer it. The windows of SYNs themselves never are.
pub(super) fn agree_on_scale(flow: &mut Flow) {
    if flow.scale.contains(&NO_SCALE) {
        flow.scale = [0, 0];
    }
}

/// Side `me` has sent `tcp`, which counts: its bytes are in flight.
pub(super) fn take_bytes(flow: &mut Flow, me: usize, tcp: &Tcp, sees_replies: bool) {
    let grown = tcp.end_seq().wrapping_sub(flow.next[me]);
    if !is_after(tcp.end_seq(), flow.next[me]) {
        return;
    }
    flow.next[me] = tcp.end_seq();
    if sees_replies {
        flow.in_flight[me] = flight::encode(flight::decode(flow.in_flight[me]).saturating_add(grown));
    }
}

/// Side `me` has acknowledged bytes of the other.
pub(super) fn take_acknowledgement(flow: &mut Flow, me: usize, tcp: &Tcp) {
    let peer = 1 - me;
    if is_after(tcp.ack, flow.next[peer]) {
        // Bytes that did not count when they passed, or were lost before us and seen by nobody but the peer.
        flow.next[peer] = tcp.ack;
        flow.in_flight[peer] = 0;
    } else if acknowledges_more(flow, me, tcp) {
        // What its window would never have allowed was forged: the peer has not sent it.
        let rest = flow.next[peer].wrapping_sub(tcp.ack).min(window(flow, me));
        flow.next[peer] = tcp.ack.wrapping_add(rest);
        flow.in_flight[peer] = flight::encode(rest);
    }
}

/// Whether a segment of side `me` acknowledges what was not before.
pub(super) fn acknowledges_more(flow: &Flow, me: usize, tcp: &Tcp) -> bool {
    let peer = 1 - me;
    // Both rounded: the same acknowledgement once more is none. What is encoded keeps its order.
    let rest = flight::encode(flow.next[peer].wrapping_sub(tcp.ack));
    is_after(tcp.ack, flow.next[peer]) || rest < flow.in_flight[peer]
}

/// The oldest number at which a reset of side `me` counts: where its bytes in flight begin, as far as the other side's
/// window may let it.
pub(super) fn oldest_reset(flow: &Flow, me: usize) -> u32 {
    flow.next[me].wrapping_sub(flight::decode(flow.in_flight[me]).min(window(flow, 1 - me)))
}
