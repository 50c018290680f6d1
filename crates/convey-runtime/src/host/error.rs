//! Why the host could not be prepared.

use std::net::SocketAddr;
use std::path::PathBuf;

use convey_xdp::XdpError;

/// What failed, on what, and what to try.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another balancer of this network namespace has the address.
    #[error(
        "another convey already serves {protocol} {address} here{}; stop it first, or give this one another address",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    SecondInstance {
        /// "tcp" or "udp".
        protocol: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// The process that has it, where it can be told.
        holder: Option<u32>,
    },
    /// Another balancer translates from the same ports.
    #[error(
        "the NAT ports {ports} of {address} are those of another convey (process {holder}); give the two disjoint ranges"
    )]
    NatPortsTaken {
        /// The ports asked for.
        ports: String,
        /// The local address.
        address: std::net::IpAddr,
        /// The process that has them.
        holder: u32,
    },
    /// Nothing would be left for the host.
    #[error(
        "reserving the NAT ports {ports} would leave the host no port of its own range {range} for its connections; \
         choose a smaller range or widen net.ipv4.ip_local_port_range"
    )]
    NoPortsLeft {
        /// The ports asked for.
        ports: String,
        /// net.ipv4.ip_local_port_range.
        range: String,
    },
    /// A kernel parameter could not be read or written.
    #[error(
        "cannot {action} the kernel parameter {key}: {source}; it takes root or CAP_NET_ADMIN, and /proc/sys must not be read-only"
    )]
    Sysctl {
        /// "read" or "set".
        action: &'static str,
        /// Its name, as sysctl takes it.
        key: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Memory that flows lie in.
    #[error("cannot take {} MiB of shared memory for flows: {source}", bytes.div_ceil(1 << 20))]
    FlowMemory {
        /// How much was asked for.
        bytes: usize,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The folder or a file that remembers what to undo does not work.
    #[error("cannot {action} {path}: {source}; make the folder writable, or name another state folder")]
    State {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder for what the kernel forwards by without us.
    #[error("cannot make {path}: {source}")]
    Pins {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Others could forge what we undo.
    #[error(
        "{path} belongs to or can be written by someone else, so what it says cannot be trusted; chown it, or chmod 700 it"
    )]
    StateNotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such interface.
    #[error("there is no network interface \"{0}\"; `ip link` lists them")]
    NoInterface(String),
    /// The kernel refused an offload setting.
    #[error("cannot switch off LRO on {interface}: {source}; try ethtool -K {interface} lro off")]
    Offload {
        /// The interface.
        interface: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The address of a server is not one of this host.
    #[error(
        "{0} is not an address of this host; give the address under which the balancer knows this server"
    )]
    NotOurAddress(std::net::IpAddr),
    /// The routes could not be read.
    #[error("cannot read the routes of this host: {0}")]
    Routes(#[source] std::io::Error),
    /// Two things asked for exclude each other.
    #[error("{0}")]
    Contradiction(String),
    /// A kernel program, nft or netlink.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}
