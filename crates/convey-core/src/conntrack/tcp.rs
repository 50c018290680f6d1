//! What a TCP segment does to a flow's state. Sequence numbers are watched so far as is needed to tell a real
//! segment from a forged one. Nothing is dropped for them: what does not count is passed on for the endpoints to
//! judge (RFC 5961) and neither refreshes nor changes the flow.
//!
//! Where both directions pass (passthrough):
//! - The handshake ends with an acknowledgement of the server's SYN-ACK, exactly.
//! - After it a segment counts when it lies in the window the other side advertised and acknowledges what lies in
//!   its own. Windows may seem up to twice as wide as they are: see `window`.
//! - A reset counts when its number lies between what the other side has acknowledged, rounded down, and what this
//!   side has sent: for an idle flow that is exactly one number. When the side it seemed to come from goes on, it
//!   was forged, and the flow is open again.
//!
//! In DSR the server is never heard, so its numbers and windows are not known. Demanded is there:
//! - of the handshake's end, that it follows the SYN exactly;
//! - of data and FINs, that they lie within 16 MiB of the last byte the client has sent;
//! - of a reset, that it lies at most 65,535 bytes before that byte.

use convey_packet::{Tcp, tcp_flags};

use super::flow::{Direction, Flow, FlowState, flags};
use super::handshake::{answers_later_syn, isn, take_syn};
pub use super::handshake::{begin, is_own_syn};
use super::window::{
    acknowledges_more, is_after, is_in_window, is_within, oldest_reset, take_acknowledgement, take_bytes,
    widen,
};

/// DSR, where windows are not seen: how far from the client's last byte a segment may lie and still count.
pub(super) const UNSEEN_WINDOW: u32 = 1 << 24;
/// DSR, where acknowledgements are not seen: how far behind the client's last byte its reset may lie.
pub(super) const RESET_WINDOW: u32 = 65_535;

/// What a packet has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The conversation is confirmed: count a connection.
    pub established: bool,
    /// The conversation is over.
    pub closed: bool,
    /// The server has answered a later SYN of the client: what was open is over, another handshake is under way.
    pub restarted: bool,
    /// The reset that closed it was forged: it is open still.
    pub revived: bool,
    /// The segment lies outside of what was seen; it did not count.
    pub out_of_window: bool,
    /// It is a SYN of the client that is not the flow's own: to be remembered, for the server may answer it.
    pub later_syn: Option<u32>,
}

/// Whether a segment may answer a later SYN, so that [`advance`] should know of one.
pub fn may_answer_syn(from: Direction, tcp: &Tcp) -> bool {
    from == Direction::FromServer && tcp.flags & (tcp_flags::SYN | tcp_flags::RST) != 0
}

/// Takes a TCP segment into account. `sees_replies` tells that both directions pass here (passthrough), `later_syn`
/// is what a [`Change`] before has asked to remember of this flow.
pub fn advance(
    flow: &mut Flow,
    from: Direction,
    tcp: &Tcp,
    sees_replies: bool,
    later_syn: Option<u32>,
    now: u32,
) -> Change {
    let is_closed = flow.state == FlowState::Closed;
    if tcp.has(tcp_flags::RST) {
        if is_closed {
            return Change::default();
        }
        return take_reset(flow, from, tcp, sees_replies, later_syn, now);
    }
    if tcp.has(tcp_flags::SYN) {
        if is_closed {
            return Change::default();
        }
        return take_syn(flow, from, tcp, sees_replies, later_syn, now);
    }
    let me = from as usize;
    let counts = if sees_replies { counts_seen(flow, me, tcp) } else { counts_unseen(flow, tcp) };
    if is_closed {
        return if counts { revive(flow, me, tcp, sees_replies, now) } else { Change::default() };
    }
    if !counts {
        return Change { out_of_window: true, ..Change::default() };
    }
    let mut change = Change::default();
    if me == 0 && matches!(flow.state, FlowState::SynSent | FlowState::SynReceived) {
        flow.state = FlowState::Established;
        change.established = true;
    }
    if flow.has(reset_from(me)) && goes_on(flow, me, tcp, sees_replies) {
        flow.flags &= !reset_from(me);
        flow.state = FlowState::Established;
    }
    move_on(flow, me, tcp, sees_replies);
    flow.last_seen = now;
    change.closed = close_by_fins(flow);
    change
}

/// Whether a segment counts where both directions are seen.
fn counts_seen(flow: &Flow, me: usize, tcp: &Tcp) -> bool {
    match flow.state {
        // Nothing but a SYN-ACK or a reset answers a SYN.
        FlowState::SynSent => false,
        FlowState::SynReceived if me == 0 => {
            is_in_window(flow, me, tcp) && is_within(tcp.ack, flow.acked(1), flow.next[1])
        }
        _ => is_in_window(flow, me, tcp),
    }
}

