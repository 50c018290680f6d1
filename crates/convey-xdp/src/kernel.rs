//! The packet engine's programs: loaded with maps of the sizes asked for, and their maps written.
//!
//! [`Image`] is what the maps hold of a configuration, as plain data. [`Kernel::install`] writes how it differs from the
//! one before: what is named before what names it, so that no packet finds a frontend whose servers are not there.

mod attach;
mod csum_probe;
mod image;
mod install;
mod writes;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_bpf::tables::USE_LINES;
use convey_core::conntrack::Memory;
use convey_core::nat_ports::{Partition, PortPool};

use crate::XdpError;
use crate::error::reason;
use crate::mapped::MapMemory;

use attach::Link;
pub use image::{Image, Path};
use install::Written;

/// Where the programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// TCX ingress.
    Tc,
    /// XDP.
    Xdp,
}

impl Hook {
    /// Name of the program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Tc => "convey_tc",
            Self::Xdp => "convey_xdp",
        }
    }

    fn object(self) -> &'static [u8] {
        match self {
            Self::Tc => convey_bpf::tc(),
            Self::Xdp => convey_bpf::xdp(),
        }
    }
}

/// Sizes that are fixed while the programs are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Passthrough rather than DSR.
    pub passthrough: bool,
    /// DSR that remembers those flows alone that the table would send elsewhere.
    pub minimal: bool,
    /// Sets of four IPv4 flows, a multiple of 16.
    pub sets4: u32,
    /// Sets of two IPv6 flows, a multiple of 16.
    pub sets6: u32,
    /// Lowest NAT port.
    pub nat_first: u16,
    /// NAT ports of a path.
    pub nat_width: u32,
    /// Paths: NAT addresses times servers and protocols.
    pub paths: u32,
    /// Slots of frontends.
    pub frontends: u32,
    /// Slots of servers.
    pub servers: u32,
    /// Backends.
    pub backends: u32,
    /// Bytes of the ring to user space, a power of two; at least 16,384 are taken.
    pub ring_bytes: u32,
}

impl Sizes {
    /// Whether the programs can count to them; else which is the wrong one.
    fn check(&self) -> Result<(), String> {
        // A flow's id has 29 bits for its entry's index; spills are counted by sixteen sets.
        for (name, sets, ways) in [("IPv4", self.sets4, 4), ("IPv6", self.sets6, 2)] {
            let most = (1 << 29) / ways;
            if sets == 0 || sets > most || sets % 16 != 0 {
                return Err(format!(
                    "a table of {sets} sets of {name} flows; it may have up to {most}, a multiple of 16"
                ));
            }
        }
        let counts = [
            ("frontends", self.frontends, 1 << 16),
            // The highest number stands for none.
            ("servers", self.servers, u32::from(u16::MAX)),
            ("paths", self.paths, 1 << 16),
            ("backends", self.backends, 1 << 16),
        ];
        for (name, count, most) in counts {
            if count > most {
                return Err(format!("{count} {name}; there may be up to {most}"));
            }
        }
        let words = u64::from(self.nat_width) + u64::from(self.nat_width).div_ceil(32) + 3;
        if words * u64::from(self.paths) > u64::from(u32::MAX) {
            return Err(format!(
                "{} paths of {} NAT ports each, which are too many",
                self.paths, self.nat_width
            ));
        }
        Ok(())
    }
}

/// A ring with room for a long record.
const RING_MIN: u32 = 1 << 14;

/// Programs and maps in the kernel.
#[derive(Debug)]
pub struct Kernel {
    /// What was loaded.
    pub ebpf: Ebpf,
    /// Where it runs.
    pub hook: Hook,
    /// `struct config`, by words.
    config: Memory<AtomicU64>,
    nat_ports: MapMemory,
    partition: Partition,
    minimal: bool,
    written: Written,
    /// By interface.
    links: BTreeMap<u32, Link>,
}

impl Kernel {
    /// Loads the program of a hook, not attached to anything yet.
    ///
    /// # Errors
    /// [`XdpError::Load`] with the verifier's last words, or with the size that the programs cannot count to.
    pub fn load(hook: Hook, sizes: &Sizes) -> Result<Self, XdpError> {
        Self::load_for(hook, sizes, true)
    }

