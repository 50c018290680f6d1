//! Which frontend and which server has which number.
//!
//! Flows name frontends and servers by numbers of 16 bits, slots. A number stands for one identity for as long as
//! anybody may name it: over reloads, and over a restart where the next process adopts the table of the last. Who
//! may name a slot is not known here; it is asked of whoever holds flows.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Slots are 16 bits, of which the last stands for none.
pub(crate) const MAX_SLOTS: usize = 65_535;

/// What a slot can stand for.
pub trait Identity: Clone + PartialEq {
    /// What makes two of them the same for a flow.
    type Key: Eq + Hash;

    /// Its key.
    fn key(&self) -> Self::Key;
}

/// What a frontend's slot stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrontendIdentity {
    /// IP protocol number.
    pub protocol: u8,
    /// The VIP.
    pub address: IpAddr,
    /// Its port; 0: every port.
    pub port: u16,
    /// Its name, for people.
    pub name: String,
}

impl Identity for FrontendIdentity {
    type Key = (u8, IpAddr, u16);

    fn key(&self) -> Self::Key {
        (self.protocol, self.address, self.port)
    }
}

/// What a server's slot stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerIdentity {
    /// Name of its backend.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether only MAC addresses change on the way to it.
    pub l2: bool,
    /// Its name, for people.
    pub name: String,
}

impl Identity for ServerIdentity {
    type Key = (String, IpAddr, u16);

    fn key(&self) -> Self::Key {
        (self.backend.clone(), self.address, self.port)
    }
}

/// Identities by slot. Serialised as a list with a null for each free slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots<I>(Vec<Option<I>>);

impl<I> Default for Slots<I> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<I> Slots<I> {
    /// What `slot` stands for; `None` when it is free.
    pub fn get(&self, slot: u16) -> Option<&I> {
        self.0.get(usize::from(slot))?.as_ref()
    }

    /// One more than the highest slot in use.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Slots in use, in rising order, and what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &I)> {
        (0..=u16::MAX).zip(&self.0).filter_map(|(slot, identity)| Some((slot, identity.as_ref()?)))
    }
}

/// In the order of slots, from 0.
impl<I> FromIterator<Option<I>> for Slots<I> {
    fn from_iter<T: IntoIterator<Item = Option<I>>>(slots: T) -> Self {
        trimmed(slots.into_iter().collect())
    }
}

/// Slots of frontends and of servers. Serialised, it says what the numbers in flows of a killed process stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotTable {
    /// Those of frontends.
    pub frontends: Slots<FrontendIdentity>,
    /// Those of servers.
    pub servers: Slots<ServerIdentity>,
}

impl SlotTable {
    /// No slot is in use.
    pub const EMPTY: Self = Self { frontends: Slots(Vec::new()), servers: Slots(Vec::new()) };
}

/// Where an identity was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its slot.
    pub slot: u16,
    /// Whether it had that slot before.
    pub is_known: bool,
}

/// Slots on their way from one table to the next.
#[derive(Debug)]
pub struct Assignment<I: Identity> {
    slots: Vec<Option<I>>,
    placed: Vec<bool>,
    by_key: HashMap<I::Key, Vec<u16>>,
    /// No slot before it is free: slots are only taken while identities are placed.
    first_free: usize,
}

impl<I: Identity> Assignment<I> {
    /// What was in `before` keeps its slot. Slots nobody `is_held` by any more are free.
    pub fn after(before: &Slots<I>, is_held: impl Fn(u16) -> bool) -> Self {
        let slots: Vec<Option<I>> =
            (0..=u16::MAX).zip(&before.0).map(|(slot, i)| i.clone().filter(|_| is_held(slot))).collect();
        let mut by_key: HashMap<I::Key, Vec<u16>> = HashMap::with_capacity(slots.len());
        for (slot, identity) in (0..=u16::MAX).zip(&slots) {
            if let Some(identity) = identity {
                by_key.entry(identity.key()).or_default().push(slot);
            }
        }
        Self { placed: vec![false; slots.len()], slots, by_key, first_free: 0 }
    }

