//! From the slots of a killed balancer to those of now, where the table of then could not be adopted whole.

use std::collections::HashMap;

use convey_core::conntrack::flags;
use convey_packet::{Addr, TCP};

use super::{Heir, NotKept, Saved, is_steered};
use crate::slot_table::{Identity, SlotTable, Slots};
use crate::snapshot::{Method, NatPath, PacketFrontend, PacketServer, PacketSnapshot};

/// Slots of now by slots of then. Where slots were adopted, each is its own.
pub(super) struct Translation {
    frontends: Vec<Option<u16>>,
    servers: Vec<Option<u16>>,
}

impl Translation {
    pub(super) fn new(then: &SlotTable, snapshot: &PacketSnapshot) -> Self {
        let now = snapshot.slot_table();
        let has_frontend_left = |slot| snapshot.frontend(slot).is_some_and(PacketFrontend::has_left);
        let has_server_left = |slot| snapshot.server(slot).is_some_and(PacketServer::has_left);
        Self {
            frontends: slots_of_now(&then.frontends, &now.frontends, has_frontend_left),
            servers: slots_of_now(&then.servers, &now.servers, has_server_left),
        }
    }

    pub(super) fn frontend(&self, then: u16) -> Option<u16> {
        self.frontends.get(usize::from(then)).copied().flatten()
    }

    pub(super) fn server(&self, then: u16) -> Option<u16> {
        self.servers.get(usize::from(then)).copied().flatten()
    }

    /// The flow in the slots of now, if the configuration of now has a place for it.
    pub(super) fn translate(&self, saved: &Saved, snapshot: &PacketSnapshot) -> Result<Heir, NotKept> {
        let Saved { mut flow, nat, .. } = *saved;
        let slot = |slots: &[Option<u16>], old: u16, why| match slots.get(usize::from(old)) {
            Some(slot) => slot.ok_or(why),
            None => Err(NotKept::Damaged),
        };
        flow.frontend = slot(&self.frontends, flow.frontend, NotKept::NoFrontend)?;
        flow.server = slot(&self.servers, flow.server, NotKept::NoServer)?;
        let frontend = snapshot.frontend(flow.frontend).ok_or(NotKept::NoFrontend)?;
        let server = snapshot.server(flow.server).ok_or(NotKept::NoServer)?;
        let client = Addr::from_bits(flow.client);
        let is_sound = client.is_valid_source()
            && client.is_v4() == frontend.address.is_v4()
            && client.is_v4() == server.address.is_v4()
            && flow.client_port != 0
            && flow.port != 0
            && (frontend.port == 0 || frontend.port == flow.port)
            && flow.state.is_udp() == (frontend.protocol != TCP);
        if !is_sound || flow.has(flags::HAS_PORT) != snapshot.is_passthrough() {
            return Err(NotKept::Damaged);
        }
        let mut path = None;
        if server.method == Method::Nat {
            let along = NatPath {
                nat,
                server: server.address.bits(),
                port: server.port,
                protocol: frontend.protocol,
            };
            let is_ours = snapshot.is_nat_path(&along)
                && frontend.nat_sources.iter().any(|a| a.bits() == nat)
                && snapshot.options().nat_ports.contains(flow.nat_port)
                && is_steered(&flow, snapshot.options());
            if !is_ours {
                return Err(NotKept::NoPort);
            }
            path = Some(along);
        }
        flow.flags &= !(flags::COUNTED | flags::HAS_PORT);
        Ok(Heir { flow, path })
    }
}

fn slots_of_now<I: Identity>(
    then: &Slots<I>,
    now: &Slots<I>,
    has_left: impl Fn(u16) -> bool,
) -> Vec<Option<u16>> {
    // One that left may have had the address of one in service, which comes first then.
    let mut by_key = HashMap::new();
    for wants_left in [false, true] {
        for (slot, identity) in now.iter().filter(|(slot, _)| has_left(*slot) == wants_left) {
            by_key.entry(identity.key()).or_insert(slot);
        }
    }
    let mut slots = vec![None; then.len()];
    for (slot, identity) in then.iter() {
        let key = identity.key();
        let is_kept = !has_left(slot) && now.get(slot).is_some_and(|i| i.key() == key);
        slots[usize::from(slot)] = if is_kept { Some(slot) } else { by_key.get(&key).copied() };
    }
    slots
}
