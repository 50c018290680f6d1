//! The program on interfaces.

use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::{Hook, Kernel};
use crate::XdpError;
use crate::error::reason;
use crate::netlink::interface_name;
use crate::pins::PinFolder;

/// What holds the program on an interface. Dropped, it lets go, unless it is pinned.
#[derive(Debug)]
pub(super) enum Link {
    Tc(#[allow(dead_code, reason = "held")] SchedClassifierLink),
    Xdp(#[allow(dead_code, reason = "held")] XdpLink),
    Pinned(#[allow(dead_code, reason = "held")] FdLink, PathBuf),
}

impl Kernel {
    /// Has the program take the packets that arrive on this interface. Where a killed process has left a link to the
    /// interface in the folder of ours, the program takes the place of that one's between two packets.
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
        let pin = self.pins.as_ref().map(|folder| folder.link(self.hook, ifindex));
        if let Some(at) = &pin
            && let Ok(left) = PinnedLink::from_pin(at)
        {
            if let Ok(link) = self.replace(left.into()) {
                self.links.insert(ifindex, Link::Pinned(link, at.clone()));
                return Ok(());
            }
            // The interface it was on is gone, and another has its number.
            std::fs::remove_file(at).map_err(|e| refused(e.to_string()))?;
        }
        let link = match self.take_former(ifindex) {
            Some(link) => link,
            None => self.attach_anew(&interface).map_err(|e| refused(reason(&e)))?,
        };
        let link = match pin {
            None => link,
            Some(at) => pinned(link, at).map_err(|reason| XdpError::Pin {
                program: name,
                interface: interface.clone(),
                reason,
            })?,
        };
        self.links.insert(ifindex, link);
        Ok(())
    }

    /// Where an interface has room for one program alone, that of a killed process in one of these folders makes way.
    pub fn replaces(&mut self, former: Vec<PathBuf>) {
        self.former = former;
    }

    fn take_former(&mut self, ifindex: u32) -> Option<Link> {
        if self.hook != Hook::Xdp || self.pins.is_none() {
            return None;
        }
        let name = PinFolder::link_name(self.hook, ifindex);
        let paths: Vec<PathBuf> = self.former.iter().map(|folder| folder.join(&name)).collect();
        let link = paths.iter().find_map(|at| PinnedLink::from_pin(at).ok())?;
        self.replace(link.into()).ok()?.try_into().ok().map(Link::Xdp)
    }

    fn attach_anew(&mut self, interface: &str) -> Result<Link, ProgramError> {
        let missing = || ProgramError::NotLoaded;
        let program = self.ebpf.program_mut(self.hook.program()).ok_or_else(missing)?;
        Ok(match self.hook {
            // In front of other programs: what they do with a packet must not depend on ours.
            Hook::Tc => {
                let program = <&mut SchedClassifier>::try_from(program)?;
                let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                let id = program.attach_with_options(interface, TcAttachType::Ingress, first)?;
                Link::Tc(program.take_link(id)?)
            }
            Hook::Xdp => {
                let program = <&mut Xdp>::try_from(program)?;
                let id = program.attach(interface, XdpMode::Driver)?;
                Link::Xdp(program.take_link(id)?)
            }
        })
    }

    /// The link goes to this program from the next packet on.
    fn replace(&mut self, link: FdLink) -> Result<FdLink, Box<dyn std::error::Error>> {
        let program = self.ebpf.program_mut(self.hook.program()).ok_or(ProgramError::NotLoaded)?;
        Ok(match self.hook {
            Hook::Tc => {
                let program = <&mut SchedClassifier>::try_from(program)?;
                let id = program.attach_to_link(link.try_into()?)?;
                program.take_link(id)?.try_into()?
            }
            Hook::Xdp => {
                let program = <&mut Xdp>::try_from(program)?;
                let id = program.attach_to_link(link.try_into()?)?;
                program.take_link(id)?.try_into()?
            }
        })
    }

    /// Leaves an interface.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(Link::Pinned(_, at)) = self.links.remove(&ifindex) {
            // Whoever takes the folder away tries again.
            let _ = std::fs::remove_file(at);
        }
    }

    /// Takes away links in the folder that are none of ours: of interfaces that are not handled any more, or of another
    /// hook.
    pub fn detach_strays(&self) {
        let Some(folder) = &self.pins else { return };
        for (hook, ifindex, at) in folder.links() {
            if hook != self.hook.name() || !self.links.contains_key(&ifindex) {
                let _ = std::fs::remove_file(at);
            }
        }
    }

    /// The interfaces it is on, by index.
    pub fn interfaces(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }
}

fn pinned(link: Link, at: PathBuf) -> Result<Link, String> {
    let link: FdLink = match link {
        Link::Tc(link) => link.try_into().map_err(|e| reason(&e))?,
        Link::Xdp(link) => link.try_into().map_err(|e| reason(&e))?,
        Link::Pinned(link, _) => link,
    };
    let link = link.pin(&at).map_err(|e| reason(&e))?;
    Ok(Link::Pinned(link.into(), at))
}