    /// As [`Kernel::load`], for frames of any address: a test run has no interface whose they could be.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_for_test_runs(hook: Hook, sizes: &Sizes) -> Result<Self, XdpError> {
        Self::load_for(hook, sizes, false)
    }

    fn load_for(hook: Hook, sizes: &Sizes, own_frames_only: bool) -> Result<Self, XdpError> {
        let refused = |e: &dyn std::error::Error| {
            // The verifier tells the whole way; what stopped it comes last.
            let all = reason(e);
            let from = all.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
            XdpError::Load { program: hook.program(), reason: all[from..].to_owned() }
        };
        sizes.check().map_err(|reason| XdpError::Load { program: hook.program(), reason })?;
        let Sizes { sets4, sets6, frontends, servers, minimal, .. } = *sizes;
        let backends = sizes.backends.max(1);
        let use_lines = if minimal { USE_LINES } else { 1 };
        let width = sizes.nat_width.clamp(1, 65_536 - u32::from(sizes.nat_first));
        let paths = sizes.paths.max(1);
        let ports = Partition {
            first: sizes.nat_first,
            last: (u32::from(sizes.nat_first) + width - 1) as u16,
            stride: 1,
            remainder: 0,
        };
        let groups = width.div_ceil(32);
        let words = PortPool::words(ports) as u32;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("passthrough", &u32::from(sizes.passthrough), true)
            .override_global("own_frames_only", &u32::from(own_frames_only), true)
            .override_global("minimal", &u32::from(minimal), true)
            .override_global("sets4", &sets4, true)
            .override_global("sets6", &sets6, true)
            .override_global("nat_first", &u32::from(sizes.nat_first), true)
            .override_global("nat_width", &width, true)
            .override_global("nat_groups", &groups, true)
            .override_global("nat_words", &words, true)
            .override_global("csum_ipv6", &u32::from(csum_probe::takes_csum_ipv6()), hook == Hook::Tc)
            .map_max_entries("flows4", sets4)
            .map_max_entries("spills4", sets4.div_ceil(16))
            .map_max_entries("flows6", sets6)
            .map_max_entries("spills6", sets6.div_ceil(16))
            .map_max_entries("nat_ports", paths.saturating_mul(words))
            .map_max_entries("path_sources", paths)
            .map_max_entries("paths6", paths)
            .map_max_entries("vips6", frontends)
            .map_max_entries("former_vips", frontends)
            .map_max_entries("addresses", frontends.saturating_add(paths))
            .map_max_entries("frontends", frontends)
            .map_max_entries("frontend_gauges", frontends)
            .map_max_entries("frontend_traffic", frontends)
            .map_max_entries("refusals", frontends)
            .map_max_entries("servers", servers)
            .map_max_entries("server_gauges", servers)
            .map_max_entries("server_traffic", servers)
            .map_max_entries("tables", if minimal { 1 } else { backends })
            .map_max_entries("places", if minimal { backends } else { 1 })
            .map_max_entries("slot_uses", use_lines)
            .map_max_entries("slow_path", sizes.ring_bytes.max(RING_MIN))
            .load(hook.object())
            .map_err(|e| refused(&e))?;
        let program = ebpf.program_mut(hook.program()).ok_or_else(|| XdpError::Load {
            program: hook.program(),
            reason: "the object has no such program".into(),
        })?;
        let loaded = match hook {
            Hook::Tc => <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load),
            Hook::Xdp => <&mut Xdp>::try_from(program).and_then(Xdp::load),
        };
        loaded.map_err(|e| refused(&e))?;
        let config = memory_of(&ebpf, "config")?.words64();
        let nat_ports = memory_of(&ebpf, "nat_ports")?;
        Ok(Self {
            ebpf,
            hook,
            config,
            nat_ports,
            partition: ports,
            minimal,
            written: Written::default(),
            links: BTreeMap::new(),
        })
    }

    /// Tells the program the address of an interface, whose frames it takes. At tc the kernel has told already.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_address(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<(), XdpError> {
        if self.hook == Hook::Tc {
            return Ok(());
        }
        let (at, value) = convey_bpf::tables::link(ifindex, mac);
        self.set("links", at, value)
    }

    /// An array as memory of this process.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn memory(&self, map: &'static str) -> Result<MapMemory, XdpError> {
        memory_of(&self.ebpf, map)
    }
}

fn memory_of(ebpf: &Ebpf, map: &'static str) -> Result<MapMemory, XdpError> {
    let found =
        ebpf.map(map).ok_or_else(|| XdpError::Map { map, reason: "the object has no such map".into() })?;
    MapMemory::new(found).map_err(|e| XdpError::Map { map, reason: format!("it cannot be mapped: {e}") })
}
