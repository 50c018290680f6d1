//! The flow tables as an operator sees them: listed beside the workers, ended by them.
//!
//! A list is read from memory that packets change meanwhile, by any thread, and no packet waits for it. To end a flow
//! means to give its NAT port back and to count it out, which only its worker may do: so a list of what is to be ended
//! is made here, and the worker ends of it what is still there.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use convey_core::conntrack::{Flow, FlowId, FlowReader, Ticks, flags};
use convey_core::{FlowFilter, FlowRow, FlowStage, Protocol};
use convey_packet::Addr;

use crate::meta::Nanos;
use crate::path_numbers::PathNumbers;
use crate::snapshot::{PacketFrontend, PacketServer, PacketSnapshot};

/// Entries looked at for one page, so that it takes milliseconds though it finds nothing.
pub const PAGE_ENTRIES: usize = 1 << 20;

/// The flows of one worker, for other threads to look at.
#[derive(Debug)]
pub struct FlowView {
    reader: FlowReader,
    nat: NatAddresses,
}

/// The NAT address of each port pool.
#[derive(Debug, Clone)]
pub(crate) enum NatAddresses {
    /// Of a worker's own pools.
    Pools(Arc<Mutex<Vec<u128>>>),
    /// Pools are paths by number.
    Paths(Arc<PathNumbers>),
}

impl NatAddresses {
    fn get(&self) -> Vec<u128> {
        match self {
            Self::Pools(pools) => pools.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Self::Paths(paths) => paths.get().iter().map(|path| path.map_or(0, |path| path.nat)).collect(),
        }
    }
}

/// A flow that was seen, and where.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Where it lies.
    pub id: FlowId,
    /// What it was.
    pub flow: Flow,
}

/// A filter as it is compared with flows, by slot. Slots that come later are none of its.
struct Wanted<'a> {
    filter: &'a FlowFilter,
    frontends: Vec<bool>,
    servers: Vec<bool>,
    snapshot: &'a PacketSnapshot,
    now: Ticks,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a FlowFilter, snapshot: &'a PacketSnapshot, now: Nanos) -> Self {
        let mut frontends = vec![false; 1 << 16];
        for (slot, frontend) in snapshot.frontends() {
            frontends[usize::from(slot)] = filter.takes_frontend(protocol_of(frontend), &frontend.name);
        }
        let mut servers = vec![false; 1 << 16];
        for (slot, server) in snapshot.servers() {
            servers[usize::from(slot)] = filter.takes_server(&server.backend, &server.name);
        }
        Self { filter, frontends, servers, snapshot, now: Ticks::from_nanos(now.0) }
    }

    /// What is to be told of `flow`, if it is among those asked for and its time is not over.
    fn take(&self, flow: &Flow) -> Option<(&PacketFrontend, &PacketServer, u32)> {
        let is_wanted = self.frontends[usize::from(flow.frontend)] && self.servers[usize::from(flow.server)];
        if !is_wanted || !self.filter.takes_stage(FlowStage::of(flow.state)) {
            return None;
        }
        let frontend = self.snapshot.frontend(flow.frontend)?;
        let server = self.snapshot.server(flow.server)?;
        let takes =
            self.filter.takes_client(client_of(flow)) && self.filter.takes_vip(vip_of(flow, frontend));
        let left = self.snapshot.lifetimes().left(flow, self.now)?;
        takes.then_some((frontend, server, left))
    }
}

impl FlowView {
    pub(crate) fn new(reader: FlowReader, nat: NatAddresses) -> Self {
        Self { reader, nat }
    }

    /// Whether all flows can be looked at.
    pub fn is_whole(&self) -> bool {
        self.reader.is_whole()
    }

    /// Adds flows that `filter` takes to `rows`, from entry `from` on, until there are `limit` rows or
    /// [`PAGE_ENTRIES`] were looked at. Gives the entry to go on at; `None` when that were all.
    pub fn list(
        &self,
        filter: &FlowFilter,
        snapshot: &PacketSnapshot,
        now: Nanos,
        from: usize,
        (rows, limit): (&mut Vec<FlowRow>, usize),
    ) -> Option<usize> {
        let (wanted, mut nat) = (Wanted::new(filter, snapshot, now), self.nat.get());
        let next = self.reader.read(from, PAGE_ENTRIES, |_, flow| {
            // The first flow from an address may have come since.
            if flow.has(flags::HAS_PORT) && usize::from(flow.pool) >= nat.len() {
                nat = self.nat.get();
            }
            if let Some((frontend, server, left)) = wanted.take(&flow) {
                rows.push(row(&flow, (frontend, server), &nat, (left, wanted.now)));
            }
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (next < self.reader.entries()).then_some(next)
    }

    /// As [`FlowView::list`], to be ended by [`crate::Worker::end_flows`].
    pub fn find(
        &self,
        filter: &FlowFilter,
        snapshot: &PacketSnapshot,
        now: Nanos,
        from: usize,
        (seen, limit): (&mut Vec<Seen>, usize),
    ) -> Option<usize> {
        let wanted = Wanted::new(filter, snapshot, now);
        let next = self.reader.read(from, PAGE_ENTRIES, |id, flow| {
            if wanted.take(&flow).is_some() {
                seen.push(Seen { id, flow });
            }
            if seen.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (next < self.reader.entries()).then_some(next)
    }
}

fn protocol_of(frontend: &PacketFrontend) -> Protocol {
    if frontend.protocol == 17 { Protocol::Udp } else { Protocol::Tcp }
}

fn client_of(flow: &Flow) -> SocketAddr {
    SocketAddr::new(Addr::from_bits(flow.client).into(), flow.client_port)
}

/// A frontend of every port does not tell which one it was, its flow does.
fn vip_of(flow: &Flow, frontend: &PacketFrontend) -> SocketAddr {
    let port = if frontend.port == 0 { flow.port } else { frontend.port };
    SocketAddr::new(frontend.address.into(), port)
}

fn row(
    flow: &Flow,
    (frontend, server): (&PacketFrontend, &PacketServer),
    nat: &[u128],
    (left, now): (u32, Ticks),
) -> FlowRow {
    let address = SocketAddr::new(server.address.into(), server.port);
    let nat = nat.get(usize::from(flow.pool)).filter(|_| flow.has(flags::HAS_PORT));
    let protocol = protocol_of(frontend);
    FlowRow {
        protocol,
        client: client_of(flow),
        frontend: frontend.name.clone(),
        vip: vip_of(flow, frontend),
        server: Some((server.backend.clone(), server.name.clone(), address.into())),
        waits_for: None,
        stage: FlowStage::of(flow.state),
        age: None,
        idle: Some(duration(now.since(Ticks(flow.last_seen)))),
        expires_in: Some(duration(left)),
        nat: nat.map(|nat| SocketAddr::new(Addr::from_bits(*nat).into(), flow.nat_port)),
        packets: (protocol == Protocol::Udp).then_some(u64::from(flow.next[0])),
        bytes: None,
    }
}

fn duration(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << Ticks::SHIFT)
}
