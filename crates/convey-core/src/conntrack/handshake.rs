//! What SYNs do to a TCP flow's state.

use convey_packet::{Tcp, tcp_flags};

use super::flow::{Direction, Flow, FlowState, flags};
use super::tcp::Change;
use super::window::{self, NO_SCALE, is_after, is_within};

/// The state of a flow begun by `tcp`: a SYN, or (DSR) anything else taken over in mid-flow.
pub fn begin(flow: &mut Flow, tcp: &Tcp) {
    flow.state = if tcp.has(tcp_flags::SYN) { FlowState::SynSent } else { FlowState::SynReceived };
    flow.next[0] = tcp.end_seq();
    flow.acked[0] = tcp.seq;
    flow.window[0] = tcp.window;
    flow.scale[0] = tcp.window_scale.unwrap_or(NO_SCALE);
    if flow.state == FlowState::SynReceived && tcp.has(tcp_flags::FIN) {
        flow.flags |= flags::FIN_FROM_CLIENT;
    }
}

/// Whether a SYN without acknowledgement is the one the flow began with, sent once more.
pub fn is_own_syn(flow: &Flow, tcp: &Tcp, sees_replies: bool) -> bool {
    match flow.state {
        FlowState::SynSent => tcp.seq == flow.acked[0],
        FlowState::SynReceived if sees_replies => {
            tcp.end_seq() == flow.next[0] || tcp.seq.wrapping_add(1) == flow.acked[0]
        }
        // Where answers are not seen, nothing moves the number of the SYN on.
        FlowState::Established if !sees_replies => tcp.seq == flow.acked[0],
        _ => false,
    }
}

/// Whether a segment of the server answers the SYN kept in [`Flow::later_syn`].
pub(super) fn answers_later_syn(flow: &Flow, tcp: &Tcp) -> bool {
    // A SYN may carry a packet of data (RFC 7413), which the server acknowledges or not.
    let longest = flow.later_syn.wrapping_add(u32::from(u16::MAX));
    flow.has(flags::LATER_SYN) && tcp.has(tcp_flags::ACK) && is_within(tcp.ack, flow.later_syn, longest)
}

/// A SYN on a flow that is not closed: its own handshake counts, anything else is for the endpoints to judge.
///
/// A SYN sent once more does not prolong the flow: what nobody answers must end, so that the next try may find
/// another server.
pub(super) fn take_syn(flow: &mut Flow, from: Direction, tcp: &Tcp, sees_replies: bool, now: u32) -> Change {
    let mut change = Change::default();
    match (from, tcp.has(tcp_flags::ACK)) {
        (Direction::FromClient, false) if is_own_syn(flow, tcp, sees_replies) => {
            if flow.state == FlowState::SynSent && is_after(tcp.end_seq(), flow.next[0]) {
                flow.next[0] = tcp.end_seq();
            }
        }
        (Direction::FromClient, false) => {
            flow.later_syn = tcp.seq;
            flow.flags |= flags::LATER_SYN;
            change.out_of_window = true;
        }
        (Direction::FromServer, true) if answers_first_syn(flow, tcp) => answer(flow, tcp, now),
        (Direction::FromServer, true) if answers_later_syn(flow, tcp) => {
            restart(flow, tcp, now);
            change.restarted = true;
        }
        _ => change.out_of_window = true,
    }
    change
}

fn answers_first_syn(flow: &Flow, tcp: &Tcp) -> bool {
    match flow.state {
        // The data of the SYN may be acknowledged with it, in part or not at all (RFC 7413).
        FlowState::SynSent => is_within(tcp.ack, flow.acked[0], flow.next[0]),
        FlowState::SynReceived => tcp.ack == flow.acked[0] || is_within(tcp.ack, flow.acked[0], flow.next[0]),
        _ => false,
    }
}

fn answer(flow: &mut Flow, tcp: &Tcp, now: u32) {
    let is_first = flow.state == FlowState::SynSent;
    if is_first || flow.acked[1] != tcp.seq {
        flow.next[1] = tcp.end_seq();
        flow.acked[1] = tcp.seq;
    }
    flow.acked[0] = tcp.ack;
    if is_first {
        flow.window[1] = tcp.window;
        flow.scale[1] = tcp.window_scale.unwrap_or(NO_SCALE);
        window::agree_on_scale(flow);
    }
    flow.state = FlowState::SynReceived;
    flow.last_seen = now;
}

/// The server has taken a later SYN for the beginning of a new connection: so it is.
fn restart(flow: &mut Flow, tcp: &Tcp, now: u32) {
    flow.next = [tcp.ack, tcp.end_seq()];
    flow.acked = [tcp.ack, tcp.seq];
    // Of the SYN only its number was kept: the client's windows are read with the largest scale there is.
    flow.window = [u16::MAX, tcp.window];
    flow.scale = [14, tcp.window_scale.unwrap_or(NO_SCALE)];
    window::agree_on_scale(flow);
    const OLD: u8 = flags::FIN_FROM_CLIENT
        | flags::FIN_FROM_SERVER
        | flags::RESET_FROM_CLIENT
        | flags::RESET_FROM_SERVER
        | flags::LATER_SYN;
    flow.flags &= !OLD;
    flow.state = FlowState::SynReceived;
    flow.last_seen = now;
}
