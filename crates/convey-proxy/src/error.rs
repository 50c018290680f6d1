//! What can go wrong at start and reload.

use std::io;
use std::net::SocketAddr;

/// Why the proxy could not start or take a new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A frontend's address could not be bound.
    #[error("cannot listen on {addr} for frontend \"{frontend}\": {source}{}", remedy(.source))]
    Bind {
        /// Frontend name.
        frontend: String,
        /// The configured address.
        addr: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A thread or its runtime could not be made.
    #[error("cannot start proxy worker {worker}: {source}")]
    Worker {
        /// Worker number.
        worker: usize,
        /// The cause.
        source: io::Error,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process or frontend listens there: stop it or choose another address or port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: grant it or choose \
             a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}
