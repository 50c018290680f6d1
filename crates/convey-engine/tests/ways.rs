//! What becomes of packets by the routes their way takes, and of those that can have no way.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use common::{Lab, Out};
use convey_engine::routes::{Reject, Target};
use convey_engine::{Link, NextHops, Route};
use convey_testkit::PacketBuilder as P;
use convey_testkit::fixture::Input;

const CLIENT: &str = "198.51.100.7:40001";
const VIP: &str = "192.0.2.10:80";
const CLIENT6: &str = "[2001:db8:99::7]:40001";
const VIP6: &str = "[2001:db8:1::10]:80";

fn send(lab: &mut Lab, packet: P) -> Out {
    let packet = packet.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]);
    let frame = convey_testkit::hex(&packet.build());
    lab.run(&Input { frame, ingress: 1, now_ms: 1000, partial: None, gso: None })
}

/// The world's servers behind a route of this kind.
fn refusing(target: Reject) -> Lab {
    let mut lab = Lab::new(&common::world("passthrough"));
    let route = |network: &str| Route {
        target: Target::Reject(target),
        ..Route::by(network.parse().unwrap(), if network.contains(':') { 64 } else { 24 }, 0, None)
    };
    lab.next_hops = NextHops::new(
        [Link { ifindex: 1, mac: [2; 6], mtu: 1500 }],
        [
            route("10.0.0.0"),
            route("2001:db8:2::"),
            Route::by("0.0.0.0".parse().unwrap(), 0, 1, None),
            Route::by("::".parse().unwrap(), 0, 1, None),
        ],
        [],
    );
    lab
}

fn outcome(out: &Out) -> (&str, Option<&str>) {
    (&out.verdict, out.reason.as_deref())
}

#[test]
fn a_server_behind_a_blackhole_route_gets_nothing_and_the_client_no_word() {
    let mut lab = refusing(Reject::Blackhole);
    assert_eq!(outcome(&send(&mut lab, P::syn(CLIENT, VIP))), ("drop", Some("route_rejected")));
}

#[test]
fn a_server_behind_an_unreachable_or_prohibit_route_is_answered_as_the_kernel_would() {
    // ICMP type and code behind an IPv4 header of 20 bytes and an IPv6 header of 40.
    for (reject, v4, v6) in [(Reject::Unreachable, [3, 1], [1, 0]), (Reject::Prohibit, [3, 13], [1, 1])] {
        let mut lab = refusing(reject);
        let out = send(&mut lab, P::syn(CLIENT, VIP));
        assert_eq!(outcome(&out), ("reply", Some("unreachable.route_rejected")));
        assert_eq!(out.frame()[34..36], v4);
        let out = send(&mut lab, P::syn(CLIENT6, VIP6));
        assert_eq!(outcome(&out), ("reply", Some("unreachable.route_rejected")));
        assert_eq!(out.frame()[54..56], v6);
    }
}

#[test]
fn by_mac_address_a_server_behind_a_router_gets_nothing() {
    let mut world = common::world("dsr by MAC");
    for route in &mut world.routes {
        if route.ifindex == 2 {
            route.gateway = Some("10.0.0.12".into());
        }
    }
    let mut lab = Lab::new(&world);
    assert_eq!(outcome(&send(&mut lab, P::syn(CLIENT, VIP))), ("drop", Some("server_not_on_link")));
}

#[test]
fn a_rewrite_server_that_is_its_own_client_is_refused_at_once() {
    let mut lab = Lab::dsr(1);
    let out = send(&mut lab, P::syn("10.0.0.11:40001", VIP));
    assert_eq!(outcome(&out), ("reply", Some("tcp_reset.server_is_client")));
    assert_eq!(send(&mut lab, P::syn("10.0.0.99:40001", VIP)).verdict, "forward");
}
