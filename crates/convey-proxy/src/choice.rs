//! Which server a connection got, or why none, for those who watch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use convey_core::selection::Balance;
use convey_core::{Backend, Endpoint, FlowStage, Frontend, Protocol, Reason, Watches};

/// What became of a client that was accepted.
#[derive(Debug, Clone)]
pub struct Choice {
    /// When.
    pub at: SystemTime,
    /// Of its frontend.
    pub protocol: Protocol,
    /// Who it is.
    pub client: SocketAddr,
    /// Where its frontend listens.
    pub listen: SocketAddr,
    /// Name of the frontend.
    pub frontend: Arc<str>,
    /// Name of its backend.
    pub backend: Arc<str>,
    /// How that chooses its servers.
    pub balance: Balance,
    /// Name and address of the server it is connected to and the proxy's end of that, or why there is none.
    pub outcome: Result<(Arc<str>, Endpoint, Option<SocketAddr>), Reason>,
}

/// Tells those who watch of a choice; nothing but a load while there are none.
pub(crate) fn tell(
    watches: &Watches<Choice>,
    (client, listen): (SocketAddr, SocketAddr),
    (frontend, backend): (&Frontend, &Backend),
    outcome: impl FnOnce() -> Result<(Arc<str>, Endpoint, Option<SocketAddr>), Reason>,
) {
    let watches = watches.current();
    if watches.is_empty() {
        return;
    }
    let balance = backend.selector.balance();
    let (protocol, frontend, backend) = (frontend.protocol, frontend.name.clone(), backend.name.clone());
    let at = SystemTime::now();
    let choice = Choice { at, protocol, client, listen, frontend, backend, balance, outcome: outcome() };
    for watch in watches {
        let filter = &watch.filter;
        let takes_server = match &choice.outcome {
            Ok((name, ..)) => filter.takes_server(&choice.backend, name),
            Err(_) => filter.takes_no_server() && filter.takes_server(&choice.backend, ""),
        };
        let is_taken = takes_server
            && filter.takes_frontend(protocol, &choice.frontend)
            && filter.takes_client(client)
            && filter.takes_vip(listen)
            && filter.takes_stage(FlowStage::New);
        if is_taken && watch.has_room() {
            watch.tell(choice.clone());
        }
    }
}
