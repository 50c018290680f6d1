//! Health checks that ask a server for frontends' addresses.

use std::net::SocketAddr;
use std::time::Duration;

use convey_runtime::{Probe, ProbeMethod, ProbeOutcome, ProbeReport};
use napi_derive::napi;

use crate::config::NativeDsrMethod;
use crate::error::{Result, invalid};

/// A server to be asked, of a balancer in dsr mode.
#[napi(object)]
pub struct NativeProbe {
    /// Its own `ip:port`.
    pub server: String,
    /// Frontends it serves, `ip:port`, all of which it has to answer for; at least one.
    pub vips: Vec<String>,
    /// How packets reach it.
    pub method: NativeDsrMethod,
    /// Milliseconds until it is given up.
    pub timeout_ms: u32,
}

/// What came of a probe.
#[napi(string_enum = "lowercase")]
pub enum NativeProbeOutcome {
    /// It answered for every frontend.
    Answered,
    /// It refused a connection to `vip`.
    Refused,
    /// It did not answer for `vip`; if `detail` names another server, that one did in its place.
    Silent,
    /// It answered from the address in `detail` instead of `vip`.
    Elsewhere,
    /// Nobody answers for its link-layer address, as `detail` says.
    Unresolved,
    /// No packet can be sent to it, as `detail` says.
    Noway,
    /// It cannot be asked, as `detail` says.
    Unavailable,
    /// This machine could not send, as `detail` says.
    Notsent,
}

/// The end of a probe.
#[napi(object)]
pub struct NativeProbeReport {
    /// As given to `probe()`.
    pub id: u32,
    pub outcome: NativeProbeOutcome,
    /// `ip:port` of the frontend it is about, "" if about none.
    pub vip: String,
    pub detail: String,
    /// Milliseconds from the first packet to the answer.
    pub latency_ms: f64,
}

impl NativeProbe {
    pub(crate) fn into_probe(self) -> Result<Probe> {
        let address = |field: &str, text: &str| {
            text.parse::<SocketAddr>().map_err(|_| invalid(field, format!("\"{text}\" is not ip:port")))
        };
        let server = address("server", &self.server)?;
        let vips = self.vips.iter().map(|vip| address("vips", vip)).collect::<Result<Vec<_>>>()?;
        if vips.is_empty() || vips.iter().any(|vip| vip.is_ipv4() != server.is_ipv4()) {
            return Err(invalid("vips", format!("needs addresses of the family of {server}")));
        }
        let method = match self.method {
            NativeDsrMethod::L2 => ProbeMethod::L2,
            NativeDsrMethod::Rewrite => ProbeMethod::Rewrite,
        };
        Ok(Probe { server, vips, method, timeout: Duration::from_millis(self.timeout_ms.into()) })
    }
}

impl NativeProbeReport {
    pub(crate) fn of(id: u32, report: ProbeReport) -> Self {
        let outcome = match report.outcome {
            ProbeOutcome::Answered => NativeProbeOutcome::Answered,
            ProbeOutcome::Refused => NativeProbeOutcome::Refused,
            ProbeOutcome::Silent => NativeProbeOutcome::Silent,
            ProbeOutcome::Elsewhere => NativeProbeOutcome::Elsewhere,
            ProbeOutcome::Unresolved => NativeProbeOutcome::Unresolved,
            ProbeOutcome::NoWay => NativeProbeOutcome::Noway,
            ProbeOutcome::Unavailable => NativeProbeOutcome::Unavailable,
            ProbeOutcome::NotSent => NativeProbeOutcome::Notsent,
        };
        Self {
            id,
            outcome,
            vip: report.vip.map(|vip| vip.to_string()).unwrap_or_default(),
            detail: report.detail,
            latency_ms: report.latency.as_secs_f64() * 1000.0,
        }
    }
}