/// Whether a segment of the client counts where the server is not heard.
fn counts_unseen(flow: &Flow, tcp: &Tcp) -> bool {
    match flow.state {
        FlowState::SynSent => tcp.has(tcp_flags::ACK) && is_within(tcp.seq, isn(flow), flow.next[0]),
        _ => tcp.seq.wrapping_sub(flow.next[0]).wrapping_add(UNSEEN_WINDOW) <= 2 * UNSEEN_WINDOW,
    }
}

fn move_on(flow: &mut Flow, me: usize, tcp: &Tcp, sees_replies: bool) {
    take_bytes(flow, me, tcp, sees_replies);
    if sees_replies {
        widen(flow, me, tcp);
        take_acknowledgement(flow, me, tcp);
    }
    if tcp.has(tcp_flags::FIN) {
        flow.flags |= if me == 0 { flags::FIN_FROM_CLIENT } else { flags::FIN_FROM_SERVER };
    }
}

/// The state that the FINs seen make. Tells whether they end the flow.
fn close_by_fins(flow: &mut Flow) -> bool {
    const BOTH: u8 = flags::FIN_FROM_CLIENT | flags::FIN_FROM_SERVER;
    if !matches!(flow.state, FlowState::Established | FlowState::Closing) {
        return false;
    }
    match flow.flags & BOTH {
        0 => false,
        BOTH => {
            flow.state = FlowState::Closed;
            flow.flags &= !(flags::RESET_FROM_CLIENT | flags::RESET_FROM_SERVER);
            true
        }
        _ => {
            flow.state = FlowState::Closing;
            false
        }
    }
}

const fn reset_from(side: usize) -> u8 {
    if side == 0 { flags::RESET_FROM_CLIENT } else { flags::RESET_FROM_SERVER }
}

fn take_reset(
    flow: &mut Flow,
    from: Direction,
    tcp: &Tcp,
    sees_replies: bool,
    later_syn: Option<u32>,
    now: u32,
) -> Change {
    if !is_valid_reset(flow, from, tcp, sees_replies, later_syn) {
        return Change { out_of_window: true, ..Change::default() };
    }
    if matches!(flow.state, FlowState::Established | FlowState::Closing) {
        flow.flags |= reset_from(from as usize);
    }
    flow.state = FlowState::Closed;
    flow.last_seen = now;
    Change { closed: true, ..Change::default() }
}

fn is_valid_reset(
    flow: &Flow,
    from: Direction,
    tcp: &Tcp,
    sees_replies: bool,
    later_syn: Option<u32>,
) -> bool {
    let me = from as usize;
    if from == Direction::FromServer {
        if answers_later_syn(later_syn, tcp) {
            return true;
        }
        if flow.state == FlowState::SynSent {
            return tcp.has(tcp_flags::ACK) && is_within(tcp.ack, isn(flow), flow.next[0]);
        }
    }
    let oldest = match flow.state {
        _ if !sees_replies => flow.next[me].wrapping_sub(RESET_WINDOW),
        FlowState::SynSent => isn(flow),
        _ => oldest_reset(flow, me),
    };
    tcp.seq.wrapping_sub(oldest) <= flow.next[me].wrapping_sub(oldest)
}

/// Whether the segment goes beyond what its side had sent or acknowledged. What was overtaken by a reset does not.
fn goes_on(flow: &Flow, me: usize, tcp: &Tcp, sees_replies: bool) -> bool {
    is_after(tcp.end_seq(), flow.next[me]) || sees_replies && acknowledges_more(flow, me, tcp)
}

/// A segment that counts, on a closed flow: when the side that seemed to have reset it goes on, it never did.
/// New bytes prove that. An acknowledgement may have been overtaken by its own reset: it opens the flow only for
/// as long as a half-closed one lives, until another follows.
fn revive(flow: &mut Flow, me: usize, tcp: &Tcp, sees_replies: bool, now: u32) -> Change {
    if !flow.has(reset_from(me)) || !goes_on(flow, me, tcp, sees_replies) {
        return Change::default();
    }
    flow.state = FlowState::Closing;
    if tcp.payload_len > 0 && is_after(tcp.end_seq(), flow.next[me]) {
        flow.flags &= !reset_from(me);
        flow.state = FlowState::Established;
    }
    move_on(flow, me, tcp, sees_replies);
    flow.last_seen = now;
    let closed = close_by_fins(flow);
    Change { revived: !closed, ..Change::default() }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
