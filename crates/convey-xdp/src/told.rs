//! What programs tell those who watch, and are told to watch: from their terms to the engine's.

use convey_bpf::tables::{self, REASONS};
use convey_core::conntrack::{Direction, FlowState};
use convey_core::{FlowFilter, Protocol};
use convey_engine::{Decided, DropReason, Fate, Forwarded};

/// IP protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What programs can tell by. The rest of the filter is user space's.
pub fn coarse(filter: &FlowFilter) -> tables::Watch {
    tables::Watch {
        client: filter.client.map(|net| (net.address, net.bits)),
        client_port: filter.client_port.unwrap_or(0),
        vip: filter.vip,
        vip_port: filter.vip_port.unwrap_or(0),
        protocol: match filter.protocol {
            None => 0,
            Some(Protocol::Tcp) => TCP,
            Some(Protocol::Udp) => UDP,
        },
    }
}

/// What a record of the ring tells, if that is a decision on a packet of TCP or UDP.
pub fn read(record: &[u8]) -> Option<Decided> {
    let decided = tables::Decided::parse(record)?;
    let protocol = match decided.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let [source, destination] = decided.from_to;
    let fate = match decided.fate {
        tables::Fate::Forwarded { slots: [frontend, server], met, is_reply, from_to } => {
            Fate::Forwarded(Forwarded {
                frontend,
                server,
                direction: if is_reply { Direction::FromServer } else { Direction::FromClient },
                met: FlowState::from_number(met).filter(|state| *state != FlowState::Free),
                rewritten: (from_to[0], from_to[1]),
            })
        }
        tables::Fate::Dropped(reason) => {
            let name = REASONS.get(reason as usize)?;
            Fate::Dropped(DropReason::ALL.iter().copied().find(|reason| reason.name() == *name)?)
        }
    };
    Some(Decided { protocol, source, destination, fate })
}
