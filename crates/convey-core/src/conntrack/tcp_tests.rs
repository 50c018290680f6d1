use super::super::entry::{self, PortField};
use super::*;
use tcp_flags::{ACK, FIN, RST, SYN};

fn seg(flags: u8, seq: u32, ack: u32, payload_len: u32) -> Tcp {
    Tcp { seq, ack, flags, payload_len, window: 64_240, window_scale: None }
}

/// Takes a segment into account; the flow lies in an entry before and after.
fn take(flow: &mut Flow, from: Direction, tcp: &Tcp, sees_replies: bool, now: u32) -> Change {
    take_knowing(flow, None, from, tcp, sees_replies, now)
}

/// As `take`, with a later SYN of the client in mind.
fn take_knowing(
    flow: &mut Flow,
    later_syn: Option<u32>,
    from: Direction,
    tcp: &Tcp,
    sees_replies: bool,
    now: u32,
) -> Change {
    let change = advance(flow, from, tcp, sees_replies, later_syn, now);
    let field = if sees_replies { PortField::InFlight } else { PortField::Port };
    *flow = entry::stored(flow, field);
    change
}

/// A flow after its handshake: client bytes from 1001, server bytes from 5001.
fn established() -> Flow {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    assert!(!take(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 1).established);
    assert!(take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), true, 2).established);
    flow
}

#[test]
fn a_syn_ack_alone_does_not_confirm_a_flow_because_a_flood_gets_those_too() {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    take(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 1);
    assert!(flow.state.is_half_open());
    // A forged acknowledgement of a number the server never sent does not confirm it either.
    let forged = take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 9 << 28, 0), true, 2);
    assert!(forged.out_of_window && flow.state == FlowState::SynReceived);
}

#[test]
fn a_blind_reset_leaves_the_flow_and_the_real_one_ends_it() {
    let mut flow = established();
    for seq in [0, 1000, 1002, 70_000, 1 << 31] {
        let change = take(&mut flow, Direction::FromClient, &seg(RST, seq, 0, 0), true, 3);
        assert!(change.out_of_window && !change.closed, "{seq}");
    }
    assert_eq!((flow.state, flow.last_seen), (FlowState::Established, 2));
    assert!(take(&mut flow, Direction::FromClient, &seg(RST, 1001, 0, 0), true, 4).closed);
}

#[test]
fn a_reset_with_bytes_in_flight_may_lie_anywhere_among_them() {
    let mut flow = established();
    take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 3000), true, 3);
    let mut other = flow;
    assert!(take(&mut flow, Direction::FromClient, &seg(RST | ACK, 4001, 5001, 0), true, 4).closed);
    assert!(take(&mut other, Direction::FromClient, &seg(RST, 2001, 0, 0), true, 4).closed);
}

#[test]
fn a_refused_connection_closes_by_the_servers_reset_and_by_no_other() {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    assert!(!take(&mut flow, Direction::FromServer, &seg(RST | ACK, 0, 77, 0), true, 1).closed);
    assert!(take(&mut flow, Direction::FromServer, &seg(RST | ACK, 0, 1001, 0), true, 1).closed);
}

#[test]
fn data_out_of_window_neither_refreshes_nor_moves_the_flow() {
    let mut flow = established();
    let change = take(&mut flow, Direction::FromServer, &seg(ACK, 5001 + (1 << 28), 1001, 10), true, 9);
    assert!(change.out_of_window);
    assert_eq!((flow.next[1], flow.last_seen), (5001, 2));
}

#[test]
fn a_half_close_keeps_the_other_direction_and_both_fins_end_the_flow() {
    let mut flow = established();
    assert!(!take(&mut flow, Direction::FromClient, &seg(FIN | ACK, 1001, 5001, 0), true, 3).closed);
    assert_eq!(flow.state, FlowState::Closing);
    assert!(!take(&mut flow, Direction::FromServer, &seg(ACK, 5001, 1002, 900), true, 4).closed);
    assert!(take(&mut flow, Direction::FromServer, &seg(FIN | ACK, 5901, 1002, 0), true, 5).closed);
    // The last acknowledgement belongs to a closed flow and changes nothing.
    assert_eq!(take(&mut flow, Direction::FromClient, &seg(ACK, 1002, 5902, 0), true, 6), Change::default());
}

#[test]
fn fin_with_push_and_ack_closes_like_any_other_fin() {
    let mut flow = established();
    let psh = tcp_flags::PSH;
    take(&mut flow, Direction::FromClient, &seg(FIN | psh | ACK, 1001, 5001, 5), true, 3);
    assert!(take(&mut flow, Direction::FromServer, &seg(FIN | psh | ACK, 5001, 1007, 5), true, 4).closed);
}

