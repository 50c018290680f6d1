//! What a datagram does to a flow's state.

use super::flow::{Direction, Flow, FlowState};
use super::tcp::Change;

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
