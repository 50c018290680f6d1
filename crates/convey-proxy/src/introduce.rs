//! What a server hears before the client's first byte: a PROXY header.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use convey_core::ProxyVersion;
use rustix::net::{SendFlags, send};
use tokio::net::TcpStream;

use crate::proxy_protocol::{Header, write};

/// Tells `server` who the client is: what was told to us or, without a proxy in front, its address and where it has
/// connected to. At once, since the server may be the one to speak first; where the client's first bytes wait already,
/// the header goes out together with them.
///
/// # Errors
/// As send(2): the server has gone.
pub(crate) async fn introduce(
    version: ProxyVersion,
    (client, address): (&TcpStream, SocketAddr),
    told: Option<&Header>,
    server: &TcpStream,
) -> io::Result<()> {
    let bytes = match told {
        Some(header) => write(version, header),
        None => write(version, &Header::of_client(address, client.local_addr()?)),
    };
    let bytes_wait = poll_fn(|cx| Poll::Ready(client.poll_read_ready(cx).is_ready())).await;
    let flags = if bytes_wait {
        SendFlags::NOSIGNAL | SendFlags::MORE
    } else {
        // Nagle's algorithm would hold the client's first bytes back until the header is acknowledged.
        server.set_nodelay(true)?;
        SendFlags::NOSIGNAL
    };
    // A socket that has sent nothing yet has room for the longest header.
    let sent = send(server, &bytes, flags)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
