//! The layout of flows as names and numbers, for the sources in C that work on the same memory.

use super::entry::{self, WORDS_V4, WORDS_V6};
use super::flow::{FlowState, Ticks, flags};
use super::space::{SET_WORDS, chain};
use super::{FlowId, tcp, udp, window};

/// Every number of the layout of flows by its name in C.
pub fn numbers() -> Vec<(String, u64)> {
    let states = (0..FlowState::COUNT as u8).filter_map(FlowState::from_number);
    let states = states.map(|s| (format!("STATE_{}", s.name().to_uppercase()), s as u64));
    let fields = [("ENTRY4", WORDS_V4), ("ENTRY6", WORDS_V6)].into_iter().flat_map(|(entry, words)| {
        let behind = entry::behind_client(words);
        [
            ("BYTES", words),
            ("CONTROL", entry::CONTROL),
            ("SEEN", entry::SEEN),
            ("CLIENT", entry::CLIENT),
            ("CLIENT_PORT", behind),
            ("FRONTEND", behind + 1),
            ("NAT", behind + 2),
            ("NEXT", behind + 3),
        ]
        .map(|(field, word)| (format!("{entry}_{field}"), word as u64 * 4))
    });
    let others = [
        ("STATE_CLAIMED", entry::CLAIMED),
        ("STATE_MASK", entry::STATE),
        ("FLAGS_SHIFT", entry::FLAGS_AT),
        ("FLAGS_MASK", entry::FLAGS),
        ("FLAG_FIN_CLIENT", u32::from(flags::FIN_FROM_CLIENT)),
        ("FLAG_FIN_SERVER", u32::from(flags::FIN_FROM_SERVER)),
        ("FLAG_COUNTED", u32::from(flags::COUNTED)),
        ("FLAG_RST_CLIENT", u32::from(flags::RESET_FROM_CLIENT)),
        ("FLAG_RST_SERVER", u32::from(flags::RESET_FROM_SERVER)),
        ("FLAG_HAS_PORT", u32::from(flags::HAS_PORT)),
        ("WINDOW_SHIFT_CLIENT", entry::WINDOWS_AT[0]),
        ("WINDOW_SHIFT_SERVER", entry::WINDOWS_AT[1]),
        ("WINDOW_MASK", entry::WINDOW),
        ("SEQ_SHIFT", entry::CLAIM_AT),
        ("TICK_SHIFT", Ticks::SHIFT),
        ("TICK_MASK", Ticks::MASK),
        ("SCALE_CLIENT_SHIFT", entry::SCALES_AT[0]),
        ("SCALE_SERVER_SHIFT", entry::SCALES_AT[1]),
        ("SCALE_MASK", entry::SCALE),
        ("NO_SCALE", u32::from(window::NO_SCALE)),
        ("MAX_SCALE", u32::from(window::MAX_SCALE)),
        ("SET_BYTES", SET_WORDS as u32 * 4),
        ("CHAIN4", chain(WORDS_V4) as u32),
        ("CHAIN6", chain(WORDS_V6) as u32),
        ("FLOW_V6", FlowId::V6),
        ("OLD_ACKNOWLEDGEMENT", window::OLD_ACKNOWLEDGEMENT),
        ("UNSEEN_WINDOW", tcp::UNSEEN_WINDOW),
        ("RESET_WINDOW", tcp::RESET_WINDOW),
        ("BRIEF", udp::BRIEF),
        ("BRIEF_IDLE", udp::BRIEF_IDLE),
        ("STREAM_IDLE", udp::STREAM_IDLE),
    ];
    let others = others.map(|(name, number)| (name.to_owned(), u64::from(number)));
    states.chain(others).chain(fields).collect()
}
