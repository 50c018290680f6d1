//! One reading of all counters, and the few that are asked for often.

use std::sync::Arc;

use std::collections::HashMap;

use convey_core::selection::SLOW_START_STEPS;
use convey_core::{ConnCounters, Mode, QueueCounts, Reason, ReasonCounters, Snapshot};
use convey_runtime::{PacketStats, RefusedEngine, Runtime};
use napi::bindgen_prelude::Float64Array;
use napi_derive::napi;

use crate::listening::listening_text;

/// Connections, absent where they are not counted, and bytes; tx is client→server, rx is server→client.
#[napi(object)]
pub struct NativeCounters {
    pub total_connections: Option<f64>,
    pub current_connections: Option<f64>,
    pub bytes_tx: f64,
    pub bytes_rx: f64,
}

/// How often something happened for one reason; reasons that never occurred are left out.
#[napi(object)]
pub struct NativeReason {
    pub reason: String,
    pub count: f64,
}

#[napi(object)]
pub struct NativeFrontendStats {
    pub name: String,
    /// Where it listens, with the port the kernel chose; "" once the listener is closed.
    pub address: String,
    pub counters: NativeCounters,
    pub reasons: Vec<NativeReason>,
}

#[napi(object)]
pub struct NativeServerStats {
    pub name: String,
    pub addr: String,
    pub weight: u32,
    pub up: bool,
    pub draining: bool,
    pub backup: bool,
    /// The weight that selection goes by: 0 while it is down or draining and for a backup that waits, a part of its
    /// weight in slow start.
    pub effective_weight: f64,
    pub counters: NativeCounters,
    pub reasons: Vec<NativeReason>,
}

/// Connections that wait for a place at a backend.
#[napi(object)]
pub struct NativeQueueStats {
    /// Now.
    pub waiting: f64,
    /// Those that have waited or wait.
    pub total: f64,
    /// Those whose time was over before they got a place.
    pub timed_out: f64,
    /// Those refused since the queue was full.
    pub refused: f64,
}

#[napi(object)]
pub struct NativeBackendStats {
    pub name: String,
    /// How its servers are chosen, as in the configuration.
    pub balance: String,
    pub counters: NativeCounters,
    /// Only in proxy mode.
    pub queue: Option<NativeQueueStats>,
    pub servers: Vec<NativeServerStats>,
}

/// Packets by verdict, and the flow table; a super-frame counts once.
#[napi(object)]
pub struct NativePacketStats {
    /// The engine at work, as in the configuration.
    pub engine: String,
    /// Engines that "auto" would have preferred.
    pub refused: Vec<NativeRefusedEngine>,
    /// How the kernel is kept from answering: "tcx", "nft", or "" for not at all.
    pub guard: String,
    /// The interfaces it listens on.
    pub interfaces: Vec<String>,
    /// What an operator should know about the host: why nft stands in, leftovers reclaimed, scarce ports.
    pub notes: Vec<String>,
    /// Flows held now.
    pub flows: f64,
    /// Flows that can be held.
    pub flow_capacity: f64,
    pub forwarded: f64,
    /// Answers of our own by kind; kinds that never occurred are left out, here and below.
    pub replied: Vec<NativeReason>,
    /// Answered by ourselves instead of going on, by reason; each is in `replied` as well.
    pub answered: Vec<NativeReason>,
    /// Left to the kernel, by reason.
    pub passed: Vec<NativeReason>,
    /// Dropped or lost, by reason.
    pub dropped: Vec<NativeReason>,
    /// What happened on the way to a verdict, by kind.
    pub noted: Vec<NativeReason>,
    /// Free NAT ports taken, by how many ports were looked at to find one ("1", "2-3" and so on), in rising order.
    pub nat_port_probes: Vec<NativeReason>,
    /// Times a worker was started again after a panic.
    pub worker_panics: f64,
    /// Absent where the guard's method does not count.
    pub guard_drops: Option<NativeGuardDrops>,
}

/// Why an engine was not taken.
#[napi(object)]
pub struct NativeRefusedEngine {
    /// As in the configuration.
    pub engine: String,
    /// "permission", "no_interface", "unsupported" or "failed".
    pub kind: String,
    /// What the system answered, as in errno(3).
    pub errno: Option<i32>,
    pub cause: String,
    /// What to try; "" where nobody knows.
    pub remedy: String,
}

/// Packets that the guard kept from the kernel.
#[napi(object)]
pub struct NativeGuardDrops {
    /// To a frontend.
    pub to_vip: f64,
    /// From a server to a NAT port.
    pub from_server: f64,
    /// ICMP errors about either.
    pub icmp_errors: f64,
}

