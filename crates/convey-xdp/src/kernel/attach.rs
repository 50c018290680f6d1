//! The program on interfaces.

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::{Hook, Kernel};
use crate::XdpError;
use crate::error::reason;
use crate::netlink::interface_name;

/// What holds the program on an interface.
#[derive(Debug)]
pub(super) enum Link {
    Tc(aya::programs::tc::SchedClassifierLinkId),
    Xdp(aya::programs::xdp::XdpLinkId),
}

impl Kernel {
    /// Has the program take the packets that arrive on this interface.
    ///
    /// # Errors
    /// [`XdpError::Attach`]; another XDP program on the interface stays.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), XdpError> {
        if self.links.contains_key(&ifindex) {
            return Ok(());
        }
        let interface = interface_name(ifindex)?;
        let name = self.hook.program();
        let refused = |reason| XdpError::Attach { program: name, interface: interface.clone(), reason };
        let program = self.ebpf.program_mut(name).ok_or_else(|| refused("the object lacks it".into()))?;
        let link = match self.hook {
            // In front of other programs: what they do with a packet must not depend on ours.
            Hook::Tc => <&mut SchedClassifier>::try_from(program)
                .and_then(|program| {
                    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                    program.attach_with_options(&interface, TcAttachType::Ingress, first)
                })
                .map(Link::Tc),
            Hook::Xdp => <&mut Xdp>::try_from(program)
                .and_then(|program| program.attach(&interface, XdpMode::Driver))
                .map(Link::Xdp),
        };
        let link = link.map_err(|e| refused(reason(&e)))?;
        self.links.insert(ifindex, link);
        Ok(())
    }

    /// Leaves an interface.
    pub fn detach(&mut self, ifindex: u32) {
        let Some(link) = self.links.remove(&ifindex) else { return };
        let Some(program) = self.ebpf.program_mut(self.hook.program()) else { return };
        // Fails only when the interface, and the link with it, is gone already.
        let _ = match link {
            Link::Tc(link) => <&mut SchedClassifier>::try_from(program).and_then(|p| p.detach(link)),
            Link::Xdp(link) => <&mut Xdp>::try_from(program).and_then(|p| p.detach(link)),
        };
    }

    /// The interfaces it is on, by index.
    pub fn interfaces(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }
}
