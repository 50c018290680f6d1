//! NAT ports of several addresses: whose come first, whose are taken over, and which are nobody's.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use convey_bpf::tables::Method;
use convey_core::nat_ports::{Partition, PortPool};
use convey_engine::steering::client_hash;
use convey_testkit::PacketBuilder;
use convey_testkit::build::{ACK, SYN};
use convey_xdp::kernel::{Hook, Image, Sizes};
use lab::tables::{now, pools};
use lab::{Lab, Verdict, at, ends, frontend, handed_up, image, path, server, sizes};

const WIDTH: u16 = 100;

#[derive(Debug, Clone, Copy)]
struct Setup {
    hook: Hook,
    v6: bool,
}

impl Setup {
    const ALL: [Self; 4] = [
        Self { hook: Hook::Tc, v6: false },
        Self { hook: Hook::Tc, v6: true },
        Self { hook: Hook::Xdp, v6: false },
        Self { hook: Hook::Xdp, v6: true },
    ];

    fn sources(self) -> [&'static str; 3] {
        if self.v6 {
            ["2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3"]
        } else {
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        }
    }

    fn listens(self, ip: &str, port: u16) -> String {
        SocketAddr::new(ip.parse().unwrap(), port).to_string()
    }

    fn server(self) -> &'static str {
        if self.v6 { "[2001:db8:1::1]:80" } else { "10.1.0.1:80" }
    }

    fn vip(self) -> String {
        self.listens(if self.v6 { "2001:db8::10" } else { "192.0.2.10" }, 80)
    }

    fn client(self, host: u16, port: u16) -> SocketAddr {
        at(&if self.v6 {
            format!("[2001:db8:c::{host:x}]:{port}")
        } else {
            format!("198.51.100.{host}:{port}")
        })
    }

    fn image(self) -> Image {
        let frontends = vec![Some(frontend(&self.vip(), 0, &self.sources()))];
        let paths = self.sources().iter().map(|nat| path(nat, self.server(), 6)).collect();
        image(frontends, vec![server(self.server(), Method::Nat)], paths)
    }

    fn lab(self) -> Lab {
        let sizes = Sizes { sets4: 1024, sets6: 2048, nat_width: WIDTH.into(), ..sizes(true) };
        Lab::new(self.hook, &sizes, &self.image())
    }

    fn partition(self) -> Partition {
        Partition { first: 20_000, last: 20_000 + WIDTH - 1, stride: 1, remainder: 0 }
    }

    fn syn(self, client: SocketAddr) -> PacketBuilder {
        PacketBuilder::syn(&client.to_string(), &self.vip()).seq(1000, 0)
    }

    /// Opens a connection of which no port is taken.
    fn opens(self, lab: &mut Lab, client: SocketAddr) -> SocketAddr {
        lab.know(client.ip());
        let (nat, server) = ends(&lab.forwards(&self.syn(client)));
        let answer = PacketBuilder::tcp(&server.to_string(), &nat.to_string()).flags(SYN | ACK);
        lab.forwards(&answer.seq(5000, 1001));
        lab.forwards(&PacketBuilder::tcp(&client.to_string(), &self.vip()).seq(1001, 5001));
        nat
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_client_keeps_to_one_address_and_goes_to_others_when_that_has_no_port_left() {
    for setup in Setup::ALL {
        let mut lab = setup.lab();
        let sources = setup.sources().map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut used = BTreeSet::new();
        for host in 1..20 {
            let first = client_hash(setup.client(host, 0).ip(), 0) as usize % 3;
            for port in 0..3 {
                let nat = setup.opens(&mut lab, setup.client(host, 4000 + port));
                assert_eq!(nat.ip(), sources[first], "{setup:?} {host}: as the portable engine chooses");
                assert!(used.insert(nat));
            }
        }
        // One client takes all that is left, of one address after the other.
        let first = client_hash(setup.client(77, 0).ip(), 0) as usize % 3;
        let all: Vec<IpAddr> =
            (0..300 - 57).map(|port| setup.opens(&mut lab, setup.client(77, 10_000 + port)).ip()).collect();
        let mut order = all.clone();
        order.dedup();
        assert_eq!(order, [sources[first], sources[(first + 1) % 3], sources[(first + 2) % 3]], "{setup:?}");
        assert_eq!(lab.run(&setup.syn(setup.client(77, 9)).build()).0, Verdict::Drop);
        assert_eq!(handed_up(&mut lab).last().unwrap().0, "ports_exhausted", "{setup:?}: connections stay");
        let found: u64 = (0..6).map(|class| lab.sum("nat_port_probes", class)).sum();
        assert_eq!(found, 300);
        assert!(lab.sum("nat_port_probes", 0) > 150, "{setup:?}: ports never used are met at once");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn the_port_taken_over_is_the_one_given_up_most_readily_of_all_addresses() {
    for setup in Setup::ALL {
        let mut lab = setup.lab();
        let mut nats = Vec::new();
        // Connections on all ports but one, wherever that is.
        for port in 0..299 {
            nats.push(setup.opens(&mut lab, setup.client(77, 10_000 + port)));
        }
        let (unconfirmed, _) = ends(&lab.forwards(&setup.syn(setup.client(78, 1))));
        assert!(!nats.contains(&unconfirmed));
        let (nat, _) = ends(&lab.forwards(&setup.syn(setup.client(79, 1))));
        assert_eq!(nat, unconfirmed, "{setup:?}: the one that is not confirmed");
        assert_eq!(lab.counted("port_taken_over"), 1);
        // A closed one comes before it.
        let reset = PacketBuilder::tcp(&setup.client(77, 10_123).to_string(), &setup.vip());
        lab.forwards(&reset.flags(convey_testkit::build::RST | ACK).seq(1001, 5001));
        let (nat, _) = ends(&lab.forwards(&setup.syn(setup.client(80, 1))));
        assert_eq!(nat, nats[123], "{setup:?}: the closed one");
        assert_eq!(lab.counted("port_taken_over"), 2);
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn ports_of_flows_whose_time_is_over_are_the_last_resort() {
    for setup in Setup::ALL {
        let mut lab = setup.lab();
        for port in 0..300 {
            setup.opens(&mut lab, setup.client(77, 10_000 + port));
        }
        let syn = setup.syn(setup.client(78, 1)).build();
        assert_eq!(lab.run(&syn).0, Verdict::Drop, "{setup:?}");
        // Their words are older than what may not have been published yet, and nobody has swept them.
        lab::tables::age(&mut lab.kernel, lab::tables::LIFETIME + 1);
        let memory = lab.kernel.memory("nat_ports").unwrap().words64();
        let words = PortPool::words(setup.partition());
        for pool in 0..3 {
            for at in 0..usize::from(WIDTH) {
                let word = &memory[pool * words + at];
                let old = word.load(Relaxed);
                let stamp = ((old >> 40).wrapping_sub(1000)) & 0xff_ffff;
                word.store(old & ((1 << 40) - 1) | stamp << 40, Relaxed);
            }
        }
        assert_eq!(lab.run(&syn).0, Verdict::Forward, "{setup:?}");
        assert_eq!(lab.counted("port_taken_over"), 1);
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn ports_on_which_frontends_listen_are_handed_out_to_nobody() {
    for setup in Setup::ALL {
        let mut lab = setup.lab();
        let first = client_hash(setup.client(77, 0).ip(), 0) as usize % 3;
        let source = setup.sources()[first];
        let held = setup.opens(&mut lab, setup.client(77, 1));
        // A frontend comes to listen on a port that is held, and on one that is free.
        let free = if held.port() == 20_050 { 20_051 } else { 20_050 };
        let mut more = setup.image();
        for port in [held.port(), free] {
            more.frontends.push(Some(frontend(&setup.listens(source, port), 0, &setup.sources())));
        }
        lab.install(&more);
        let mut taken = BTreeSet::new();
        for port in 0..299 {
            let (verdict, sent) = lab.run(&setup.syn(setup.client(77, 10_000 + port)).build());
            assert_eq!(verdict, Verdict::Forward);
            taken.insert(ends(&sent).0);
        }
        assert_eq!(taken.len(), 298, "{setup:?}: the last one took a port over");
        let address = |port| SocketAddr::new(source.parse().unwrap(), port);
        assert!(!taken.contains(&address(free)) && !taken.contains(&address(held.port())), "{setup:?}");
        let [a, b, c] = pools::<3>(&lab.kernel, setup.partition());
        assert_eq!(a.held() + b.held() + c.held(), 299, "{setup:?}");
        // Given back, it is reserved when the image is installed again; free again when the frontends have left.
        let memory = lab.kernel.memory("nat_ports").unwrap();
        let words = PortPool::words(setup.partition());
        let pool = PortPool::in_memory(setup.partition(), memory.part64(first * words, words));
        let owner = pool.owner(held.port()).unwrap();
        assert!(pool.release(held.port(), owner, now()));
        lab.install(&more);
        assert_eq!(pool.take(9, 0, now(), |_| true), None, "{setup:?}: both are reserved");
        lab.install(&setup.image());
        let mut back =
            [pool.take(9, 0, now(), |_| true), pool.take(9, 0, now(), |_| true)].map(|t| t.unwrap().port);
        back.sort_unstable();
        let mut want = [held.port(), free];
        want.sort_unstable();
        assert_eq!(back, want, "{setup:?}");
    }
}
