use super::*;
use crate::routes::Reject;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(network: &str, len: u8, ifindex: u32, metric: u32) -> Route {
    Route { metric, ..Route::by(address(network), len, ifindex, None) }
}

fn hop(ifindex: u32, gateway: &str) -> Hop {
    Hop { ifindex, gateway: Some(address(gateway)), weight: 1 }
}

fn over(network: &str, len: u8, hops: &[Hop]) -> Route {
    let target = if let [hop] = hops { Target::Hop(*hop) } else { Target::Hops(hops.into()) };
    Route { target, ..route(network, len, 0, 1024) }
}

/// The interfaces of the routes that take a packet from `source`, in order.
fn found(routes: &Routes, source: &str, destination: &str) -> Vec<u32> {
    let destination = address(destination);
    let Some(table) = routes.table(destination.is_ipv4(), 254) else { return Vec::new() };
    let mut all = Vec::new();
    table.find(destination, address(source), |way, _| {
        all.extend(way.target.hops().iter().map(|hop| hop.ifindex));
        None::<()>
    });
    all
}

#[test]
fn what_was_handed_out_stays_as_it_was_while_the_table_changes() {
    let mut table = RouteTable::default();
    let network = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(n << 12));
    for n in 1..=5000 {
        assert!(table.insert(Route::by(network(n), 20, n, None), Place::First));
    }
    let before = table.routes().clone();
    for n in (1..=5000).step_by(2) {
        assert!(table.remove(&Route::by(network(n), 20, n, None)));
    }
    assert!(table.insert(Route::by(network(2), 20, 9999, None), Place::Instead));
    let at = |routes: &Routes, n: u32| found(routes, "0.0.0.0", &network(n).to_string());
    assert_eq!((before.len(), table.routes().len()), (5000, 2500));
    for n in 1..=5000 {
        assert_eq!(at(&before, n), [n]);
        let now = match n {
            2 => vec![9999],
            n if n % 2 == 0 => vec![n],
            _ => vec![],
        };
        assert_eq!(at(table.routes(), n), now);
    }
}

#[test]
fn among_routes_to_one_network_the_lowest_metric_comes_first_and_the_next_when_it_goes() {
    let mut table: RouteTable =
        [("0.0.0.0", 0, 3, 300), ("0.0.0.0", 0, 1, 100), ("10.0.0.0", 8, 2, 200), ("0.0.0.0", 0, 2, 200)]
            .map(|(network, len, ifindex, metric)| route(network, len, ifindex, metric))
            .into_iter()
            .collect();
    let by = |table: &RouteTable| found(table.routes(), "10.0.0.1", "192.0.2.1");
    assert_eq!(by(&table), [1, 2, 3]);
    assert!(table.remove(&route("0.0.0.0", 0, 1, 100)));
    assert!(!table.remove(&route("0.0.0.0", 0, 1, 100)), "it is gone");
    assert_eq!(by(&table), [2, 3]);
    assert!(table.insert(route("0.0.0.0", 0, 4, 200), Place::First));
    assert!(table.insert(route("0.0.0.0", 0, 5, 200), Place::Last));
    assert!(!table.insert(route("0.0.0.0", 0, 5, 200), Place::Last), "it is there");
    assert_eq!(by(&table), [4, 2, 5, 3]);
    assert!(table.insert(route("0.0.0.0", 0, 6, 200), Place::Instead));
    assert_eq!(by(&table), [6, 2, 5, 3]);
    for (ifindex, metric) in [(6, 200), (2, 200), (5, 200), (3, 300)] {
        assert!(table.remove(&route("0.0.0.0", 0, ifindex, metric)));
    }
    assert_eq!((table.routes().len(), by(&table)), (1, vec![]));
}

#[test]
fn an_ipv6_route_grows_by_a_hop_and_loses_one() {
    let (a, b, c) = (hop(1, "fe80::1"), hop(2, "fe80::1"), hop(3, "fe80::1"));
    let mut table = RouteTable::default();
    assert!(table.insert(over("2001:db8::", 32, &[a]), Place::First));
    assert!(table.insert(over("2001:db8::", 32, &[a, b]), Place::Last));
    assert!(table.insert(over("2001:db8::", 32, &[a, b, c]), Place::Last));
    let by = |table: &RouteTable| found(table.routes(), "fd00::1", "2001:db8::1");
    assert_eq!((by(&table), table.routes().len()), (vec![1, 2, 3], 1));
    assert!(table.remove(&over("2001:db8::", 32, &[b])));
    assert_eq!(by(&table), [1, 3]);
    assert!(table.routes().has_choices());
    assert!(table.remove(&over("2001:db8::", 32, &[a])));
    assert_eq!(by(&table), [3]);
    assert!(!table.routes().has_choices());
    assert!(table.remove(&over("2001:db8::", 32, &[c])));
    assert!(table.routes().is_empty() && table.hops().next().is_none());
}

#[test]
fn a_route_for_some_sources_comes_before_the_one_for_all_of_the_same_network() {
    let from = |source: &str, len, ifindex| Route {
        source: Some((address(source), len)),
        ..route("::", 0, ifindex, 1024)
    };
    let table: RouteTable = [
        route("::", 0, 1, 10),
        from("2001:db8:1::", 48, 2),
        from("2001:db8:1:1::", 64, 3),
        route("2001:db8:9::", 48, 4, 1024),
    ]
    .into_iter()
    .collect();
    let by = |source, destination| found(table.routes(), source, destination);
    assert_eq!(by("2001:db8:1:1::5", "2001:db8:77::1"), [3, 2, 1]);
    assert_eq!(by("2001:db8:1:2::5", "2001:db8:77::1"), [2, 1]);
    assert_eq!(by("2001:db8:2::5", "2001:db8:77::1"), [1]);
    assert_eq!(by("2001:db8:1:1::5", "2001:db8:9::1"), [4, 3, 2, 1], "the destination comes first");
}

#[test]
fn many_routes_of_one_length_are_found_and_counted_and_routes_that_refuse_have_no_hops() {
    let network = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(n << 8));
    let mut table: RouteTable = (0..200_000).map(|n| Route::by(network(n), 24, 7, None)).collect();
    table.insert(
        Route { target: Target::Reject(Reject::Blackhole), ..route("10.0.0.0", 8, 0, 0) },
        Place::Last,
    );
    assert_eq!(table.routes().len(), 200_001);
    assert_eq!(table.hops().count(), 1);
    assert!((0..200_000).all(|n| found(table.routes(), "0.0.0.0", &network(n).to_string()) == [7]));
}
