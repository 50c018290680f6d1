//! Configurations of a few words, for tests that need some.

use std::time::Duration;

use convey_core::{BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, SnapshotSpec};

/// Passthrough frontends by name and address, all with the backend "b" and its one server "s".
pub fn passthrough(frontends: &[(&str, &str, Protocol)], server: &str, is_up: bool) -> SnapshotSpec {
    let server = ServerSpec {
        name: "s".into(),
        addr: server.parse().expect("an address"),
        weight: 1,
        max_connections: 0,
        up: is_up,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    };
    let backend = BackendSpec {
        name: "b".into(),
        connect_timeout: Duration::from_secs(3),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        balance: convey_core::selection::Balance::Maglev,
        source: Default::default(),
        eject_after: 0,
        servers: vec![server],
    };
    let frontend = |(name, listen, protocol): &(&str, &str, Protocol)| FrontendSpec {
        listen_key: Default::default(),
        name: (*name).into(),
        listen: vec![listen.parse().expect("an address")],
        protocol: *protocol,
        backend: "b".into(),
        accept_proxy: None,
        max_connections: 0,
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    };
    SnapshotSpec {
        mode: Mode::Passthrough,
        limits: Limits::default(),
        frontends: frontends.iter().map(frontend).collect(),
        backends: vec![backend],
    }
}
