//! A frontend on 0.0.0.0 or [::] stands for every address of the host.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convey_core::{
    BackendSpec, FrontendSpec, Limits, ListenKey, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec,
};
use convey_engine::{NextHops, PacketOptions, PacketSnapshot, Worker, explain};

const WORKERS: usize = 1;

fn frontend(name: &str, listen: &str) -> FrontendSpec {
    let listen: SocketAddr = listen.parse().expect("an address");
    FrontendSpec {
        listen_key: Default::default(),
        name: name.into(),
        listen: vec![listen],
        protocol: Protocol::Tcp,
        backend: if listen.is_ipv4() { "v4" } else { "v6" }.into(),
        accept_proxy: None,
        max_connections: 0,
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    }
}

fn config(frontends: Vec<FrontendSpec>) -> Snapshot {
    let backend = |name: &str, addr: &str| BackendSpec {
        name: name.into(),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        waiting: Default::default(),
        ends: Default::default(),
        balance: convey_core::selection::Balance::Maglev,
        source: Default::default(),
        eject_after: 0,
        servers: vec![ServerSpec {
            name: "s1".into(),
            addr: addr.parse().expect("an address"),
            weight: 1,
            max_connections: 0,
            up: true,
            draining: false,
            backup: false,
            share: convey_core::selection::SLOW_START_STEPS,
            send_proxy: None,
        }],
    };
    let spec = SnapshotSpec {
        mode: Mode::Passthrough,
        limits: Limits::default(),
        frontends,
        backends: vec![backend("v4", "10.9.0.1:80"), backend("v6", "[fd09::1]:80")],
    };
    Snapshot::first(spec, WORKERS).expect("a snapshot")
}

fn options(local: &[&str]) -> PacketOptions {
    PacketOptions {
        capacity: 1024,
        local_addresses: local.iter().map(|a| a.parse().expect("an address")).collect(),
        ..PacketOptions::default()
    }
}

fn listens(snapshot: &PacketSnapshot) -> BTreeSet<IpAddr> {
    snapshot.vips().map(|(_, address, _)| address).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|a| a.parse().expect("an address")).collect()
}

/// The frontend that a client of `to` meets.
fn frontend_of(snapshot: &PacketSnapshot, to: &str) -> Option<String> {
    let worker = Worker::new(0, snapshot);
    let client = "192.0.2.7:4000".parse().expect("an address");
    explain(Protocol::Tcp, client, to.parse().expect("an address"), snapshot, &NextHops::default(), &worker)
        .frontend
}

const LOCAL: &[&str] =
    &["127.0.0.1", "10.1.0.1", "10.2.0.1", "::1", "fe80::1", "fd01::1", "::ffff:10.3.0.1", "224.0.0.1"];

#[test]
fn a_wildcard_stands_for_every_address_of_its_family_that_packets_can_be_sent_to() {
    let config = config(vec![frontend("web", "0.0.0.0:80")]);
    let snapshot = PacketSnapshot::build(&config, &options(LOCAL), None).unwrap();
    assert_eq!(listens(&snapshot), set(&["10.1.0.1", "10.2.0.1"]));
    assert_eq!(listens(&snapshot).into_iter().collect::<Vec<_>>(), {
        let mut sources: Vec<_> = snapshot.nat_sources().into_iter().collect();
        sources.sort();
        sources
    });
    assert_eq!(frontend_of(&snapshot, "10.2.0.1:80").as_deref(), Some("web"));
    assert_eq!(frontend_of(&snapshot, "10.3.0.1:80"), None);
}

#[test]
fn an_ipv6_wildcard_leaves_out_loopback_and_link_local_addresses() {
    let config = config(vec![frontend("web", "[::]:80")]);
    let snapshot = PacketSnapshot::build(&config, &options(LOCAL), None).unwrap();
    assert_eq!(listens(&snapshot), set(&["fd01::1"]));
}

#[test]
fn a_frontend_on_one_address_wins_over_a_wildcard_whichever_comes_first() {
    for exact_first in [true, false] {
        let mut frontends = vec![frontend("exact", "10.1.0.1:80"), frontend("rest", "0.0.0.0:80")];
        if !exact_first {
            frontends.reverse();
        }
        let snapshot = PacketSnapshot::build(&config(frontends), &options(LOCAL), None).unwrap();
        assert_eq!(frontend_of(&snapshot, "10.1.0.1:80").as_deref(), Some("exact"));
        assert_eq!(frontend_of(&snapshot, "10.2.0.1:80").as_deref(), Some("rest"));
    }
}

