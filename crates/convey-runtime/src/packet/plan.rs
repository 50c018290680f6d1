//! What an engine starts with: the tables it forwards by, and what killed balancers left for it. Engines differ in what
//! they can go on with.

use std::sync::Arc;

use convey_afpacket::monotonic;
use convey_core::{Event, Snapshot};
use convey_engine::{EngineKind, PacketOptions, PacketSnapshot, SavedFlows};
use convey_xdp::kernel::TableRecord;
use convey_xdp::{GuardRules, Pins};

use super::shared_host::SharedHost;
use super::{lock, takeover};
use crate::host::Host;
use crate::host::pins::{PinsToAdopt, write_tables};

/// What was configured.
pub(super) struct Asked {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) options: PacketOptions,
    pub(super) packet: Arc<PacketSnapshot>,
}

/// What an engine starts with.
pub(super) struct Plan {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) options: PacketOptions,
    pub(super) packet: Arc<PacketSnapshot>,
    /// What the kernel is told to leave alone.
    pub(super) rules: GuardRules,
    /// Flows to be put into its tables.
    pub(super) saved: Vec<SavedFlows>,
    /// Where its tables outlive it.
    pub(super) pins: Option<Pins>,
}

impl Asked {
    /// For an engine that forwards in user space: flows of killed balancers are read and put into its tables.
    pub(super) fn in_user_space(&self, shared: &Arc<SharedHost>, kind: EngineKind) -> Plan {
        let mut state = lock(&shared.state);
        let Some(host) = &mut state.host else { return self.plan(None, Vec::new(), None) };
        let left = host.pins_to_adopt();
        let saved = self.saved(host, &left);
        drop(left);
        let mut options = self.options.clone();
        if kind == EngineKind::AfXdp {
            // One worker serves all of its sockets.
            options.workers = 1;
        }
        self.with_saved(host, saved, options)
    }

    /// For programs in the kernel: they go on with the tables of a killed balancer where these suit, or else with its
    /// flows.
    pub(super) fn in_kernel(&self, shared: &Arc<SharedHost>) -> Plan {
        let mut state = lock(&shared.state);
        let Some(host) = &mut state.host else { return self.plan(None, Vec::new(), None) };
        let mut left = host.pins_to_adopt();
        let mut at = 0;
        while at < left.len() {
            match self.adopt(host, &left[at]) {
                Ok((options, packet)) => {
                    let pins = left.swap_remove(at);
                    let (folder, record) = (pins.folder.clone(), pins.tables.clone());
                    if let Err(error) = host.adopt_pins(pins, packet.slot_table()) {
                        host.add_note(format!(
                            "flows would not outlive this process if it were killed: {error}"
                        ));
                    }
                    if !left.is_empty() {
                        host.add_note(
                            "the flows of further killed balancers of these frontends are not taken over"
                                .to_owned(),
                        );
                    }
                    let write = writer(shared, host);
                    let pins = Pins { folder, adopted: Some(record), former: host.left_folders(), write };
                    return Plan { options, ..self.plan(Some(packet), Vec::new(), Some(pins)) };
                }
                Err(why) => {
                    host.add_note(format!("the tables of a killed balancer are not gone on with: {why}"));
                    at += 1;
                }
            }
        }
        let saved = self.saved(host, &left);
        drop(left);
        // One worker looks after the tables of all.
        let options = PacketOptions { workers: 1, ..self.options.clone() };
        let mut plan = self.with_saved(host, saved, options);
        match host.make_pins(plan.packet.slot_table()) {
            Ok(()) => {
                let write = writer(shared, host);
                let former = host.left_folders();
                plan.pins = host.pins().map(|folder| Pins { folder, adopted: None, former, write });
            }
            Err(error) => {
                let _ = host.give_up_pins();
                host.add_note(format!(
                    "forwarding would not outlive this process if it were killed: {error}"
                ));
            }
        }
        plan
    }

    /// The tables of the configuration over those of a killed balancer, and why not, in words.
    fn adopt(&self, host: &mut Host, left: &PinsToAdopt) -> Result<(PacketOptions, PacketSnapshot), String> {
        let options = PacketOptions { seed: left.seed, workers: 1, ..self.options.clone() };
        let (slots, paths) = (&left.slots, left.tables.nat_paths());
        let packet = PacketSnapshot::build_keeping(&self.snapshot, &options, slots, &paths, monotonic());
        let packet = packet.map_err(|e| e.to_string())?;
        left.tables.suits(&packet)?;
        host.set_rules(&GuardRules::of(&packet)).map_err(|e| e.to_string())?;
        Ok((options, packet))
    }

    fn saved(&self, host: &mut Host, left: &[PinsToAdopt]) -> Vec<SavedFlows> {
        let mut saved = takeover::read(host, self.snapshot.mode);
        for left in left {
            match left.tables.read_flows(&left.folder, left.slots.clone()) {
                Ok(flows) if flows.mode() == self.snapshot.mode => saved.push(flows),
                Ok(_) => {}
                Err(error) => {
                    host.add_note(format!("the flows of a killed balancer are not taken over: {error}"))
                }
            }
        }
        saved
    }

    /// The tables in which flows of killed balancers have their places.
    fn with_saved(&self, host: &mut Host, saved: Vec<SavedFlows>, options: PacketOptions) -> Plan {
        let slots = takeover::slots(&saved);
        let mut plan = Plan { options, ..self.plan(None, saved, None) };
        if let Some(suited) = takeover::suited(&plan.saved, &plan.options)
            && let Ok(with_counters) = takeover::with_counters_for(&plan.snapshot, &suited)
            && let Ok(built) = PacketSnapshot::build_adopting(&with_counters, &suited, &slots, monotonic())
        {
            host.add_note(takeover::other_workers(&plan.options, &suited));
            (plan.options, plan.packet, plan.snapshot) = (suited, Arc::new(built), with_counters);
        } else if let Ok(built) =
            PacketSnapshot::build_adopting(&plan.snapshot, &plan.options, &slots, monotonic())
        {
            plan.packet = Arc::new(built);
        }
        if let Some(extended) =
            takeover::with_former(&plan.snapshot, &plan.options, &plan.saved, &plan.packet)
        {
            let rules = GuardRules::of(&extended);
            match host.set_rules(&rules) {
                Ok(()) => (plan.rules, plan.packet) = (rules, Arc::new(extended)),
                Err(error) => host.add_note(format!(
                    "connections of frontends and servers that left the configuration cannot go on: {error}"
                )),
            }
        }
        plan
    }

    fn plan(&self, packet: Option<PacketSnapshot>, saved: Vec<SavedFlows>, pins: Option<Pins>) -> Plan {
        let packet = packet.map_or_else(|| self.packet.clone(), Arc::new);
        Plan {
            snapshot: self.snapshot.clone(),
            options: self.options.clone(),
            rules: GuardRules::of(&packet),
            packet,
            saved,
            pins,
        }
    }
}

/// Who writes down how the tables of `host` lie.
fn writer(shared: &SharedHost, host: &Host) -> Arc<dyn Fn(&TableRecord) -> bool + Send + Sync> {
    let (file, events) = (host.tables_file(), shared.events.clone());
    Arc::new(move |record| {
        let written = file.as_deref().map_or(Ok(()), |file| write_tables(file, record));
        if let Err(error) = &written {
            let message = format!("Flows of this balancer would not outlive it if it were killed: {error}");
            (events)(Event::Warning { message });
        }
        written.is_ok()
    })
}
