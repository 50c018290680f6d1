//! One port in 64 bits: owner (32), use (3), of a free one which it was of those freed in a row (5), the tick of its
//! last change (24).

use std::time::Duration;

use super::PortUse;
use crate::conntrack::Ticks;

pub(super) const USE_SHIFT: u32 = 32;
pub(super) const USE_MASK: u64 = 0b111;
pub(super) const TURN_SHIFT: u32 = 35;
pub(super) const TURN_BITS: u32 = 5;
const TURN_MASK: u32 = (1 << TURN_BITS) - 1;
pub(super) const STAMP_SHIFT: u32 = 40;
/// How old a port is that never was anything but free.
pub(super) const UNUSED: u32 = Ticks::MAX + 1;

/// 24 bits; 0 stands for no moment, so that the tick 0 is told as the next one.
const fn stamp(now: Ticks) -> u64 {
    let stamp = now.0 as u64 & ((1 << 24) - 1);
    if stamp == 0 { 1 } else { stamp }
}

/// A port. All zeros: it is free and never was anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const fn new(owner: u32, port_use: PortUse, now: Ticks) -> Self {
        Self(owner as u64 | (port_use as u64) << USE_SHIFT | stamp(now) << STAMP_SHIFT)
    }

    /// Given back as the `turn`th, which tells those of one stamp apart.
    pub(super) const fn freed(now: Ticks, turn: u32) -> Self {
        Self(Self::new(0, PortUse::Free, now).0 | ((turn & TURN_MASK) as u64) << TURN_SHIFT)
    }

    /// With another stamp, and the same otherwise.
    pub(super) const fn changed_at(self, at: Ticks) -> Self {
        Self(self.0 & ((1 << STAMP_SHIFT) - 1) | stamp(at) << STAMP_SHIFT)
    }

    pub(super) const fn is_free(self) -> bool {
        self.owner() == 0
    }

    pub(super) const fn owner(self) -> u32 {
        self.0 as u32
    }

    pub(super) const fn port_use(self) -> PortUse {
        PortUse::from_number((self.0 >> USE_SHIFT & USE_MASK) as u8)
    }

    /// Ticks since its last change; more than any age when there was none.
    pub(super) const fn age(self, now: Ticks) -> u32 {
        match (self.0 >> STAMP_SHIFT) as u32 {
            0 => UNUSED,
            stamp => now.since(Ticks(stamp)),
        }
    }

    /// How long a free port has rested: the greater the longer, [`Word::RESTED`] or more is enough. `turn` is that of
    /// the port freed last.
    pub(super) const fn rest(self, now: Ticks, turn: u32) -> u32 {
        let others_since = turn.wrapping_sub((self.0 >> TURN_SHIFT) as u32) & TURN_MASK;
        self.age(now) << TURN_BITS | others_since
    }

    /// What [`Word::rest`] is after a minute.
    pub(super) const RESTED: u32 = Ticks::span(Duration::from_secs(60)) << TURN_BITS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_owner_use_and_time_apart_and_a_port_never_used_is_older_than_any() {
        let now = Ticks::from_nanos(90_000 * 1_000_000_000);
        let word = Word::new(u32::MAX, PortUse::Stream, now);
        assert_eq!((word.owner(), word.port_use(), word.age(now)), (u32::MAX, PortUse::Stream, 0));
        let later = Ticks::from_nanos((90_000 + 38 * 3600) * 1_000_000_000);
        assert!(word.age(later) > Ticks::span(Duration::from_secs(37 * 3600)));
        assert!(Word(0).is_free() && Word(0).age(later) > word.age(later));
        assert_eq!(word.changed_at(later).age(later), 0);
        assert_eq!(
            (word.changed_at(later).owner(), word.changed_at(later).port_use()),
            (u32::MAX, PortUse::Stream)
        );
        // The tick 0 is a moment as well, and time may wrap.
        assert!(Word::freed(Ticks(0), 0) != Word(0));
        assert_eq!(Word::freed(Ticks((1 << 24) - 1), 9).age(Ticks(2)), 3);
    }

    #[test]
    fn of_two_ports_the_one_freed_first_has_rested_longer_in_one_tick_too() {
        let rest = |turn| Word::freed(Ticks(77), turn).rest(Ticks(78), 40);
        assert!(rest(38) > rest(39) && rest(39) > rest(40));
        assert!(Word(0).rest(Ticks(78), 40) > Word::freed(Ticks(79), 9).rest(Ticks(70), 8));
    }
}
