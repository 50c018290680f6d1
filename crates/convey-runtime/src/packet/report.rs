//! What a start would find on this host, as data: for those who judge it rather than read it. Nothing is changed.

use convey_core::{Snapshot, SpecError};
use convey_engine::{EngineError, PacketOptions, PacketSnapshot};
use convey_xdp::kernel::tcx_programs;

use super::network::{look, reachability, with_local_addresses};
use crate::RuntimeError;
use crate::host;
use crate::ladder::{EngineChoice, Ladder, LinkFacts, RefusedEngine};
use crate::reachability::Problem;

/// A link that packets would be taken from.
#[derive(Debug)]
pub struct LinkReport {
    /// Its name.
    pub name: String,
    /// "veth", "bridge"; empty for hardware.
    pub kind: String,
    /// Of hardware, where it is known.
    pub driver: Option<String>,
    /// In bytes.
    pub mtu: u32,
    /// Whether its driver has native XDP; `None` where the kernel does not tell (before Linux 6.3).
    pub has_native_xdp: Option<bool>,
    /// Whether an XDP program is attached, whoever's.
    pub has_xdp_program: bool,
    /// Names of the programs at TCX ingress; `None` where they cannot be told.
    pub tcx_programs: Option<Vec<String>>,
    /// Whether large receive offload is on; `None` where it cannot be told.
    pub lro: Option<bool>,
}

/// What a start would find.
#[derive(Debug, Default)]
pub struct HostReport {
    /// The engine that would be tried first; empty in proxy mode.
    pub engine: &'static str,
    /// Those that are not tried.
    pub refused_engines: Vec<RefusedEngine>,
    /// Where it would listen.
    pub links: Vec<LinkReport>,
    /// Why the start would be refused.
    pub refused: Option<SpecError>,
    /// What an operator should know.
    pub problems: Vec<Problem>,
    /// What of the host's links and rules is not followed, in words.
    pub notes: Vec<String>,
}

/// Looks at the host for a start in a packet mode.
///
/// # Errors
/// [`RuntimeError`] when there is nothing to look at.
pub(crate) fn host_report(
    choice: EngineChoice,
    snapshot: &Snapshot,
    options: PacketOptions,
) -> Result<HostReport, RuntimeError> {
    let options = PacketOptions { workers: 1, capacity: 1024, ..with_local_addresses(options)? };
    let packet = PacketSnapshot::build(snapshot, &options, None)?;
    let found = look(&packet)?;
    if found.interfaces.is_empty() {
        return Err(EngineError::no_interface(&packet.options().interfaces).into());
    }
    let facts = LinkFacts::of(&found.interfaces);
    let (engine, refused_engines) = Ladder::new(choice, &facts).into_first();
    let reach = reachability(&packet)?;
    let link = |LinkFacts { name, kind, driver, mtu, features, has_program }| LinkReport {
        tcx_programs: tcx_programs(&name),
        lro: host::lro(&name),
        has_native_xdp: features.map(|f| f.native),
        has_xdp_program: has_program,
        name,
        kind,
        driver,
        mtu,
    };
    Ok(HostReport {
        engine: engine.name(),
        refused_engines,
        links: facts.into_iter().map(link).collect(),
        refused: reach.refused,
        problems: reach.problems,
        notes: found.warnings,
    })
}
