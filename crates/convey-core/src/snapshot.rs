//! The configuration as the data plane sees it: complete, checked, immutable, published with one store.
//!
//! A snapshot is built from a [`SnapshotSpec`] and, optionally, its predecessor, from which counters and
//! scheduler state of surviving names are taken over.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{Admission, AdmissionSpec, CLIENT_IPV6_PREFIX};
use crate::client_address::{AcceptProxy, ProxyVersion, Source};
use crate::counters::{ConnCounters, ReasonCounters};
use crate::endpoint::Endpoint;
use crate::hello_routes::{HelloRoutes, HelloRoutesSpec};
use crate::selection::{Balance, Part, SLOW_START_STEPS, Selector};
use crate::source_pool::Sources;
use crate::streak::FailureStreak;
use crate::wait_queue::WaitQueue;

/// How connections are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// TCP is terminated and relayed.
    Proxy,
    /// Packets are translated in both directions.
    Passthrough,
    /// Packets go to the server, which answers the client directly.
    Dsr,
}

/// The layer-4 protocol of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Limits over all frontends; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once.
    pub max_connections: u64,
    /// Connections open at once from one client.
    pub max_connections_per_client: u64,
    /// First bits of an IPv6 address that make a client, 1 to 128.
    pub client_ipv6_prefix: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: 0, max_connections_per_client: 0, client_ipv6_prefix: CLIENT_IPV6_PREFIX }
    }
}

/// How connections wait for a place at a backend or for a server, proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Connections open at once over all servers of the backend; 0 means no limit.
    pub max_connections: u64,
    /// Connections that may wait for a place; 0: none, they are closed.
    pub queue: u64,
    /// How long one waits for a place at most.
    pub queue_timeout: Duration,
    /// How long servers that failed are tried again, and one is waited for where none is up; zero: not at all.
    pub retry_timeout: Duration,
}

/// When sockets that are silent end, proxy mode; zero: never, or as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// How long one side may be silent after the other's FIN.
    pub half_close_timeout: Duration,
    /// How long what was sent to a server may stay unacknowledged (TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
}

/// What the sockets of a frontend are set to, proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// How long what was sent to a client may stay unacknowledged (TCP_USER_TIMEOUT); zero: as the kernel has it.
    pub tcp_user_timeout: Duration,
    /// Connections begun by TCP Fast Open that wait for their handshake; 0: it is off.
    pub fast_open: u32,
    /// Whether to listen for Multipath TCP.
    pub mptcp: bool,
}

/// When the sessions of a UDP frontend end, and how many there may be (proxy mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpSessions {
    /// A session without a datagram in either direction for this long ends; above zero.
    pub idle_timeout: Duration,
    /// Sessions at once; 0 means no limit. At the limit the longest silent that is no conversation yet makes room.
    pub max_sessions: u64,
    /// Answers expected to each datagram of a client, after which its session ends; `None`: nobody knows how many.
    pub responses: Option<u32>,
    /// Datagrams of a client after which its next one begins another session; 0: as many as come.
    pub requests: u32,
}

impl Default for UdpSessions {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(60), max_sessions: 16_384, responses: None, requests: 0 }
    }
}

/// What a [`Snapshot`] is made of, before it is checked.
#[derive(Debug, Clone)]
pub struct SnapshotSpec {
    /// How connections are forwarded.
    pub mode: Mode,
    /// Limits over all frontends.
    pub limits: Limits,
    /// Frontends; names must be unique.
    pub frontends: Vec<FrontendSpec>,
    /// Backends; names must be unique.
    pub backends: Vec<BackendSpec>,
}

