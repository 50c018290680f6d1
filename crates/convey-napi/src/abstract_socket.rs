//! Connections to abstract Unix sockets.

use std::os::fd::IntoRawFd;

use convey_runtime::abstract_socket;
use napi_derive::napi;

/// A descriptor, the caller's, of a connection to the abstract Unix socket of this name, given without the zero byte
/// before it; or a number below zero, as system calls return, for why there is none.
#[napi(catch_unwind)]
pub fn connect_abstract(name: String) -> i32 {
    match abstract_socket::connect_abstract(&name) {
        Ok(descriptor) => descriptor.into_raw_fd(),
        Err(error) => -error.raw_os_error(),
    }
}
