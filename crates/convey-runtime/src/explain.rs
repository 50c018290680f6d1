//! What would become of a packet or connection: in the packet modes by the code that forwards, in proxy mode by
//! the rules it follows.

use std::net::SocketAddr;
use std::sync::Arc;

use convey_core::selection::{Asker, Candidates};
use convey_core::{
    Backend, FlowCursor, FlowFilter, FlowRow, Frontend, HelloRoute, HelloRoutes, Net, Protocol, Reason,
    Server, Snapshot,
};
use convey_engine::{DropReason, Explanation, Outcome, Step};
use convey_proxy::Proxy;
use convey_xdp::netlink;

/// As IP numbers it.
const TCP: u8 = 6;

/// A flow that is asked about, by its next packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The transport.
    pub protocol: Protocol,
    /// Where the packet comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// What the connection begins with, where that is known; looked at by frontends with routes by it.
    pub hello: Option<Hello>,
}

/// What a ClientHello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server name, in ASCII.
    pub sni: Option<String>,
    /// The protocols that are offered, the one liked best first.
    pub alpn: Vec<String>,
}

/// The way of a connection through proxy mode, where frontends listen on `addresses`, by name. Which server comes next
/// is decided when it arrives, unless a hash says.
pub(crate) fn proxied(
    snapshot: &Snapshot,
    addresses: &[(Arc<str>, SocketAddr)],
    question: &Question,
) -> Explanation {
    let Question { protocol, source, destination, .. } = *question;
    let mut e = Explanation::default();
    let listens = |listen: SocketAddr| {
        listen.port() == destination.port()
            && (listen.ip() == destination.ip()
                || (listen.ip().is_unspecified() && listen.is_ipv4() == destination.is_ipv4()))
    };
    // The kernel prefers a socket on one address to one on every address.
    let frontend = addresses
        .iter()
        .filter(|(_, listen)| listens(*listen))
        .filter_map(|(name, listen)| {
            let frontend = snapshot.frontends.iter().find(|f| f.protocol == protocol && f.name == *name)?;
            Some((listen, frontend))
        })
        .min_by_key(|(listen, _)| listen.ip().is_unspecified());
    let Some((_, frontend)) = frontend else {
        e.steps.push(Step::NoFrontend { destination });
        return e;
    };
    e.frontend = Some(frontend.name.to_string());
    e.steps.push(Step::Accepts { frontend: frontend.name.to_string() });
    if let Some(access) = &frontend.admission.access {
        let judgement = access.judge(source.ip());
        if !judgement.is_allowed {
            e.steps.push(Step::Denied { client: source.ip(), network: judgement.network });
            e.outcome = Outcome::Close(Reason::Denied);
            return e;
        }
    }
    let mut index = frontend.backend;
    if let Some(routes) = &frontend.hello_routes {
        let (step, chosen) = by_hello(routes, question.hello.as_ref(), (snapshot, index));
        e.steps.push(step);
        index = chosen;
    }
    let Some(backend) = snapshot.backends.get(index) else { return e };
    let selector = &backend.selector;
    if !selector.has_weight() {
        e.steps.push(Step::NoServer { backend: backend.name.to_string() });
        e.outcome = Outcome::Refuse(DropReason::NoServer);
        wait(backend, &mut e);
        return e;
    }
    let balance = selector.balance();
    e.steps.push(Step::Balanced { backend: backend.name.to_string(), balance: balance.name() });
    let named = |server: &Server| (backend.name.to_string(), server.name.to_string(), server.addr.clone());
    if balance.is_by_table() {
        // The same at every time while the server has room.
        let asker = Asker { client: source, listen: destination, protocol: TCP };
        if let Some(server) = selector.pick(&asker, &Room(backend)).and_then(|i| backend.servers.get(i)) {
            let (backend, name, addr) = named(server);
            e.server = Some((backend.clone(), name.clone(), addr.clone()));
            e.steps.push(Step::Server { backend, name, addr });
        }
    } else {
        let weights = || selector.weights().iter().zip(&backend.servers).filter(|(weight, _)| **weight > 0);
        let total = weights().map(|(weight, _)| u64::from(*weight)).sum();
        e.steps.extend(weights().map(|(weight, server)| Step::Share {
            name: server.name.to_string(),
            addr: server.addr.clone(),
            weight: *weight,
            total,
            backup: server.backup,
        }));
        if let [(_, only)] = weights().collect::<Vec<_>>().as_slice() {
            e.server = Some(named(only));
        }
    }
    let (backend_limit, counters) = (backend.waiting.max_connections, &backend.counters);
    let eligible = || backend.servers.iter().filter(|server| server.effective_weight() > 0);
    let is_full = |limit, open| limit != 0 && open >= limit;
    let full = if is_full(backend_limit, counters.open()) {
        Some(Reason::LimitBackend)
    } else if eligible().all(|s| is_full(s.max_connections, s.counters.open())) {
        Some(Reason::LimitServer)
    } else {
        // Those who came before are not overtaken.
        backend.queue.is_waited_in().then_some(Reason::LimitBackend)
    };
    if let Some(reason) = full {
        e.server = None;
        e.steps.push(Step::AtLimit { backend: backend.name.to_string() });
        e.outcome = Outcome::Close(reason);
        wait(backend, &mut e);
        return e;
    }
    e.steps.push(Step::OwnConnection);
    e.outcome = Outcome::Connect;
    e
}