/// Listening addresses and the backend that serves them.
#[derive(Debug, Clone)]
pub struct FrontendSpec {
    /// Unique name.
    pub name: String,
    /// Where clients connect, at least one; port 0 lets the kernel choose (proxy mode).
    pub listen: Vec<SocketAddr>,
    /// The key that says so in the configuration file.
    pub listen_key: ListenKey,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// Name of the backend.
    pub backend: String,
    /// Whether and from whom it takes PROXY headers (proxy mode).
    pub accept_proxy: Option<AcceptProxy>,
    /// Other backends by what a ClientHello says; none: nothing is looked at (proxy mode).
    pub hello_routes: Option<HelloRoutesSpec>,
    /// Connections open at once; 0 means no limit.
    pub max_connections: u64,
    /// What its sockets are set to.
    pub sockets: SocketOptions,
    /// Which clients it takes.
    pub admission: AdmissionSpec,
    /// Of UDP in proxy mode.
    pub udp: UdpSessions,
}

/// A pool of servers and how connections to it behave.
#[derive(Debug, Clone)]
pub struct BackendSpec {
    /// Unique name.
    pub name: String,
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// Further servers tried after a failed connect.
    pub retries: u32,
    /// A connection on which nothing moves this long is closed; zero: never.
    pub idle_timeout: Duration,
    /// The longest a connection may last; zero: for ever.
    pub max_duration: Duration,
    /// How connections wait.
    pub waiting: Waiting,
    /// When silent sockets end.
    pub ends: Ends,
    /// How its servers are chosen. The packet modes go by a table, whatever it says but [`Balance::SourceHash`].
    pub balance: Balance,
    /// Where connections to its servers start from (proxy mode).
    pub source: Source,
    /// Failures of connections to a server in a row that are reported; 0: none are counted.
    pub eject_after: u32,
    /// Servers; names must be unique within the backend.
    pub servers: Vec<ServerSpec>,
}

/// A member of a backend.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// Unique name within the backend.
    pub name: String,
    /// Where it listens.
    pub addr: Endpoint,
    /// Share of new connections; 0 takes it out of rotation.
    pub weight: u16,
    /// Connections open at once; 0 means no limit.
    pub max_connections: u64,
    /// Whether health checks hold it for up.
    pub up: bool,
    /// Whether it is being drained: no new connections, open ones go on.
    pub draining: bool,
    /// Whether it is asked only while no ordinary server takes new connections.
    pub backup: bool,
    /// How much of its weight counts, in [`SLOW_START_STEPS`]ths; less than all of them in slow start.
    pub share: u8,
    /// The PROXY header that connections to it begin with (proxy mode).
    pub send_proxy: Option<ProxyVersion>,
}

/// The key of a frontend by which its addresses are written: errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenKey {
    /// `listen_addr`, one address.
    #[default]
    ListenAddr,
    /// `listen`, a list of them.
    Listen,
}

impl ListenKey {
    /// Its place in the configuration file, of the frontend of this name.
    pub fn path(self, frontend: &str) -> String {
        let key = match self {
            Self::ListenAddr => "listen_addr",
            Self::Listen => "listen",
        };
        format!("frontends.{frontend}.{key}")
    }
}

/// Why a [`SnapshotSpec`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SpecError {
    /// Path of the offending field, as in the configuration file.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// A frontend in service.
#[derive(Debug)]
pub struct Frontend {
    /// Unique name.
    pub name: Arc<str>,
    /// Where clients connect, as configured (the port may be 0); at least one.
    pub listen: Vec<SocketAddr>,
    /// The key that says so in the configuration file.
    pub listen_key: ListenKey,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// Index into [`Snapshot::backends`]; of a frontend with routes, the default.
    pub backend: usize,
    /// Whether and from whom it takes PROXY headers.
    pub accept_proxy: Option<AcceptProxy>,
    /// Other backends by what a ClientHello says. Boxed, since few frontends have any.
    pub hello_routes: Option<Box<HelloRoutes>>,
    /// Connections open at once; 0 means no limit.
    pub max_connections: u64,
    /// What its sockets are set to.
    pub sockets: SocketOptions,
    /// Which clients it takes.
    pub admission: Admission,
    /// Of UDP in proxy mode.
    pub udp: UdpSessions,
    /// Connections and bytes.
    pub counters: Arc<ConnCounters>,
    /// Refusals and early ends.
    pub reasons: Arc<ReasonCounters>,
}

