//! Where a server listens: an address and a port, or a Unix socket of this machine (proxy mode).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP or UDP port.
    Ip(SocketAddr),
    /// The absolute path of a stream socket, or `@` and its abstract name.
    Unix(Arc<str>),
}

impl Endpoint {
    /// The address and port; none for a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

/// `ip:port` or `unix:path`, as the configuration writes it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Neither `ip:port` nor `unix:` with an absolute path or `@name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither ip:port nor unix:path")]
pub struct NoEndpoint;

impl FromStr for Endpoint {
    type Err = NoEndpoint;

    fn from_str(text: &str) -> Result<Self, NoEndpoint> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Ip).map_err(|_| NoEndpoint);
        };
        let is_path = path.starts_with('/') || path.strip_prefix('@').is_some_and(|name| !name.is_empty());
        if is_path && !path.contains('\0') { Ok(Self::Unix(path.into())) } else { Err(NoEndpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:80", "unix:/run/app.sock", "unix:@app"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.1", "unix:", "unix:app", "unix:@", "unix:/a\0b", "app:80"] {
            assert_eq!(text.parse::<Endpoint>(), Err(NoEndpoint), "{text:?}");
        }
    }
}
