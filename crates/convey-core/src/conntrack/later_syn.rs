//! SYNs of clients on flows that live: rare, so they lie beside the table and not in it.

use super::FlowId;

/// Flows whose SYN is remembered at once; a power of two.
const PLACES: usize = 1024;

/// By flow, the number of a SYN that is not the one the flow began with: when the server answers it, the client has
/// begun anew. Whoever comes later has the place: a flow that loses it is begun anew once its SYN is sent again.
#[derive(Debug)]
pub struct LaterSyns(Box<[Option<(FlowId, u32)>; PLACES]>);

impl Default for LaterSyns {
    fn default() -> Self {
        Self(Box::new([None; PLACES]))
    }
}

impl LaterSyns {
    /// The SYN remembered of the flow at `id`.
    pub fn get(&self, id: FlowId) -> Option<u32> {
        self.0[Self::place(id)].filter(|(owner, _)| *owner == id).map(|(_, seq)| seq)
    }

    /// Remembers a SYN.
    pub fn set(&mut self, id: FlowId, seq: u32) {
        self.0[Self::place(id)] = Some((id, seq));
    }

    /// Another flow lies at `id` now, or the SYN was answered.
    pub fn forget(&mut self, id: FlowId) {
        let place = &mut self.0[Self::place(id)];
        if place.is_some_and(|(owner, _)| owner == id) {
            *place = None;
        }
    }

    fn place(id: FlowId) -> usize {
        id.bits() as usize % PLACES
    }
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
