//! The NAT ports, which the kernel must not use for itself.

use super::journal::{Found, Record, StateDir};
use super::{Host, HostError, PortSet, step, sysctl, undo};

impl Host {
    /// Makes `ports` the ones that are reserved for this balancer.
    pub(super) fn reserve(
        &mut self,
        state: &StateDir,
        peers: &[Found],
        ports: &PortSet,
    ) -> Result<(), HostError> {
        let present = step::present_reserved()?;
        let ours = self.reserved();
        let shared = undo::reserved_by(peers);
        let foreign = present.without(&shared).without(&ours);
        let added = ports.without(&foreign);
        // On disk stands what may have been added, before and after: undoing takes away no more than is there.
        self.set_reserved_record(&ours.union(&added));
        state.write(&self.id, &self.entry)?;
        let next = foreign.union(&shared).union(&added);
        if next != present {
            sysctl::write(undo::RESERVED_PORTS, &next.to_string())?;
        }
        self.set_reserved_record(&added);
        state.write(&self.id, &self.entry)
    }

    fn reserved(&self) -> PortSet {
        self.entry
            .records
            .iter()
            .find_map(|r| match r {
                Record::ReservedPorts { added } => PortSet::parse(added),
                _ => None,
            })
            .unwrap_or_default()
    }

    fn set_reserved_record(&mut self, ports: &PortSet) {
        let added = ports.to_string();
        match self.entry.records.iter_mut().find(|r| matches!(r, Record::ReservedPorts { .. })) {
            Some(record) => *record = Record::ReservedPorts { added },
            None => self.entry.records.push(Record::ReservedPorts { added }),
        }
    }
}
