//! Frontends that have left the configuration: their flows go on, whoever listens there by now.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::net::SocketAddr;

use convey_bpf::tables::{Frontend, Method, Server};
use convey_testkit::PacketBuilder;
use convey_xdp::kernel::{Hook, Image};
use lab::{Lab, Verdict, at, ends, frontend, image, path, server, sizes};

#[derive(Debug, Clone, Copy)]
struct Setup {
    hook: Hook,
    passthrough: bool,
    v6: bool,
}

impl Setup {
    fn all() -> impl Iterator<Item = Self> {
        [Hook::Tc, Hook::Xdp].into_iter().flat_map(|hook| {
            [true, false].into_iter().flat_map(move |passthrough| {
                [true, false].into_iter().map(move |v6| Self { hook, passthrough, v6 })
            })
        })
    }

    fn vip(self, port: u16) -> String {
        if self.v6 { format!("[2001:db8::10]:{port}") } else { format!("192.0.2.10:{port}") }
    }

    fn server_at(self, i: u16) -> String {
        if self.v6 { format!("[2001:db8:1::{}]:8080", i + 1) } else { format!("10.1.0.{}:8080", i + 1) }
    }

    fn client(self, port: u16) -> String {
        if self.v6 { format!("[2001:db8:c::7]:{port}") } else { format!("198.51.100.7:{port}") }
    }

    /// By slot: port of the frontend, which has the server of that slot, and whether it has left.
    fn image(self, frontends: &[(u16, bool)]) -> Image {
        let nat = at(&self.vip(0)).ip().to_string();
        let method = if self.passthrough { Method::Nat } else { Method::Rewrite };
        let slots = 0..frontends.len() as u16;
        let servers: Vec<Option<Server>> =
            slots.clone().map(|i| server(&self.server_at(i), method)).collect();
        let paths = slots.clone().map(|i| path(&nat, &self.server_at(i), 6)).collect();
        let frontends = slots.zip(frontends).map(|(slot, (port, left))| {
            Some(Frontend { left: *left, ..frontend(&self.vip(*port), slot, &[&nat]) })
        });
        image(frontends.collect(), servers, paths)
    }

    fn syn(self, client: u16) -> PacketBuilder {
        PacketBuilder::syn(&self.client(client), &self.vip(80)).seq(1000, 0)
    }

    fn data(self, client: u16) -> PacketBuilder {
        PacketBuilder::tcp(&self.client(client), &self.vip(80)).seq(1001, 1)
    }
}

/// Which server it went to.
fn goes_to(setup: Setup, lab: &Lab, packet: &PacketBuilder) -> SocketAddr {
    let (_, to) = ends(&lab.forwards(packet));
    SocketAddr::new(to.ip(), at(&setup.server_at(0)).port())
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn flows_of_frontends_that_left_go_on_while_others_listen_there() {
    for setup in Setup::all().filter(|s| s.passthrough) {
        let mut lab = Lab::new(setup.hook, &sizes(true), &setup.image(&[(80, false)]));
        let to = |i| at(&setup.server_at(i));
        assert_eq!(goes_to(setup, &lab, &setup.syn(1)), to(0), "{setup:?}");
        // Twice another frontend comes to listen there.
        lab.install(&setup.image(&[(80, true), (80, false)]));
        assert_eq!(goes_to(setup, &lab, &setup.syn(2)), to(1), "{setup:?}: a new one");
        lab.install(&setup.image(&[(80, true), (80, true), (80, false)]));
        assert_eq!(goes_to(setup, &lab, &setup.syn(3)), to(2), "{setup:?}: a new one");
        for client in 1..=3 {
            assert_eq!(goes_to(setup, &lab, &setup.data(client)), to(client - 1), "{setup:?}: they go on");
            assert_eq!(goes_to(setup, &lab, &setup.syn(client)), to(client - 1), "{setup:?}: SYN sent again");
        }
        // And nobody listens there any more.
        lab.install(&setup.image(&[(80, true), (80, true), (80, true)]));
        for client in 1..=3 {
            assert_eq!(goes_to(setup, &lab, &setup.data(client)), to(client - 1), "{setup:?}: still");
        }
        assert_eq!(lab.run(&setup.syn(4).build()).0, Verdict::Drop);
        assert_eq!(lab.counted("handed_up"), 1, "{setup:?}: user space answers it with a reset");
        // The slots are free.
        lab.install(&setup.image(&[]));
        assert_eq!(lab.run(&setup.data(1).build()).0, Verdict::Pass, "{setup:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_frontend_of_every_port_that_left_keeps_its_flows_and_covers_nobody_elses_port() {
    for setup in Setup::all().filter(|s| !s.passthrough) {
        let mut lab = Lab::new(setup.hook, &sizes(false), &setup.image(&[(0, false)]));
        let to = |i| at(&setup.server_at(i));
        assert_eq!(goes_to(setup, &lab, &setup.syn(1)), to(0), "{setup:?}");
        lab.install(&setup.image(&[(0, true), (80, false)]));
        assert_eq!(goes_to(setup, &lab, &setup.syn(2)), to(1), "{setup:?}");
        assert_eq!(goes_to(setup, &lab, &setup.data(1)), to(0), "{setup:?}: of every port");
        // One port leaves, another frontend has them all: no new flow is refused.
        lab.install(&setup.image(&[(0, true), (80, true), (0, false)]));
        assert_eq!(goes_to(setup, &lab, &setup.syn(3)), to(2), "{setup:?}");
        for client in 1..=3 {
            assert_eq!(goes_to(setup, &lab, &setup.data(client)), to(client - 1), "{setup:?}");
        }
        // In DSR another SYN begins another connection.
        assert_eq!(goes_to(setup, &lab, &setup.syn(1).seq(77_000, 0)), to(2), "{setup:?}");
    }
}