    /// Gives `identity` the slot of its predecessor: of those with its key that nobody has been given yet and that
    /// `is_same` allows, the one most like it. Without a predecessor it gets the lowest free slot. `None`: no slot
    /// is left.
    pub fn place(&mut self, identity: I, is_same: impl Fn(u16) -> bool) -> Option<Placed> {
        let candidates = self.by_key.get(&identity.key()).into_iter().flatten().copied();
        let known = candidates
            .filter(|slot| !self.placed[usize::from(*slot)] && is_same(*slot))
            .min_by_key(|slot| self.slots[usize::from(*slot)].as_ref() != Some(&identity));
        let at = match known {
            Some(slot) => usize::from(slot),
            None => self.free()?,
        };
        self.slots[at] = Some(identity);
        self.placed[at] = true;
        Some(Placed { slot: u16::try_from(at).ok()?, is_known: known.is_some() })
    }

    fn free(&mut self) -> Option<usize> {
        while self.slots.get(self.first_free).is_some_and(Option::is_some) {
            self.first_free += 1;
        }
        if self.first_free == self.slots.len() {
            if self.slots.len() == MAX_SLOTS {
                return None;
            }
            self.slots.push(None);
            self.placed.push(false);
        }
        Some(self.first_free)
    }

    /// The new table, in which what was not placed keeps its slot.
    pub fn keep_rest(self) -> Slots<I> {
        trimmed(self.slots)
    }

    /// The new table, in which slots that nothing was placed in are free.
    pub fn free_rest(self) -> Slots<I> {
        trimmed(self.slots.into_iter().zip(self.placed).map(|(i, placed)| i.filter(|_| placed)).collect())
    }
}

fn trimmed<I>(mut slots: Vec<Option<I>>) -> Slots<I> {
    while slots.last().is_some_and(Option::is_none) {
        slots.pop();
    }
    Slots(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(n: u32) -> FrontendIdentity {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
        FrontendIdentity { protocol: 6, address, port: 80, name: format!("f{n}") }
    }

    fn place(assignment: &mut Assignment<FrontendIdentity>, n: u32) -> Option<Placed> {
        assignment.place(frontend(n), |_| true)
    }

    #[test]
    fn there_are_65535_slots_and_no_more_and_one_that_is_free_again_is_used() {
        let mut assignment = Assignment::after(&Slots::default(), |_| true);
        for n in 0..65_535 {
            let slot = u16::try_from(n).unwrap();
            assert_eq!(place(&mut assignment, n), Some(Placed { slot, is_known: false }));
        }
        assert_eq!(place(&mut assignment, 70_000), None);
        let full = assignment.keep_rest();
        let mut assignment = Assignment::after(&full, |slot| slot != 777);
        assert_eq!(place(&mut assignment, 70_000), Some(Placed { slot: 777, is_known: false }));
        assert_eq!(place(&mut assignment, 5), Some(Placed { slot: 5, is_known: true }));
        assert_eq!(place(&mut assignment, 70_001), None);
        assert_eq!(assignment.free_rest().iter().count(), 2);
    }

    #[test]
    fn a_free_slot_is_taken_though_one_before_it_is_held_by_what_left() {
        let before: Slots<_> = [Some(frontend(0)), None, Some(frontend(2))].into_iter().collect();
        let mut assignment = Assignment::after(&before, |_| true);
        assert_eq!(place(&mut assignment, 3), Some(Placed { slot: 1, is_known: false }));
        assert_eq!(place(&mut assignment, 4), Some(Placed { slot: 3, is_known: false }));
        assert_eq!(place(&mut assignment, 2), Some(Placed { slot: 2, is_known: true }));
        assert_eq!(assignment.keep_rest().get(0), Some(&frontend(0)));
    }
}
