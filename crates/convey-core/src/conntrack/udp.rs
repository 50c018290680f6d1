//! What a datagram does to a flow's state.
//!
//! UDP says nothing of its end, so what is idle gives way to what is new when there is no room: NAT ports, or
//! places in the flow table. How long a pause is usual depends on what was seen: a question and its answer are
//! over at once, what has gone on for a while may pause.
//!
//! A UDP flow has no sequence numbers; `Flow::next[0]` counts its datagrams.

use std::time::Duration;

use super::flow::{Direction, Flow, FlowState, Ticks};
use super::tcp::Change;

/// A conversation of fewer datagrams than this, both ways counted, is a brief one.
pub const BRIEF: u32 = 8;
/// Ticks after which a brief conversation gives way.
pub const BRIEF_IDLE: u32 = Ticks::span(Duration::from_secs(2));
/// Ticks after which any other gives way.
pub const STREAM_IDLE: u32 = Ticks::span(Duration::from_secs(30));
/// The state of a flow that a datagram of the client begins.
pub fn begin_udp(flow: &mut Flow, now: u32) {
    flow.state = FlowState::UdpNew;
    flow.next = [1, now];
}

/// Takes a datagram into account. `sees_replies` tells that both directions pass here (passthrough).
pub fn advance_udp(flow: &mut Flow, from: Direction, sees_replies: bool, now: u32) -> Change {
    let mut change = Change::default();
    flow.last_seen = now;
    flow.next[0] = flow.next[0].saturating_add(1);
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

/// Whether it is a UDP conversation that has paused longer than is usual.
pub(super) fn is_idle(flow: &Flow, now: Ticks) -> bool {
    let pause = if flow.next[0] < BRIEF { BRIEF_IDLE } else { STREAM_IDLE };
    flow.state == FlowState::UdpStream && now.since(Ticks(flow.last_seen)) >= pause
}

#[cfg(test)]
mod tests {
    use super::*;

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
