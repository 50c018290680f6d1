//! From a snapshot to what the maps hold of it, as plain data.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use convey_bpf::tables::{self, Config, Frontend, Hop, STATES, Server};
use convey_core::selection::Balance;
use convey_engine::{Method, NatPath, NextHops, PacketSnapshot, Path as Way, Refusal, Standing};
use convey_packet::Addr;

use crate::kernel::{Image, Path};

/// Next hops towards clients are not to be remembered by address alone: sources or arrivals matter.
const NOT_REMEMBERED: u32 = u32::MAX;

/// The ways out of this host.
#[derive(Debug, Clone, Copy)]
pub struct Ways<'a> {
    /// As the kernel has them.
    pub next_hops: &'a NextHops,
    /// Interfaces by which the program cannot send.
    pub mute: &'a BTreeSet<u32>,
}

impl<'a> Ways<'a> {
    /// Every interface will do.
    pub const fn new(next_hops: &'a NextHops) -> Self {
        static NONE: BTreeSet<u32> = BTreeSet::new();
        Self { next_hops, mute: &NONE }
    }
}

/// What the maps hold of `snapshot` while packets are sent by `ways`; `generation` is theirs. `paths` are numbered
/// already.
pub fn image(
    snapshot: &PacketSnapshot,
    ways: &Ways<'_>,
    generation: u32,
    paths: &[Option<NatPath>],
    half_open_max: u32,
) -> Image {
    let mut image = Image {
        config: config(snapshot, ways.next_hops, generation, half_open_max),
        paths: paths.iter().map(|path| path.map(path_of)).collect(),
        ..Image::default()
    };
    for (slot, frontend) in snapshot.frontends() {
        let listen = SocketAddr::new(frontend.address.into(), frontend.port);
        let of_map = Frontend {
            listen,
            protocol: frontend.protocol,
            left: frontend.has_left(),
            backend: snapshot.backend_of(frontend) as u16,
            source_prefix: match frontend.balance {
                Balance::SourceHash { ipv6_prefix } => ipv6_prefix,
                _ => 0,
            },
            max_connections: frontend.max_connections,
            access: frontend.access.is_some(),
            nat_sources: frontend.nat_sources.iter().map(|address| IpAddr::from(*address)).collect(),
        };
        put(&mut image.frontends, slot, of_map);
        if let Some(access) = &frontend.access {
            put(&mut image.access, slot, access.clone());
        }
    }
    for (slot, server) in snapshot.servers() {
        let address = SocketAddr::new(server.address.into(), server.port);
        let of_map = Server {
            address,
            method: match server.method {
                Method::Nat => tables::Method::Nat,
                Method::Rewrite => tables::Method::Rewrite,
                Method::L2 => tables::Method::L2,
            },
            standing: match server.standing() {
                Standing::Up => tables::Standing::Up,
                Standing::Draining => tables::Standing::Draining,
                Standing::Down => tables::Standing::Down,
                Standing::Removed => tables::Standing::Removed,
            },
            max_connections: server.max_connections,
            hop: hop_to(address.ip(), ways),
        };
        put(&mut image.servers, slot, of_map);
    }
    image.tables = match snapshot.is_minimal() {
        false => snapshot.tables().map(|table| table.map(|table| table.slots().to_vec())).collect(),
        true => snapshot.places().collect(),
    };
    image
}

/// The next hop towards `to` from anywhere; not known or not that simple: all zeros, so that the packet is handed up.
pub fn hop_to(to: IpAddr, ways: &Ways<'_>) -> Hop {
    if !ways.next_hops.is_by_destination() {
        return Hop::default();
    }
    match ways.next_hops.lookup(&Way::to(to)) {
        Ok(hop) if !ways.mute.contains(&hop.ifindex) => hop_of(&hop),
        _ => Hop::default(),
    }
}

/// The same for the maps.
pub fn hop_of(hop: &convey_engine::NextHop) -> Hop {
    Hop {
        ifindex: hop.ifindex,
        mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX),
        on_link: hop.on_link,
        destination: hop.destination,
        source: hop.source,
    }
}

fn config(snapshot: &PacketSnapshot, next_hops: &NextHops, generation: u32, half_open_max: u32) -> Config {
    let mut lifetimes = [0; STATES];
    for (to, ticks) in lifetimes.iter_mut().zip(snapshot.lifetimes().0) {
        *to = ticks;
    }
    Config {
        seed: snapshot.options().seed,
        // In dsr mode a limit would lock clients out whose connections are not seen to end.
        max_connections: if snapshot.is_passthrough() { snapshot.max_connections() } else { 0 },
        lifetimes,
        half_open_max,
        hop_generation: if next_hops.is_by_destination() { generation } else { NOT_REMEMBERED },
        resets: snapshot.options().refusal == Refusal::Reset,
        ..Config::default()
    }
}

fn path_of(path: NatPath) -> Path {
    Path {
        nat: Addr::from_bits(path.nat).into(),
        server: Addr::from_bits(path.server).into(),
        port: path.port,
        protocol: path.protocol,
    }
}

fn put<T>(slots: &mut Vec<Option<T>>, slot: u16, value: T) {
    let at = usize::from(slot);
    if slots.len() <= at {
        slots.resize_with(at + 1, || None);
    }
    slots[at] = Some(value);
}
