//! What changes in the network while packets go through it, and how soon they go by it.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use convey_engine::{MacAddr, Missing, NextHop};
use convey_links::Wanted;
use support::{Following, Netns, host, index, ip, path};

/// From the end of the command to the first packet that goes by the change.
const AT_MOST: Duration = Duration::from_secs(1);
/// The machine may be busy with something else; the quickest counts.
const ROUNDS: usize = 3;

/// A network with a client behind each of two routers, front .254 and back .254, and what a balancer knows of it.
struct Scene {
    ns: Netns,
    peer: Netns,
    front: u32,
    back: u32,
    following: Following,
}

impl Scene {
    fn new(wanted: Wanted) -> Self {
        let (ns, peer) = host();
        ns.ip("route add default via 10.0.0.254 metric 100");
        let (front, back) = (index(&ns, "front"), index(&ns, "back"));
        let following = Following::new(&ns, wanted);
        Self { ns, peer, front, back, following }
    }

    /// What a packet to a client meets, as in the packet path, which asks for neighbours that are missing.
    fn hop(&self, destination: &str) -> Result<NextHop, Missing> {
        let next_hops = self.following.sink.next_hops.lock().unwrap().clone();
        let found = next_hops.lookup(&path("10.0.0.100", destination));
        if let Err(Missing::Neighbour { ifindex, address }) = found {
            self.following.wake.resolve(ifindex, address);
        }
        found
    }

    fn leaves_by(&self, ifindex: u32) -> bool {
        self.hop("192.0.2.1").is_ok_and(|hop| hop.ifindex == ifindex)
    }

    fn mac(&self, destination: &str) -> Option<MacAddr> {
        self.hop(destination).ok().map(|hop| hop.destination)
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let began = Instant::now();
        self.following.until(what, |_| holds(self));
        began.elapsed()
    }
}

/// A change, what brings it about, and how it shows.
type Change<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn(&Scene) -> bool);

