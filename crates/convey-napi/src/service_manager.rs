//! What a service manager passes on, and what it is told.

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;

use convey_runtime::host::service_manager;
use convey_runtime::inherited;
use napi_derive::napi;

use crate::error::{Result, internal, invalid};

/// A descriptor that the service manager passed on.
#[napi(object)]
pub struct NativePassedSocket {
    /// `ip:port` where it listens; "" when it cannot be used.
    pub address: String,
    /// Why it cannot be used, or "".
    pub problem: String,
}

/// Takes the listening sockets that `LISTEN_PID` and `LISTEN_FDS` tell of, in their order, for the frontends that
/// listen there. To be called once, before a balancer is started.
#[napi(catch_unwind)]
pub fn take_passed_sockets() -> Vec<NativePassedSocket> {
    let passed = inherited::take_from_environment().into_iter();
    passed
        .map(|socket| match socket {
            Ok(address) => NativePassedSocket { address: address.to_string(), problem: String::new() },
            Err(problem) => NativePassedSocket { address: String::new(), problem },
        })
        .collect()
}

/// A descriptor, the caller's from now on, of the socket passed on that listens on exactly `address` ("ip:port");
/// `null` if there is none.
///
/// Throws with `code` CONFIG_INVALID or INTERNAL.
#[napi(catch_unwind)]
pub fn passed_socket(address: String) -> Result<Option<i32>> {
    let at: SocketAddr = address.parse().map_err(|error| invalid("address", error))?;
    let found = inherited::listener_at(at).transpose().map_err(|error| internal(&error))?;
    Ok(found.map(IntoRawFd::into_raw_fd))
}

/// Sends `state`, lines of `NAME=value` as in sd_notify(3), to `socket`: a path, or an abstract name after `@`.
///
/// Throws with `code` INTERNAL.
#[napi(catch_unwind)]
pub fn notify_service_manager(socket: String, state: String) -> Result<()> {
    service_manager::notify(&socket, &state).map_err(|error| internal(&error))
}