impl Frontend {
    /// How many connections, or sessions of UDP in proxy mode, there may be at once; 0 means no limit.
    pub fn connection_limit(&self) -> u64 {
        match (self.protocol, self.max_connections, self.udp.max_sessions) {
            (Protocol::Tcp, limit, _) | (Protocol::Udp, 0, limit) | (Protocol::Udp, limit, 0) => limit,
            (Protocol::Udp, connections, sessions) => connections.min(sessions),
        }
    }
}

/// A backend in service.
#[derive(Debug)]
pub struct Backend {
    /// Unique name.
    pub name: Arc<str>,
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// Further servers tried after a failed connect.
    pub retries: u32,
    /// A connection on which nothing moves this long is closed; zero: never.
    pub idle_timeout: Duration,
    /// The longest a connection may last; zero: for ever.
    pub max_duration: Duration,
    /// How connections wait.
    pub waiting: Waiting,
    /// When silent sockets end.
    pub ends: Ends,
    /// Where connections to its servers start from.
    pub source: Sources,
    /// Failures of connections to a server in a row that are reported; 0: none are counted.
    pub eject_after: u32,
    /// Members.
    pub servers: Vec<Server>,
    /// Which of `servers` gets a connection.
    pub selector: Selector,
    /// Connections and bytes.
    pub counters: Arc<ConnCounters>,
    /// Connections that wait for a place.
    pub queue: Arc<WaitQueue>,
}

/// A server in service.
#[derive(Debug)]
pub struct Server {
    /// Unique name within the backend.
    pub name: Arc<str>,
    /// Where it listens.
    pub addr: Endpoint,
    /// Configured share of new connections.
    pub weight: u16,
    /// Connections open at once; 0 means no limit.
    pub max_connections: u64,
    /// Whether health checks hold it for up.
    pub up: bool,
    /// Whether it is being drained.
    pub draining: bool,
    /// Whether it is asked only while no ordinary server takes new connections.
    pub backup: bool,
    /// How much of its weight counts, in [`SLOW_START_STEPS`]ths.
    pub share: u8,
    /// The PROXY header that connections to it begin with.
    pub send_proxy: Option<ProxyVersion>,
    /// Connections and bytes.
    pub counters: Arc<ConnCounters>,
    /// Failed connects by reason.
    pub reasons: Arc<ReasonCounters>,
    /// Failures in a row, where `eject_after` has them counted.
    pub failures: Arc<FailureStreak>,
}

impl Server {
    /// The weight selection goes by, in [`SLOW_START_STEPS`]ths: 0 unless the server is up and not draining.
    pub fn effective_weight(&self) -> u32 {
        if self.up && !self.draining { u32::from(self.weight) * u32::from(self.share) } else { 0 }
    }
}

/// Everything the data plane goes by at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each snapshot.
    pub version: u64,
    /// How connections are forwarded.
    pub mode: Mode,
    /// Limits over all frontends.
    pub limits: Limits,
    /// Frontends.
    pub frontends: Vec<Frontend>,
    /// Backends.
    pub backends: Vec<Backend>,
    /// Connections and bytes of all frontends, those since removed included.
    pub totals: Arc<ConnCounters>,
    /// Refusals and early ends of all frontends, those since removed included.
    pub reasons: Arc<ReasonCounters>,
    spec: SnapshotSpec,
    workers: usize,
}

impl Snapshot {
    /// Checks `spec` and makes the first snapshot, with counters for `workers` threads.
    ///
    /// # Errors
    /// The first broken invariant: a name used twice, a frontend without its backend, an address taken twice.
    pub fn first(spec: SnapshotSpec, workers: usize) -> Result<Self, SpecError> {
        Self::build(spec, workers, None)
    }

