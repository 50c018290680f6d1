//! From a client that was accepted to its backend.
//!
//! The hello is peeked at. The reactor tells of bytes as they come and not of those that are there (epoll's edges), so
//! a look that found too little says it would block, and costs nothing until the next segment has come: no
//! SO_RCVLOWAT is set, which is two calls a connection and would have to be undone.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;

use convey_core::{Frontend, HelloRoutes, Reason};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::parse::{LONGEST, Parsed, parse};

/// What a look at the socket has found.
enum Seen {
    Nothing,
    Beginning,
    Decided(Option<usize>),
}

/// The index of the backend for `client` of `frontend`, which has `routes`.
///
/// # Errors
/// Why it is to be closed.
pub(crate) async fn choose(
    client: &TcpStream,
    frontend: &Frontend,
    routes: &HelloRoutes,
    mut timer: Pin<&mut Sleep>,
) -> Result<usize, Reason> {
    timer.as_mut().reset(Instant::now() + routes.timeout);
    let mut has_begun = false;
    loop {
        let ready = {
            let mut ready = std::pin::pin!(client.ready(Interest::READABLE));
            poll_fn(|cx| match ready.as_mut().poll(cx) {
                Poll::Ready(ready) => Poll::Ready(Some(ready)),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            })
            .await
        };
        let Some(ready) = ready else {
            return if has_begun { Err(Reason::ClientHelloTimeout) } else { Ok(frontend.backend) };
        };
        let ready = ready.map_err(|_| Reason::ClientReset)?;
        match look(client, routes)? {
            Seen::Decided(backend) => return Ok(backend.unwrap_or(frontend.backend)),
            // All that will ever come had come before it was looked at.
            _ if ready.is_read_closed() => {
                let was_reset = !matches!(client.take_error(), Ok(None));
                return Err(if was_reset { Reason::ClientReset } else { Reason::ClientHelloMissing });
            }
            Seen::Beginning => has_begun = true,
            Seen::Nothing => {}
        }
    }
}

fn look(client: &TcpStream, routes: &HelloRoutes) -> Result<Seen, Reason> {
    let mut seen = Ok(Seen::Nothing);
    let looked = client.try_io(Interest::READABLE, || {
        let mut bytes = [MaybeUninit::<u8>::uninit(); LONGEST];
        let ((bytes, _), there) = recv(client, &mut bytes[..], RecvFlags::PEEK)?;
        if there == 0 {
            seen = Err(Reason::ClientHelloMissing);
            return Ok(());
        }
        seen = match parse(bytes) {
            Parsed::Hello(hello) => Ok(Seen::Decided(routes.choose(hello.sni.as_deref(), hello.alpn.iter()))),
            Parsed::Other => Ok(Seen::Decided(None)),
            Parsed::TooLong => Err(Reason::ClientHelloTooLong),
            Parsed::Incomplete(_) => {
                seen = Ok(Seen::Beginning);
                return Err(io::ErrorKind::WouldBlock.into());
            }
        };
        // Readiness stays, for the relay.
        Ok(())
    });
    match looked {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Reason::ClientReset),
        _ => seen,
    }
}
