//! At a start: the flows of balancers that were killed, and memory from which the next start can take ours.

use std::io;

use convey_afpacket::share_flows;
use convey_core::Mode;
use convey_engine::{Layout, PacketOptions, PacketSnapshot, SavedFlows, SlotIdentities, WorkerMemory};

use crate::host::{Host, HostError};

/// The flows that killed balancers of the same frontends left. Those of another mode are of no use.
pub(super) fn read(host: &mut Host, mode: Mode) -> Vec<SavedFlows> {
    let mut saved = host.flows_left();
    let found = saved.len();
    saved.retain(|s| s.mode() == mode);
    if saved.len() < found {
        host.add_note("the flows of a killed balancer are not taken over: it ran in another mode".to_owned());
    }
    saved
}

/// The options with which flows meet one worker in both directions, where those given do not: replies are steered
/// by their NAT port, which a flow keeps, to the worker that its client's packets reach too.
pub(super) fn suited(saved: &[SavedFlows], options: &PacketOptions) -> Option<PacketOptions> {
    let unsuited = saved.iter().find(|s| !s.suits(options))?;
    let other = PacketOptions { workers: unsuited.workers(), ..options.clone() };
    unsuited.suits(&other).then_some(other)
}

pub(super) fn other_workers(asked: &PacketOptions, suited: &PacketOptions) -> String {
    format!(
        "{} workers instead of {}: open flows have NAT ports of the {} workers of the killed balancer; after an \
         orderly stop the next start has the number configured",
        suited.workers, asked.workers, suited.workers
    )
}

/// Memory for the flows of this balancer that outlives it; none, and a note, where that cannot be had.
pub(super) fn memory(host: &mut Host, packet: &PacketSnapshot) -> Vec<WorkerMemory> {
    let layout = Layout::new(packet.mode(), packet.options());
    let made = shared(host, &layout).or_else(|error| {
        // There may be room for one only, and the flows that were left have been read.
        if !is_full(&error) || host.forget_flows_left().is_err() {
            return Err(error);
        }
        shared(host, &layout)
    });
    let made = made.and_then(|memory| {
        host.write_slots(&SlotIdentities::of(packet))?;
        Ok(memory)
    });
    made.unwrap_or_else(|error| {
        host.add_note(format!("flows would not outlive this process if it were killed: {error}"));
        Vec::new()
    })
}

fn shared(host: &mut Host, layout: &Layout) -> Result<Vec<WorkerMemory>, HostError> {
    let file = host.keep_flows()?;
    share_flows(&file, layout).map_err(|source| {
        // It goes with the rest in the end, if not now.
        let _ = host.give_up_flows();
        HostError::FlowMemory { bytes: layout.file_bytes(), source }
    })
}

fn is_full(error: &HostError) -> bool {
    matches!(error, HostError::FlowMemory { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}