#[test]
fn a_frontend_on_several_addresses_and_ports_is_one_with_one_set_of_counts() {
    let mut web = frontend("web", "10.1.0.1:80");
    web.listen.extend((8000..9023).map(|port| SocketAddr::new("10.2.0.1".parse().unwrap(), port)));
    let config = config(vec![web]);
    let snapshot = PacketSnapshot::build(&config, &options(LOCAL), None).unwrap();
    for to in ["10.1.0.1:80", "10.2.0.1:8000", "10.2.0.1:9022"] {
        assert_eq!(frontend_of(&snapshot, to).as_deref(), Some("web"), "{to}");
    }
    assert_eq!(frontend_of(&snapshot, "10.2.0.1:80"), None);
    assert_eq!(frontend_of(&snapshot, "10.2.0.1:9023"), None);
    assert_eq!(snapshot.frontends().count(), 1024);
    let counters = &config.frontends[0].counters;
    assert!(snapshot.frontends().all(|(_, f)| Arc::ptr_eq(&f.counters, counters)));
}

#[test]
fn in_dsr_mode_a_server_has_one_of_its_frontends_ports() {
    for (port, is_fine) in [(80, true), (8001, true), (81, false)] {
        let mut web = frontend("web", "10.1.0.1:80");
        web.listen.extend(["10.1.0.1:8000", "10.1.0.1:8001"].map(|at| at.parse::<SocketAddr>().unwrap()));
        let mut spec = config(vec![web]).spec().clone();
        spec.mode = Mode::Dsr;
        for backend in &mut spec.backends {
            for server in &mut backend.servers {
                let ip = server.addr.ip().unwrap().ip();
                server.addr = SocketAddr::new(ip, port).into();
            }
        }
        let snapshot = Snapshot::first(spec, 1).unwrap();
        let built = PacketSnapshot::build(&snapshot, &options(LOCAL), None);
        assert_eq!(built.is_ok(), is_fine, "{port}: {:?}", built.err());
    }
}

#[test]
fn an_address_that_comes_and_one_that_goes_leave_the_slots_of_the_others_alone() {
    let config = config(vec![frontend("web", "0.0.0.0:80")]);
    let slot_of = |snapshot: &PacketSnapshot, address: &str| {
        let address = address.parse::<IpAddr>().unwrap();
        (0..16u16).find(|slot| snapshot.frontend(*slot).is_some_and(|f| IpAddr::from(f.address) == address))
    };
    let before = PacketSnapshot::build(&config, &options(&["10.1.0.1", "10.2.0.1"]), None).unwrap();
    let after = PacketSnapshot::build(&config, &options(&["10.3.0.1", "10.2.0.1"]), Some(&before)).unwrap();
    assert_eq!(slot_of(&before, "10.2.0.1"), slot_of(&after, "10.2.0.1"));
    assert_eq!(listens(&after), set(&["10.1.0.1", "10.2.0.1", "10.3.0.1"]), "a worker may still begin flows");
    Worker::new(0, &after);
    let later = PacketSnapshot::build(&config, &options(&["10.3.0.1", "10.2.0.1"]), Some(&after)).unwrap();
    assert_eq!(listens(&later), set(&["10.2.0.1", "10.3.0.1"]));
}

#[test]
fn a_wildcard_on_a_host_without_an_address_of_its_family_is_refused_by_name() {
    for (listen_key, field) in
        [(ListenKey::ListenAddr, "frontends.web.listen_addr"), (ListenKey::Listen, "frontends.web.listen")]
    {
        let config = config(vec![FrontendSpec { listen_key, ..frontend("web", "[::]:80") }]);
        let error =
            PacketSnapshot::build(&config, &options(&["10.1.0.1", "fe80::1", "::1"]), None).unwrap_err();
        assert_eq!(error.field, field, "the key that was written");
        assert!(error.message.contains("IPv6 address"), "{}", error.message);
    }
}

#[test]
fn a_server_that_is_this_host_itself_is_refused() {
    let config = config(vec![frontend("web", "0.0.0.0:80")]);
    let error = PacketSnapshot::build(&config, &options(&["10.9.0.1"]), None).unwrap_err();
    assert_eq!(error.field, "backends.v4.servers.s1.addr");
}