#[test]
fn in_dsr_the_clients_acknowledgement_confirms_and_its_fin_begins_the_end() {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    assert!(take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), false, 1).established);
    take(&mut flow, Direction::FromClient, &seg(FIN | ACK, 1001, 5001, 0), false, 2);
    assert_eq!(flow.state, FlowState::Closing);
}

/// A SYN that offers a window scale.
fn syn(flags: u8, seq: u32, ack: u32, window: u16, scale: u8) -> Tcp {
    Tcp { window, window_scale: Some(scale), ..seg(flags, seq, ack, 0) }
}

#[test]
fn only_the_exact_acknowledgement_of_the_syn_ack_confirms_a_flow() {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    take(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 1);
    for near in [4000, 4999, 5000, 5002, 5100, 5001 + (1 << 16), 5001 + (1 << 23)] {
        let mut flow = flow;
        let change = take(&mut flow, Direction::FromClient, &seg(ACK, 1001, near, 0), true, 2);
        assert!(change.out_of_window && flow.state == FlowState::SynReceived, "{near}");
    }
    assert!(take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), true, 2).established);
}

#[test]
fn a_blind_sweep_of_acknowledgements_confirms_nothing() {
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 0));
    take(&mut flow, Direction::FromServer, &seg(SYN | ACK, 0x1234_5678, 1001, 0), true, 1);
    for step in 0..1 << 16 {
        take(&mut flow, Direction::FromClient, &seg(ACK, 1001, step << 16, 0), true, 2);
    }
    assert!(flow.state.is_half_open());
}

#[test]
fn data_counts_as_far_as_the_advertised_window_reaches_and_at_most_twice_as_far() {
    let flow = established();
    // 64,240 bytes were advertised, of which the power of two is kept.
    const WINDOW: u32 = 65_536;
    let beyond = 1001 + WINDOW;
    for (seq, counts) in [(1001, true), (beyond, true), (beyond + 1, false), (1001 + (1 << 20), false)] {
        let mut flow = flow;
        let change = take(&mut flow, Direction::FromClient, &seg(ACK, seq, 5001, 10), true, 3);
        assert_eq!(!change.out_of_window, counts, "{seq}");
        assert_eq!(flow.next[0], if counts { seq + 10 } else { 1001 });
    }
    // What acknowledges bytes that nobody may have sent is forged.
    for (ack, counts) in [(5001, true), (5001 + WINDOW, true), (5002 + WINDOW, false)] {
        let mut flow = flow;
        let change = take(&mut flow, Direction::FromClient, &seg(ACK, 1001, ack, 10), true, 3);
        assert_eq!(!change.out_of_window, counts, "{ack}");
    }
    let mut bare = flow;
    assert!(take(&mut bare, Direction::FromClient, &seg(FIN, 1001, 0, 0), true, 3).out_of_window);
}

#[test]
fn windows_are_scaled_when_both_syns_offer_it_and_else_not() {
    for (client, server, reach) in [(Some(4), Some(7), 512 << 7), (Some(4), None, 512), (None, Some(7), 512)]
    {
        let mut flow = Flow::default();
        begin(&mut flow, &Tcp { window_scale: client, ..syn(SYN, 1000, 0, 60_000, 0) });
        let answer = Tcp { window_scale: server, ..syn(SYN | ACK, 5000, 1001, 300, 0) };
        take(&mut flow, Direction::FromServer, &answer, true, 1);
        take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), true, 2);
        let open = Tcp { window: 502, ..seg(ACK, 5001, 1001, 0) };
        assert!(!take(&mut flow, Direction::FromServer, &open, true, 3).out_of_window);
        let at = |seq| seg(ACK, seq, 5001, 1);
        assert!(take(&mut flow.clone(), Direction::FromClient, &at(1002 + reach), true, 4).out_of_window);
        assert!(!take(&mut flow, Direction::FromClient, &at(1001 + reach), true, 4).out_of_window);
    }
}

#[test]
fn keep_alives_window_probes_and_retransmissions_count() {
    let mut flow = established();
    take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 3000), true, 3);
    let shut = Tcp { window: 0, ..seg(ACK, 5001, 4001, 0) };
    take(&mut flow, Direction::FromServer, &shut, true, 4);
    for (what, segment) in [
        ("a keep-alive", seg(ACK, 4000, 5001, 0)),
        ("a keep-alive with a byte", seg(ACK, 4000, 5001, 1)),
        ("a window probe", seg(ACK, 4001, 5001, 1)),
        ("a retransmission", seg(ACK, 1001, 5001, 1460)),
    ] {
        assert!(!take(&mut flow, Direction::FromClient, &segment, true, 5).out_of_window, "{what}");
    }
}

