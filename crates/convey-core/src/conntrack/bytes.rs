//! A flow as bytes, as it lies in memory that another process has left.

use std::mem::offset_of;

use super::flow::{Flow, FlowState};

impl Flow {
    /// Bytes of an entry.
    pub const BYTES: usize = size_of::<Self>();

    /// Reads an entry as it lies in memory. `None`: it is none, for its state does not exist.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        fn at<const N: usize>(bytes: &[u8; Flow::BYTES], offset: usize) -> [u8; N] {
            let mut field = [0; N];
            field.copy_from_slice(&bytes[offset..offset + N]);
            field
        }
        macro_rules! field {
            ($name:ident: $type:ty) => {
                <$type>::from_ne_bytes(at(bytes, offset_of!(Flow, $name)))
            };
            ($name:ident[$i:literal]: $type:ty) => {
                <$type>::from_ne_bytes(at(bytes, offset_of!(Flow, $name) + $i * size_of::<$type>()))
            };
        }
        Some(Self {
            state: FlowState::from_number(field!(state: u8))?,
            client: field!(client: u128),
            next: [field!(next[0]: u32), field!(next[1]: u32)],
            acked: [field!(acked[0]: u32), field!(acked[1]: u32)],
            last_seen: field!(last_seen: u32),
            later_syn: field!(later_syn: u32),
            transport_delta: field!(transport_delta: u16),
            addresses_delta: field!(addresses_delta: u16),
            client_port: field!(client_port: u16),
            port: field!(port: u16),
            frontend: field!(frontend: u16),
            server: field!(server: u16),
            nat_port: field!(nat_port: u16),
            pool: field!(pool: u16),
            window: [field!(window[0]: u16), field!(window[1]: u16)],
            flags: field!(flags: u8),
            scale: [field!(scale[0]: u8), field!(scale[1]: u8)],
        })
    }

    /// The entry as it lies in memory.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        put(offset_of!(Flow, client), &self.client.to_ne_bytes());
        for side in 0..2 {
            put(offset_of!(Flow, next) + side * 4, &self.next[side].to_ne_bytes());
            put(offset_of!(Flow, acked) + side * 4, &self.acked[side].to_ne_bytes());
            put(offset_of!(Flow, window) + side * 2, &self.window[side].to_ne_bytes());
            put(offset_of!(Flow, scale) + side, &[self.scale[side]]);
        }
        put(offset_of!(Flow, last_seen), &self.last_seen.to_ne_bytes());
        put(offset_of!(Flow, later_syn), &self.later_syn.to_ne_bytes());
        for (offset, field) in [
            (offset_of!(Flow, transport_delta), self.transport_delta),
            (offset_of!(Flow, addresses_delta), self.addresses_delta),
            (offset_of!(Flow, client_port), self.client_port),
            (offset_of!(Flow, port), self.port),
            (offset_of!(Flow, frontend), self.frontend),
            (offset_of!(Flow, server), self.server),
            (offset_of!(Flow, nat_port), self.nat_port),
            (offset_of!(Flow, pool), self.pool),
        ] {
            put(offset, &field.to_ne_bytes());
        }
        put(offset_of!(Flow, state), &[self.state as u8]);
        put(offset_of!(Flow, flags), &[self.flags]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_written_as_bytes_and_read_again_is_the_same_in_every_field() {
        let bytes: [u8; Flow::BYTES] = std::array::from_fn(|i| (i + 1) as u8);
        let mut wanted = bytes;
        wanted[offset_of!(Flow, state)] = FlowState::Closing as u8;
        let flow = Flow::from_bytes(&wanted).unwrap();
        assert_eq!(flow.to_bytes(), wanted);
        assert_eq!(
            (flow.state, flow.client.to_ne_bytes()),
            (FlowState::Closing, *bytes.first_chunk().unwrap())
        );
    }

    #[test]
    fn a_state_that_does_not_exist_makes_no_flow() {
        for number in 0..=u8::MAX {
            let mut bytes = [0; Flow::BYTES];
            bytes[offset_of!(Flow, state)] = number;
            let state = Flow::from_bytes(&bytes).map(|f| f.state as u8);
            assert_eq!(state, (usize::from(number) < FlowState::COUNT).then_some(number));
        }
    }
}
