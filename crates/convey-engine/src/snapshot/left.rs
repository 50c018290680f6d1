//! Frontends and servers of another process's configuration that are in none of ours, and have flows in the table that is
//! gone on with.

use std::sync::Arc;

use convey_core::selection::Balance;
use convey_core::{ConnCounters, Mode, Snapshot};

use super::build::nat_sources;
use super::{Method, PacketFrontend, PacketServer, SlotUse, Standing};
use crate::options::PacketOptions;
use crate::slot_table::{FrontendIdentity, ServerIdentity};

/// To be retired at once.
pub(super) fn server(identity: &ServerIdentity, snapshot: &Snapshot) -> PacketServer {
    let backend = snapshot.backends.iter().find(|b| *b.name == *identity.backend);
    let method = match snapshot.mode {
        Mode::Passthrough => Method::Nat,
        _ if identity.l2 => Method::L2,
        _ => Method::Rewrite,
    };
    PacketServer {
        backend: identity.backend.as_str().into(),
        name: identity.name.as_str().into(),
        address: identity.address.into(),
        port: identity.port,
        method,
        max_connections: 0,
        counters: counters(snapshot),
        backend_counters: backend.map_or_else(|| counters(snapshot), |b| b.counters.clone()),
        configured: Standing::Down,
        slot_use: SlotUse::default(),
    }
}

/// To be retired at once.
pub(super) fn frontend(
    identity: &FrontendIdentity,
    snapshot: &Snapshot,
    options: &PacketOptions,
) -> PacketFrontend {
    let address = identity.address.into();
    PacketFrontend {
        name: identity.name.as_str().into(),
        protocol: identity.protocol,
        address,
        port: identity.port,
        nat_sources: nat_sources(address, options),
        max_connections: 0,
        access: None,
        counters: counters(snapshot),
        reasons: Arc::default(),
        balance: Balance::Maglev,
        // It selects nobody any more.
        backend: 0,
        table: 0,
        slot_use: SlotUse::default(),
    }
}

fn counters(snapshot: &Snapshot) -> Arc<ConnCounters> {
    Arc::new(ConnCounters::new(snapshot.totals.workers()))
}