#[test]
fn a_flow_that_a_forged_reset_closed_is_open_again_when_its_side_goes_on() {
    let forged = |from| {
        let mut flow = established();
        take(&mut flow, Direction::FromServer, &seg(ACK, 5001, 1001, 700), true, 3);
        let seq = if from == Direction::FromClient { 1001 } else { 5701 };
        assert!(take(&mut flow, from, &seg(RST, seq, 0, 0), true, 4).closed);
        flow
    };
    let mut flow = forged(Direction::FromClient);
    // The server's packets prove nothing: a real reset may not have reached it yet.
    let more = seg(ACK, 5701, 1001, 700);
    assert!(!take(&mut flow, Direction::FromServer, &more, true, 5).revived);
    // Nor does what a real reset may have overtaken.
    assert!(!take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 0), true, 5).revived);
    assert!(!take(&mut flow, Direction::FromClient, &seg(ACK, 1001 + (1 << 20), 5701, 9), true, 5).revived);
    assert!(take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5701, 9), true, 6).revived);
    assert_eq!((flow.state, flow.last_seen), (FlowState::Established, 6));

    // One that only listens acknowledges: the second time it is believed for good.
    let mut flow = forged(Direction::FromClient);
    assert!(take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5701, 0), true, 5).revived);
    assert_eq!(flow.state, FlowState::Closing);
    take(&mut flow, Direction::FromServer, &more, true, 6);
    take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 6401, 0), true, 7);
    assert_eq!(flow.state, FlowState::Established);

    let mut flow = forged(Direction::FromServer);
    assert!(take(&mut flow, Direction::FromServer, &more, true, 5).revived);
    // A flow that both FINs have closed stays closed.
    take(&mut flow, Direction::FromClient, &seg(FIN | ACK, 1001, 6401, 0), true, 6);
    assert!(take(&mut flow, Direction::FromServer, &seg(FIN | ACK, 6401, 1002, 0), true, 6).closed);
    assert!(!take(&mut flow, Direction::FromServer, &seg(ACK, 6402, 1002, 5), true, 7).revived);
}

#[test]
fn a_syn_ack_takes_the_data_of_the_syn_or_leaves_it() {
    for (acked, next_data) in [(1001, 1001), (1101, 1101), (1051, 1051)] {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 100));
        let answer = seg(SYN | ACK, 5000, acked, 0);
        assert!(!take(&mut flow, Direction::FromServer, &answer, true, 1).out_of_window, "{acked}");
        let rest = seg(ACK, next_data, 5001, 100);
        assert!(take(&mut flow, Direction::FromClient, &rest, true, 2).established, "{acked}");
    }
    for wrong in [1000, 1102] {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 100));
        assert!(
            take(&mut flow, Direction::FromServer, &seg(SYN | ACK, 5000, wrong, 0), true, 1).out_of_window
        );
    }
    // Sent once more without its data, as stacks do.
    let mut flow = Flow::default();
    begin(&mut flow, &seg(SYN, 1000, 0, 100));
    assert!(!take(&mut flow, Direction::FromClient, &seg(SYN, 1000, 0, 0), true, 1).out_of_window);
    let refused = seg(RST | ACK, 0, 1001, 0);
    assert!(take(&mut flow, Direction::FromServer, &refused, true, 1).closed);
}

#[test]
fn a_syn_sent_once_more_does_not_prolong_a_handshake_nobody_answers() {
    for sees_replies in [true, false] {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        for now in [1, 3, 7, 15] {
            let change = take(&mut flow, Direction::FromClient, &seg(SYN, 1000, 0, 0), sees_replies, now);
            assert_eq!((change, flow.last_seen), (Change::default(), 0));
        }
    }
}

