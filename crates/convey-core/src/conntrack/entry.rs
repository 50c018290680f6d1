//! A flow as it lies in memory: the one place that says which bit is where.
//!
//! 32-bit words in the byte order of the machine, 8 of them for IPv4, 16 for IPv6; a word of two halves has the
//! first in its lower half. All zero is a free entry.
//!
//! | word (IPv4, IPv6) | bits, from the lowest |
//! | --- | --- |
//! | 0, 0 control | state 4; flags 6; exponent of the client's window 5, of the server's 5; claim 12 |
//! | 1, 1 seen | tick 24; scale of the client's windows 4, of the server's 4 |
//! | 2, 2–5 client | address as a number, the upper word first |
//! | 3, 6 ports | the client's 16; DSR: the port it talks to 16; passthrough: in flight from the client 8, from the server 8 |
//! | 4, 7 slots | frontend 16, server 16 |
//! | 5, 8 nat | port 16, pool 16 |
//! | 6, 7; 9, 10 next | by direction |
//!
//! `claim` grows with every flow that takes the entry, so that a reader who finds the control word unchanged has
//! read one flow. State, flags and windows change by compare and swap of the control word, everything else by plain
//! stores where one thread writes. Other processes read this memory: who changes what lies where changes the version of the layout.

use std::array;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
    fence,
};

use super::flow::{Flow, FlowKey, FlowState, Ticks};

/// Words of an entry of an IPv4 flow.
pub const WORDS_V4: usize = 8;
/// Words of an entry of an IPv6 flow.
pub const WORDS_V6: usize = 16;

/// State of an entry that is being written: a flow to nobody.
pub(super) const CLAIMED: u32 = 15;
pub(super) const STATE: u32 = 15;
pub(super) const FLAGS_AT: u32 = 4;
pub(super) const FLAGS: u32 = 63;
pub(super) const WINDOWS_AT: [u32; 2] = [10, 15];
pub(super) const WINDOW: u32 = 31;
pub(super) const CLAIM_AT: u32 = 20;
pub(super) const SCALES_AT: [u32; 2] = [24, 28];
pub(super) const SCALE: u32 = 15;

pub(super) const CONTROL: usize = 0;
pub(super) const SEEN: usize = 1;
pub(super) const CLIENT: usize = 2;

/// Where the words behind the client's address are, in an entry of `words`.
pub(super) const fn behind_client(words: usize) -> usize {
    CLIENT + if words == WORDS_V4 { 1 } else { 4 }
}

/// What the port of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortField {
    /// The port the client talks to (DSR).
    Port,
    /// Bytes in flight (passthrough).
    InFlight,
}

/// The state in a control word; `None`: being written, or none there is.
pub(super) fn state(control: u32) -> Option<FlowState> {
    FlowState::from_number((control & STATE) as u8)
}

pub(super) fn is_free(control: u32) -> bool {
    control & STATE == 0
}

/// The control word of an entry that was `control` and is taken for another flow.
pub(super) fn claimed(control: u32) -> u32 {
    ((control >> CLAIM_AT).wrapping_add(1) << CLAIM_AT) | CLAIMED
}

/// The control word of an entry that was `control` and is free.
pub(super) fn freed(control: u32) -> u32 {
    control >> CLAIM_AT << CLAIM_AT
}

pub(super) fn claim_of(control: u32) -> u16 {
    (control >> CLAIM_AT) as u16
}

pub(super) fn control(flow: &Flow) -> u32 {
    flow.state as u32
        | (u32::from(flow.flags) & FLAGS) << FLAGS_AT
        | (u32::from(flow.window[0]) & WINDOW) << WINDOWS_AT[0]
        | (u32::from(flow.window[1]) & WINDOW) << WINDOWS_AT[1]
        | u32::from(flow.claim) << CLAIM_AT
}

fn seen(flow: &Flow) -> u32 {
    flow.last_seen & Ticks::MASK
        | (u32::from(flow.scale[0]) & SCALE) << SCALES_AT[0]
        | (u32::from(flow.scale[1]) & SCALE) << SCALES_AT[1]
}

fn ports(flow: &Flow, field: PortField) -> u32 {
    let upper = match field {
        PortField::Port => u32::from(flow.port),
        PortField::InFlight => u32::from(u16::from_le_bytes(flow.in_flight)),
    };
    u32::from(flow.client_port) | upper << 16
}

fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

/// The flow that these words are. `None`: a free entry, one that was being written, or a state that does not exist.
fn unpack<const WORDS: usize>(words: &[u32; WORDS], field: PortField) -> Option<Flow> {
    let at = behind_client(WORDS);
    let control = words[CONTROL];
    let state = state(control).filter(|s| *s != FlowState::Free)?;
    let client = match WORDS {
        WORDS_V4 => 0xffff << 32 | u128::from(words[CLIENT]),
        _ => words[CLIENT..at].iter().fold(0, |client, word| client << 32 | u128::from(*word)),
    };
    let [client_port, other] = halves(words[at]);
    let [frontend, server] = halves(words[at + 1]);
    let [nat_port, pool] = halves(words[at + 2]);
    let (port, in_flight) = match field {
        PortField::Port => (other, [0, 0]),
        PortField::InFlight => (0, other.to_le_bytes()),
    };
    Some(Flow {
        client,
        next: [words[at + 3], words[at + 4]],
        in_flight,
        last_seen: words[SEEN] & Ticks::MASK,
        client_port,
        port,
        frontend,
        server,
        nat_port,
        pool,
        claim: claim_of(control),
        window: WINDOWS_AT.map(|at| (control >> at & WINDOW) as u8),
        scale: SCALES_AT.map(|at| (words[SEEN] >> at & SCALE) as u8),
        state,
        flags: (control >> FLAGS_AT & FLAGS) as u8,
    })
}

/// Reads an entry that another process has left: `words` are its 8 (IPv4) or 16 (IPv6), `is_dsr` tells the mode.
///
/// # Errors
/// What is damaged: its state does not exist. `Ok(None)`: there is no flow, or it was never written to its end.
pub fn read_entry(words: &[u32], is_dsr: bool) -> Result<Option<Flow>, u32> {
    let field = if is_dsr { PortField::Port } else { PortField::InFlight };
    let control = words.first().copied().unwrap_or_default();
    if is_free(control) || control & STATE == CLAIMED {
        return Ok(None);
    }
    let flow = match (words.first_chunk::<WORDS_V6>(), words.first_chunk::<WORDS_V4>()) {
        (Some(words), _) => unpack(words, field),
        (None, Some(words)) => unpack(words, field),
        (None, None) => None,
    };
    // An IPv4 client has its place in the other table.
    let is_in_place = |f: &Flow| f.key().is_v4() == (words.len() < WORDS_V6);
    flow.filter(is_in_place).map(Some).ok_or(control)
}

/// One entry.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a, const WORDS: usize>(pub(super) &'a [AtomicU32; WORDS]);

