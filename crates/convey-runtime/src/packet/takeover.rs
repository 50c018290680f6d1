//! At a start: the flows of balancers that were killed, and memory from which the next start can take ours.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use convey_afpacket::{monotonic, share_flows};
use convey_core::{BackendSpec, FrontendSpec, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec, SpecError};
use convey_engine::{
    DsrMethod, Former, Layout, PacketOptions, PacketSnapshot, SavedFlows, SlotTable, WorkerMemory,
};
use convey_xdp::protocol_number;

use crate::host::{Host, HostError};

/// The flows that killed balancers of the same frontends left. Those of another mode are of no use.
pub(super) fn read(host: &mut Host, mode: Mode) -> Vec<SavedFlows> {
    let mut saved = host.flows_left();
    let found = saved.len();
    saved.retain(|s| s.mode() == mode);
    if saved.len() < found {
        host.add_note("the flows of a killed balancer are not taken over: it ran in another mode".to_owned());
    }
    saved
}

/// The slots to begin with: of several killed balancers, those of the one that has most flows. Flows of the others
/// are translated.
pub(super) fn slots(saved: &[SavedFlows]) -> SlotTable {
    saved.iter().max_by_key(|s| s.len()).map(|s| s.slot_table().clone()).unwrap_or_default()
}

/// The options with which flows meet one worker in both directions, where those given do not: replies are steered
/// by their NAT port, which a flow keeps, to the worker that its client's packets reach too.
pub(super) fn suited(saved: &[SavedFlows], options: &PacketOptions) -> Option<PacketOptions> {
    let unsuited = saved.iter().find(|s| !s.suits(options))?;
    let other = PacketOptions { workers: unsuited.workers(), ..options.clone() };
    unsuited.suits(&other).then_some(other)
}

/// The snapshot with counters for as many workers as `options` has: none may share a shard with another. Nothing has
/// been counted yet.
pub(super) fn with_counters_for(
    snapshot: &Snapshot,
    options: &PacketOptions,
) -> Result<Arc<Snapshot>, SpecError> {
    Ok(Arc::new(Snapshot::first(snapshot.spec().clone(), options.workers.max(1))?))
}

pub(super) fn other_workers(asked: &PacketOptions, suited: &PacketOptions) -> String {
    format!(
        "{} workers instead of {}: open flows have NAT ports of the {} workers of the killed balancer; after an \
         orderly stop the next start has the number configured",
        suited.workers, asked.workers, suited.workers
    )
}

/// The tables for `snapshot` in which frontends and servers that it lacks stand as if a reload had just removed
/// them, so that their connections go on. `None`: nothing is lacking, or it cannot be had.
pub(super) fn with_former(
    snapshot: &Snapshot,
    asked: &PacketOptions,
    saved: &[SavedFlows],
    packet: &PacketSnapshot,
) -> Option<PacketSnapshot> {
    let mut spec = snapshot.spec().clone();
    let mut options = asked.clone();
    for saved in saved {
        let former = saved.former(packet, monotonic());
        // A backend that is gone was reached as its servers were.
        for server in former.servers.iter().filter(|s| spec.backends.iter().all(|b| b.name != s.backend)) {
            let method = if server.l2 { DsrMethod::L2 } else { DsrMethod::Rewrite };
            options.backend_dsr.insert(server.backend.clone(), method);
        }
        add_former(&mut spec, &former);
    }
    let before = snapshot.next(spec).ok()?;
    if before.spec().frontends.len() == snapshot.frontends.len()
        && server_count(&before) == server_count(snapshot)
    {
        return None;
    }
    let before = PacketSnapshot::build_adopting(&before, &options, &slots(saved), monotonic()).ok()?;
    PacketSnapshot::build_at(snapshot, asked, Some(&before), monotonic()).ok()
}

fn server_count(snapshot: &Snapshot) -> usize {
    snapshot.backends.iter().map(|b| b.servers.len()).sum()
}