    /// Checks `spec` and makes the snapshot that follows `self`; counters of surviving names go on.
    ///
    /// # Errors
    /// As [`Snapshot::first`]; additionally a changed mode.
    pub fn next(&self, spec: SnapshotSpec) -> Result<Self, SpecError> {
        if spec.mode != self.mode {
            return Err(invalid("mode", "cannot change while running; restart to change the mode"));
        }
        Self::build(spec, self.workers, Some(self))
    }

    /// What this snapshot was built from, to change and pass to [`Snapshot::next`].
    pub fn spec(&self) -> &SnapshotSpec {
        &self.spec
    }

    fn build(spec: SnapshotSpec, workers: usize, previous: Option<&Self>) -> Result<Self, SpecError> {
        let backend_index = check_backends(&spec.backends)?;
        if spec.mode != Mode::Proxy {
            check_packet_servers(&spec.backends)?;
        }
        check_frontends(&spec.frontends, &backend_index)?;

        let new_counters = || Arc::new(ConnCounters::new(workers));
        let backends = spec
            .backends
            .iter()
            .map(|b| {
                let old = previous.and_then(|p| p.backends.iter().find(|o| *o.name == *b.name));
                build_backend(spec.mode, b, old, &new_counters)
            })
            .collect();
        let frontends = spec
            .frontends
            .iter()
            .map(|f| {
                let old = previous.and_then(|p| p.frontends.iter().find(|o| *o.name == *f.name));
                let hello_routes = f.hello_routes.as_ref();
                let hello_routes =
                    hello_routes.map(|r| HelloRoutes::new(&f.name, r, &backend_index)).transpose()?;
                Ok(Frontend {
                    name: old.map_or_else(|| f.name.as_str().into(), |o| o.name.clone()),
                    listen: f.listen.clone(),
                    listen_key: f.listen_key,
                    protocol: f.protocol,
                    backend: backend_index[f.backend.as_str()],
                    accept_proxy: f.accept_proxy.clone(),
                    hello_routes: hello_routes.map(Box::new),
                    max_connections: f.max_connections,
                    sockets: f.sockets,
                    admission: Admission::new(&f.admission, old.map(|o| &o.admission)),
                    udp: f.udp,
                    counters: old.map_or_else(new_counters, |o| o.counters.clone()),
                    reasons: old.map(|o| o.reasons.clone()).unwrap_or_default(),
                })
            })
            .collect::<Result<_, SpecError>>()?;
        drop(backend_index);
        Ok(Self {
            version: previous.map_or(1, |p| p.version + 1),
            mode: spec.mode,
            limits: spec.limits,
            frontends,
            backends,
            totals: previous.map_or_else(new_counters, |p| p.totals.clone()),
            reasons: previous.map(|p| p.reasons.clone()).unwrap_or_default(),
            spec,
            workers,
        })
    }
}

fn build_backend(
    mode: Mode,
    spec: &BackendSpec,
    old: Option<&Backend>,
    new_counters: &impl Fn() -> Arc<ConnCounters>,
) -> Backend {
    let old_servers: HashMap<&str, usize> =
        old.map(|o| o.servers.iter().enumerate().map(|(i, s)| (&*s.name, i)).collect()).unwrap_or_default();
    let former: Vec<Option<usize>> =
        spec.servers.iter().map(|s| old_servers.get(s.name.as_str()).copied()).collect();
    let servers: Vec<Server> = spec
        .servers
        .iter()
        .zip(&former)
        .map(|(s, former)| {
            let survivor = former.and_then(|i| old?.servers.get(i));
            Server {
                name: survivor.map_or_else(|| s.name.as_str().into(), |o| o.name.clone()),
                addr: s.addr.clone(),
                weight: s.weight,
                max_connections: s.max_connections,
                up: s.up,
                draining: s.draining,
                backup: s.backup,
                share: s.share.clamp(1, SLOW_START_STEPS),
                send_proxy: s.send_proxy,
                counters: survivor.map_or_else(new_counters, |o| o.counters.clone()),
                reasons: survivor.map(|o| o.reasons.clone()).unwrap_or_default(),
                failures: survivor
                    .filter(|o| o.addr == s.addr)
                    .map(|o| o.failures.clone())
                    .unwrap_or_default(),
            }
        })
        .collect();
    let part = |s: &Server| {
        let (weight, share, backup) = (s.effective_weight(), s.share, s.backup);
        Part { addr: s.addr.clone(), weight, share, backup }
    };
    let parts: Vec<Part> = servers.iter().map(part).collect();
    let selector = Selector::new(spec.balance, &parts, old.map(|o| (&o.selector, former.as_slice())));
    if mode == Mode::Proxy {
        selector.prepare();
    }
    let counters = old.map_or_else(new_counters, |o| o.counters.clone());
    Backend {
        name: old.map_or_else(|| spec.name.as_str().into(), |o| o.name.clone()),
        connect_timeout: spec.connect_timeout,
        retries: spec.retries,
        idle_timeout: spec.idle_timeout,
        max_duration: spec.max_duration,
        waiting: spec.waiting,
        ends: spec.ends,
        source: (&spec.source).into(),
        eject_after: spec.eject_after,
        servers,
        selector,
        queue: old.map_or_else(|| Arc::new(WaitQueue::new(counters.clone())), |o| o.queue.clone()),
        counters,
    }
}

