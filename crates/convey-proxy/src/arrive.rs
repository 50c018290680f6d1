//! From an accepted connection to a client that is known: by its own address or, behind another proxy, by the PROXY
//! header that it begins with.
//!
//! Invariants: of the stream exactly the header is consumed, and nothing is kept beside the socket, so whatever reads
//! next (the relay) finds the client's first byte; while the header is awaited the connection holds places in total and
//! of its frontend, and none of a client, whose address is not known yet.

use std::io;
use std::net::SocketAddr;

use convey_core::{AcceptProxy, Reason};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxy_protocol::{Header, LONGEST_HEADER, Parsed, parse};

/// A client as its frontend sees it, and what was said of it. Its socket stands at the first byte of its own.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// Whom the connection is of: told, or the peer itself.
    pub client: SocketAddr,
    /// What a proxy in front has told.
    pub told: Option<Box<Header>>,
}

impl Arrived {
    /// Without a proxy in front.
    pub fn directly(peer: SocketAddr) -> Self {
        Self { client: peer, told: None }
    }

    /// As `header` says; where it names no address, the peer stands for the client.
    fn told_by(peer: SocketAddr, header: Box<Header>) -> Self {
        let told = header.client();
        let client = told.map_or(peer, |told| SocketAddr::new(told.ip().to_canonical(), told.port()));
        Self { client, told: Some(header) }
    }
}

/// Reads the header that `peer` begins with.
///
/// # Errors
/// Why it is to be closed.
pub(crate) async fn read(
    socket: &TcpStream,
    peer: SocketAddr,
    accept: &AcceptProxy,
) -> Result<Arrived, Reason> {
    match timeout(accept.timeout, header(socket)).await {
        Ok(header) => Ok(Arrived::told_by(peer, header?)),
        Err(_) => Err(Reason::ProxyHeaderTimeout),
    }
}

async fn header(socket: &TcpStream) -> Result<Box<Header>, Reason> {
    loop {
        let ready = socket.ready(Interest::READABLE).await.map_err(|_| Reason::ClientReset)?;
        match take(socket)? {
            Some(header) => return Ok(header),
            // All that will ever come had come before it was looked at.
            None if ready.is_read_closed() => {
                let has_failed = !matches!(socket.take_error(), Ok(None));
                return Err(if has_failed { Reason::ClientReset } else { Reason::ProxyHeaderMissing });
            }
            None => {}
        }
    }
}

/// Takes the header from the socket if all of it has come.
fn take(socket: &TcpStream) -> Result<Option<Box<Header>>, Reason> {
    let mut taken = Ok(None);
    let looked = socket.try_io(Interest::READABLE, || {
        let mut bytes = [0; LONGEST_HEADER];
        let (_, there) = recv(socket, &mut bytes[..], RecvFlags::PEEK)?;
        if there == 0 {
            taken = Err(Reason::ProxyHeaderMissing);
            return Ok(());
        }
        match parse(&bytes[..there]) {
            // Readiness is cleared as though it had blocked: the next segment brings it back.
            Ok(Parsed::Incomplete) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(Parsed::Whole(header, length)) => {
                let (_, consumed) = recv(socket, &mut bytes[..length], RecvFlags::empty())?;
                let is_whole = consumed == length;
                taken = if is_whole { Ok(Some(Box::new(header))) } else { Err(Reason::ProxyHeaderInvalid) };
                if there == length { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            }
            Err(_) => {
                taken = Err(Reason::ProxyHeaderInvalid);
                Ok(())
            }
        }
    });
    match looked {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Reason::ClientReset),
        _ => taken,
    }
}
