//! What a start would do and find, for those who ask before there is one. Nothing is changed.

use std::net::SocketAddr;

use convey_core::{Protocol, Snapshot};
use convey_engine::{EngineError, EngineKind, Explanation, PacketOptions, PacketSnapshot, explain_arrival};
use convey_xdp::GuardRules;

use super::network::{look, names, reachability, with_local_addresses};
use super::shared_host::host_spec;
use crate::RuntimeError;
use crate::host;
use crate::ladder::{EngineChoice, Ladder, LinkFacts};

/// What a start would change, as lines one could type; nothing is changed and no privilege needed.
pub(crate) fn dry_run(
    choice: EngineChoice,
    snapshot: &Snapshot,
    options: PacketOptions,
) -> Result<Vec<String>, RuntimeError> {
    let packet = PacketSnapshot::build(snapshot, &with_local_addresses(options)?, None)?;
    let found = look(&packet)?;
    let interfaces = names(&found.interfaces);
    if interfaces.is_empty() {
        return Err(EngineError::no_interface(&packet.options().interfaces).into());
    }
    let reach = reachability(&packet)?;
    let warnings = reach.warnings();
    if let Some(error) = reach.refused {
        return Err(error.into());
    }
    let ladder = Ladder::new(choice, &LinkFacts::of(&found.interfaces));
    let mut vips: Vec<String> =
        packet.vips().map(|(_, address, port)| SocketAddr::new(address, port).to_string()).collect();
    vips.sort();
    vips.dedup();
    let mut lines = vec![format!(
        "# engine {} forwards {} on {}",
        ladder.first(),
        vips.join(", "),
        interfaces.join(", ")
    )];
    lines.extend(match ladder.first() {
        EngineKind::AfPacket => None,
        EngineKind::AfXdp => {
            Some("# by an XDP program there and AF_XDP sockets, which go with the process".to_owned())
        }
        EngineKind::Tc => Some(by_program("at TCX ingress (clsact before Linux 6.6)")),
        EngineKind::Xdp => Some(by_program("at XDP")),
    });
    lines.extend(found.warnings.iter().chain(&warnings).map(|warning| format!("# warning: {warning}")));
    let spec = host_spec(GuardRules::of(&packet), interfaces);
    lines.extend(host::dry_run(&spec, ladder.first().needs_guard())?);
    Ok(lines)
}

fn by_program(place: &str) -> String {
    format!("# by a program {place} there, pinned with its tables in a BPF file system for the next start")
}

/// What would become of the first packet of a flow if a balancer started now, every server as configured.
pub(crate) fn explain_unstarted(
    snapshot: &Snapshot,
    options: PacketOptions,
    [source, destination]: [SocketAddr; 2],
    protocol: Protocol,
) -> Result<Explanation, RuntimeError> {
    // An empty flow table serves whatever its size.
    let options = PacketOptions { workers: 1, capacity: 1024, ..with_local_addresses(options)? };
    let packet = PacketSnapshot::build(snapshot, &options, None)?;
    let found = look(&packet)?;
    let worker = convey_engine::Worker::new(0, &packet);
    let explanation =
        convey_engine::explain(protocol, source, destination, &packet, &found.next_hops, &worker);
    Ok(explain_arrival(explanation, source, &found.next_hops, &found.interfaces))
}

/// What stands in the way of a configuration on this host. An error is why it cannot be served here.
pub(crate) fn host_problems(
    snapshot: &Snapshot,
    options: PacketOptions,
) -> Result<Vec<String>, RuntimeError> {
    let options = PacketOptions { workers: 1, capacity: 1024, ..with_local_addresses(options)? };
    let packet = PacketSnapshot::build(snapshot, &options, None)?;
    let found = look(&packet)?;
    if found.interfaces.is_empty() {
        return Err(EngineError::no_interface(&packet.options().interfaces).into());
    }
    let reach = reachability(&packet)?;
    let warnings = reach.warnings();
    match reach.refused {
        Some(error) => Err(error.into()),
        None => Ok(found.warnings.into_iter().chain(warnings).collect()),
    }
}