/// All counters at one moment.
#[napi(object)]
pub struct NativeStats {
    /// Version of the snapshot in service.
    pub version: f64,
    /// Over all frontends, removed ones included.
    pub counters: NativeCounters,
    /// Over all frontends, removed ones included.
    pub reasons: Vec<NativeReason>,
    pub frontends: Vec<NativeFrontendStats>,
    pub backends: Vec<NativeBackendStats>,
    /// Lines of connections that were lost because they could not be written in time.
    pub lost_log_lines: f64,
    /// Only in the packet modes.
    pub packet: Option<NativePacketStats>,
}

/// What may differ between two readings of one configuration.
#[napi(object)]
pub struct NativeReading {
    /// Version of the snapshot in service.
    pub version: f64,
    /// Absent when the version is not the one that was known. Five numbers each for the totals, every frontend and
    /// every backend, which is followed by its servers: connections in total and open (NaN where they are not counted),
    /// bytes tx and rx, and how often anything happened for a reason, in a backend how often anything did in its queue.
    pub numbers: Option<Float64Array>,
    /// As in the whole.
    pub lost_log_lines: f64,
    /// Only in the packet modes.
    pub packet: Option<NativePacketStats>,
}

/// Where a frontend listens.
#[napi(object)]
pub struct NativeAddress {
    pub frontend: String,
    /// `ip:port`, with the port the kernel chose.
    pub address: String,
}

/// The connections of one server, also after it has left the configuration.
#[napi]
pub struct ServerGauge {
    counters: Arc<ConnCounters>,
}

#[napi]
impl ServerGauge {
    /// Connections open now.
    #[napi(catch_unwind)]
    pub fn open(&self) -> f64 {
        self.counters.open() as f64
    }
}

pub fn addresses(runtime: &Runtime) -> Vec<NativeAddress> {
    runtime
        .addresses()
        .into_iter()
        .map(|(frontend, address)| NativeAddress {
            frontend: frontend.to_string(),
            address: address.to_string(),
        })
        .collect()
}

pub fn server_gauge(runtime: &Runtime, backend: &str, server: &str) -> Option<ServerGauge> {
    if !runtime.counts_connections() {
        return None;
    }
    let snapshot = runtime.snapshot();
    let backend = snapshot.backends.iter().find(|b| &*b.name == backend)?;
    let server = backend.servers.iter().find(|s| &*s.name == server)?;
    Some(ServerGauge { counters: server.counters.clone() })
}

pub fn read(runtime: &Runtime) -> NativeStats {
    let snapshot: &Snapshot = &runtime.snapshot();
    let mut addresses: HashMap<_, Vec<_>> = HashMap::new();
    for (name, address) in runtime.addresses() {
        addresses.entry(name).or_default().push(address);
    }
    let counts_connections = runtime.counts_connections();
    let counters = |c: &ConnCounters| counters(c, counts_connections);
    // As in `reread()`.
    let packet = runtime.packet_stats().map(packet);
    NativeStats {
        packet,
        version: snapshot.version as f64,
        lost_log_lines: runtime.lost_log_lines() as f64,
        counters: counters(&snapshot.totals),
        reasons: reasons(&snapshot.reasons),
        frontends: snapshot
            .frontends
            .iter()
            .map(|f| NativeFrontendStats {
                name: f.name.to_string(),
                address: addresses.get(&f.name).map_or_else(String::new, |all| listening_text(all)),
                counters: counters(&f.counters),
                reasons: reasons(&f.reasons),
            })
            .collect(),
        backends: snapshot
            .backends
            .iter()
            .map(|b| NativeBackendStats {
                name: b.name.to_string(),
                balance: b.selector.balance().name().to_owned(),
                counters: counters(&b.counters),
                queue: (snapshot.mode == Mode::Proxy).then(|| queue(b.queue.counts())),
                servers: b
                    .servers
                    .iter()
                    .zip(b.selector.weights())
                    .map(|(s, weight)| NativeServerStats {
                        name: s.name.to_string(),
                        addr: s.addr.to_string(),
                        weight: s.weight.into(),
                        up: s.up,
                        draining: s.draining,
                        backup: s.backup,
                        effective_weight: f64::from(*weight) / f64::from(SLOW_START_STEPS),
                        counters: counters(&s.counters),
                        reasons: reasons(&s.reasons),
                    })
                    .collect(),
            })
            .collect(),
    }
}

