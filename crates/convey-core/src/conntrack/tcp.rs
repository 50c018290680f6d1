//! What a packet does to a flow's state. Sequence numbers are watched only so far as is needed to tell a
//! real end from a forged one:
//!
//! - A reset counts when its number lies between what the other side has acknowledged and what this side has
//!   sent: for an idle flow that is exactly one number. Any other is passed on for the endpoints to judge
//!   (RFC 5961) and leaves the flow as it is.
//! - A FIN, an acknowledgement or data counts within 16 MiB of what has been seen; anything else is passed on
//!   and neither refreshes nor changes the flow.

use convey_packet::{Tcp, tcp_flags};

use super::flow::{Direction, Flow, FlowState, flags};

/// How far from the bytes seen a segment may lie and still count.
const WINDOW: u32 = 1 << 24;
/// DSR, where acknowledgements are not seen: how far behind the client's last byte its reset may lie.
const RESET_WINDOW: u32 = 65_535;

/// What a packet has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The conversation is confirmed: promote the flow and count a connection.
    pub established: bool,
    /// The conversation is over.
    pub closed: bool,
    /// The segment lies outside of what was seen; it did not count.
    pub out_of_window: bool,
}

/// The state of a flow begun by `tcp`: a SYN, or (DSR) anything else taken over in mid-flow.
pub fn begin(flow: &mut Flow, tcp: &Tcp) {
    flow.state = if tcp.has(tcp_flags::SYN) { FlowState::SynSent } else { FlowState::SynReceived };
    flow.next[0] = tcp.end_seq();
    flow.acked[0] = tcp.seq;
    if flow.state == FlowState::SynReceived && tcp.has(tcp_flags::FIN) {
        flow.flags |= flags::FIN_FROM_CLIENT;
    }
}

/// Takes a TCP segment into account. `sees_replies` tells that both directions pass here (passthrough).
pub fn advance(flow: &mut Flow, from: Direction, tcp: &Tcp, sees_replies: bool, now: u32) -> Change {
    let mut change = Change::default();
    if flow.state == FlowState::Closed {
        return change;
    }
    let me = from as usize;
    let peer = 1 - me;
    if tcp.has(tcp_flags::RST) {
        if is_valid_reset(flow, from, tcp, sees_replies) {
            flow.state = FlowState::Closed;
            flow.last_seen = now;
            change.closed = true;
        } else {
            change.out_of_window = true;
        }
        return change;
    }
    if tcp.has(tcp_flags::SYN) {
        change.out_of_window = !take_syn(flow, from, tcp, now);
        return change;
    }
    let server_unheard = flow.state == FlowState::SynSent && from == Direction::FromServer;
    if !server_unheard && !is_near(tcp.seq, flow.next[me]) {
        change.out_of_window = true;
        return change;
    }
    if flow.state == FlowState::SynSent && sees_replies {
        // Nothing but a SYN-ACK or a reset answers a SYN.
        change.out_of_window = true;
        return change;
    }
    if me == 0 && matches!(flow.state, FlowState::SynSent | FlowState::SynReceived) {
        if sees_replies && !(tcp.has(tcp_flags::ACK) && is_near(tcp.ack, flow.next[1])) {
            change.out_of_window = true;
            return change;
        }
        flow.state = FlowState::Established;
        change.established = true;
    }
    if is_after(tcp.end_seq(), flow.next[me]) {
        flow.next[me] = tcp.end_seq();
    }
    if sees_replies && tcp.has(tcp_flags::ACK) && is_near(tcp.ack, flow.next[peer]) {
        if is_after(tcp.ack, flow.acked[peer]) {
            flow.acked[peer] = tcp.ack;
        }
        if is_after(tcp.ack, flow.next[peer]) {
            // Bytes that went another way, or were lost before us and seen by nobody but the peer.
            flow.next[peer] = tcp.ack;
        }
    }
    if tcp.has(tcp_flags::FIN) {
        flow.flags |= if me == 0 { flags::FIN_FROM_CLIENT } else { flags::FIN_FROM_SERVER };
    }
    flow.last_seen = now;
    if matches!(flow.state, FlowState::Established | FlowState::Closing) {
        const BOTH: u8 = flags::FIN_FROM_CLIENT | flags::FIN_FROM_SERVER;
        match flow.flags & BOTH {
            0 => {}
            BOTH => {
                flow.state = FlowState::Closed;
                change.closed = true;
            }
            _ => flow.state = FlowState::Closing,
        }
    }
    change
}

