//! Which Maglev table a frontend goes by, and which of its slots have moved lately.
//!
//! With full tracking that is its backend's table and nothing else. With minimal tracking it is also where the
//! frontend's flows were before: a frontend that a reload gave another backend goes on from the table of the former,
//! and one that left from its own. Frontends that come from the same place share a table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use convey_core::selection::{MaglevTable, maglev::SLOTS};
use convey_packet::UDP;

use super::moved_slots::{MovedSlots, NONE, Rules, Steps};
use super::{PacketBackend, PacketFrontend, PacketServer, PacketSnapshot, Vip};
use crate::meta::Nanos;
use crate::options::Timeouts;

/// A Maglev table in use.
#[derive(Debug, Clone)]
pub(crate) struct PacketTable {
    /// Name of the backend; `None`: of frontends that left.
    backend: Option<Arc<str>>,
    protocol: u8,
    /// `None` when nobody can be selected.
    pub(crate) table: Option<Arc<MaglevTable>>,
    /// `None` when every slot has settled.
    pub(crate) moved: Option<Arc<MovedSlots>>,
}

impl PacketTable {
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.is_some()
    }

    /// Of each slot server and previous server.
    pub(crate) fn places(&self) -> Option<Vec<u16>> {
        if self.table.is_none() && self.moved.is_none() {
            return None;
        }
        let server = |at| self.table.as_ref().and_then(|t| t.get(at)).unwrap_or(NONE);
        let previous = |at| self.moved.as_ref().and_then(|m| m.previous(at)).unwrap_or(NONE);
        Some((0..SLOTS).flat_map(|at| [server(at), previous(at)]).collect())
    }

    /// Whether it would be another one, built anew at `now`. Looked at some times within the life of a flow.
    pub(crate) fn is_due(&self, timeouts: &Timeouts, built: Nanos, now: Nanos) -> bool {
        let Some(moved) = &self.moved else { return false };
        let rules = rules(self.protocol, timeouts);
        // All slots are looked at: not each time somebody asks.
        let pause = u64::from(rules.window.unwrap_or(rules.idle) / 16 + 1);
        let elapsed = now.0.saturating_sub(built.0) >> 32;
        elapsed >= pause && elapsed % pause < 16 && moved.is_due(self.table.as_deref(), rules, now)
    }
}

/// How long the slots of a protocol's flows remember that they moved: none of its flows lives longer without a packet.
fn rules(protocol: u8, t: &Timeouts) -> Rules {
    if protocol == UDP {
        return Rules { idle: Steps::span(t.udp.max(t.udp_stream)), window: Some(Steps::span(t.udp_stream)) };
    }
    let longest = [t.syn, t.established, t.closed, t.dsr_fin].into_iter().max().unwrap_or_default();
    Rules { idle: Steps::span(longest), window: None }
}

/// The tables of full tracking: those of backends.
pub(super) fn of_backends(backends: &[PacketBackend]) -> Vec<PacketTable> {
    let table = |b: &PacketBackend| PacketTable {
        backend: Some(b.name.clone()),
        protocol: 0,
        table: b.table.clone(),
        moved: None,
    };
    backends.iter().map(table).collect()
}

/// What tables of minimal tracking are made of.
pub(super) struct Changes<'a> {
    pub(super) backends: &'a [PacketBackend],
    pub(super) servers: &'a [Option<PacketServer>],
    pub(super) timeouts: &'a Timeouts,
    pub(super) previous: Option<&'a PacketSnapshot>,
    /// Flows of another process go on that may be elsewhere than the tables say.
    pub(super) adopts: bool,
    pub(super) now: Nanos,
}

impl Changes<'_> {
    /// The tables of minimal tracking; tells each frontend which is its.
    pub(super) fn tables(&self, frontends: &mut [Option<PacketFrontend>]) -> Vec<PacketTable> {
        let in_service: HashSet<Vip> =
            frontends.iter().flatten().filter(|f| !f.has_left()).map(vip).collect();
        let (mut tables, mut known) = (Vec::new(), HashMap::new());
        for frontend in frontends.iter_mut().flatten() {
            let backend = if frontend.has_left() { None } else { self.backends.get(frontend.backend) };
            // Where another listens now, its packets are that one's.
            let origin = match backend {
                None if in_service.contains(&vip(frontend)) => None,
                _ => self.origin(frontend, backend),
            };
            let key = (backend.map(|b| &b.name), frontend.protocol, origin);
            frontend.table = *known.entry(key).or_insert_with(|| {
                tables.push(self.table(backend, frontend.protocol, origin));
                tables.len() - 1
            });
        }
        tables
    }

    /// The former table of what listened there; `None` when it is that of the same backend, all settled.
    fn origin(&self, frontend: &PacketFrontend, backend: Option<&PacketBackend>) -> Option<usize> {
        let previous = self.previous?;
        let vip = vip(frontend);
        let former = || previous.former_vips.get(&vip).and_then(|slots| slots.last());
        let slot = previous.vips.get(&vip).or_else(former)?;
        let at = previous.frontend(*slot)?.table;
        let table = previous.tables.get(at)?;
        let is_plain =
            table.moved.is_none() && backend.is_some_and(|b| table.backend.as_ref() == Some(&b.name));
        (!is_plain).then_some(at)
    }

    fn table(&self, backend: Option<&PacketBackend>, protocol: u8, origin: Option<usize>) -> PacketTable {
        let table = backend.and_then(|b| b.table.clone());
        let old = origin.and_then(|at| self.previous?.tables.get(at));
        let before = match (old, backend) {
            (Some(old), _) => old.table.clone(),
            (None, Some(backend)) => self.before(backend),
            (None, None) => None,
        };
        let moved = match &table {
            Some(table) if self.adopts => Some(MovedSlots::all(table, self.now)),
            _ => MovedSlots::after(
                before.as_deref(),
                old.and_then(|o| o.moved.as_deref()),
                table.as_deref(),
                rules(protocol, self.timeouts),
                self.now,
                |server| self.is_gone(server),
            ),
        };
        PacketTable { backend: backend.map(|b| b.name.clone()), protocol, table, moved: moved.map(Arc::new) }
    }

    /// The table that the backend had; without one, the one it has.
    fn before(&self, backend: &PacketBackend) -> Option<Arc<MaglevTable>> {
        let old = self.previous.and_then(|p| p.backends.iter().find(|b| b.name == backend.name));
        old.map_or_else(|| backend.table.clone(), |old| old.table.clone())
    }

    fn is_gone(&self, server: u16) -> bool {
        let server = self.servers.get(usize::from(server)).and_then(Option::as_ref);
        server.is_none_or(|s| s.standing().is_gone())
    }
}

fn vip(frontend: &PacketFrontend) -> Vip {
    Vip { address: frontend.address.bits(), port: frontend.port, protocol: frontend.protocol }
}

/// Slots of servers where flows may be that nobody remembers.
pub(super) fn unremembered(tables: &[PacketTable]) -> HashSet<u16> {
    let moved = tables.iter().filter_map(|t| t.moved.as_ref());
    moved.flat_map(|m| m.servers().iter().copied()).filter(|server| *server != NONE).collect()
}
