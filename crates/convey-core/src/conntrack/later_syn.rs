//! SYNs of clients on flows that live: rare, so they lie beside the table and not in it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{FlowId, Memory};

/// Flows whose SYN is remembered at once; a power of two.
pub const PLACES: usize = 1024;

/// By flow, the number of a SYN that is not the one the flow began with: when the server answers it, the client has
/// begun anew. Whoever comes later has the place: a flow that loses it is begun anew once its SYN is sent again.
///
/// A place is a word: the flow's id and one in the upper half, the number in the lower; 0 when there is none.
#[derive(Debug)]
pub struct LaterSyns(Memory<AtomicU64>);

impl Default for LaterSyns {
    fn default() -> Self {
        Self(Memory::own(PLACES))
    }
}

impl LaterSyns {
    /// Those in memory that others write to as well. `None`: it is too short.
    pub fn in_memory(memory: Memory<AtomicU64>) -> Option<Self> {
        (memory.len() >= PLACES).then_some(Self(memory))
    }

    /// The SYN remembered of the flow at `id`.
    pub fn get(&self, id: FlowId) -> Option<u32> {
        let word = self.place(id).load(Relaxed);
        (word >> 32 == owner(id)).then_some(word as u32)
    }

    /// Remembers a SYN.
    pub fn set(&mut self, id: FlowId, seq: u32) {
        self.place(id).store(owner(id) << 32 | u64::from(seq), Relaxed);
    }

    /// Another flow lies at `id` now, or the SYN was answered.
    pub fn forget(&mut self, id: FlowId) {
        let place = self.place(id);
        if place.load(Relaxed) >> 32 == owner(id) {
            place.store(0, Relaxed);
        }
    }

    fn place(&self, id: FlowId) -> &AtomicU64 {
        &self.0[id.bits() as usize % PLACES]
    }
}

fn owner(id: FlowId) -> u64 {
    u64::from(id.bits()) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_is_remembered_for_its_flow_alone_until_another_needs_the_place() {
        let mut syns = LaterSyns::default();
        let [a, same_place, b] = [7, 7 + 1024, 8].map(FlowId::from_bits);
        syns.set(a, 1);
        syns.set(b, 2);
        assert_eq!([a, same_place, b].map(|id| syns.get(id)), [Some(1), None, Some(2)]);
        syns.set(same_place, 3);
        syns.forget(a);
        assert_eq!([a, same_place, b].map(|id| syns.get(id)), [None, Some(3), Some(2)]);
        syns.forget(same_place);
        assert_eq!(syns.get(same_place), None);
    }
}