/// Takes a datagram into account.
pub fn advance_udp(flow: &mut Flow, from: Direction, sees_replies: bool, now: u32) -> Change {
    let mut change = Change::default();
    flow.last_seen = now;
    match (flow.state, from) {
        (FlowState::UdpNew, Direction::FromServer) => flow.state = FlowState::UdpReplied,
        (FlowState::UdpReplied, Direction::FromClient) => change.established = true,
        (FlowState::UdpNew, Direction::FromClient) => change.established = !sees_replies,
        _ => {}
    }
    if change.established {
        flow.state = FlowState::UdpStream;
    }
    change
}

fn is_valid_reset(flow: &Flow, from: Direction, tcp: &Tcp, sees_replies: bool) -> bool {
    let me = from as usize;
    if flow.state == FlowState::SynSent && from == Direction::FromServer {
        return tcp.has(tcp_flags::ACK) && tcp.ack == flow.next[0];
    }
    let oldest = if sees_replies { flow.acked[me] } else { flow.next[me].wrapping_sub(RESET_WINDOW) };
    tcp.seq.wrapping_sub(oldest) <= flow.next[me].wrapping_sub(oldest)
}

/// A SYN on a flow that is not closed: its own handshake counts, anything else is for the endpoints to judge.
fn take_syn(flow: &mut Flow, from: Direction, tcp: &Tcp, now: u32) -> bool {
    let is_answer = tcp.has(tcp_flags::ACK);
    match (flow.state, from) {
        (FlowState::SynSent, Direction::FromClient) if !is_answer => {
            flow.next[0] = tcp.end_seq();
            flow.acked[0] = tcp.seq;
        }
        (FlowState::SynSent | FlowState::SynReceived, Direction::FromServer)
            if is_answer && tcp.ack == flow.next[0] =>
        {
            flow.state = FlowState::SynReceived;
            flow.next[1] = tcp.end_seq();
            flow.acked[1] = tcp.seq;
            flow.acked[0] = tcp.ack;
        }
        (FlowState::SynReceived, Direction::FromClient) if !is_answer && tcp.end_seq() == flow.next[0] => {}
        _ => return false,
    }
    flow.last_seen = now;
    true
}

const fn is_near(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_add(WINDOW) <= 2 * WINDOW
}

