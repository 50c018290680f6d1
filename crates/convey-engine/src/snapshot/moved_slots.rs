//! Slots of a Maglev table that have moved lately: what DSR without flows goes by (`connection_tracking = "minimal"`).
//!
//! A flow needs an entry only when its slot would send it elsewhere than where it began. So each slot that moves keeps
//! its *previous* server: a packet without an entry goes there, and what begins at another server meanwhile is
//! remembered in the flow table. Further moves of the slot change nothing of that. A slot settles when for as long as
//! an idle flow may live no packet in it went elsewhere than to the slot's present server: then nobody is left whom the
//! present table would send astray. The flow table is asked about slots that have not settled, and only about those.
//!
//! The first datagram of a conversation cannot be told from later ones. For [`Rules::window`] after a move datagrams
//! without an entry go to the previous server *and are remembered*; from then on to the present one. So conversations go
//! on where they are, and a server that drains gets no new ones once the window is over. What has a server that is
//! gone leaves it at once.
//!
//! What a slot is goes from one snapshot to the next and never changes within one, but for the moment of its last use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use convey_core::conntrack::Ticks;
use convey_core::selection::{MaglevTable, maglev::SLOTS};

use crate::meta::Nanos;

/// No server.
pub(crate) const NONE: u16 = u16::MAX;

/// Coarse time: 2^32 ns (4.3 s) a step, 16 bits of it, which wrap with [`Ticks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps(pub(crate) u16);

impl Steps {
    const SHIFT: u32 = Ticks::BITS - u16::BITS;

    pub(crate) fn of(now: Nanos) -> Self {
        Self((Ticks::from_nanos(now.0).0 >> Self::SHIFT) as u16)
    }

    /// So many steps that no shorter time passes within them.
    pub(crate) fn span(time: Duration) -> u16 {
        (Ticks::span(time) >> Self::SHIFT) as u16 + 2
    }

    /// Steps since `earlier`; 0 when that lies ahead.
    fn since(self, earlier: Self) -> u16 {
        let span = self.0.wrapping_sub(earlier.0);
        if span > u16::MAX / 2 { 0 } else { span }
    }
}

/// How long slots remember that they moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How long an idle flow may live, in steps.
    pub(crate) idle: u16,
    /// Datagrams: how long the previous server still gets those that nobody remembers.
    pub(crate) window: Option<u16>,
}

/// A slot on its way from one snapshot to the next.
#[derive(Debug, Clone, Copy)]
struct Slot {
    previous: u16,
    since: Steps,
    used: Steps,
}

/// The slots of one table.
#[derive(Debug)]
pub(crate) struct MovedSlots {
    /// Where flows go that nobody remembers; [`NONE`]: the slot has settled.
    previous: Box<[u16]>,
    /// Since when that is another one than the slot's server.
    since: Box<[Steps]>,
    /// When a packet last went elsewhere than to the slot's server: the only thing that changes, and what comes after
    /// takes it over as it is.
    used: Arc<[AtomicU16]>,
}

impl MovedSlots {
    /// Every slot of `table` as if it had just moved and come back: the flow table is asked about all of them.
    pub(crate) fn all(table: &MaglevTable, now: Nanos) -> Self {
        let now = Steps::of(now);
        Self {
            previous: table.slots().into(),
            since: vec![now; SLOTS].into(),
            used: (0..SLOTS).map(|_| AtomicU16::new(now.0)).collect(),
        }
    }

