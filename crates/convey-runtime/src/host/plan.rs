//! What a balancer needs of the host, and every change that follows from it.

use std::path::PathBuf;

use convey_xdp::{GuardMethod, GuardRules};

use super::{HostError, PortSet, Step};

/// What a balancer in a packet mode handles, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The interfaces whose frames it handles; may be empty until [`super::Host::set_interfaces`].
    pub interfaces: Vec<String>,
    /// What it handles: frontends (`vips`) and, in passthrough mode, servers and NAT ports.
    pub rules: GuardRules,
    /// How the kernel is kept out; `None` chooses.
    pub guard: Option<GuardMethod>,
    /// Where journals are kept: [`super::DEFAULT_STATE_DIR`].
    pub state_dir: PathBuf,
}

impl HostSpec {
    pub(super) fn nat_ports(&self) -> PortSet {
        self.rules.nat.iter().map(|range| range.ports.clone()).collect()
    }

    /// Every change of the host that this asks for, in order; `id` names what has a name.
    pub fn plan(&self, id: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let ports = self.nat_ports();
        if !ports.is_empty() {
            steps.push(Step::ReservePorts(ports));
        }
        steps.extend(self.interfaces.iter().map(|i| Step::DisableLro { interface: i.clone() }));
        if !self.interfaces.is_empty() {
            steps.push(self.guard_step(id));
        }
        steps
    }

    pub(super) fn guard_step(&self, id: &str) -> Step {
        Step::Guard {
            id: id.to_owned(),
            interfaces: self.interfaces.clone(),
            rules: self.rules.clone(),
            method: self.guard,
        }
    }
}

/// Every step in a form one could type, that of the guard only if there is to be one; nothing is changed.
///
/// # Errors
/// [`HostError`] when the present state cannot be read.
pub fn dry_run(spec: &HostSpec, is_guarded: bool) -> Result<Vec<String>, HostError> {
    let mut lines = Vec::new();
    let is_wanted = |step: &Step| is_guarded || !matches!(step, Step::Guard { .. });
    for step in spec.plan("dry_run").into_iter().filter(is_wanted) {
        lines.extend(step.describe()?);
    }
    Ok(lines)
}
