//! What would become of a packet or connection: in the packet modes by the code that forwards, in proxy mode by
//! the rules it follows.

use std::net::SocketAddr;

use convey_core::{Protocol, Snapshot};
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
        return e;
    }
    e.steps.push(Step::RoundRobin { backend: backend.name.to_string() });
    e.steps.extend(eligible.iter().map(|server| Step::Share {
        name: server.name.to_string(),
        addr: server.addr,
        weight: server.effective_weight(),
        total,
    }));
    if let [only] = eligible.as_slice() {
        e.server = Some((backend.name.to_string(), only.name.to_string(), only.addr));
    }
    e.steps.push(Step::OwnConnection);
    e.outcome = Outcome::Connect;
    e
}

/// The engine knows interfaces by number, people by name.
pub(crate) fn with_interface_names(explanation: Explanation) -> Explanation {
    explanation.with_interface_names(|index| netlink::interface_name(index).ok())
}
