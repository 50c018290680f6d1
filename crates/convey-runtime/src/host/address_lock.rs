//! One balancer an address: a name in the network namespace's abstract sockets, gone with the process.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use convey_xdp::{Endpoint, protocol_name};

use super::HostError;

/// The right to serve an address in this network namespace, until dropped.
#[derive(Debug)]
pub struct AddressLock {
    endpoint: Endpoint,
    /// Held, never read: the name lives as long as the socket.
    _socket: UnixListener,
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
        let address = UnixAddr::from_abstract_name(name).map_err(failed)?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Self { endpoint, _socket: socket }),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                Err(HostError::SecondInstance { protocol, address: endpoint.addr, holder: None })
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// What is locked.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }
}
