//! Links as packets need them: which they may leave by, which are alive, which belong to a VRF.

use std::collections::{HashMap, HashSet};

use crate::hash::MixBuild;
use crate::routes::Target;

/// A link-layer address.
pub type MacAddr = [u8; 6];

/// An interface that packets may leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its link-layer address, the source of what we send.
    pub mac: MacAddr,
    /// Largest IP packet in bytes.
    pub mtu: u32,
}

/// The VRF an interface is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vrf {
    /// Index of the VRF's own device.
    pub ifindex: u32,
    /// The table of its routes.
    pub table: u32,
}

/// What the next hop objects of the kernel lead to, by number; dead ones are left out.
pub type Objects = HashMap<u32, Target>;

/// All links at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    usable: HashMap<u32, Link, MixBuild>,
    /// `None`: all are.
    alive: Option<HashSet<u32, MixBuild>>,
    vrfs: HashMap<u32, Vrf, MixBuild>,
}

impl Links {
    /// `usable` ones that packets may leave by; routes over any are followed.
    pub fn new(usable: impl IntoIterator<Item = Link>) -> Self {
        let usable = usable.into_iter().map(|link| (link.ifindex, link)).collect();
        Self { usable, ..Self::default() }
    }

    /// Routes are followed over those in `alive` only, usable or not; others are passed over, as the kernel does
    /// with a link that is down or has no carrier.
    #[must_use]
    pub fn with_alive(self, alive: impl IntoIterator<Item = u32>) -> Self {
        Self { alive: Some(alive.into_iter().collect()), ..self }
    }

    /// With members of VRFs.
    #[must_use]
    pub fn with_vrfs(self, members: impl IntoIterator<Item = (u32, Vrf)>) -> Self {
        Self { vrfs: members.into_iter().collect(), ..self }
    }

    /// The link, if packets may leave by it.
    pub fn usable(&self, ifindex: u32) -> Option<&Link> {
        self.usable.get(&ifindex)
    }

    /// Those that packets may leave by.
    pub fn all_usable(&self) -> impl Iterator<Item = &Link> {
        self.usable.values()
    }

    /// The VRF that an interface is a member of.
    pub fn vrf(&self, member: u32) -> Option<&Vrf> {
        if self.vrfs.is_empty() { None } else { self.vrfs.get(&member) }
    }

    /// One member of each VRF.
    pub fn vrf_members(&self) -> impl Iterator<Item = u32> {
        let mut seen = HashSet::new();
        self.vrfs.iter().filter(move |(_, vrf)| seen.insert(vrf.ifindex)).map(|(member, _)| *member)
    }

    /// What has to be encapsulated, over interface 0, counts as alive: nothing else may take its packets.
    pub(crate) fn is_alive(&self, ifindex: u32) -> bool {
        ifindex == 0 || self.alive.as_ref().is_none_or(|alive| alive.contains(&ifindex))
    }
}
