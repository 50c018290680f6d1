//! What would become of a packet or connection: in the packet modes by the code that forwards, in proxy mode by
//! the rules it follows.

use std::net::SocketAddr;

use convey_core::selection::{Asker, Candidates};
use convey_core::{Backend, FlowCursor, FlowFilter, FlowRow, Net, Protocol, Reason, Server, Snapshot};
use convey_engine::{DropReason, Explanation, Outcome, Step};
use convey_proxy::Proxy;
use convey_xdp::netlink;

/// As IP numbers it.
const TCP: u8 = 6;

/// The way of a connection through proxy mode. Which server comes next is decided when it arrives, unless a hash says.
pub(crate) fn proxied(
    snapshot: &Snapshot,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
) -> Explanation {
    let mut e = Explanation::default();
    let listens = |listen: SocketAddr| {
        listen.port() == destination.port()
            && (listen.ip() == destination.ip()
                || (listen.ip().is_unspecified() && listen.is_ipv4() == destination.is_ipv4()))
    };
    // The kernel prefers a socket on one address to one on every address.
    let frontend = snapshot
        .frontends
        .iter()
        .filter(|f| f.protocol == protocol)
        .flat_map(|f| f.listen.iter().filter(|listen| listens(**listen)).map(move |listen| (listen, f)))
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
    let Some(backend) = snapshot.backends.get(frontend.backend) else { return e };
    if frontend.hello_routes.is_some() {
        e.steps.push(Step::ByClientHello { backend: backend.name.to_string() });
    }
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
pub(crate) fn session(
    proxy: &Proxy,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<Explanation> {
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