fn check_backends(backends: &[BackendSpec]) -> Result<HashMap<String, usize>, SpecError> {
    let mut index = HashMap::new();
    for (i, b) in backends.iter().enumerate() {
        if index.insert(b.name.clone(), i).is_some() {
            return Err(invalid(format!("backends.{}", b.name), "this name is used twice"));
        }
        if b.connect_timeout.is_zero() {
            return Err(invalid(format!("backends.{}.connect_timeout_ms", b.name), "must be above zero"));
        }
        if b.balance.is_by_table() && b.servers.len() > usize::from(u16::MAX) {
            let message = format!("is for {} servers at most, and there are {}", u16::MAX, b.servers.len());
            return Err(invalid(format!("backends.{}.balance", b.name), message));
        }
        let mut names = HashSet::new();
        for s in &b.servers {
            if !names.insert(s.name.as_str()) {
                return Err(invalid(
                    format!("backends.{}.servers.{}", b.name, s.name),
                    "this name is used twice",
                ));
            }
        }
    }
    Ok(index)
}

/// No packet can be sent to a Unix socket.
fn check_packet_servers(backends: &[BackendSpec]) -> Result<(), SpecError> {
    for b in backends {
        if let Some(s) = b.servers.iter().find(|s| s.addr.ip().is_none()) {
            let field = format!("backends.{}.servers.{}.addr", b.name, s.name);
            return Err(invalid(field, "a Unix socket is available in proxy mode only"));
        }
    }
    Ok(())
}

fn check_frontends(frontends: &[FrontendSpec], backends: &HashMap<String, usize>) -> Result<(), SpecError> {
    let mut names = HashSet::new();
    let mut listens = HashMap::new();
    for f in frontends {
        if !names.insert(f.name.as_str()) {
            return Err(invalid(format!("frontends.{}", f.name), "this name is used twice"));
        }
        if !backends.contains_key(f.backend.as_str()) {
            let message = format!("no backend is named \"{}\"", f.backend);
            return Err(invalid(format!("frontends.{}.backend", f.name), message));
        }
        if f.udp.idle_timeout.is_zero() {
            return Err(invalid(format!("frontends.{}.udp_idle_timeout_ms", f.name), "must be above zero"));
        }
        if f.listen.is_empty() {
            return Err(invalid(f.listen_key.path(&f.name), "must have an address"));
        }
        for listen in f.listen.iter().filter(|listen| listen.port() != 0) {
            if let Some(other) = listens.insert((*listen, f.protocol), f.name.as_str()) {
                let message = format!("{listen} is already the address of frontend \"{other}\"");
                return Err(invalid(f.listen_key.path(&f.name), message));
            }
        }
    }
    Ok(())
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> SpecError {
    SpecError { field: field.into(), message: message.into() }
}
