//! Links, routes and rules of namespaces, read and followed as they change.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use convey_engine::{Missing, Reject};
use convey_links::{Interfaces, Wanted, view};
use support::{Following, Netns, host, index, ip, path};

/// Where a packet goes in this namespace: interface and neighbour.
fn way(ns: &Netns, source: &str, destination: &str) -> Result<(u32, IpAddr), Missing> {
    let path = path(source, destination);
    ns.enter(move || view(&Wanted::default()).unwrap().next_hops.way(&path))
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn an_answer_from_a_vip_leaves_by_the_uplink_that_a_rule_names() {
    let (ns, _peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    ns.ip("route add default via 10.0.0.254");
    ns.ip("route add default via 10.1.0.254 table 100");
    ns.ip("rule add from 10.1.0.100 lookup 100 priority 1000");
    assert_eq!(way(&ns, "10.0.0.100", "192.0.2.1"), Ok((front, ip("10.0.0.254"))));
    assert_eq!(way(&ns, "10.1.0.100", "192.0.2.1"), Ok((back, ip("10.1.0.254"))));
    let kernel = ns.exec("ip route get 192.0.2.1 from 10.0.0.1");
    assert!(kernel.contains("dev front"), "{kernel}");
}

#[test]
#[ignore = "needs root, ip, sysctl: makes network namespaces"]
fn a_route_by_the_number_of_a_next_hop_object_is_followed_and_so_is_a_group() {
    let (ns, _peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    // Routes then name the object and nothing else.
    ns.exec("sysctl -qw net.ipv4.nexthop_compat_mode=0");
    ns.ip("nexthop add id 1 via 10.0.0.254 dev front");
    ns.ip("nexthop add id 2 via 10.1.0.254 dev back");
    ns.ip("nexthop add id 3 blackhole");
    ns.ip("nexthop add id 10 group 1/2,3");
    ns.ip("route add default nhid 1");
    ns.ip("route add 198.51.100.0/24 nhid 3");
    ns.ip("route add 203.0.113.0/24 nhid 10");
    assert_eq!(way(&ns, "10.0.0.1", "192.0.2.1"), Ok((front, ip("10.0.0.254"))));
    assert_eq!(way(&ns, "10.0.0.1", "198.51.100.1"), Err(Missing::Rejected(Reject::Blackhole)));
    let table = ns.enter(|| view(&Wanted::default()).unwrap().next_hops);
    let by = |n| table.way(&path("10.0.0.1", &format!("203.0.113.{n}"))).unwrap().0;
    let taken: std::collections::BTreeSet<u32> = (1..100).map(by).collect();
    assert_eq!(taken, [front, back].into(), "both members of the group are used");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn routes_that_refuse_are_obeyed_and_tunnels_do_not_fall_to_the_default_route() {
    let (ns, _peer) = host();
    ns.ip("route add default via 10.0.0.254");
    for (kind, third) in [("blackhole", 1), ("unreachable", 2), ("prohibit", 3)] {
        ns.ip(&format!("route add {kind} 198.51.{third}.0/24"));
        ns.ip(&format!("-6 route add {kind} 2001:db8:{third}::/48"));
    }
    ns.ip("tuntap add tun0 mode tun");
    ns.ip("link set tun0 up");
    ns.ip("route add 198.51.9.0/24 dev tun0");
    for (reject, third) in [(Reject::Blackhole, 1), (Reject::Unreachable, 2), (Reject::Prohibit, 3)] {
        assert_eq!(way(&ns, "10.0.0.1", &format!("198.51.{third}.1")), Err(Missing::Rejected(reject)));
        assert_eq!(way(&ns, "fd00::1", &format!("2001:db8:{third}::1")), Err(Missing::Rejected(reject)));
    }
    // Without a carrier the kernel has no use for the route either.
    let tunnelled = way(&ns, "10.0.0.1", "198.51.9.1");
    let default = Ok((index(&ns, "front"), ip("10.0.0.254")));
    assert!(matches!(tunnelled, Err(Missing::Link { .. })) || tunnelled == default, "{tunnelled:?}");
    let warnings = ns.enter(|| view(&Wanted::default()).unwrap().warnings);
    assert!(warnings.iter().any(|w| w.contains("tun0 is no Ethernet link")), "{warnings:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_rule_that_is_not_followed_is_a_warning_that_names_it() {
    let (ns, _peer) = host();
    ns.ip("rule add sport 80 ipproto tcp lookup 100 priority 777");
    ns.ip("rule add fwmark 5 lookup 100 priority 778");
    let warnings = ns.enter(|| view(&Wanted::default()).unwrap().warnings);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Rule 777"), "{warnings:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn an_ipv6_route_for_some_sources_takes_their_packets_and_no_others() {
    let (ns, _peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    for (subnet, name) in [(1, "front"), (2, "back")] {
        ns.ip(&format!("addr add 2001:db8:{subnet}::1/64 dev {name} nodad"));
    }
    ns.ip("-6 route add default via 2001:db8:1::254 dev front");
    let following = Following::new(&ns, Wanted::default());
    let by = |source: &str, destination: &str| following.way(source, destination).ok().map(|(i, _)| i);
    assert_eq!(by("2001:db8:2::100", "2001:db8:99::1"), Some(front));

    ns.ip("-6 route add default from 2001:db8:2::/48 via 2001:db8:2::254 dev back");
    following.until("the route by source", |f| {
        f.way("2001:db8:2::100", "2001:db8:99::1") == Ok((back, ip("2001:db8:2::254")))
    });
    assert_eq!(by("2001:db8:1::100", "2001:db8:99::1"), Some(front));
    let kernel = ns.exec("ip -6 route get 2001:db8:99::1 from 2001:db8:2::1");
    assert!(kernel.contains("dev back"), "{kernel}");
    // The destination's length comes first, as in the kernel.
    ns.ip("-6 route add 2001:db8:99::/48 via 2001:db8:1::254 dev front");
    following.until("the longer prefix", |_| by("2001:db8:2::100", "2001:db8:99::1") == Some(front));
    ns.ip("-6 route del 2001:db8:99::/48");
    ns.ip("-6 route del default from 2001:db8:2::/48");
    following.until("the end of both", |_| by("2001:db8:2::100", "2001:db8:77::1") == Some(front));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn hops_of_a_route_that_come_and_go_are_followed_in_both_families() {
    let (ns, _peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    for (subnet, name) in [(1, "front"), (2, "back")] {
        ns.ip(&format!("addr add 2001:db8:{subnet}::1/64 dev {name} nodad"));
    }
    let following = Following::new(&ns, Wanted::default());
    let taken = |f: &Following, v6: bool| {
        let way = |n: u32| match v6 {
            true => f.way("2001:db8:1::100", &format!("2001:db8:99::{n:x}")),
            false => f.way("10.0.0.100", &format!("192.0.2.{n}")),
        };
        (1..100).filter_map(|n| way(n).ok()).map(|(ifindex, _)| ifindex).collect::<BTreeSet<u32>>()
    };
    let is = |v6: bool, wanted: &'static [u32]| {
        move |f: &Following| taken(f, v6) == wanted.iter().map(|n| [front, back][*n as usize]).collect()
    };
    ns.ip("route add default nexthop via 10.0.0.254 nexthop via 10.1.0.254");
    ns.ip("-6 route add default via 2001:db8:1::254 dev front");
    following.until("two hops", is(false, &[0, 1]));
    following.until("one hop of IPv6", is(true, &[0]));
    ns.ip("-6 route append default via 2001:db8:2::254 dev back");
    following.until("two hops of IPv6", is(true, &[0, 1]));
    ns.ip("-6 route del default via 2001:db8:1::254 dev front");
    following.until("the second alone", is(true, &[1]));
    ns.ip("route replace default via 10.1.0.254");
    following.until("one instead of two", is(false, &[1]));
    ns.ip("nexthop add id 1 via 10.0.0.254 dev front");
    ns.ip("nexthop add id 2 via 10.1.0.254 dev back");
    ns.ip("nexthop add id 10 group 1/2");
    ns.ip("route replace default nhid 10");
    following.until("a group", is(false, &[0, 1]));
    ns.ip("nexthop replace id 10 group 1");
    following.until("a smaller group", is(false, &[0]));
    ns.ip("nexthop del id 10");
    following.until("no group, and no route with it", is(false, &[]));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_route_for_one_type_of_service_is_a_warning_that_names_it_and_takes_no_packets() {
    let (ns, _peer) = host();
    ns.ip("route add default via 10.0.0.254");
    ns.ip("route add 192.0.2.0/24 tos 0x10 via 10.1.0.254");
    let following = Following::new(&ns, Wanted::default());
    assert_eq!(following.way("10.0.0.100", "192.0.2.1"), Ok((index(&ns, "front"), ip("10.0.0.254"))));
    let warnings = following.sink.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("Route 192.0.2.0/24 tos 0x10 is for"), "{warnings:?}");
    assert_eq!(ns.enter(|| view(&Wanted::default()).unwrap().warnings), warnings);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn changes_of_rules_routes_addresses_and_links_are_followed() {
    let (ns, peer) = host();
    let (front, back) = (index(&ns, "front"), index(&ns, "back"));
    ns.ip("route add default via 10.0.0.254");
    let following = Following::new(&ns, Wanted::default());
    following.until("both links", |f| *f.sink.listening.lock().unwrap() == [front, back]);

    ns.ip("route add default via 10.1.0.254 table 100");
    ns.ip("rule add from 10.1.0.100 lookup 100 priority 1000");
    let is_back = |f: &Following| f.way("10.1.0.100", "192.0.2.1") == Ok((back, ip("10.1.0.254")));
    following.until("the new rule", is_back);
    ns.ip("rule del priority 1000");
    following.until("its end", |f| f.way("10.1.0.100", "192.0.2.1") == Ok((front, ip("10.0.0.254"))));

    ns.ip("addr add 10.0.0.77/32 dev front");
    following.until("the new address", |f| f.sink.addresses.lock().unwrap().contains(&ip("10.0.0.77")));
    ns.ip("addr del 10.0.0.77/32 dev front");
    following.until("its end", |f| !f.sink.addresses.lock().unwrap().contains(&ip("10.0.0.77")));

    // One that comes later, is renamed, and is made anew.
    ns.ip(&format!("link add third type veth peer name third netns {}", peer.name));
    ns.ip("link set third up");
    let third = index(&ns, "third");
    following.until("the new link", |f| f.sink.listening.lock().unwrap().contains(&third));
    ns.ip("link set third down");
    following.until("it is down", |f| !f.sink.listening.lock().unwrap().contains(&third));
    ns.ip("link set third name other");
    ns.ip("link set other up");
    following.until("its new name", |f| f.sink.listening.lock().unwrap().contains(&third));
    ns.ip("link del other");
    ns.ip(&format!("link add other type veth peer name other netns {}", peer.name));
    ns.ip("link set other up");
    let anew = index(&ns, "other");
    following.until("the link made anew", |f| f.sink.listening.lock().unwrap().contains(&anew));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_named_interface_that_is_missing_is_told_once_and_listened_on_when_it_comes() {
    let (ns, peer) = host();
    let interfaces = Interfaces::named(&["later".into()]);
    let following = Following::new(&ns, Wanted { interfaces, ..Wanted::default() });
    ns.ip(&format!("link add later type veth peer name later netns {}", peer.name));
    ns.ip("link set later up");
    let later = index(&ns, "later");
    following.until("the named link", |f| *f.sink.listening.lock().unwrap() == [later]);
    let warnings = following.sink.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_client_on_the_link_that_moved_to_another_machine_is_found_again_while_packets_go_to_it() {
    let (ns, peer) = host();
    let front = index(&ns, "front");
    let following = Following::new(&ns, Wanted::default());
    let client = "10.0.0.254";
    // As the packet path does with every packet.
    let mac = |f: &Following| {
        let next_hops = f.sink.next_hops.lock().unwrap().clone();
        let found = next_hops.lookup(&path("10.0.0.1", client));
        if let Err(Missing::Neighbour { ifindex, address }) = found {
            assert_eq!(ifindex, front);
            f.wake.resolve(ifindex, address);
        }
        found.ok().map(|hop| hop.destination)
    };
    following.until("its first address", |f| mac(f).is_some());
    let before = mac(&following);
    // Without a word about it: no gratuitous ARP.
    peer.ip("link set front address 02:00:00:00:77:77");
    following.until("its second address", |f| {
        let now = mac(f);
        now.is_some() && now != before
    });
    assert_eq!(mac(&following), Some([2, 0, 0, 0, 0x77, 0x77]));
    // The kernel forgets, and the machine changes again.
    ns.ip("neigh flush dev front");
    peer.ip("link set front address 02:00:00:00:88:88");
    following.until("its third address", |f| mac(f) == Some([2, 0, 0, 0, 0x88, 0x88]));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_server_that_nobody_answers_for_is_named_once() {
    let (ns, peer) = host();
    let wanted = Wanted { servers: vec![ip("10.1.0.77"), ip("10.1.0.254")], ..Wanted::default() };
    let following = Following::new(&ns, wanted);
    following.until("a word about it", |f| !f.sink.warnings.lock().unwrap().is_empty());
    std::thread::sleep(Duration::from_secs(2));
    let warnings = following.sink.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("10.1.0.77 cannot be reached: nobody on back answers"), "{warnings:?}");
    peer.ip("addr add 10.1.0.77/24 dev back");
    following.until("its answer", |f| {
        f.sink.next_hops.lock().unwrap().lookup(&path("10.1.0.1", "10.1.0.77")).is_ok()
    });
}