/// As [`read`], without what a reader of version `known` has: a name as a JavaScript string costs more than a counter.
pub fn reread(runtime: &Runtime, known: f64) -> NativeReading {
    let snapshot: &Snapshot = &runtime.snapshot();
    let version = snapshot.version as f64;
    // First: reading them brings counters over from programs in the kernel.
    let packet = runtime.packet_stats().map(packet);
    let counts_connections = runtime.counts_connections();
    let numbers = (version == known).then(|| {
        let servers: usize = snapshot.backends.iter().map(|backend| backend.servers.len()).sum();
        let rows = 1 + snapshot.frontends.len() + snapshot.backends.len() + servers;
        let mut numbers = Vec::with_capacity(rows * 5);
        let mut add = |c: &ConnCounters, reasons: u64| {
            let connections = |count: u64| if counts_connections { count as f64 } else { f64::NAN };
            let (tx, rx) = (c.bytes_tx() as f64, c.bytes_rx() as f64);
            numbers.extend([connections(c.total()), connections(c.open()), tx, rx, reasons as f64]);
        };
        add(&snapshot.totals, sum(&snapshot.reasons));
        for frontend in &snapshot.frontends {
            add(&frontend.counters, sum(&frontend.reasons));
        }
        for backend in &snapshot.backends {
            add(&backend.counters, moves(backend.queue.counts()));
            for server in &backend.servers {
                add(&server.counters, sum(&server.reasons));
            }
        }
        Float64Array::new(numbers)
    });
    let lost_log_lines = runtime.lost_log_lines() as f64;
    NativeReading { version, numbers, lost_log_lines, packet }
}

/// Grows with whatever happens in a queue: a client that comes adds one to both of the first, one that goes takes one.
fn moves(QueueCounts { waiting, total, timed_out, refused }: QueueCounts) -> u64 {
    (2 * total + timed_out + refused).saturating_sub(waiting)
}

fn sum(reasons: &ReasonCounters) -> u64 {
    Reason::ALL.iter().map(|&reason| reasons.get(reason)).sum()
}

fn queue(counts: QueueCounts) -> NativeQueueStats {
    NativeQueueStats {
        waiting: counts.waiting as f64,
        total: counts.total as f64,
        timed_out: counts.timed_out as f64,
        refused: counts.refused as f64,
    }
}

fn packet(stats: PacketStats) -> NativePacketStats {
    NativePacketStats {
        engine: stats.engine.name().to_owned(),
        refused: stats.refused.iter().map(refused).collect(),
        guard: stats.guard.unwrap_or_default().to_owned(),
        interfaces: stats.interfaces,
        notes: stats.notes,
        flows: stats.packets.flows as f64,
        flow_capacity: stats.flow_capacity as f64,
        forwarded: stats.packets.forwarded as f64,
        replied: occurred(stats.packets.replied),
        answered: occurred(stats.packets.answered),
        passed: occurred(stats.packets.passed),
        dropped: occurred(stats.packets.dropped),
        noted: occurred(stats.packets.noted),
        nat_port_probes: occurred(stats.packets.nat_port_probes),
        worker_panics: stats.packets.panics as f64,
        guard_drops: stats.guard_drops.map(|drops| NativeGuardDrops {
            to_vip: drops.to_vip as f64,
            from_server: drops.from_server as f64,
            icmp_errors: drops.icmp_errors as f64,
        }),
    }
}

pub(crate) fn refused(RefusedEngine { engine, error }: &RefusedEngine) -> NativeRefusedEngine {
    NativeRefusedEngine {
        engine: engine.name().to_owned(),
        kind: error.kind.name().to_owned(),
        errno: error.errno(),
        cause: error.cause.clone(),
        remedy: error.remedy.clone(),
    }
}

fn counters(c: &ConnCounters, counts_connections: bool) -> NativeCounters {
    NativeCounters {
        total_connections: counts_connections.then(|| c.total() as f64),
        current_connections: counts_connections.then(|| c.open() as f64),
        bytes_tx: c.bytes_tx() as f64,
        bytes_rx: c.bytes_rx() as f64,
    }
}

fn reasons(counters: &ReasonCounters) -> Vec<NativeReason> {
    occurred(Reason::ALL.iter().map(|&reason| (reason.name(), counters.get(reason))))
}

fn occurred(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<NativeReason> {
    counts
        .into_iter()
        .filter(|&(_, count)| count > 0)
        .map(|(reason, count)| NativeReason { reason: reason.to_owned(), count: count as f64 })
        .collect()
}