    /// The slots when `table` comes after `old`, whose slots were `moved`. `None`: all have settled.
    pub(crate) fn after(
        old: Option<&MaglevTable>,
        moved: Option<&Self>,
        table: Option<&MaglevTable>,
        rules: Rules,
        now: Nanos,
        is_gone: impl Fn(u16) -> bool,
    ) -> Option<Self> {
        let is_same = match (old, table) {
            (Some(old), Some(table)) => std::ptr::eq(old, table) || old == table,
            (old, table) => old.is_none() && table.is_none(),
        };
        if moved.is_none() && is_same {
            return None;
        }
        let now = Steps::of(now);
        let holds = |table: Option<&MaglevTable>, at| table.and_then(|t| t.get(at)).unwrap_or(NONE);
        let mut next: Option<Self> = None;
        for at in 0..SLOTS {
            let (before, after) = (holds(old, at), holds(table, at));
            let slot = moved.and_then(|m| m.unsettled(at, rules, before, now));
            let slot = match slot {
                // From now on those of its latest server go elsewhere, too.
                Some(slot) if before != after => {
                    let since = if slot.previous == before { now } else { slot.since };
                    Slot { used: now, since, ..slot }
                }
                Some(slot) => slot,
                // Nobody is at a server where there was none.
                None if before == after || before == NONE => continue,
                None => Slot { previous: before, since: now, used: now },
            };
            // With nobody else to go to, a conversation stays: checks that fail everywhere may be wrong.
            let leaves = rules.window.is_some() && after != NONE && is_gone(slot.previous);
            let previous = if leaves { after } else { slot.previous };
            let next = next.get_or_insert_with(|| Self::settled(moved, now));
            (next.previous[at], next.since[at]) = (previous, slot.since);
            next.used[at].store(slot.used.0, Relaxed);
        }
        next
    }

    fn settled(moved: Option<&Self>, now: Steps) -> Self {
        Self {
            previous: vec![NONE; SLOTS].into(),
            since: vec![now; SLOTS].into(),
            // Workers go by the former snapshot until they see the next.
            used: moved
                .map_or_else(|| (0..SLOTS).map(|_| AtomicU16::new(now.0)).collect(), |m| m.used.clone()),
        }
    }

    /// The slot, unless it has settled by `now`; `before` is who had it until now.
    fn unsettled(&self, at: usize, rules: Rules, before: u16, now: Steps) -> Option<Slot> {
        let previous = self.previous(at)?;
        let slot = Slot { previous, since: self.since[at], used: Steps(self.used[at].load(Relaxed)) };
        if now.since(slot.used) > rules.idle {
            return None;
        }
        let is_over = rules.window.is_some_and(|window| now.since(slot.since) > window);
        let moves_on = is_over && previous != before && before != NONE;
        Some(if moves_on { Slot { previous: before, since: now, ..slot } } else { slot })
    }

    /// Where flows of this slot go that nobody remembers; `None` when it has settled.
    #[inline]
    pub(crate) fn previous(&self, at: usize) -> Option<u16> {
        self.previous.get(at).copied().filter(|server| *server != NONE)
    }

    /// A packet went elsewhere than to the slot's server.
    #[inline]
    pub(crate) fn used(&self, at: usize, now: Nanos) {
        let now = Steps::of(now).0;
        if let Some(used) = self.used.get(at)
            && used.load(Relaxed) != now
        {
            used.store(now, Relaxed);
        }
    }

    /// Others have noted when packets went elsewhere.
    pub(crate) fn take_uses(&self, now: Nanos, last_use: impl Fn(usize) -> u16) {
        let now = Steps::of(now);
        for at in (0..SLOTS).filter(|at| self.previous(*at).is_some()) {
            let noted = last_use(at);
            if let Some(used) = self.used.get(at)
                && now.since(Steps(noted)) < now.since(Steps(used.load(Relaxed)))
            {
                used.store(noted, Relaxed);
            }
        }
    }

    /// Whether the next snapshot would be another though no table changes.
    pub(crate) fn is_due(&self, table: Option<&MaglevTable>, rules: Rules, now: Nanos) -> bool {
        let now = Steps::of(now);
        (0..SLOTS).filter_map(|at| Some((at, self.previous(at)?))).any(|(at, previous)| {
            let before = table.and_then(|t| t.get(at)).unwrap_or(NONE);
            self.unsettled(at, rules, before, now).is_none_or(|slot| slot.previous != previous)
        })
    }

    /// Previous servers, by slot; [`NONE`]: the slot has settled.
    pub(crate) fn servers(&self) -> &[u16] {
        &self.previous
    }
}
