//! `af_xdp.c` at work: which frames it hands over, and to which sockets.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_engine::XdpMode;

use crate::error::reason;
use crate::interface::flags;
use crate::ours::{MOST_ADDRESSES, Ours, map_error, missing};
use crate::rules::Entries;
use crate::{GuardRules, XdpError};

const PROGRAM: &str = "convey_af_xdp";

/// Sockets there can be; `sockets` in the source.
const MOST_SOCKETS: u32 = 4096;

/// The loaded program and where it is attached.
#[derive(Debug)]
pub struct Program {
    ebpf: Ebpf,
    ours: Ours,
    addresses: HashSet<[u8; 16]>,
    links: HashMap<u32, XdpLinkId>,
    /// First socket and number of sockets of the interfaces that have some.
    ports: HashMap<u32, (u32, u32)>,
}

impl Program {
    /// Loads it, to hand over what `rules` name.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn load(rules: &GuardRules) -> Result<Self, XdpError> {
        let refused = |e: &(dyn std::error::Error + 'static)| XdpError::load(PROGRAM, e);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("vips", MOST_ADDRESSES)
            .map_max_entries("nat", MOST_ADDRESSES)
            .load(convey_bpf::af_xdp())
            .map_err(|e| refused(&e))?;
        xdp(&mut ebpf)?.load().map_err(|e| refused(&e))?;
        let (links, ports) = (HashMap::new(), HashMap::new());
        let mut program = Self { ebpf, ours: Ours::default(), addresses: HashSet::new(), links, ports };
        program.add(rules)?;
        Ok(program)
    }

    /// Hands over what `rules` name, too.
    ///
    /// # Errors
    /// [`XdpError`]; what was handed over before still is.
    pub fn add(&mut self, rules: &GuardRules) -> Result<(), XdpError> {
        let entries = Entries::of(rules)?;
        for address in addresses(&entries) {
            if !self.addresses.contains(&address) {
                let mut map = self.address_map()?;
                map.insert(address, 1, 0).map_err(|e| map_error("addresses", &e))?;
                self.addresses.insert(address);
            }
        }
        self.ours.add(&mut self.ebpf, &entries)
    }

    /// Hands over nothing but what `rules` name.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn remove_stale(&mut self, rules: &GuardRules) -> Result<(), XdpError> {
        let entries = Entries::of(rules)?;
        self.ours.remove_stale(&mut self.ebpf, &entries)?;
        let wanted = addresses(&entries);
        let gone: Vec<[u8; 16]> = self.addresses.difference(&wanted).copied().collect();
        for address in gone {
            let mut map = self.address_map()?;
            map.remove(&address).map_err(|e| map_error("addresses", &e))?;
            self.addresses.remove(&address);
        }
        Ok(())
    }

    /// Attaches it by a link that goes with this process. It passes everything until
    /// [`Program::connect`].
    ///
    /// # Errors
    /// What aya says; the errno is among its causes.
    pub fn attach(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), ProgramError> {
        let program: &mut Xdp = self.ebpf.program_mut(PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let link = program.attach_to_if_index(ifindex, flags(mode))?;
        self.links.insert(ifindex, link);
        Ok(())
    }

    /// Hands frames of this interface, sent to this MAC address, to these sockets, one for each queue.
    ///
    /// # Errors
    /// [`XdpError`]; nothing is handed over.
    pub fn connect(&mut self, ifindex: u32, mac: [u8; 6], sockets: &[Arc<OwnedFd>]) -> Result<(), XdpError> {
        let queues = sockets.len() as u32;
        let first = self.room_for(queues).ok_or_else(|| XdpError::Map {
            map: "sockets",
            reason: format!("there are more than {MOST_SOCKETS} queues"),
        })?;
        for (at, socket) in (first..).zip(sockets) {
            self.sockets()?.set(at, socket.clone(), 0).map_err(|e| map_error("sockets", &e))?;
        }
        self.ports.insert(ifindex, (first, queues));
        self.readdress(ifindex, mac)
    }

    /// The interface has this MAC address from now on.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn readdress(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<(), XdpError> {
        let Some(&(first, queues)) = self.ports.get(&ifindex) else { return Ok(()) };
        let port = convey_bpf::port(first, queues, mac);
        self.port_map()?.insert(ifindex, port, 0).map_err(|e| map_error("ports", &e))
    }

    /// Lets go of an interface, of which there may be nothing left.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some((first, queues)) = self.ports.remove(&ifindex) {
            // A socket that was closed has left the map by itself.
            let _ = self.port_map().map(|mut map| map.remove(&ifindex));
            for at in first..first + queues {
                let _ = self.sockets().map(|mut map| map.unset(at));
            }
        }
        if let Some(link) = self.links.remove(&ifindex)
            && let Ok(program) = xdp(&mut self.ebpf)
        {
            // Fails only when the interface, and the link with it, is gone already.
            let _ = program.detach(link);
        }
    }

    /// Frames for which there was no socket, since it was loaded.
    pub fn unserved(&self) -> u64 {
        let counter =
            self.ebpf.map("unserved").and_then(|map| PerCpuArray::<&MapData, u64>::try_from(map).ok());
        let per_cpu = counter.and_then(|counter| counter.get(&0, 0).ok());
        per_cpu.map_or(0, |per_cpu| per_cpu.iter().sum())
    }

    /// The first of so many numbers that no interface has.
    fn room_for(&self, queues: u32) -> Option<u32> {
        let mut taken: Vec<(u32, u32)> = self.ports.values().copied().collect();
        taken.sort_unstable();
        let mut first = 0;
        for (begin, len) in taken {
            if begin - first >= queues {
                break;
            }
            first = begin + len;
        }
        (first + queues <= MOST_SOCKETS).then_some(first)
    }

    fn sockets(&mut self) -> Result<XskMap<&mut MapData>, XdpError> {
        let map = self.ebpf.map_mut("sockets").ok_or_else(|| missing("sockets"))?;
        XskMap::try_from(map).map_err(|e| map_error("sockets", &e))
    }

    fn port_map(&mut self) -> Result<BpfHashMap<&mut MapData, u32, [u8; 16]>, XdpError> {
        let map = self.ebpf.map_mut("ports").ok_or_else(|| missing("ports"))?;
        BpfHashMap::try_from(map).map_err(|e| map_error("ports", &e))
    }

    fn address_map(&mut self) -> Result<BpfHashMap<&mut MapData, [u8; 16], u32>, XdpError> {
        let map = self.ebpf.map_mut("addresses").ok_or_else(|| missing("addresses"))?;
        BpfHashMap::try_from(map).map_err(|e| map_error("addresses", &e))
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    let refused = |reason: String| XdpError::object(PROGRAM, reason);
    let program =
        ebpf.program_mut(PROGRAM).ok_or_else(|| refused("the object has no such program".into()))?;
    program.try_into().map_err(|e| refused(reason(&e)))
}

/// Local addresses: of frontends, and those that servers answer to.
fn addresses(entries: &Entries) -> HashSet<[u8; 16]> {
    let keys = entries.vips.iter().chain(entries.nat.keys());
    keys.filter_map(|key| key.first_chunk().copied()).collect()
}
