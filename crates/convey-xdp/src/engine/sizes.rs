//! How large the programs' tables are made, and what does not fit any more.

use std::collections::HashSet;

use convey_engine::{EngineError, EngineErrorKind, NatPath, PacketSnapshot};

use crate::kernel::Sizes;

/// As many frontends, servers and backends as may come by reloads.
const FRONTENDS: u32 = 16_384;
const SERVERS: u32 = 65_535;
const BACKENDS: u32 = 4_096;
/// Paths there is room for at least.
const PATHS: usize = 64;
/// Of the ring to user space.
const RING_BYTES: u32 = 4 << 20;
/// Sets are counted by this many.
const SETS: usize = 16;

/// The sizes for a start with `snapshot`.
pub(super) fn of(snapshot: &PacketSnapshot) -> Result<Sizes, EngineError> {
    let options = snapshot.options();
    let entries = options.capacity.clamp(64, 1 << 27) * 2;
    let sets =
        |ways: usize, entries: usize| entries.div_ceil(ways).next_multiple_of(SETS).max(2 * SETS) as u32;
    // Flows of IPv6 that come with a reload find an eighth of the room.
    let entries_v6 = if snapshot.has_v6() { entries } else { entries / 8 };
    let paths = snapshot.nat_paths().count();
    let sizes = Sizes {
        passthrough: snapshot.is_passthrough(),
        minimal: snapshot.is_minimal(),
        sets4: sets(4, entries),
        sets6: sets(2, entries_v6),
        nat_first: options.nat_ports.first,
        nat_width: u32::from(options.nat_ports.last.saturating_sub(options.nat_ports.first)) + 1,
        paths: if snapshot.is_passthrough() { (2 * paths).clamp(PATHS, 1 << 16) as u32 } else { 1 },
        frontends: FRONTENDS,
        servers: SERVERS,
        backends: BACKENDS,
        ring_bytes: RING_BYTES,
    };
    check(snapshot, &sizes)?;
    Ok(sizes)
}

/// Whether tables of the sizes `is` can be gone on with for `snapshot`. There may be more room for IPv6 flows and for
/// paths than a start would make. `numbered` are the paths that have flows, and some that may have none.
///
/// # Errors
/// Why not, in words.
pub(super) fn check_adopted(
    snapshot: &PacketSnapshot,
    is: &Sizes,
    numbered: &[NatPath],
) -> Result<(), String> {
    let wanted = of(snapshot).map_err(|e| e.to_string())?;
    let differs = |what: &str, is: &dyn std::fmt::Display, wanted: &dyn std::fmt::Display| {
        Err(format!("{what} was {is} and is to be {wanted}"))
    };
    if is.passthrough != wanted.passthrough {
        return Err("it ran in another mode".to_owned());
    }
    if is.sets4 != wanted.sets4 {
        return differs("connection_tracker_capacity (in sets of four flows)", &is.sets4, &wanted.sets4);
    }
    if is.passthrough && (is.nat_first, is.nat_width) != (wanted.nat_first, wanted.nat_width) {
        let range = |sizes: &Sizes| {
            format!("{}-{}", sizes.nat_first, u32::from(sizes.nat_first) + sizes.nat_width.max(1) - 1)
        };
        return differs("the range of NAT ports", &range(is), &range(&wanted));
    }
    let paths: HashSet<NatPath> = snapshot.nat_paths().chain(numbered).copied().collect();
    if paths.len() > is.paths as usize && is.passthrough {
        return Err("it has no room for the ports of that many servers".to_owned());
    }
    let fixed = |s: &Sizes| (s.frontends, s.servers, s.backends, s.ring_bytes);
    if fixed(is) != fixed(&wanted) {
        return Err("it was of a version with other sizes".to_owned());
    }
    Ok(())
}

/// Whether the tables have room for `snapshot`.
pub(super) fn check(snapshot: &PacketSnapshot, sizes: &Sizes) -> Result<(), EngineError> {
    let over = |what: &str, is: usize, limit: u32| {
        let cause = format!("{is} {what} are more than the kernel engines take: {limit}");
        Err(EngineError::new(EngineErrorKind::Unsupported, cause, "use engine \"af_packet\""))
    };
    let frontends = snapshot.frontends().last().map_or(0, |(slot, _)| usize::from(slot) + 1);
    let backends = snapshot.tables().count();
    if frontends > sizes.frontends as usize {
        return over("frontends", frontends, sizes.frontends);
    }
    if backends > sizes.backends as usize {
        return over("backends", backends, sizes.backends);
    }
    Ok(())
}

/// There is no room for the ports of further servers.
pub(super) fn too_many_paths(snapshot: &PacketSnapshot, sizes: &Sizes) -> EngineError {
    let cause = format!(
        "{} pairs of a NAT address and a server are more than there is room for: {}",
        snapshot.nat_paths().count(),
        sizes.paths
    );
    let remedy = "start anew: the room is twice what the configuration needs at the start";
    EngineError::new(EngineErrorKind::Unsupported, cause, remedy)
}
