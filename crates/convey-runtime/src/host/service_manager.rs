//! What a service is told to tell its manager (sd_notify(3)), by a datagram to a Unix socket.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state`, lines of `NAME=value`, to `socket`: a path, or an abstract name after `@`. Never waits.
///
/// # Errors
/// Nobody listens there, its queue is full, or it is an address of another kind.
pub fn notify(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if socket.starts_with('/') => SocketAddr::from_pathname(socket)?,
        None => return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Unix socket")),
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_at_a_path_and_at_an_abstract_name() {
        let name = format!("convey-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, socket) in [(by_path, path.to_str().unwrap()), (by_name, &*format!("@{name}"))] {
            notify(socket, "READY=1\nSTATUS=serves").unwrap();
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\nSTATUS=serves");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(notify(path.to_str().unwrap(), "READY=1").is_err());
        assert!(notify("vsock:2:1234", "READY=1").is_err());
    }
}
