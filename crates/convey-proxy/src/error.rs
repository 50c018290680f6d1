//! What can go wrong at start and reload.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::descriptors::{self, Descriptors};
use crate::log::LogError;
use crate::shortage::is_shortage;

/// Why the proxy could not start or take a new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A frontend's address could not be bound.
    #[error("cannot listen on {addr} for frontend \"{frontend}\": {source}; {}", remedy(.source, .holder.as_deref()))]
    Bind {
        /// Frontend name.
        frontend: String,
        /// The configured address.
        addr: SocketAddr,
        /// The frontend of the same configuration that holds the address, if one does.
        holder: Option<String>,
        /// The cause.
        source: io::Error,
    },
    /// A source address of a backend could not be bound.
    #[error("backends.{backend}.source: cannot connect from {address}: {source}; {}", source_remedy(.source))]
    Source {
        /// Backend name.
        backend: String,
        /// The address.
        address: IpAddr,
        /// The cause.
        source: io::Error,
    },
    /// A backend's connections were to start from clients' addresses, and the kernel does not permit it.
    #[error(
        "backends.{backend}.source = \"client\": cannot connect from clients' addresses: {source}; IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW: grant one or leave source out"
    )]
    Transparent {
        /// Backend name.
        backend: String,
        /// The cause.
        source: io::Error,
    },
    /// The limit on open files leaves too little.
    #[error("{0}")]
    Descriptors(Descriptors),
    /// A thread or its runtime could not be made.
    #[error("cannot start proxy worker {worker}: {source}")]
    Worker {
        /// Worker number.
        worker: usize,
        /// The cause.
        source: io::Error,
    },
    /// Connections cannot be logged.
    #[error(transparent)]
    Log(#[from] LogError),
}

fn remedy(source: &io::Error, holder: Option<&str>) -> String {
    match (source.kind(), holder) {
        (io::ErrorKind::AddrInUse, Some(frontend)) => {
            format!("frontend \"{frontend}\" of this convey listens there: choose another address or port")
        }
        (io::ErrorKind::AddrInUse, None) => {
            "another process listens there: stop it or choose another address or port".to_owned()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: grant it or choose a \
             higher port"
                .to_owned()
        }
        _ if is_shortage(source) => format!("file descriptors or memory ran out: {}", descriptors::REMEDY),
        (io::ErrorKind::AddrNotAvailable, _) => "no interface of this host has that address".to_owned(),
        _ => "see the cause; nothing was changed".to_owned(),
    }
}

fn source_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has that address: add it or name another"
        }
        _ if is_shortage(source) => descriptors::REMEDY,
        _ => "see the cause; nothing was changed",
    }
}

impl ProxyError {
    /// Whether the host is short of descriptors or memory, and nothing is wrong with what was asked for.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Bind { source, .. }
            | Self::Source { source, .. }
            | Self::Transparent { source, .. }
            | Self::Worker { source, .. } => is_shortage(source),
            Self::Descriptors(_) => true,
            Self::Log(_) => false,
        }
    }
}