#[test]
fn a_syn_ack_for_a_later_syn_begins_the_flow_again_and_a_forged_syn_disturbs_nothing() {
    for half_open in [false, true] {
        let mut flow = established();
        if half_open {
            flow = Flow::default();
            begin(&mut flow, &seg(SYN, 1000, 0, 0));
        }
        let syn = take(&mut flow, Direction::FromClient, &seg(SYN, 900_000, 0, 0), true, 3);
        assert_eq!((syn.out_of_window, syn.later_syn), (true, Some(900_000)));
        let mut real = flow;
        if half_open {
            take(&mut real, Direction::FromServer, &seg(SYN | ACK, 5000, 1001, 0), true, 4);
        }
        assert_eq!(
            take(&mut real, Direction::FromClient, &seg(ACK, 1001, 5001, 5), true, 4),
            Change { established: half_open, ..Change::default() }
        );

        let answer = seg(SYN | ACK, 70_000, 900_001, 0);
        assert!(take(&mut flow.clone(), Direction::FromServer, &answer, true, 4).out_of_window, "who asked?");
        assert!(take_knowing(&mut flow, syn.later_syn, Direction::FromServer, &answer, true, 4).restarted);
        assert!(flow.state.is_half_open());
        let wrong = seg(ACK, 900_001, 5001, 0);
        assert!(take(&mut flow, Direction::FromClient, &wrong, true, 5).out_of_window);
        let ack = seg(ACK, 900_001, 70_001, 0);
        assert!(take(&mut flow, Direction::FromClient, &ack, true, 5).established);
        let data = seg(ACK, 900_001, 70_001, 1000);
        assert!(!take(&mut flow, Direction::FromClient, &data, true, 6).out_of_window);
    }
    // The server knows of no connection: the flow is over.
    let mut flow = established();
    let syn = take(&mut flow, Direction::FromClient, &seg(SYN, 900_000, 0, 0), true, 3).later_syn;
    let reset = seg(RST | ACK, 0, 900_001, 0);
    assert!(take_knowing(&mut flow, syn, Direction::FromServer, &reset, true, 4).closed);
}

#[test]
fn in_dsr_the_handshake_ends_with_what_follows_the_syn_exactly() {
    for (seq, counts) in [(1001, true), (1000, false), (1002, false), (70_000, false)] {
        let mut flow = Flow::default();
        begin(&mut flow, &seg(SYN, 1000, 0, 0));
        let change = take(&mut flow, Direction::FromClient, &seg(ACK, seq, 5, 0), false, 1);
        assert_eq!((change.established, change.out_of_window), (counts, !counts), "{seq}");
    }
}

#[test]
fn a_reset_of_an_idle_flow_counts_for_exactly_one_number_after_any_traffic() {
    let mut flow = established();
    let (mut client, mut server) = (1001u32, 5001u32);
    for (n, len) in [1, 17, 1460, 9000, 65_000, 3].into_iter().cycle().take(200).enumerate() {
        let now = n as u32;
        take(&mut flow, Direction::FromClient, &seg(ACK, client, server, len), true, now);
        client += len;
        // Many little ones, all in flight at once.
        for _ in 0..n % 30 {
            take(&mut flow, Direction::FromServer, &seg(ACK, server, client, 7), true, now);
            server += 7;
        }
        take(&mut flow, Direction::FromClient, &seg(ACK, client, server, 0), true, now);
        take(&mut flow, Direction::FromServer, &seg(ACK, server, client, 0), true, now);
        for (from, seq) in [(Direction::FromClient, client), (Direction::FromServer, server)] {
            for near in [seq - 1, seq + 1, seq - 8, seq + 1000] {
                assert!(take(&mut flow.clone(), from, &seg(RST, near, 0, 0), true, now).out_of_window);
            }
            assert!(take(&mut flow.clone(), from, &seg(RST, seq, 0, 0), true, now).closed);
        }
    }
}

#[test]
fn a_reset_with_bytes_in_flight_counts_no_further_back_than_the_window_reaches() {
    let mut flow = established();
    for n in 0..2000 {
        take(&mut flow, Direction::FromClient, &seg(ACK, 1001 + 100 * n, 5001, 100), true, 3);
    }
    let reset = |seq| take(&mut flow.clone(), Direction::FromClient, &seg(RST, seq, 0, 0), true, 4).closed;
    let next = flow.next[0];
    assert!(reset(next) && reset(next - 60_000) && !reset(next - 65_537) && !reset(next + 1));
}

#[test]
fn a_sweep_of_forged_data_that_once_hits_is_undone_by_the_next_acknowledgement() {
    let mut flow = established();
    for n in 1..100 {
        take(&mut flow, Direction::FromClient, &seg(ACK, 1001 + 60_000 * n, 5001, 1000), true, 3);
    }
    assert!(flow.next[0] > 1001 + 5_000_000);
    take(&mut flow, Direction::FromClient, &seg(ACK, 1001, 5001, 100), true, 4);
    take(&mut flow, Direction::FromServer, &seg(ACK, 5001, 1101, 0), true, 4);
    let real = seg(ACK, 1101, 5001, 100);
    assert!(!take(&mut flow, Direction::FromClient, &real, true, 5).out_of_window);
}