/// Fails unless each change has its effect within a second, in one round at least.
fn soon(scene: &Scene, changes: &[Change<'_>]) {
    let mut least = vec![Duration::MAX; changes.len()];
    for _ in 0..ROUNDS {
        for ((what, change, holds), least) in changes.iter().zip(&mut least) {
            change();
            *least = scene.until(what, holds).min(*least);
        }
    }
    for ((what, ..), least) in changes.iter().zip(least) {
        println!("{what}: {} ms", least.as_millis());
        assert!(least < AT_MOST, "{what}: {least:?}");
    }
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn packets_take_another_route_within_a_second_when_theirs_is_withdrawn_and_the_first_when_it_is_back() {
    let s = Scene::new(Wanted::default());
    s.until("the default route", |s| s.leaves_by(s.front));
    soon(
        &s,
        &[
            ("a longer prefix", &|| s.ns.ip("route add 192.0.2.0/24 via 10.1.0.254"), &|s| {
                s.leaves_by(s.back)
            }),
            ("its end", &|| s.ns.ip("route del 192.0.2.0/24 via 10.1.0.254"), &|s| s.leaves_by(s.front)),
            ("a better default route", &|| s.ns.ip("route add default via 10.1.0.254 metric 50"), &|s| {
                s.leaves_by(s.back)
            }),
            ("its end", &|| s.ns.ip("route del default metric 50"), &|s| s.leaves_by(s.front)),
            ("another default route", &|| s.ns.ip("route change default via 10.1.0.254 metric 100"), &|s| {
                s.leaves_by(s.back)
            }),
            ("the first again", &|| s.ns.ip("route replace default via 10.0.0.254 metric 100"), &|s| {
                s.leaves_by(s.front)
            }),
            ("no default route", &|| s.ns.ip("route del default"), &|s| {
                s.hop("192.0.2.1") == Err(Missing::Route)
            }),
            ("the first again", &|| s.ns.ip("route add default via 10.0.0.254 metric 100"), &|s| {
                s.leaves_by(s.front)
            }),
        ],
    );
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn packets_go_to_a_gateways_new_link_layer_address_soon_whether_it_announces_it_or_not() {
    let s = Scene::new(Wanted::default());
    s.until("its first address", |s| s.leaves_by(s.front));
    let is = |last| move |s: &Scene| s.mac("192.0.2.1") == Some([2, 0, 0, 0, 0, last]);
    let change = |last: u8| s.peer.ip(&format!("link set front address 02:00:00:00:00:{last:02x}"));
    // Nobody says a word: it is asked three times a second, and looked for anew when it does not answer.
    let (mut least, mut last) = (Duration::MAX, 0x10);
    for _ in 0..ROUNDS {
        last += 1;
        change(last);
        least = s.until("its new address", is(last)).min(least);
    }
    println!("a new address without a word: {} ms", least.as_millis());
    assert!(least < Duration::from_millis(1500), "{least:?}");
    // The kernel tells of it: within a second from there.
    soon(
        &s,
        &[
            (
                "told by hand",
                &|| s.ns.ip("neigh replace 10.0.0.254 lladdr 02:00:00:00:00:77 dev front"),
                &is(0x77),
            ),
            (
                "told by hand again",
                &|| s.ns.ip("neigh replace 10.0.0.254 lladdr 02:00:00:00:00:78 dev front"),
                &is(0x78),
            ),
        ],
    );
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_link_that_goes_down_gives_its_packets_to_the_next_route_and_takes_them_back_when_it_is_up() {
    let s = Scene::new(Wanted::default());
    s.ns.ip("route add default via 10.1.0.254 metric 200");
    s.until("the default route", |s| s.leaves_by(s.front));
    let up = || {
        s.ns.ip("link set front up");
        // The kernel took it with the link.
        s.ns.ip("route add default via 10.0.0.254 metric 100");
    };
    soon(
        &s,
        &[
            ("the link is down", &|| s.ns.ip("link set front down"), &|s| s.leaves_by(s.back)),
            ("it is up again", &up, &|s| s.leaves_by(s.front)),
            ("it loses its carrier", &|| s.peer.ip("link set front down"), &|s| s.leaves_by(s.back)),
            ("it has one again", &|| s.peer.ip("link set front up"), &|s| s.leaves_by(s.front)),
        ],
    );
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn what_the_kernel_forgets_without_a_word_is_forgotten() {
    let s = Scene::new(Wanted::default());
    s.until("the default route", |s| s.leaves_by(s.front));
    let flap = || {
        // With the link goes the default route, and nobody tells.
        s.ns.ip("link set front down");
        s.ns.ip("link set front up");
    };
    let back = || s.ns.ip("route add default via 10.0.0.254 metric 100");
    let add = || {
        s.ns.ip("addr add 10.0.0.9/32 dev lo");
        s.ns.ip("route add 192.0.2.0/24 via 10.1.0.254 src 10.0.0.9");
    };
    soon(
        &s,
        &[
            ("a link down and up", &flap, &|s| s.hop("192.0.2.1") == Err(Missing::Route)),
            ("its route again", &back, &|s| s.leaves_by(s.front)),
            ("a route by a source address", &add, &|s| s.leaves_by(s.back)),
            ("that address goes", &|| s.ns.ip("addr del 10.0.0.9/32 dev lo"), &|s| s.leaves_by(s.front)),
        ],
    );
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn an_interface_that_is_renamed_or_removed_and_made_anew_is_used_as_soon_as_it_is_there() {
    let s = Scene::new(Wanted { servers: vec![ip("10.2.0.254")], ..Wanted::default() });
    let make = || {
        s.ns.ip(&format!("link add third type veth peer name third netns {}", s.peer.name));
        s.peer.ip("addr add 10.2.0.254/24 dev third");
        s.peer.ip("link set third up");
        s.ns.ip("addr add 10.2.0.1/24 dev third");
        s.ns.ip("link set third up");
    };
    let rename = || {
        s.ns.ip("link set third down");
        s.ns.ip("link set third name other");
        s.ns.ip("link set other up");
    };
    let by = |name: &str| {
        let ifindex = index(&s.ns, name);
        s.hop("10.2.0.254").is_ok_and(|hop| hop.ifindex == ifindex)
            && s.following.sink.listening.lock().unwrap().contains(&ifindex)
    };
    soon(
        &s,
        &[
            ("a new link", &make, &|_| by("third")),
            ("its new name", &rename, &|_| by("other")),
            ("its end", &|| s.ns.ip("link del other"), &|s| {
                s.hop("10.2.0.254").is_ok_and(|hop| hop.ifindex == s.front) || s.mac("10.2.0.254").is_none()
            }),
        ],
    );
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_servers_address_that_moves_to_another_link_and_back_is_followed() {
    let s = Scene::new(Wanted { servers: vec![ip("10.5.0.1")], ..Wanted::default() });
    let at = |from: &'static str, to: &'static str| {
        let (ns, peer) = (&s.ns, &s.peer);
        move || {
            peer.exec(&format!("ip addr del 10.5.0.1/32 dev {from}"));
            peer.ip(&format!("addr add 10.5.0.1/32 dev {to}"));
            ns.ip(&format!("route replace 10.5.0.1/32 dev {to}"));
        }
    };
    s.peer.ip("addr add 10.5.0.1/32 dev front");
    s.ns.ip("route add 10.5.0.1/32 dev front");
    let by = |ifindex: u32| move |s: &Scene| s.hop("10.5.0.1").is_ok_and(|hop| hop.ifindex == ifindex);
    s.until("its first place", by(s.front));
    soon(
        &s,
        &[("it moves", &at("front", "back"), &by(s.back)), ("and back", &at("back", "front"), &by(s.front))],
    );
    // An address of the host's own, as keepalived moves one.
    let has = |s: &Scene| s.following.sink.addresses.lock().unwrap().contains(&ip("10.0.0.77"));
    let address: IpAddr = ip("10.0.0.77");
    soon(
        &s,
        &[
            ("an address comes", &|| s.ns.ip(&format!("addr add {address}/32 dev front")), &has),
            ("and goes", &|| s.ns.ip(&format!("addr del {address}/32 dev front")), &|s| !has(s)),
        ],
    );
}
