//! Source ports that nobody else uses: bound for as long as they are held, and never listened on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// Ports of TCP that are ours on every address of either family.
#[derive(Debug)]
pub(super) struct Ports(Vec<(u16, OwnedFd)>);

impl Ports {
    pub(super) fn reserve(count: usize) -> io::Result<Self> {
        (0..count).map(|_| reserve()).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn numbers(&self) -> Vec<u16> {
        self.0.iter().map(|(port, _)| *port).collect()
    }
}

fn reserve() -> io::Result<(u16, OwnedFd)> {
    // Both families by one socket; a kernel without IPv6 has no other family to reserve it in.
    let both = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).and_then(
        |socket| {
            sockopt::set_ipv6_v6only(&socket, false)?;
            bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
            Ok(socket)
        },
    );
    let socket = match both {
        Ok(socket) => socket,
        Err(_) => {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            socket
        }
    };
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((address.port(), socket))
}
