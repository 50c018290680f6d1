//! What is done to the host, for people: shown without doing it, cleaned up, and the server's side of DSR.

use std::net::{IpAddr, SocketAddr};

use convey_core::Mode;
use convey_runtime::host::capabilities::require;
use convey_runtime::host::dsr_server::{self, DsrServerSpec};
use convey_runtime::host::{Capability, drop_capabilities, kept_capabilities};
use convey_runtime::{EngineChoice, RuntimeError, state_dir};
use napi_derive::napi;

use crate::config::{NativeConfig, NativeDsrMethod, NativeEngine, NativeMode, NativeProtocol};
use crate::error::{Result, from_runtime, internal, invalid};

/// Every change of the host that `Dataplane.start()` would make, as lines one could type. Nothing is changed.
///
/// Throws with `code` CONFIG_INVALID, BIND_FAILED (no interface), ENGINE_UNSUPPORTED or INTERNAL.
#[napi(catch_unwind)]
pub fn host_dry_run(config: NativeConfig) -> Result<Vec<String>> {
    convey_runtime::dry_run(config.into_spec()?).map_err(|e| from_runtime(&e))
}

/// What this host would say to a start, beside what is wrong with the configuration itself, in words. Nothing is
/// changed.
///
/// Throws with `code` CONFIG_INVALID or INTERNAL.
#[napi(catch_unwind)]
pub fn host_problems(config: NativeConfig) -> Result<Vec<String>> {
    convey_runtime::host_problems(config.into_spec()?).map_err(|e| from_runtime(&e))
}

/// Takes back what killed processes left; returns what was done, in words.
///
/// Throws with `code` PERMISSION_DENIED or INTERNAL.
#[napi(catch_unwind)]
pub fn host_cleanup() -> Result<Vec<String>> {
    if state_dir().exists() {
        require("cleaning up", &[Capability::NetAdmin]).map_err(|e| from_runtime(&e.into()))?;
    }
    convey_runtime::cleanup().map_err(|e| from_runtime(&e))
}

/// Ends the process with this code, now: for when a thread of Node's hangs in the kernel, for which an ordinary exit
/// would wait. What was started must have been closed before.
#[napi]
pub fn exit_now(code: i32) {
    convey_runtime::host::exit_now(code)
}

/// What to do about a server.
#[napi(string_enum = "lowercase")]
pub enum NativeDsrServerAction {
    /// Prepare it.
    Apply,
    /// Tell what is missing.
    Check,
    /// Take back what was prepared.
    Undo,
    /// The steps of `apply` as lines one could type.
    Plan,
    /// Commands for hosts without convey.
    Print,
}

/// A server of a DSR balancer, to be prepared on itself.
#[napi(object)]
pub struct NativeDsrServer {
    /// `ip:port` that clients know.
    pub vip: String,
    pub protocol: NativeProtocol,
    pub method: NativeDsrMethod,
    /// The address under which the balancer knows this server; "": the one used towards the VIP.
    pub server: String,
    /// Where answers leave; none: the interface that has `server`, and those that lead out of its network.
    pub interfaces: Vec<String>,
    /// Addresses of balancers, whose health checks are answered from `server`.
    pub balancers: Vec<String>,
}

/// Prepares a server for direct server return, checks, or undoes it. Returns what was done, what is missing
/// (`check`; nothing when all is well) or commands.
///
/// Throws with `code` CONFIG_INVALID, PERMISSION_DENIED or INTERNAL.
#[napi(catch_unwind)]
pub fn dsr_server(server: NativeDsrServer, action: NativeDsrServerAction) -> Result<Vec<String>> {
    let vip = vip_of(&server)?;
    if matches!(action, NativeDsrServerAction::Apply | NativeDsrServerAction::Undo) {
        let what = "preparing a server for direct server return";
        require(what, &[Capability::NetAdmin]).map_err(|e| from_runtime(&e.into()))?;
    }
    let failed = |e| from_runtime(&RuntimeError::Host(e));
    if matches!(action, NativeDsrServerAction::Undo) {
        let protocol = (&server.protocol).into();
        return dsr_server::undo(vip, protocol, &state_dir()).map_err(failed);
    }
    let spec = dsr_server_spec(server)?;
    match action {
        NativeDsrServerAction::Apply | NativeDsrServerAction::Undo => dsr_server::apply(&spec),
        NativeDsrServerAction::Check => dsr_server::check(&spec),
        NativeDsrServerAction::Plan => dsr_server::plan(&spec),
        NativeDsrServerAction::Print => dsr_server::print(&spec),
    }
    .map_err(failed)
}

fn vip_of(server: &NativeDsrServer) -> Result<SocketAddr> {
    server.vip.parse().map_err(|_| invalid("vip", format!("\"{}\" is not ip:port", server.vip)))
}

pub(crate) fn dsr_server_spec(server: NativeDsrServer) -> Result<DsrServerSpec> {
    let vip = vip_of(&server)?;
    let address = |field: &str, text: &str| {
        text.parse::<IpAddr>().map_err(|_| invalid(field, format!("\"{text}\" is not an IP address")))
    };
    let balancers = server.balancers.iter().map(|b| address("balancer", b)).collect::<Result<Vec<_>>>()?;
    let server_addr = if server.server.is_empty() {
        dsr_server::discover_server_addr(vip, &balancers).ok_or_else(|| {
            let why = format!("no address of this host leads to {}; name the server's own address", vip.ip());
            invalid("server", why)
        })?
    } else {
        address("server", &server.server)?
    };
    Ok(DsrServerSpec {
        vip,
        protocol: (&server.protocol).into(),
        method: (&server.method).into(),
        server_addr,
        interfaces: server.interfaces,
        balancers,
        state_dir: state_dir(),
    })
}

/// What giving up capabilities came to.
#[napi(object)]
pub struct NativeDropReport {
    /// Threads that have only what was to be kept.
    pub threads: u32,
    /// What is left, as in capabilities(7).
    pub kept: Vec<String>,
    /// Whether the bounding set shrank too.
    pub bounding: bool,
}

/// Makes every thread of this process keep only the capabilities that a reload and the end of a balancer of this
/// mode, with the engine that was asked for, need, for good.
///
/// Throws with `code` INTERNAL.
#[napi(catch_unwind)]
pub fn drop_privileges(mode: NativeMode, engine: NativeEngine) -> Result<NativeDropReport> {
    let kept = kept_capabilities(Mode::from(&mode), EngineChoice::from(&engine));
    let report = drop_capabilities(kept).map_err(|e| internal(&e))?;
    Ok(NativeDropReport {
        threads: u32::try_from(report.threads).unwrap_or(u32::MAX),
        kept: report.kept.into_iter().map(|c| c.name().to_owned()).collect(),
        bounding: report.bounding,
    })
}