const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_flags::{ACK, FIN, RST, SYN};

    fn seg(flags: u8, seq: u32, ack: u32, payload_len: u32) -> Tcp {
        Tcp { seq, ack, flags, payload_len }
    }

    /// A flow after its handshake: client bytes from 1001, server bytes from 5001.
    fn established() -> Flow {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        assert!(
            !advance(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 1).established
        );
        assert!(advance(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), true, 2).established);
        flow
    }

    #[test]
    fn a_syn_ack_alone_does_not_confirm_a_flow_because_a_flood_gets_those_too() {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        advance(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 1);
        assert!(flow.state.is_half_open());
        // A forged acknowledgement of a number the server never sent does not confirm it either.
        let forged = advance(&mut flow, Direction::FromClient, &seg(ACK, 1001, 9 << 28, 0), true, 2);
        assert!(forged.out_of_window && flow.state == FlowState::SynReceived);
    }

    #[test]
    fn a_blind_reset_leaves_the_flow_and_the_real_one_ends_it() {
        let mut flow = established();
        for seq in [0, 1000, 1002, 70_000, 1 << 31] {
            let change = advance(&mut flow, Direction::FromClient, &seg(RST, seq, 0, 0), true, 3);
            assert!(change.out_of_window && !change.closed, "{seq}");
        }
        assert_eq!((flow.state, flow.last_seen), (FlowState::Established, 2));
        assert!(advance(&mut flow, Direction::FromClient, &seg(RST, 1001, 0, 0), true, 4).closed);
    }

    #[test]
    fn a_reset_with_bytes_in_flight_may_lie_anywhere_among_them() {
        let mut flow = established();
        advance(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 3000), true, 3);
        let mut other = flow;
        assert!(advance(&mut flow, Direction::FromClient, &seg(RST | ACK, 4001, 5001, 0), true, 4).closed);
        assert!(advance(&mut other, Direction::FromClient, &seg(RST, 2001, 0, 0), true, 4).closed);
    }

    #[test]
    fn a_refused_connection_closes_by_the_servers_reset_and_by_no_other() {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        assert!(!advance(&mut flow, Direction::FromServer, &seg(RST | ACK, 0, 77, 0), true, 1).closed);
        assert!(advance(&mut flow, Direction::FromServer, &seg(RST | ACK, 0, 1001, 0), true, 1).closed);
    }

    #[test]
    fn data_out_of_window_neither_refreshes_nor_moves_the_flow() {
        let mut flow = established();
        let change =
            advance(&mut flow, Direction::FromServer, &seg(ACK, 5001 + (1 << 28), 1001, 10), true, 9);
        assert!(change.out_of_window);
        assert_eq!((flow.next[1], flow.last_seen), (5001, 2));
    }

    #[test]
    fn a_half_close_keeps_the_other_direction_and_both_fins_end_the_flow() {
        let mut flow = established();
        assert!(!advance(&mut flow, Direction::FromClient, &seg(FIN | ACK, 1001, 5001, 0), true, 3).closed);
        assert_eq!(flow.state, FlowState::Closing);
        assert!(!advance(&mut flow, Direction::FromServer, &seg(ACK, 5001, 1002, 900), true, 4).closed);
        assert!(advance(&mut flow, Direction::FromServer, &seg(FIN | ACK, 5901, 1002, 0), true, 5).closed);
        // The last acknowledgement belongs to a closed flow and changes nothing.
        assert_eq!(
            advance(&mut flow, Direction::FromClient, &seg(ACK, 1002, 5902, 0), true, 6),
            Change::default()
        );
    }

    #[test]
    fn fin_with_push_and_ack_closes_like_any_other_fin() {
        let mut flow = established();
        let psh = tcp_flags::PSH;
        advance(&mut flow, Direction::FromClient, &seg(FIN | psh | ACK, 1001, 5001, 5), true, 3);
        assert!(
            advance(&mut flow, Direction::FromServer, &seg(FIN | psh | ACK, 5001, 1007, 5), true, 4).closed
        );
    }

    #[test]
    fn in_dsr_the_clients_acknowledgement_confirms_and_its_fin_begins_the_end() {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        assert!(advance(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), false, 1).established);
        advance(&mut flow, Direction::FromClient, &seg(FIN | ACK, 1001, 5001, 0), false, 2);
        assert_eq!(flow.state, FlowState::Closing);
    }

    #[test]
    fn a_datagram_flow_is_confirmed_when_the_client_goes_on_after_an_answer() {
        let mut flow = Flow { state: FlowState::UdpNew, ..Flow::default() };
        assert!(!advance_udp(&mut flow, Direction::FromClient, true, 1).established);
        assert!(!advance_udp(&mut flow, Direction::FromServer, true, 2).established);
        assert!(advance_udp(&mut flow, Direction::FromClient, true, 3).established);
        let mut dsr = Flow { state: FlowState::UdpNew, ..Flow::default() };
        assert!(advance_udp(&mut dsr, Direction::FromClient, false, 1).established);
    }
}