impl<const WORDS: usize> Entry<'_, WORDS> {
    const PORTS: usize = behind_client(WORDS);
    const SLOTS: usize = behind_client(WORDS) + 1;
    const NAT: usize = behind_client(WORDS) + 2;
    const NEXT: usize = behind_client(WORDS) + 3;

    #[inline]
    pub(super) fn control(&self) -> &AtomicU32 {
        &self.0[CONTROL]
    }

    #[inline]
    pub(super) fn last_seen(&self) -> Ticks {
        Ticks(self.0[SEEN].load(Relaxed) & Ticks::MASK)
    }

    /// Whether it is a flow with this key, or becomes one, or was one.
    #[inline]
    pub(super) fn has_key(&self, key: &Key<WORDS>) -> bool {
        let word = |at: usize| self.0[at].load(Relaxed);
        let client = match WORDS {
            WORDS_V4 => word(CLIENT) ^ key.client[3],
            _ => (0..4).fold(0, |differs, i| differs | (word(CLIENT + i) ^ key.client[i])),
        };
        let ports = (word(Self::PORTS) ^ key.ports) & key.ports_mask;
        let frontend = (word(Self::SLOTS) ^ key.frontend) & 0xffff;
        client | ports | frontend == 0
    }

    /// Its control word while it has this key.
    pub(super) fn control_of(&self, key: &Key<WORDS>) -> Option<u32> {
        loop {
            let before = self.control().load(Acquire);
            if !self.has_key(key) {
                return None;
            }
            fence(Acquire);
            if self.control().load(Relaxed) == before {
                return Some(before);
            }
        }
    }

    /// The flow it is, all of one claim.
    #[inline]
    pub(super) fn read(&self, field: PortField) -> Option<Flow> {
        loop {
            let before = self.control().load(Acquire);
            let words: [u32; WORDS] =
                array::from_fn(|i| if i == CONTROL { before } else { self.0[i].load(Relaxed) });
            fence(Acquire);
            if self.control().load(Relaxed) == before {
                return unpack(&words, field);
            }
        }
    }

    /// Writes all but the control word.
    pub(super) fn write(&self, flow: &Flow, field: PortField) {
        match WORDS {
            WORDS_V4 => self.0[CLIENT].store(flow.client as u32, Relaxed),
            _ => {
                for (i, word) in words_of(flow.client).into_iter().enumerate() {
                    self.0[CLIENT + i].store(word, Relaxed);
                }
            }
        }
        let slots = u32::from(flow.frontend) | u32::from(flow.server) << 16;
        self.0[Self::SLOTS].store(slots, Relaxed);
        self.0[Self::NAT].store(u32::from(flow.nat_port) | u32::from(flow.pool) << 16, Relaxed);
        self.write_course(flow, field);
    }

    /// Writes what packets change.
    #[inline]
    pub(super) fn write_course(&self, flow: &Flow, field: PortField) {
        self.0[SEEN].store(seen(flow), Relaxed);
        self.0[Self::PORTS].store(ports(flow, field), Relaxed);
        self.0[Self::NEXT].store(flow.next[0], Relaxed);
        self.0[Self::NEXT + 1].store(flow.next[1], Relaxed);
    }

    /// As [`Entry::write_course`], where others write as well: only what has changed, and of the flow it `was`. A
    /// plain store of a thread that was held up would change the flow that came after.
    pub(super) fn change_course(&self, was: &Flow, flow: &Flow, field: PortField) {
        const SEEN_FIELDS: &[u32] = &[Ticks::MASK, 15 << SCALES_AT[0], 15 << SCALES_AT[1]];
        const PORT_FIELDS: &[u32] = &[0xff << 16, 0xff << 24];
        let words = [
            (SEEN, seen(was), seen(flow), SEEN_FIELDS),
            (Self::PORTS, ports(was, field), ports(flow, field), PORT_FIELDS),
            (Self::NEXT, was.next[0], flow.next[0], &[u32::MAX]),
            (Self::NEXT + 1, was.next[1], flow.next[1], &[u32::MAX]),
        ];
        for (at, old, new, fields) in words {
            self.change(at, was.claim, [old, new], fields);
        }
    }

    /// Changes those of a word's `fields` in which `old` and `new` differ, for as long as no other flow takes the
    /// entry.
    fn change(&self, at: usize, claim: u16, [old, new]: [u32; 2], fields: &[u32]) {
        let mask = fields.iter().filter(|mask| (old ^ new) & **mask != 0).fold(0, |all, mask| all | mask);
        let mut current = old;
        while mask != 0
            && let Err(other) =
                self.0[at].compare_exchange(current, current & !mask | new & mask, AcqRel, Acquire)
        {
            if claim_of(self.control().load(Acquire)) != claim {
                return;
            }
            current = other;
        }
    }
}

fn words_of(client: u128) -> [u32; 4] {
    [(client >> 96) as u32, (client >> 64) as u32, (client >> 32) as u32, client as u32]
}

/// A key as entries are compared with it.
pub(super) struct Key<const WORDS: usize> {
    client: [u32; 4],
    ports: u32,
    ports_mask: u32,
    frontend: u32,
}

impl<const WORDS: usize> Key<WORDS> {
    #[inline]
    pub(super) fn new(key: &FlowKey, field: PortField) -> Self {
        Self {
            client: words_of(key.client),
            ports: u32::from(key.client_port) | u32::from(key.port) << 16,
            ports_mask: if field == PortField::Port { u32::MAX } else { 0xffff },
            frontend: u32::from(key.frontend),
        }
    }
}

/// The flow as it is once it has lain in an entry.
#[cfg(test)]
pub(super) fn stored(flow: &Flow, field: PortField) -> Flow {
    let words: [AtomicU32; WORDS_V6] = array::from_fn(|_| AtomicU32::new(0));
    let entry = Entry(&words);
    entry.write(flow, field);
    entry.control().store(control(flow), Relaxed);
    entry.read(field).expect("a flow")
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
