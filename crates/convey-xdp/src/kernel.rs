//! The packet engine's programs: loaded with maps of the sizes asked for, and their maps written.
//!
//! [`Image`] is what the maps hold of a configuration, as plain data. [`Kernel::install`] writes how it differs from the
//! one before: what is named before what names it, so that no packet finds a frontend whose servers are not there.

mod attach;
mod csum_probe;
mod image;
mod install;
mod maps;
mod record;
mod tcx_query;
mod writes;
mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};

use convey_core::conntrack::Memory;
use convey_core::nat_ports::{Partition, PortPool};
use serde::{Deserialize, Serialize};

use crate::XdpError;
use crate::mapped::MapMemory;
use crate::pins::PinFolder;

use attach::Link;
pub use attach::{lacks_tcx, remove_filter};
pub use csum_probe::takes_csum_ipv6;
pub use image::{Image, Path};
pub use record::{TableRecord, seed_in};
pub use tcx_query::{tcx_programs, try_program};
use written::Written;

/// Where the programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// TCX ingress.
    Tc,
    /// XDP.
    Xdp,
}

impl Hook {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Where maps and links are pinned.
    pins: Option<Arc<PinFolder>>,
    /// Folders of killed processes, whose links may be in the way.
    former: Vec<PathBuf>,
}

/// What maps a program works with.
#[derive(Debug, Clone)]
pub enum Tables {
    /// New ones, gone with this process.
    Own,
    /// New ones, pinned in this folder.
    Pinned(Arc<PinFolder>),
    /// Those in this folder, with what is in them.
    Adopted(Arc<PinFolder>),
}

impl Kernel {
    /// Loads the program of a hook, not attached to anything yet.
    ///
    /// # Errors
    /// [`XdpError::Load`] with the verifier's last words, or with the size that the programs cannot count to.
    pub fn load(hook: Hook, sizes: &Sizes) -> Result<Self, XdpError> {
        Self::load_for(hook, sizes, true, &Tables::Own)
    }

    /// As [`Kernel::load`], for frames of any address: a test run has no interface whose they could be.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_for_test_runs(hook: Hook, sizes: &Sizes) -> Result<Self, XdpError> {
        Self::load_for(hook, sizes, false, &Tables::Own)
    }

    /// As [`Kernel::load`], with maps that outlive this process.
    ///
    /// # Errors
    /// As [`Kernel::load`]; [`XdpError::Map`] when those to be adopted do not suit.
    pub fn load_with(hook: Hook, sizes: &Sizes, tables: &Tables) -> Result<Self, XdpError> {
        Self::load_for(hook, sizes, true, tables)
    }

    fn load_for(hook: Hook, sizes: &Sizes, own_frames_only: bool, tables: &Tables) -> Result<Self, XdpError> {
        let pins = match tables {
            Tables::Own => None,
            Tables::Pinned(folder) | Tables::Adopted(folder) => Some(folder.clone()),
        };
        if let Tables::Adopted(folder) = tables {
            maps::check_pinned(folder, sizes).map_err(XdpError::Adopt)?;
        }
        let refused = |e: &(dyn std::error::Error + 'static)| XdpError::load(hook.program(), e);
        sizes.check().map_err(|reason| XdpError::object(hook.program(), reason))?;
        let Sizes { sets4, sets6, minimal, .. } = *sizes;
        let width = sizes.nat_width.clamp(1, 65_536 - u32::from(sizes.nat_first));
        let groups = width.div_ceil(32);
        let words = PortPool::words(maps::partition(sizes)) as u32;
        let mut loader = EbpfLoader::new();
        let shapes = maps::shapes(sizes);
        for shape in &shapes {
            if shape.entries > 0 {
                loader.map_max_entries(shape.name, shape.entries);
            }
            if let Some(folder) = &pins {
                loader.map_pin_path(shape.name, folder.map(shape.name));
            }
        }
        let mut ebpf = loader
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
            .load(hook.object())
            .map_err(|e| refused(&e))?;
        let program = ebpf
            .program_mut(hook.program())
            .ok_or_else(|| XdpError::object(hook.program(), "the object has no such program"))?;
        let loaded = match hook {
            Hook::Tc => <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load),
            Hook::Xdp => <&mut Xdp>::try_from(program).and_then(Xdp::load),
        };
        loaded.map_err(|e| refused(&e))?;
        let config = memory_of(&ebpf, "config")?.words64();
        let nat_ports = memory_of(&ebpf, "nat_ports")?;
        let written = match tables {
            Tables::Adopted(_) => Written::read(&ebpf, sizes, &nat_ports)?,
            Tables::Own | Tables::Pinned(_) => Written::default(),
        };
        Ok(Self {
            ebpf,
            hook,
            config,
            nat_ports,
            partition: maps::partition(sizes),
            minimal,
            written,
            links: BTreeMap::new(),
            pins,
            former: Vec::new(),
        })
    }

    /// Of the next hops that the maps were written with; 0: of none.
    pub fn hop_generation(&self) -> u32 {
        self.written.hop_generation()
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
