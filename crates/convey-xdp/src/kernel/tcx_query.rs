//! Who is attached at an interface's ingress, and whether this process may load programs at all.

use aya::EbpfLoader;
use aya::programs::{SchedClassifier, TcAttachType};

use crate::error::reason;

/// Names of the programs at TCX ingress, in the order in which they run. `None` where it cannot be told: before Linux
/// 6.6, or without CAP_NET_ADMIN.
pub fn tcx_programs(interface: &str) -> Option<Vec<String>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).ok()?;
    Some(programs.iter().map(|p| p.name_as_str().unwrap_or_default().to_owned()).collect())
}

/// Loads a program of two instructions' worth, and lets it go again.
///
/// # Errors
/// What the kernel said, in words.
pub fn try_program() -> Result<(), String> {
    let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::csum_probe()).map_err(|e| reason(&e))?;
    let program: Option<&mut SchedClassifier> =
        ebpf.program_mut("csum_probe").and_then(|program| program.try_into().ok());
    program.ok_or_else(|| "the object has no such program".to_owned())?.load().map_err(|e| reason(&e))
}
