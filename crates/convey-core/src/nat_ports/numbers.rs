//! The layout of ports as names and numbers, for the sources in C that work on the same memory.

use super::{PortUse, pool, victim, word};

/// Every number of the layout of ports by its name in C.
pub fn numbers() -> Vec<(String, u64)> {
    [
        ("CLASS_SHIFT", u64::from(word::USE_SHIFT)),
        ("CLASS_MASK", word::USE_MASK),
        ("CLASS_FREE", PortUse::Free as u64),
        ("CLASS_UNCONFIRMED", PortUse::Unconfirmed as u64),
        ("CLASS_CLOSED", PortUse::Closed as u64),
        ("CLASS_BRIEF", PortUse::Brief as u64),
        ("CLASS_STREAM", PortUse::Stream as u64),
        ("CLASS_CONNECTION", PortUse::Connection as u64),
        ("CLASS_RESERVED", PortUse::Reserved as u64),
        ("TURN_SHIFT", u64::from(word::TURN_SHIFT)),
        ("TURN_BITS", u64::from(word::TURN_BITS)),
        ("STAMP_SHIFT", u64::from(word::STAMP_SHIFT)),
        ("PORT_UNUSED", u64::from(word::UNUSED)),
        ("PORT_RESTED", u64::from(word::Word::RESTED)),
        ("PORT_GROUP", pool::GROUP as u64),
        ("PORT_EXTRA", pool::EXTRA as u64),
        ("PORT_EXHAUSTED", pool::EXHAUSTED as u64),
        ("PORT_HAND", pool::HAND as u64),
        ("PORT_TURN", pool::TURN as u64),
        ("PORT_LOOKS", u64::from(pool::LOOKS)),
        ("PORT_WORDS", u64::from(victim::WORDS)),
        ("PORT_NOT_YET", u64::from(victim::NOT_YET)),
        ("UNCONFIRMED_IDLE", u64::from(victim::UNCONFIRMED_IDLE)),
    ]
    .map(|(name, number)| (name.to_owned(), number))
    .into()
}
