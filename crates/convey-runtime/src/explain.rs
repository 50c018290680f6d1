//! What would become of a packet or connection: in the packet modes by the code that forwards, in proxy mode by
//! the rules it follows.

use std::net::SocketAddr;

use convey_core::{Backend, Protocol, Reason, Snapshot};
use convey_engine::{DropReason, Explanation, Outcome, Step};
use convey_xdp::netlink;

/// The way of a connection through proxy mode. Which server comes next is decided when it arrives.
pub(crate) fn proxied(snapshot: &Snapshot, protocol: Protocol, destination: SocketAddr) -> Explanation {
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
        .filter(|f| f.protocol == protocol && listens(f.listen))
        .min_by_key(|f| f.listen.ip().is_unspecified());
    let Some(frontend) = frontend else {
        e.steps.push(Step::NoFrontend { destination });
        return e;
    };
    e.frontend = Some(frontend.name.to_string());
    e.steps.push(Step::Accepts { frontend: frontend.name.to_string() });
    let Some(backend) = snapshot.backends.get(frontend.backend) else { return e };
    let eligible: Vec<_> = backend.servers.iter().filter(|s| s.effective_weight() > 0).collect();
    let total: u64 = eligible.iter().map(|s| u64::from(s.effective_weight())).sum();
    if total == 0 {
        e.steps.push(Step::NoServer { backend: backend.name.to_string() });
        e.outcome = Outcome::Refuse(DropReason::NoServer);
        wait(backend, &mut e);
        return e;
    }
    e.steps.push(Step::RoundRobin { backend: backend.name.to_string() });
    e.steps.extend(eligible.iter().map(|server| Step::Share {
        name: server.name.to_string(),
        addr: server.addr.clone(),
        weight: server.effective_weight(),
        total,
    }));
    if let [only] = eligible.as_slice() {
        e.server = Some((backend.name.to_string(), only.name.to_string(), only.addr.clone()));
    }
    let (backend_limit, counters) = (backend.waiting.max_connections, &backend.counters);
    let is_full = |limit, open| limit != 0 && open >= limit;
    let full = if is_full(backend_limit, counters.open()) {
        Some(Reason::LimitBackend)
    } else if eligible.iter().all(|s| is_full(s.max_connections, s.counters.open())) {
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

/// The engine knows interfaces by number, people by name.
pub(crate) fn with_interface_names(explanation: Explanation) -> Explanation {
    explanation.with_interface_names(|index| netlink::interface_name(index).ok())
}