/// Where the frontends of `snapshot` are to listen, by name; port 0 is one that the kernel will choose.
pub(crate) fn configured(snapshot: &Snapshot) -> Vec<(Arc<str>, SocketAddr)> {
    let of = |frontend: &Frontend| {
        let name = frontend.name.clone();
        frontend.listen.iter().map(move |listen| (name.clone(), *listen)).collect::<Vec<_>>()
    };
    snapshot.frontends.iter().flat_map(of).collect()
}

/// The backend by what the ClientHello says, as far as that is known, and how; `own` is the frontend's.
fn by_hello(
    routes: &HelloRoutes,
    hello: Option<&Hello>,
    (snapshot, own): (&Snapshot, usize),
) -> (Step, usize) {
    let named = |index: usize| snapshot.backends.get(index).map(|b| b.name.to_string()).unwrap_or_default();
    let Some(hello) = hello else { return (Step::ByClientHello { backend: named(own) }, own) };
    let offered = hello.alpn.iter().map(String::as_bytes);
    let Some((route, chosen)) = routes.route(hello.sni.as_deref(), offered) else {
        return (Step::NoHelloRoute { backend: named(own) }, own);
    };
    let (table, key) = match route {
        HelloRoute::Name(name) => ("sni", name.to_owned()),
        HelloRoute::Suffix(suffix) => ("sni", format!("*.{suffix}")),
        HelloRoute::Protocol(protocol) => ("alpn", String::from_utf8_lossy(protocol).into_owned()),
    };
    (Step::HelloRoute { table, key, backend: named(chosen) }, chosen)
}

/// Whether it may wait where it would be closed otherwise.
fn wait(backend: &Backend, e: &mut Explanation) {
    let (rules, waiting) = (backend.waiting, backend.queue.counts().waiting);
    let retries = !rules.retry_timeout.is_zero() && e.outcome == Outcome::Refuse(DropReason::NoServer);
    if rules.queue != 0 {
        let backend = backend.name.to_string();
        e.steps.push(Step::Waits { backend, waiting, queue: rules.queue });
        e.outcome = if waiting < rules.queue { Outcome::Wait } else { Outcome::Close(Reason::QueueFull) };
    } else if retries {
        let timeout_ms = u64::try_from(rules.retry_timeout.as_millis()).unwrap_or(u64::MAX);
        e.steps.push(Step::TriesAgain { backend: backend.name.to_string(), timeout_ms });
        e.outcome = Outcome::Wait;
    }
}

/// The servers of a backend as they are now, for a client that has tried none.
struct Room<'a>(&'a Backend);

impl Candidates for Room<'_> {
    fn open(&self, server: usize) -> u64 {
        self.0.servers[server].counters.open()
    }

    fn limit(&self, server: usize) -> u64 {
        self.0.servers[server].max_connections
    }

    fn is_passed_over(&self, _: usize) -> bool {
        false
    }

    fn passes_over(&self) -> bool {
        false
    }
}

/// The way of a datagram whose client has a session with a server already (UDP).
pub(crate) fn session(proxy: &Proxy, question: &Question) -> Option<Explanation> {
    let Question { protocol, source, destination, .. } = *question;
    if protocol != Protocol::Udp {
        return None;
    }
    let filter = FlowFilter {
        protocol: Some(protocol),
        client: Some(Net { address: source.ip(), bits: if source.is_ipv4() { 32 } else { 128 } }),
        client_port: Some(source.port()),
        vip: Some(destination.ip()),
        vip_port: Some(destination.port()),
        ..FlowFilter::default()
    };
    let FlowRow { frontend, server, stage, nat, .. } =
        proxy.connections(&filter, FlowCursor::default(), 1).rows.pop()?;
    let (backend, name, addr) = server?;
    let frontend = frontend.to_string();
    let (backend, name) = (backend.to_string(), name.to_string());
    let rewritten = nat.zip(addr.ip());
    let steps = vec![
        Step::Accepts { frontend: frontend.clone() },
        Step::KnownFlow { state: stage.name() },
        Step::Server { backend: backend.clone(), name: name.clone(), addr: addr.clone() },
        Step::OwnConnection,
    ];
    Some(Explanation {
        frontend: Some(frontend),
        server: Some((backend, name, addr)),
        rewritten,
        outcome: Outcome::Connect,
        steps,
        ..Explanation::default()
    })
}

/// The engine knows interfaces by number, people by name.
pub(crate) fn with_interface_names(explanation: Explanation) -> Explanation {
    explanation.with_interface_names(|index| netlink::interface_name(index).ok())
}
