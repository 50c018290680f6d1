//! What SYNs do to a TCP flow's state.

use convey_packet::{Tcp, tcp_flags};

use super::flight;
use super::flow::{Direction, Flow, FlowState, flags};
use super::tcp::Change;
use super::window::{self, exponent, is_after, is_within};

/// The state of a flow begun by `tcp`: a SYN, or (DSR) anything else taken over in mid-flow.
pub fn begin(flow: &mut Flow, tcp: &Tcp) {
    flow.state = if tcp.has(tcp_flags::SYN) { FlowState::SynSent } else { FlowState::SynReceived };
    flow.next = [tcp.end_seq(), tcp.seq];
    flow.in_flight = [0, 0];
    flow.window = [exponent(u32::from(tcp.window)), 0];
    flow.scale = [window::scale(tcp), 0];
    if flow.state == FlowState::SynReceived && tcp.has(tcp_flags::FIN) {
        flow.flags |= flags::FIN_FROM_CLIENT;
    }
}

/// Whether a SYN without acknowledgement is the one the flow began with, sent once more.
pub fn is_own_syn(flow: &Flow, tcp: &Tcp, sees_replies: bool) -> bool {
    match flow.state {
        FlowState::SynSent => tcp.seq == isn(flow),
        // It lies where the first lay, whose data may be left out when it is sent once more.
        FlowState::SynReceived if sees_replies => {
            let first = flow.acked(0);
            tcp.end_seq() == flow.next[0]
                || tcp.seq.wrapping_add(1).wrapping_sub(first) <= flow.next[0].wrapping_sub(first)
        }
        FlowState::Established if !sees_replies => tcp.seq == isn(flow),
        _ => false,
    }
}

/// The number of the client's SYN, where nothing of the server was heard.
pub(super) const fn isn(flow: &Flow) -> u32 {
    flow.next[1]
}

/// Whether a segment of the server answers a later SYN of the client.
pub(super) fn answers_later_syn(later_syn: Option<u32>, tcp: &Tcp) -> bool {
    // A SYN may carry a packet of data (RFC 7413), which the server acknowledges or not.
    let is_answer = |syn: u32| is_within(tcp.ack, syn, syn.wrapping_add(u32::from(u16::MAX)));
    tcp.has(tcp_flags::ACK) && later_syn.is_some_and(is_answer)
}

/// A SYN on a flow that is not closed: its own handshake counts, anything else is for the endpoints to judge.
///
/// A SYN sent once more does not prolong the flow: what nobody answers must end, so that the next try may find
/// another server.
pub(super) fn take_syn(
    flow: &mut Flow,
    from: Direction,
    tcp: &Tcp,
    sees_replies: bool,
    later_syn: Option<u32>,
    now: u32,
) -> Change {
    let mut change = Change::default();
    match (from, tcp.has(tcp_flags::ACK)) {
        (Direction::FromClient, false) if is_own_syn(flow, tcp, sees_replies) => {
            if flow.state == FlowState::SynSent && is_after(tcp.end_seq(), flow.next[0]) {
                flow.next[0] = tcp.end_seq();
            }
        }
        (Direction::FromClient, false) => {
            change.later_syn = Some(tcp.seq);
            change.out_of_window = true;
        }
        (Direction::FromServer, true) if answers_first_syn(flow, tcp) => answer(flow, tcp, now),
        (Direction::FromServer, true) if answers_later_syn(later_syn, tcp) => {
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
        FlowState::SynSent => is_within(tcp.ack, isn(flow), flow.next[0]),
        FlowState::SynReceived => {
            tcp.ack.wrapping_sub(flow.acked(0)) <= flow.next[0].wrapping_sub(flow.acked(0))
        }
        _ => false,
    }
}

fn answer(flow: &mut Flow, tcp: &Tcp, now: u32) {
    let is_first = flow.state == FlowState::SynSent;
    if is_first || flow.acked(1) != tcp.seq {
        take_server_syn(flow, tcp);
    }
    flow.in_flight[0] = flight::encode(flow.next[0].wrapping_sub(tcp.ack));
    if is_first {
        flow.window[1] = exponent(u32::from(tcp.window));
        flow.scale[1] = window::scale(tcp);
        window::agree_on_scale(flow);
    }
    flow.state = FlowState::SynReceived;
    flow.last_seen = now;
}

fn take_server_syn(flow: &mut Flow, tcp: &Tcp) {
    flow.next[1] = tcp.end_seq();
    flow.in_flight[1] = flight::encode(tcp.end_seq().wrapping_sub(tcp.seq));
}

/// The server has taken a later SYN for the beginning of a new connection: so it is.
fn restart(flow: &mut Flow, tcp: &Tcp, now: u32) {
    flow.next[0] = tcp.ack;
    flow.in_flight[0] = 0;
    take_server_syn(flow, tcp);
    // Of the SYN only its number was kept: the client's windows are read with the largest scale there is.
    flow.window = [exponent(u32::from(u16::MAX)), exponent(u32::from(tcp.window))];
    flow.scale = [14, window::scale(tcp)];
    window::agree_on_scale(flow);
    const OLD: u8 =
        flags::FIN_FROM_CLIENT | flags::FIN_FROM_SERVER | flags::RESET_FROM_CLIENT | flags::RESET_FROM_SERVER;
    flow.flags &= !OLD;
    flow.state = FlowState::SynReceived;
    flow.last_seen = now;
}
