//! How workers and callers reach the thread that looks after next hops: a datagram socket, so that waiting for
//! netlink news and for requests is one poll, and a full queue drops a request rather than block a worker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// What the thread is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Read what is wanted again: it changed, or the engine closes.
    Refresh,
    /// A packet found no link-layer address for this neighbour.
    Resolve {
        /// The interface it is on.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
    },
}

/// The sending side.
#[derive(Debug, Clone)]
pub struct Wake(Arc<UnixDatagram>);

/// The receiving side.
#[derive(Debug)]
pub struct Inbox(pub UnixDatagram);

/// Both sides.
///
/// # Errors
/// What the kernel answers.
pub fn channel() -> io::Result<(Wake, Inbox)> {
    let (sender, receiver) = UnixDatagram::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    Ok((Wake(Arc::new(sender)), Inbox(receiver)))
}

impl Wake {
    /// Sends [`Message::Refresh`].
    pub fn refresh(&self) {
        // A queue full of messages wakes the thread as well.
        let _ = self.0.send(&[0]);
    }

    /// Sends [`Message::Resolve`].
    pub fn resolve(&self, ifindex: u32, address: IpAddr) {
        let [a, b, c, d] = ifindex.to_ne_bytes();
        let head = [if address.is_ipv4() { 4 } else { 6 }, a, b, c, d];
        let bytes = match address {
            IpAddr::V4(v4) => [&head[..], &v4.octets()].concat(),
            IpAddr::V6(v6) => [&head[..], &v6.octets()].concat(),
        };
        // Lost when the queue is full: the next packet asks again.
        let _ = self.0.send(&bytes);
    }
}

impl Inbox {
    /// The next message; `None` when there is none.
    pub fn next(&self) -> Option<Message> {
        let mut bytes = [0; 21];
        let len = self.0.recv(&mut bytes).ok()?;
        Some(match &bytes[..len] {
            [4, a, b, c, d, v4 @ ..] => match <[u8; 4]>::try_from(v4) {
                Ok(v4) => resolve([*a, *b, *c, *d], Ipv4Addr::from(v4).into()),
                Err(_) => Message::Refresh,
            },
            [6, a, b, c, d, v6 @ ..] => match <[u8; 16]>::try_from(v6) {
                Ok(v6) => resolve([*a, *b, *c, *d], Ipv6Addr::from(v6).into()),
                Err(_) => Message::Refresh,
            },
            _ => Message::Refresh,
        })
    }
}

fn resolve(ifindex: [u8; 4], address: IpAddr) -> Message {
    Message::Resolve { ifindex: u32::from_ne_bytes(ifindex), address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent_and_a_full_queue_never_blocks() {
        let (wake, inbox) = channel().unwrap();
        let v6 = IpAddr::from([0xfd00, 1, 2, 3, 4, 5, 6, 7]);
        wake.refresh();
        wake.resolve(70_000, IpAddr::from([10, 0, 0, 1]));
        wake.resolve(3, v6);
        assert_eq!(inbox.next(), Some(Message::Refresh));
        assert_eq!(
            inbox.next(),
            Some(Message::Resolve { ifindex: 70_000, address: IpAddr::from([10, 0, 0, 1]) })
        );
        assert_eq!(inbox.next(), Some(Message::Resolve { ifindex: 3, address: v6 }));
        assert_eq!(inbox.next(), None);
        for _ in 0..100_000 {
            wake.refresh();
        }
        assert_eq!(inbox.next(), Some(Message::Refresh));
    }
}
