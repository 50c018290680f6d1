//! The packet engine's programs: loaded with maps of the sizes asked for, and their maps written.
//!
//! [`Image`] is what the maps hold of a configuration, as plain data. [`Kernel::install`] writes it: servers and
//! tables first, frontends and the directory last, so that no packet finds a frontend whose servers are not there.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_bpf::directory::{Direction, Directory, LINE_BYTES};
use convey_bpf::tables::{Config, Frontend, MAGLEV_BYTES, Server, path6, plain_address, vip6};
use convey_core::nat_ports::{Partition, PortPool};

use crate::XdpError;
use crate::error::reason;

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
    /// Bytes of the ring to user space, a power of two.
    pub ring_bytes: u32,
}

/// A path along which a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The NAT address.
    pub nat: IpAddr,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What the maps hold of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Seed, lifetimes and limits.
    pub config: Config,
    /// By slot.
    pub frontends: Vec<Option<Frontend>>,
    /// By slot.
    pub servers: Vec<Option<Server>>,
    /// By number.
    pub paths: Vec<Path>,
    /// By backend: the server slot of each place of its Maglev table; `None`: nobody can be selected.
    pub tables: Vec<Option<Vec<u16>>>,
}

/// Programs and maps in the kernel.
#[derive(Debug)]
pub struct Kernel {
    /// What was loaded.
    pub ebpf: Ebpf,
    /// Where it runs.
    pub hook: Hook,
}

impl Kernel {
    /// Loads the program of a hook, not attached to anything yet.
    ///
    /// # Errors
    /// [`XdpError::Load`] with the verifier's last words.
    pub fn load(hook: Hook, sizes: &Sizes) -> Result<Self, XdpError> {
        let refused = |e: &dyn std::error::Error| {
            // The verifier tells the whole way; what stopped it comes last.
            let all = reason(e);
            let from = all.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
            XdpError::Load { program: hook.program(), reason: all[from..].to_owned() }
        };
        let Sizes { sets4, sets6, frontends, servers, .. } = *sizes;
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
            .override_global("sets4", &sets4, true)
            .override_global("sets6", &sets6, true)
            .override_global("nat_first", &u32::from(sizes.nat_first), true)
            .override_global("nat_width", &width, true)
            .override_global("nat_groups", &groups, true)
            .override_global("nat_words", &words, true)
            .map_max_entries("flows4", sets4)
            .map_max_entries("spills4", sets4.div_ceil(16))
            .map_max_entries("flows6", sets6)
            .map_max_entries("spills6", sets6.div_ceil(16))
            .map_max_entries("nat_ports", paths.saturating_mul(words))
            .map_max_entries("path_sources", paths)
            .map_max_entries("paths6", paths)
            .map_max_entries("vips6", frontends)
            .map_max_entries("frontends", frontends)
            .map_max_entries("frontend_gauges", frontends)
            .map_max_entries("frontend_traffic", frontends)
            .map_max_entries("servers", servers)
            .map_max_entries("server_gauges", servers)
            .map_max_entries("server_traffic", servers)
            .map_max_entries("tables", sizes.backends.max(1))
            .map_max_entries("slow_path", sizes.ring_bytes)
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
        Ok(Self { ebpf, hook })
    }

