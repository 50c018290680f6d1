//! Source ports that nobody else uses, and at which the kernel is silent: sockets that listen, behind a filter that
//! lets nothing in. At a port without a socket the kernel would answer with a reset.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, SockFilter, Socket, Type};

/// Ports of TCP that are ours on every address of either family.
#[derive(Debug)]
pub(super) struct Ports(Vec<(u16, Socket)>);

impl Ports {
    pub(super) fn reserve(count: usize) -> io::Result<Self> {
        (0..count).map(|_| reserve()).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn numbers(&self) -> Vec<u16> {
        self.0.iter().map(|(port, _)| *port).collect()
    }
}

fn reserve() -> io::Result<(u16, Socket)> {
    // Both families by one socket; a kernel without IPv6 has no other family to reserve it in.
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        Ok(socket)
    });
    let socket = match both {
        Ok(socket) => socket,
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
            socket
        }
    };
    // Where the kernel refuses a filter it resets what comes: needless, and no server sees it.
    if socket.attach_filter(&[SockFilter::new(libc::BPF_RET as u16, 0, 0, 0)]).is_ok() {
        socket.listen(0)?;
    }
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((address.port(), socket))
}