/// One end of a conversation that keeps to the rules: it sends what the other allowed, again where it must.
#[derive(Clone)]
struct End {
    unacked: u32,
    next: u32,
    received: u32,
    /// Up to where the other side takes bytes.
    allowed: u32,
    /// The furthest it has allowed itself.
    offered: u32,
    scale: u8,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }
}

impl End {
    fn emit(&mut self, random: &mut Random) -> Tcp {
        let (seq, len) = match random.below(8) {
            0..=3 => (self.next, self.allowed.wrapping_sub(self.next).min(random.below(20_000))),
            4 => (self.unacked, self.next.wrapping_sub(self.unacked).min(1460)),
            // A keep-alive, when nothing is under way.
            5 if self.unacked == self.next => (self.next.wrapping_sub(1), random.below(2)),
            _ => (self.next, 0),
        };
        if is_after(seq.wrapping_add(len), self.next) {
            self.next = seq.wrapping_add(len);
        }
        // What was offered once is not taken back.
        let room = self.offered.wrapping_sub(self.received).max(random.below(200_000));
        let window = (room >> self.scale).min(u32::from(u16::MAX));
        self.offered = self.received.wrapping_add(window << self.scale);
        Tcp { window: window as u16, ..seg(ACK, seq, self.received, len) }
    }

    fn take(&mut self, segment: &Tcp, scale_of_other: u8) {
        if !is_after(segment.seq, self.received) && is_after(segment.end_seq(), self.received) {
            self.received = segment.end_seq();
        }
        if !is_after(self.unacked, segment.ack) {
            self.unacked = segment.ack;
            self.allowed = segment.ack.wrapping_add(u32::from(segment.window) << scale_of_other);
            if is_after(self.next, self.allowed) {
                self.allowed = self.next;
            }
        }
    }
}

#[test]
fn every_segment_of_a_real_conversation_counts_whatever_is_lost_or_overtaken() {
    for seed in 1..400u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (client_isn, server_isn) = (random.below(u32::MAX), random.below(u32::MAX));
        let scales = [random.below(9) as u8, random.below(9) as u8];
        let scaled = random.below(3) > 0;
        let offer = |side: usize| scaled.then_some(scales[side]);
        let mut flow = Flow::default();
        begin(&mut flow, &Tcp { window: 65_000, window_scale: offer(0), ..seg(SYN, client_isn, 0, 0) });
        let answer = seg(SYN | ACK, server_isn, client_isn.wrapping_add(1), 0);
        let answer = Tcp { window: 60_000, window_scale: offer(1), ..answer };
        take(&mut flow, Direction::FromServer, &answer, true, 1);
        let ack = seg(ACK, client_isn.wrapping_add(1), server_isn.wrapping_add(1), 0);
        assert!(take(&mut flow, Direction::FromClient, &Tcp { window: 1, ..ack }, true, 1).established);

        let (c, s) = (client_isn.wrapping_add(1), server_isn.wrapping_add(1));
        let end = |own: u32, other: u32, allowed: u32, offered: u32, scale: u8| End {
            unacked: own,
            next: own,
            received: other,
            allowed: own.wrapping_add(allowed),
            offered: other.wrapping_add(offered),
            scale: if scaled { scale } else { 0 },
        };
        let mut ends = [end(c, s, 60_000, 65_000, scales[0]), end(s, c, 65_000, 60_000, scales[1])];
        let mut under_way: Vec<(usize, Tcp)> = Vec::new();
        let mut acked = [c, s];
        for step in 0..600 {
            let me = random.below(2) as usize;
            let segment = ends[me].emit(&mut random);
            if random.below(10) > 0 {
                under_way.push((me, segment));
            }
            while under_way.len() > random.below(6) as usize {
                let at = random.below(under_way.len().min(3) as u32) as usize;
                let (from, segment) = under_way.remove(at);
                let direction = [Direction::FromClient, Direction::FromServer][from];
                // Sent once more, overtaken, and acknowledged long since: nobody misses it.
                let is_stale = is_after(acked[from], segment.end_seq());
                let change = take(&mut flow, direction, &segment, true, step);
                assert!(
                    change == Change::default() || is_stale,
                    "seed {seed}, step {step}: {segment:?} {flow:?}"
                );
                assert!(!is_after(flow.acked(from), acked[from]), "more bytes in flight than there are");
                if is_after(segment.ack, acked[1 - from]) {
                    acked[1 - from] = segment.ack;
                }
                if random.below(10) > 0 {
                    let scale = ends[from].scale;
                    ends[1 - from].take(&segment, scale);
                }
            }
        }
        assert!(ends[0].unacked != c || ends[1].unacked != s, "seed {seed}: nothing moved");
    }
}
