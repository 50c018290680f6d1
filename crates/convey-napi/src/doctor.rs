//! What this host has to say, as data for those who judge it, and settings that are made on it and taken back.

use convey_runtime::host::settings::{self, Setting};
use convey_runtime::host::{PortSet, clock_is_synchronized, dsr_server};
use convey_runtime::{HostReport, LinkReport, Problem, RuntimeError, state_dir};
use napi_derive::napi;

use crate::config::NativeConfig;
use crate::error::{Result, from_runtime, invalid};
use crate::host::{NativeDsrServer, dsr_server_spec};
use crate::stats::{NativeRefusedEngine, refused};

/// Something an operator should know.
#[napi(object)]
pub struct NativeHostProblem {
    /// A stable word for what it is.
    pub kind: String,
    /// What was found.
    pub fact: String,
    /// What comes of it; "" where the fact says so.
    pub consequence: String,
    /// What to do; "" where that is for others to say.
    pub remedy: String,
}

/// A link that packets would be taken from.
#[napi(object)]
pub struct NativeLink {
    pub name: String,
    /// "veth", "bridge"; "" for hardware.
    pub kind: String,
    /// Of hardware; "" where it is not known.
    pub driver: String,
    /// In bytes.
    pub mtu: u32,
    /// Absent where the kernel does not tell (before Linux 6.3).
    pub native_xdp: Option<bool>,
    /// Whether an XDP program is attached, whoever's.
    pub xdp_program: bool,
    /// Names of the programs at TCX ingress; absent where they cannot be told.
    pub tcx_programs: Option<Vec<String>>,
    /// Large receive offload; absent where it cannot be told.
    pub lro: Option<bool>,
}

/// What a start would find on this host.
#[napi(object)]
pub struct NativeHostReport {
    /// The engine that would be tried first; "" in proxy mode.
    pub engine: String,
    /// Those that are not tried.
    pub refused_engines: Vec<NativeRefusedEngine>,
    /// Where it would listen; none in proxy mode.
    pub links: Vec<NativeLink>,
    /// Why the start would be refused; "" when it would not.
    pub refused: String,
    pub problems: Vec<NativeHostProblem>,
    /// What of links and rules is not followed, in words.
    pub notes: Vec<String>,
}

/// What this host would say to a start, as data. Changes nothing and needs no privilege, without which some is absent.
///
/// Throws with `code` CONFIG_INVALID, BIND_FAILED (no interface) or INTERNAL.
#[napi(catch_unwind)]
pub fn host_report(config: NativeConfig) -> Result<NativeHostReport> {
    let report = convey_runtime::host_report(config.into_spec()?).map_err(|e| from_runtime(&e))?;
    let HostReport { engine, refused_engines, links, refused: error, problems, notes } = report;
    Ok(NativeHostReport {
        engine: engine.to_owned(),
        refused_engines: refused_engines.iter().map(refused).collect(),
        links: links.into_iter().map(link).collect(),
        refused: error.map(|e| format!("{}: {}", e.field, e.message)).unwrap_or_default(),
        problems: problems.into_iter().map(problem).collect(),
        notes,
    })
}

fn link(link: LinkReport) -> NativeLink {
    NativeLink {
        name: link.name,
        kind: link.kind,
        driver: link.driver.unwrap_or_default(),
        mtu: link.mtu,
        native_xdp: link.has_native_xdp,
        xdp_program: link.has_xdp_program,
        tcx_programs: link.tcx_programs,
        lro: link.lro,
    }
}

fn problem(Problem { kind, fact, consequence, remedy }: Problem) -> NativeHostProblem {
    NativeHostProblem { kind: kind.to_owned(), fact, consequence, remedy }
}

/// What the kernel lets this process do.
#[napi(object)]
pub struct NativeKernelReport {
    /// Why it may not load programs; "" when it may.
    pub bpf_refused: String,
    /// Whether checksums of IPv6 are adjusted right behind cards that sum up whole packets (Linux 6.16); false where
    /// programs are refused.
    pub csum_ipv6: bool,
    /// Whether something keeps the clock right; absent where the kernel does not tell.
    pub clock_synchronized: Option<bool>,
}

/// Asks the kernel, by loading a program that is let go again.
#[napi(catch_unwind)]
pub fn kernel_report() -> NativeKernelReport {
    let (bpf_refused, csum_ipv6) = convey_runtime::host::try_bpf();
    NativeKernelReport { bpf_refused, csum_ipv6, clock_synchronized: clock_is_synchronized() }
}

/// What a server lacks for direct server return.
#[napi(object)]
pub struct NativeDsrServerReport {
    /// Its own address, given or found.
    pub server: String,
    /// Where its answers leave.
    pub interfaces: Vec<String>,
    /// Nothing when it is prepared.
    pub problems: Vec<NativeHostProblem>,
}

/// Tells what a server lacks, as data.
///
/// Throws with `code` CONFIG_INVALID or INTERNAL.
#[napi(catch_unwind)]
pub fn dsr_server_report(server: NativeDsrServer) -> Result<NativeDsrServerReport> {
    let spec = dsr_server_spec(server)?;
    let failed = |e| from_runtime(&RuntimeError::Host(e));
    Ok(NativeDsrServerReport {
        server: spec.server_addr.to_string(),
        // One that is not held here is among the problems.
        interfaces: dsr_server::interfaces(&spec).unwrap_or_default(),
        problems: dsr_server::problems(&spec).map_err(failed)?.into_iter().map(problem).collect(),
    })
}

/// A setting to make.
#[napi(object)]
pub struct NativeSetting {
    /// A kernel parameter's name, as sysctl takes it. Of net.ipv4.ip_local_reserved_ports the ports of `value` are added.
    pub key: String,
    pub value: String,
}

/// Makes settings, all or none; `undoSettings()` takes them back. Returns what was done, as commands.
///
/// Throws with `code` CONFIG_INVALID or INTERNAL.
#[napi(catch_unwind)]
pub fn apply_settings(settings: Vec<NativeSetting>) -> Result<Vec<String>> {
    let settings = settings.into_iter().map(setting).collect::<Result<Vec<_>>>()?;
    settings::apply(&state_dir(), &settings).map_err(|e| from_runtime(&RuntimeError::Host(e)))
}

fn setting(NativeSetting { key, value }: NativeSetting) -> Result<Setting> {
    if key != "net.ipv4.ip_local_reserved_ports" {
        return Ok(Setting::Sysctl { key, value });
    }
    let ports =
        PortSet::parse(&value).ok_or_else(|| invalid(&key, format!("\"{value}\" is no list of ports")))?;
    Ok(Setting::ReservePorts(ports))
}

/// Takes back what `applySettings()` has set in this network namespace, where it still has that value. Returns what was
/// done and what was left, in words; nothing set is fine.
///
/// Throws with `code` INTERNAL.
#[napi(catch_unwind)]
pub fn undo_settings() -> Result<Vec<String>> {
    settings::undo(&state_dir()).map_err(|e| from_runtime(&RuntimeError::Host(e)))
}
