//! The program on interfaces.

use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp};
use convey_engine::XdpMode;

use super::{Hook, Kernel};
use crate::XdpError;
use crate::error::reason;
use crate::filter;
use crate::interface::{flags, refusal};
use crate::netlink::{self, interface_name};
use crate::pins::PinFolder;

/// What holds the program on an interface. Dropped, it lets go, unless it is pinned.
#[derive(Debug)]
pub(super) enum Link {
    /// At clsact, by this handle: the filter stays when the process is killed.
    Filter(u32),
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
    pub fn attach(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), XdpError> {
        if self.links.contains_key(&ifindex) {
            return Ok(());
        }
        let interface = interface_name(ifindex)?;
        let name = self.hook.program();
        let refused =
            |reason, source| XdpError::Attach { program: name, interface: interface.clone(), reason, source };
        let pin = self.pins.as_ref().map(|folder| folder.link(self.hook, ifindex));
        if let Some(at) = &pin
            && let Ok(left) = PinnedLink::from_pin(at)
        {
            if let Ok(link) = self.replace(left.into()) {
                self.links.insert(ifindex, Link::Pinned(link, at.clone()));
                return Ok(());
            }
            // The interface it was on is gone, and another has its number.
            std::fs::remove_file(at).map_err(|e| refused(e.to_string(), None))?;
        }
        let link = match self.take_former(ifindex) {
            Some(link) => link,
            None => self
                .attach_anew(&interface, ifindex, mode)
                .map_err(|e| refused(reason(&e), Some(Box::new(e))))?,
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

    fn attach_anew(&mut self, interface: &str, ifindex: u32, mode: XdpMode) -> Result<Link, ProgramError> {
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
                let id = program.attach_to_if_index(ifindex, flags(mode))?;
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

    /// Whether a link that another process of ours has left may be on this interface.
    pub fn has_pin(&self, ifindex: u32) -> bool {
        let name = PinFolder::link_name(self.hook, ifindex);
        let of_former = self.former.iter().any(|folder| folder.join(&name).exists());
        of_former || self.pins.as_ref().is_some_and(|folder| folder.link(self.hook, ifindex).exists())
    }

    /// Has the program take the packets that arrive on this interface, which has a clsact qdisc: by a filter with this
    /// handle, for kernels without TCX (before Linux 6.6). It stays when this process is killed, until
    /// [`remove_filter`].
    ///
    /// # Errors
    /// [`XdpError::Attach`].
    pub fn attach_filter(&mut self, ifindex: u32, handle: u32) -> Result<(), XdpError> {
        if self.links.contains_key(&ifindex) {
            return Ok(());
        }
        let name = Hook::Tc.program();
        let program =
            self.ebpf.program_mut(name).ok_or_else(|| XdpError::object(name, "the object lacks it"))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|e| XdpError::load(name, &e))?;
        filter::attach(program, name, ifindex, netlink::Hook::Ingress, handle)?;
        self.links.insert(ifindex, Link::Filter(handle));
        Ok(())
    }

    /// Leaves an interface.
    pub fn detach(&mut self, ifindex: u32) {
        match self.links.remove(&ifindex) {
            Some(Link::Filter(handle)) => {
                let _ = remove_filter(ifindex, handle);
            }
            Some(Link::Pinned(_, at)) => {
                // Whoever takes the folder away tries again.
                let _ = std::fs::remove_file(at);
            }
            _ => (),
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
        Link::Filter(_) => return Err("a filter is no link".into()),
    };
    let link = link.pin(&at).map_err(|e| reason(&e))?;
    Ok(Link::Pinned(link.into(), at))
}

impl Drop for Kernel {
    /// A filter does not go by itself.
    fn drop(&mut self) {
        for (&ifindex, link) in &self.links {
            if let Link::Filter(handle) = link {
                let _ = remove_filter(ifindex, *handle);
            }
        }
    }
}

/// Takes away what [`Kernel::attach_filter`] left on an interface. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn remove_filter(ifindex: u32, handle: u32) -> Result<bool, XdpError> {
    filter::detach(ifindex, netlink::Hook::Ingress, handle, Hook::Tc.program())
}

/// Whether a kernel that answers so to a link at TCX has none.
pub fn lacks_tcx(error: &XdpError) -> bool {
    use rustix::io::Errno;
    let XdpError::Attach { source: Some(source), .. } = error else { return false };
    matches!(refusal::errno(&**source), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use aya::programs::ProgramError;

    use super::*;

    #[test]
    fn a_kernel_without_tcx_is_told_from_one_that_refuses_this_program() {
        let answer = |errno| XdpError::Attach {
            program: "convey_tc",
            interface: "eth0".into(),
            reason: String::new(),
            source: Some(Box::new(ProgramError::IOError(std::io::Error::from_raw_os_error(errno)))),
        };
        // EINVAL, EOPNOTSUPP; EPERM, EBUSY, ENODEV.
        let lacks = [22, 95, 1, 16, 19].map(|errno| lacks_tcx(&answer(errno)));
        assert_eq!(lacks, [true, true, false, false, false]);
    }
}
