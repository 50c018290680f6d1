//! What would become of a packet or connection: in the packet modes by the code that forwards, in proxy mode by
//! the rules it follows.

use std::net::SocketAddr;

use convey_core::{Protocol, Snapshot};
use convey_engine::Explanation;

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
        e.steps.push(format!("no frontend listens on {destination}"));
        return ended(e, "pass not_vip");
    };
    e.frontend = Some(frontend.name.to_string());
    e.steps.push(format!("frontend \"{}\" listens there and accepts the connection", frontend.name));
    let Some(backend) = snapshot.backends.get(frontend.backend) else { return e };
    let eligible: Vec<_> = backend.servers.iter().filter(|s| s.effective_weight() > 0).collect();
    let total: u64 = eligible.iter().map(|s| u64::from(s.effective_weight())).sum();
    if total == 0 {
        e.steps.push(format!("backend \"{}\" has no server that is up with a weight", backend.name));
        return ended(e, "refuse no_server");
    }
    e.steps.push(format!("backend \"{}\" takes its servers by weighted round robin:", backend.name));
    for server in &eligible {
        let share = 100.0 * f64::from(server.effective_weight()) / total as f64;
        e.steps.push(format!(
            "server \"{}\", {}, weight {}: {share:.1} % of new connections",
            server.name,
            server.addr,
            server.effective_weight()
        ));
    }
    if let [only] = eligible.as_slice() {
        e.server = Some((backend.name.to_string(), only.name.to_string(), only.addr));
    }
    e.steps.push("the connection to the server is one of the balancer's own".to_owned());
    ended(e, "connect")
}

fn ended(mut e: Explanation, verdict: &str) -> Explanation {
    e.steps.push(format!("verdict: {verdict}"));
    e.verdict = verdict.to_owned();
    e
}
