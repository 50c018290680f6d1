//! One balancer an address: a name in the network namespace's abstract sockets, gone with the process.
//!
//! The journals in the state folder come first (see [`super::Host`]); this finds the balancer that keeps its
//! journals in another folder. Any local user can take such a name, so one that is held by neither root nor
//! ourselves says nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use convey_xdp::{Endpoint, protocol_name};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::HostError;

/// The right to serve an address in this network namespace, until dropped.
#[derive(Debug)]
pub struct AddressLock {
    endpoint: Endpoint,
    /// Held, never read: the name lives as long as the socket. `None`: a stranger has the name.
    _socket: Option<UnixListener>,
}

impl AddressLock {
    /// Takes the address.
    ///
    /// # Errors
    /// [`HostError::SecondInstance`] when another process, or another balancer of this one, has it.
    pub fn take(endpoint: Endpoint) -> Result<Self, HostError> {
        let protocol = protocol_name(endpoint.protocol);
        let name = format!("convey/{protocol}/{}", endpoint.addr);
        let failed = |source| HostError::Socket { what: "cannot lock the address of a frontend", source };
        let address = UnixAddr::from_abstract_name(&name).map_err(failed)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { endpoint, _socket: Some(socket) }),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                let me = rustix::process::geteuid().as_raw();
                if holder(&name).is_some_and(|uid| uid == 0 || uid == me) {
                    return Err(HostError::SecondInstance { protocol, address: endpoint.addr, holder: None });
                }
                Ok(Self { endpoint, _socket: None })
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// What is locked.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }
}

/// The user who listens under an abstract name; `None` when nobody does, or the queue is full of others who ask.
fn holder(name: &str) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    rustix::net::connect(&socket, &address).ok()?;
    Some(rustix::net::sockopt::socket_peercred(&socket).ok()?.uid.as_raw())
}
