//! Whose port is taken when none is free.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::PortUse;
use super::pool::{HAND, LOOKS, Place, PortPool, RESERVED, ports_in};
use super::word::Word;
use crate::conntrack::Ticks;
use crate::conntrack::udp::{BRIEF_IDLE, STREAM_IDLE};

/// Held ports looked at for one that may be taken over, those included whose words say that they are in use.
pub(super) const WORDS: u32 = 512;
/// An unconfirmed flow gives way before idle conversations once it has been unused this long.
pub(super) const UNCONFIRMED_IDLE: u32 = Ticks::span(Duration::from_secs(1));
/// A port may be taken before its flow can be found; after this time it is held for none.
pub(super) const NOT_YET: u32 = Ticks::span(Duration::from_secs(2));

/// A port that may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// How readily: the greater the more.
    pub rank: u8,
    /// Ticks since its flow was used, or has closed.
    pub idle: u32,
    /// Whose it is.
    pub owner: u32,
    /// Its number.
    pub port: u16,
    /// As it was met.
    pub(super) word: Word,
}

impl Victim {
    /// Whether it gives way before the other. Of two of whom neither does, programs in the kernel take the one they
    /// met first, and so does who looks here.
    pub fn is_readier_than(&self, other: &Self) -> bool {
        (self.rank, self.idle) > (other.rank, other.idle)
    }
}

impl PortPool {
    /// Whose port may be taken over when none is free. `idle` gives the ticks since an owner's flow was used, or
    /// `None` when there is none whose time is not over. End that flow and take its port over.
    pub fn victim(&self, random: u32, now: Ticks, idle: impl Fn(u32) -> Option<u32>) -> Option<Victim> {
        let mut best: Option<Victim> = None;
        let (mut looks, mut words) = (0, 0);
        'search: for group in self.groups_from(random) {
            let marks = self.marks(group).load(Relaxed);
            for at in ports_in(group, marks as u32 & !((marks >> 32) as u32), random) {
                let word = self.word(at);
                let judge = |idle: u32| {
                    let (rank, idle) = readiness(word, now, idle)?;
                    Some(Victim { rank, idle, owner: word.owner(), port: self.partition.port(at), word })
                };
                // A flow is not idle for longer than its word is old: only where that would make it the best it is
                // worth to look for the flow, which lies far away.
                if let Some(at_most) = judge(word.age(now) + 1) {
                    looks += 1;
                    let is_held_for_none = word.age(now) >= NOT_YET;
                    if best.is_none_or(|best| at_most.is_readier_than(&best))
                        && let Some(idle) = idle(word.owner()).or(is_held_for_none.then_some(u32::MAX))
                    {
                        let judged = judge(idle);
                        let word = self.was_used(Place { at, word }, now, idle);
                        if let Some(judged) = judged
                            && best.is_none_or(|best| judged.is_readier_than(&best))
                        {
                            best = Some(Victim { word, ..judged });
                        }
                    }
                }
                words += 1;
                if looks >= LOOKS || words >= WORDS {
                    break 'search;
                }
            }
        }
        best.or_else(|| self.expired(now, idle))
    }

    /// Notes when the flow was used last, so that the next search need not look for it before it may be idle.
    /// Gives its word.
    fn was_used(&self, place: Place, now: Ticks, idle: u32) -> Word {
        let used = place.word.changed_at(Ticks(now.0.wrapping_sub(idle)));
        let is_news = place.word.port_use() != PortUse::Closed && idle < place.word.age(now);
        if is_news && self.change(place, used) { used } else { place.word }
    }

    /// One whose flow is none, or over, of the next few.
    fn expired(&self, now: Ticks, idle: impl Fn(u32) -> Option<u32>) -> Option<Victim> {
        if self.len == 0 {
            return None;
        }
        let count = LOOKS.min(self.len as u32);
        let from = self.extra(HAND).fetch_add(u64::from(count), Relaxed);
        (0..u64::from(count)).find_map(|step| {
            let at = (from.wrapping_add(step) % self.len as u64) as usize;
            let word = self.word(at);
            let is_flows = !word.is_free() && word.owner() != RESERVED;
            let is_taken = is_flows && word.age(now) >= NOT_YET;
            let port = self.partition.port(at);
            (is_taken && idle(word.owner()).is_none()).then_some(Victim {
                rank: 1,
                idle: u32::MAX,
                owner: word.owner(),
                port,
                word,
            })
        })
    }
}

/// How readily a port is taken from a flow idle for so many ticks, and for how long it has been ready.
fn readiness(word: Word, now: Ticks, idle: u32) -> Option<(u8, u32)> {
    match word.port_use() {
        PortUse::Closed => Some((5, word.age(now))),
        PortUse::Unconfirmed if idle >= UNCONFIRMED_IDLE => Some((4, idle)),
        PortUse::Brief if idle >= BRIEF_IDLE => Some((3, idle)),
        PortUse::Stream if idle >= STREAM_IDLE => Some((3, idle)),
        PortUse::Unconfirmed => Some((2, idle)),
        _ => None,
    }
}