    /// Writes an image into maps that were empty.
    ///
    /// # Errors
    /// [`XdpError::Map`]; a slot beyond the sizes asked for, or more addresses than the directory takes.
    pub fn install(&mut self, image: &Image) -> Result<(), XdpError> {
        let error = |map: &'static str, e: &dyn std::error::Error| XdpError::Map { map, reason: reason(e) };
        for (slot, server) in (0..).zip(&image.servers) {
            if let Some(server) = server {
                self.array::<[u8; Server::BYTES]>("servers")?
                    .set(slot, server.to_bytes(), 0)
                    .map_err(|e| error("servers", &e))?;
            }
        }
        for (backend, slots) in (0..).zip(&image.tables) {
            self.install_table(backend, slots.as_deref())?;
        }
        for (number, path) in (0..).zip(&image.paths) {
            self.array::<[u8; 16]>("path_sources")?
                .set(number, plain_address(path.nat), 0)
                .map_err(|e| error("path_sources", &e))?;
        }
        for (slot, frontend) in (0..).zip(&image.frontends) {
            if let Some(frontend) = frontend {
                self.array::<[u8; Frontend::BYTES]>("frontends")?
                    .set(slot, frontend.to_bytes(), 0)
                    .map_err(|e| error("frontends", &e))?;
            }
        }
        let directory = Directory::new(&image.directory(), image.config.directory_seed).ok_or_else(|| {
            XdpError::Map { map: "directory", reason: "more addresses than it takes".into() }
        })?;
        let mut config = image.config.clone();
        config.directory_seed = directory.seed;
        config.any_port = image.frontends.iter().flatten().any(|f| f.listen.port() == 0);
        self.array::<[u8; Config::BYTES]>("config")?
            .set(0, config.to_bytes(), 0)
            .map_err(|e| error("config", &e))?;
        for (vip, slot) in image.vips6() {
            self.hash::<[u8; 20]>("vips6")?.insert(vip, slot, 0).map_err(|e| error("vips6", &e))?;
        }
        for (path, number) in image.paths6() {
            self.hash::<[u8; 36]>("paths6")?.insert(path, number, 0).map_err(|e| error("paths6", &e))?;
        }
        let mut lines = self.array::<[u8; LINE_BYTES]>("directory")?;
        for (i, line) in (0..).zip(&directory.lines).filter(|(_, line)| **line != [0; LINE_BYTES]) {
            lines.set(i, line, 0).map_err(|e| error("directory", &e))?;
        }
        Ok(())
    }

    /// Replaces a backend's Maglev table whole.
    fn install_table(&mut self, backend: u32, slots: Option<&[u16]>) -> Result<(), XdpError> {
        let error = |e: &dyn std::error::Error| XdpError::Map { map: "tables", reason: reason(e) };
        let mut value = [0xff; MAGLEV_BYTES];
        for (to, slot) in value.chunks_exact_mut(2).zip(slots.unwrap_or_default()) {
            to.copy_from_slice(&slot.to_ne_bytes());
        }
        let mut table = Array::<MapData, [u8; MAGLEV_BYTES]>::create(1, 0).map_err(|e| error(&e))?;
        table.set(0, value, 0).map_err(|e| error(&e))?;
        let mut tables: ArrayOfMaps<&mut MapData, Array<MapData, [u8; MAGLEV_BYTES]>> =
            self.map("tables")?.try_into().map_err(|e: aya::maps::MapError| error(&e))?;
        tables.set(backend, &table, 0).map_err(|e| error(&e))
    }

    fn map(&mut self, map: &'static str) -> Result<&mut Map, XdpError> {
        self.ebpf
            .map_mut(map)
            .ok_or_else(|| XdpError::Map { map, reason: "the object has no such map".into() })
    }

    fn array<V: aya::Pod>(&mut self, map: &'static str) -> Result<Array<&mut MapData, V>, XdpError> {
        Array::try_from(self.map(map)?).map_err(|e| XdpError::Map { map, reason: reason(&e) })
    }

    fn hash<K: aya::Pod>(&mut self, map: &'static str) -> Result<HashMap<&mut MapData, K, u32>, XdpError> {
        HashMap::try_from(self.map(map)?).map_err(|e| XdpError::Map { map, reason: reason(&e) })
    }
}

impl Image {
    fn directory(&self) -> Vec<(Direction, u32)> {
        let vips = (0..).zip(&self.frontends).filter_map(|(slot, f)| {
            let f = f.as_ref()?;
            match f.listen.ip() {
                IpAddr::V4(address) => {
                    Some((Direction::Vip { address, port: f.listen.port(), protocol: f.protocol }, slot))
                }
                IpAddr::V6(_) => None,
            }
        });
        let paths = (0..).zip(&self.paths).filter_map(|(number, p)| match (p.nat, p.server) {
            (IpAddr::V4(nat), IpAddr::V4(server)) => {
                Some((Direction::Path { nat, server, port: p.port, protocol: p.protocol }, number))
            }
            _ => None,
        });
        vips.chain(paths).collect()
    }

    fn vips6(&self) -> impl Iterator<Item = ([u8; 20], u32)> + '_ {
        (0..).zip(&self.frontends).filter_map(|(slot, f)| {
            let f = f.as_ref()?;
            Some((vip6(v6(f.listen.ip())?, f.listen.port(), f.protocol), slot))
        })
    }

    fn paths6(&self) -> impl Iterator<Item = ([u8; 36], u32)> + '_ {
        (0..)
            .zip(&self.paths)
            .filter_map(|(number, p)| Some((path6(v6(p.nat)?, v6(p.server)?, p.port, p.protocol), number)))
    }
}

fn v6(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }
}
