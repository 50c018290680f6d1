//! Which TCP segments a receiver would take: sequence number arithmetic and the windows both sides advertise.

use convey_packet::{Tcp, tcp_flags};

use super::flow::Flow;

/// How far an acknowledgement may lie behind the newest, at least: it was overtaken.
const OLD_ACKNOWLEDGEMENT: u32 = 66_000;
/// The scale of a SYN that offers none.
pub(super) const NO_SCALE: u8 = u8::MAX;

/// Whether sequence number `a` lies behind `b`.
pub(super) const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// Whether `value` lies in (`from`, `to`].
pub(super) const fn is_within(value: u32, from: u32, to: u32) -> bool {
    let distance = value.wrapping_sub(from);
    distance != 0 && distance <= to.wrapping_sub(from)
}

/// The largest window side `of` has advertised, in bytes.
fn window(flow: &Flow, of: usize) -> u32 {
    (u32::from(flow.window[of]) << flow.scale[of].min(14)).max(1)
}

/// Whether the segment lies in the windows of both sides (as nf_conntrack has it, after Rooij, "Real stateful TCP
/// packet filtering"): its bytes in the one the other side advertised, its acknowledgement in its own.
pub(super) fn is_in_window(flow: &Flow, me: usize, tcp: &Tcp) -> bool {
    let peer = 1 - me;
    let (theirs, mine) = (window(flow, peer), window(flow, me));
    let not_beyond = !is_after(tcp.seq, flow.acked[me].wrapping_add(theirs));
    let not_behind = !is_after(flow.next[me].wrapping_sub(theirs), tcp.end_seq());
    // Every segment of a connection carries an acknowledgement; without one half of the check would be missing.
    tcp.has(tcp_flags::ACK) && not_beyond && not_behind && {
        let oldest = flow.acked[peer].wrapping_sub(mine.max(OLD_ACKNOWLEDGEMENT));
        let newest = flow.acked[peer].wrapping_add(mine);
        // It may acknowledge bytes that never counted here, as far as its side would have taken them.
        !is_after(oldest, tcp.ack) && (!is_after(tcp.ack, flow.next[peer]) || !is_after(tcp.ack, newest))
    }
}

/// Takes over the window of a segment that counts.
pub(super) fn widen(flow: &mut Flow, me: usize, tcp: &Tcp) {
    flow.window[me] = flow.window[me].max(tcp.window);
}

/// Both SYNs are known: windows are scaled only if both offer it. The windows of SYNs themselves never are.
pub(super) fn agree_on_scale(flow: &mut Flow) {
    if flow.scale.contains(&NO_SCALE) {
        flow.scale = [0, 0];
    }
    for side in 0..2 {
        let unit = 1u32 << flow.scale[side].min(14);
        flow.window[side] = u32::from(flow.window[side]).div_ceil(unit) as u16;
    }
}