fn add_former(spec: &mut SnapshotSpec, former: &Former) {
    for identity in &former.servers {
        let addr = SocketAddr::new(identity.address, identity.port);
        let server = ServerSpec {
            // Another may have the name by now.
            name: format!("{} ({addr}, removed)", identity.name),
            addr: addr.into(),
            weight: 0,
            max_connections: 0,
            up: true,
            draining: true,
            backup: false,
            share: convey_core::selection::SLOW_START_STEPS,
            send_proxy: None,
        };
        let at = backend(spec, &identity.backend);
        let servers = &mut spec.backends[at].servers;
        if servers.iter().all(|s| s.name != server.name) {
            servers.push(server);
        }
    }
    for (identity, of_backend) in &former.frontends {
        let listen = SocketAddr::new(identity.address, identity.port);
        let protocol =
            if identity.protocol == protocol_number(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
        backend(spec, of_backend);
        if spec.frontends.iter().all(|f| f.protocol != protocol || !f.listen.contains(&listen)) {
            spec.frontends.push(FrontendSpec {
                listen_key: Default::default(),
                name: format!("{} ({listen}, removed)", identity.name),
                listen: vec![listen],
                protocol,
                backend: of_backend.clone(),
                accept_proxy: None,
                max_connections: 0,
                hello_routes: None,
                sockets: Default::default(),
                admission: Default::default(),
                udp: Default::default(),
            });
        }
    }
}

/// Index of the backend of this name, made if need be.
fn backend(spec: &mut SnapshotSpec, name: &str) -> usize {
    if let Some(at) = spec.backends.iter().position(|b| b.name == name) {
        return at;
    }
    spec.backends.push(BackendSpec {
        name: name.to_owned(),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        balance: convey_core::selection::Balance::Maglev,
        source: Default::default(),
        eject_after: 0,
        servers: Vec::new(),
    });
    spec.backends.len() - 1
}

/// Memory for the flows of this balancer that outlives it; none, and a note, where that cannot be had.
pub(super) fn memory(host: &mut Host, packet: &PacketSnapshot) -> Vec<WorkerMemory> {
    let layout = Layout::new(packet.mode(), packet.options());
    let has_v6 = packet.has_v6();
    let made = shared(host, &layout, has_v6).or_else(|error| {
        // There may be room for one only, and the flows that were left have been read.
        if !is_full(&error) || host.forget_flows_left().is_err() {
            return Err(error);
        }
        shared(host, &layout, has_v6)
    });
    let made = made.and_then(|memory| {
        host.write_slots(packet.slot_table())?;
        Ok(memory)
    });
    made.unwrap_or_else(|error| {
        host.add_note(format!("flows would not outlive this process if it were killed: {error}"));
        Vec::new()
    })
}

fn shared(host: &mut Host, layout: &Layout, has_v6: bool) -> Result<Vec<WorkerMemory>, HostError> {
    let file = host.keep_flows()?;
    share_flows(&file, layout, has_v6).map_err(|source| {
        // It goes with the rest in the end, if not now.
        let _ = host.give_up_flows();
        HostError::FlowMemory { bytes: layout.workers * layout.worker_bytes_at_once(has_v6), source }
    })
}

fn is_full(error: &HostError) -> bool {
    matches!(error, HostError::FlowMemory { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_workers_as_the_killed_balancer_had_get_counters_of_their_own() {
        let spec = SnapshotSpec {
            mode: Mode::Passthrough,
            limits: convey_core::Limits::default(),
            frontends: Vec::new(),
            backends: Vec::new(),
        };
        let snapshot = Snapshot::first(spec, 2).unwrap();
        let options = PacketOptions { workers: 5, ..PacketOptions::default() };
        let other = with_counters_for(&snapshot, &options).unwrap();
        let next = other.next(other.spec().clone()).unwrap();
        assert_eq!((other.totals.workers(), next.totals.workers()), (5, 5));
    }

    #[test]
    fn a_table_of_slots_is_written_as_lists_with_null_for_a_free_slot_and_read_back() {
        let text = r#"{"frontends":[null,{"protocol":6,"address":"192.0.2.1","port":80,"name":"web"}],"servers":[{"backend":"b","address":"2001:db8::1","port":8080,"l2":false,"name":"s"}]}"#;
        let table: SlotTable = serde_json::from_str(text).unwrap();
        assert_eq!(table.frontends.get(0), None);
        assert_eq!(table.frontends.get(1).map(|f| f.name.as_str()), Some("web"));
        assert_eq!(table.servers.len(), 1);
        assert_eq!(serde_json::to_string(&table).unwrap(), text);
    }
}
