//! What the maps hold of a configuration, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use convey_bpf::directory::Direction;
use convey_bpf::tables::{Config, FORMER_MAX, Frontend, Server, former_vip, path6, plain_address, vip6};
use convey_core::AccessList;
use serde::{Deserialize, Serialize};

/// A path along which a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
///
/// Flows name slots and paths by number: whoever makes a later image keeps the numbers, and gives one to another only
/// when no flow names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Seed, lifetimes and limits.
    pub config: Config,
    /// By slot.
    pub frontends: Vec<Option<Frontend>>,
    /// By slot.
    pub servers: Vec<Option<Server>>,
    /// By number.
    pub paths: Vec<Option<Path>>,
    /// By backend: the server slot of each place of its Maglev table; `None`: nobody can be selected. With minimal
    /// tracking two for each: server and previous server, 0xffff: none, or the slot has settled.
    pub tables: Vec<Option<Vec<u16>>>,
    /// By slot of a frontend that has them: its lists of networks.
    pub access: Vec<Option<Arc<AccessList>>>,
}

/// The values of all maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    /// All but the directory's seed, which is chosen when the directory is written.
    pub(super) config: Config,
    pub(super) servers: BTreeMap<u32, [u8; Server::BYTES]>,
    pub(super) frontends: BTreeMap<u32, [u8; Frontend::BYTES]>,
    pub(super) path_sources: BTreeMap<u32, [u8; 16]>,
    /// NAT ports on which a frontend listens, by path.
    pub(super) reserved: BTreeSet<(u32, u16)>,
    /// Absent: nobody can be selected.
    pub(super) tables: BTreeMap<u32, Arc<[u16]>>,
    /// By frontend that has lists of networks; `None`: written by another process.
    pub(super) access: BTreeMap<u32, Option<Arc<AccessList>>>,
    pub(super) directory: BTreeMap<Direction, u32>,
    pub(super) vips6: BTreeMap<[u8; 20], u32>,
    /// VIPs and NAT addresses; the value says nothing.
    pub(super) addresses: BTreeMap<[u8; 16], u32>,
    pub(super) former_vips: BTreeMap<[u8; 20], u32>,
    pub(super) paths6: BTreeMap<[u8; 36], u32>,
}

impl Contents {
    pub(super) fn of(image: &Image) -> Self {
        let vips = vips(image);
        let paths = || by_number(&image.paths);
        let tables = by_number(&image.tables);
        Self {
            config: Config {
                any_port: vips.keys().any(|(listen, _)| listen.port() == 0),
                former: image.frontends.iter().flatten().any(|f| f.left),
                directory_seed: 0,
                ..image.config.clone()
            },
            servers: by_number(&image.servers).map(|(slot, s)| (slot, s.to_bytes())).collect(),
            frontends: by_number(&image.frontends).map(|(slot, f)| (slot, f.to_bytes())).collect(),
            path_sources: paths().map(|(number, p)| (number, plain_address(p.nat))).collect(),
            reserved: reserved(image),
            access: by_number(&image.access).map(|(slot, list)| (slot, Some(list.clone()))).collect(),
            tables: tables.map(|(backend, slots)| (backend, slots.as_slice().into())).collect(),
            directory: vips4(&vips).chain(paths4(image)).collect(),
            vips6: vips
                .iter()
                .filter_map(|((at, protocol), slot)| Some((vip6(v6(at.ip())?, at.port(), *protocol), *slot)))
                .collect(),
            former_vips: former_vips(image),
            addresses: vips
                .keys()
                .map(|(at, _)| at.ip())
                .chain(paths().map(|(_, path)| path.nat))
                .map(|ip| (plain_address(ip), 1))
                .collect(),
            paths6: paths()
                .filter_map(|(n, p)| Some((path6(v6(p.nat)?, v6(p.server)?, p.port, p.protocol), n)))
                .collect(),
        }
    }
}

fn by_number<T>(items: &[Option<T>]) -> impl Iterator<Item = (u32, &T)> {
    (0..).zip(items).filter_map(|(number, item)| Some((number, item.as_ref()?)))
}

/// By address and protocol, the slot of the frontend that listens there; where none does, of the first that did.
fn vips(image: &Image) -> BTreeMap<(SocketAddr, u8), u32> {
    let (left, there): (Vec<_>, Vec<_>) = by_number(&image.frontends).partition(|(_, f)| f.left);
    let mut vips: BTreeMap<_, _> =
        there.into_iter().map(|(slot, f)| ((f.listen, f.protocol), slot)).collect();
    for (slot, f) in left {
        let every_port = SocketAddr::new(f.listen.ip(), 0);
        let is_covered = by_number(&image.frontends)
            .any(|(_, other)| !other.left && (other.listen, other.protocol) == (every_port, f.protocol));
        if !is_covered {
            vips.entry((f.listen, f.protocol)).or_insert(slot);
        }
    }
    vips
}

/// Those that have left, numbered by address and protocol; no more than the programs look for.
fn former_vips(image: &Image) -> BTreeMap<[u8; 20], u32> {
    let mut numbers = BTreeMap::new();
    let mut number = |f: &Frontend| {
        let number = numbers.entry((f.listen, f.protocol)).or_insert(0);
        *number += 1;
        u8::try_from(*number - 1).ok().filter(|n| usize::from(*n) < FORMER_MAX)
    };
    by_number(&image.frontends)
        .filter(|(_, f)| f.left)
        .filter_map(|(slot, f)| Some((former_vip(f.listen, f.protocol, number(f)?), slot)))
        .collect()
}

fn reserved(image: &Image) -> BTreeSet<(u32, u16)> {
    let mut ports: BTreeMap<(IpAddr, u8), BTreeSet<u16>> = BTreeMap::new();
    for f in image.frontends.iter().flatten() {
        ports.entry((f.listen.ip(), f.protocol)).or_default().insert(f.listen.port());
    }
    by_number(&image.paths)
        .flat_map(|(number, path)| {
            let listening = ports.get(&(path.nat, path.protocol)).into_iter().flatten();
            listening.map(move |port| (number, *port))
        })
        .collect()
}

fn vips4(vips: &BTreeMap<(SocketAddr, u8), u32>) -> impl Iterator<Item = (Direction, u32)> + '_ {
    vips.iter().filter_map(|((at, protocol), slot)| match at.ip() {
        IpAddr::V4(address) => {
            Some((Direction::Vip { address, port: at.port(), protocol: *protocol }, *slot))
        }
        IpAddr::V6(_) => None,
    })
}

fn paths4(image: &Image) -> impl Iterator<Item = (Direction, u32)> + '_ {
    by_number(&image.paths).filter_map(|(number, p)| match (p.nat, p.server) {
        (IpAddr::V4(nat), IpAddr::V4(server)) => {
            Some((Direction::Path { nat, server, port: p.port, protocol: p.protocol }, number))
        }
        _ => None,
    })
}

fn v6(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }
}
