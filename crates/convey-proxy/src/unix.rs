//! Servers on Unix sockets.
//!
//! The relay moves bytes between two descriptors and calls nothing that only TCP has without bearing its refusal, so a
//! Unix stream socket goes through it in the type of a TCP stream. What differs is the kernel's: there is no reset, so a
//! server hears the end of the stream where a TCP server would hear that its client has gone, and a connect either
//! succeeds or fails at once.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use convey_core::Endpoint;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How often a server whose queue is full is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Connects to the socket at `path`, or with `@` to the abstract one of that name.
pub(crate) fn begin(path: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.connect(&address(path)?)?;
    TcpStream::from_std(socket.into())
}

/// An abstract name begins with a zero byte.
fn address(path: &str) -> io::Result<SockAddr> {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(Path::new(&format!("\0{name}"))),
        None => SockAddr::unix(Path::new(path)),
    }
}

/// Whether the server has as many connections waiting as it wants.
pub(crate) fn is_busy(addr: &Endpoint, error: &io::Error) -> bool {
    matches!(addr, Endpoint::Unix(_)) && Errno::from_io_error(error) == Some(Errno::AGAIN)
}

/// Waits a little.
///
/// # Errors
/// `TimedOut` once `timer` has fired.
pub(crate) async fn wait(timer: Pin<&mut Sleep>) -> io::Result<()> {
    if timer.deadline() <= Instant::now() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    tokio::time::sleep(BUSY_PAUSE).await;
    Ok(())
}
