use super::*;
use crate::links::Vrf;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn path(source: &str, destination: &str) -> Path {
    Path { source: address(source), destination: address(destination), ingress: 7 }
}

fn in_table(table: u32, network: &str, prefix_len: u8, ifindex: u32) -> Route {
    Route { table, ..Route::by(address(network), prefix_len, ifindex, None) }
}

fn rule(priority: u32, action: Action) -> Rule {
    Rule { priority, action, ..Rule::defaults()[0].clone() }
}

fn look_in(table: u32) -> Action {
    Action::Lookup { table, suppress: None }
}

fn routing(routes: impl IntoIterator<Item = Route>, rules: impl IntoIterator<Item = Rule>) -> Routing {
    Routing::new(routes.into_iter().collect::<RouteTable>().routes(), rules)
}

fn find(routing: &Routing, path: &Path) -> Option<Result<(Hop, u32), Reject>> {
    routing.find(path, &Links::default(), &Objects::default())
}

fn interface(routing: &Routing, path: &Path) -> Option<u32> {
    Some(find(routing, path)?.ok()?.0.ifindex)
}

#[test]
fn an_answer_from_a_vip_takes_the_table_that_a_rule_names_for_it() {
    let routes = routing(
        [in_table(254, "0.0.0.0", 0, 1), in_table(100, "0.0.0.0", 0, 2), in_table(254, "10.1.0.0", 16, 3)],
        [Rule { from: Some((address("10.0.0.9"), 32)), ..rule(1000, look_in(100)) }]
            .into_iter()
            .chain(Rule::defaults()),
    );
    assert_eq!(interface(&routes, &path("10.0.0.9", "192.0.2.1")), Some(2));
    assert_eq!(interface(&routes, &path("10.0.0.8", "192.0.2.1")), Some(1));
}

#[test]
fn rules_by_destination_and_arrival_and_their_opposites_are_followed_in_their_order() {
    let to = |priority, table| Rule { to: Some((address("10.1.0.0"), 16)), ..rule(priority, look_in(table)) };
    let tables = || (1..=4).map(|n| in_table(n, "0.0.0.0", 0, n));
    let find = |rules: Vec<Rule>, path: &Path| interface(&routing(tables(), rules), path);
    let inside = path("10.0.0.1", "10.1.2.3");
    assert_eq!(find(vec![to(20, 1), to(10, 2), rule(30, look_in(3))], &inside), Some(2));
    assert_eq!(find(vec![to(20, 1), rule(30, look_in(3))], &path("10.0.0.1", "10.2.0.1")), Some(3));
    let inverted = Rule { is_inverted: true, ..to(5, 4) };
    assert_eq!(find(vec![inverted.clone(), rule(30, look_in(3))], &inside), Some(3));
    assert_eq!(find(vec![inverted, rule(30, look_in(3))], &path("10.0.0.1", "10.2.0.1")), Some(4));
    let arriving = |ifindex| Rule { ingress: Some(ifindex), ..rule(5, look_in(4)) };
    assert_eq!(find(vec![arriving(7), rule(30, look_in(3))], &inside), Some(4));
    assert_eq!(find(vec![arriving(8), rule(30, look_in(3))], &inside), Some(3));
}

#[test]
fn a_rule_may_skip_others_or_leave_short_prefixes_to_the_next_table() {
    let routes =
        || [in_table(1, "0.0.0.0", 0, 1), in_table(1, "10.1.0.0", 16, 2), in_table(2, "0.0.0.0", 0, 3)];
    let no_default = Action::Lookup { table: 1, suppress: Some(0) };
    let all = routing(routes(), [rule(1, no_default), rule(2, look_in(2))]);
    assert_eq!(interface(&all, &path("10.0.0.1", "10.1.0.1")), Some(2));
    assert_eq!(interface(&all, &path("10.0.0.1", "10.2.0.1")), Some(3));
    let all = routing(routes(), [rule(1, Action::Goto(9)), rule(2, look_in(1)), rule(9, look_in(2))]);
    assert_eq!(interface(&all, &path("10.0.0.1", "10.1.0.1")), Some(3));
    let circle = routing(routes(), [rule(1, Action::Goto(1)), rule(2, look_in(2))]);
    assert_eq!(interface(&circle, &path("10.0.0.1", "10.1.0.1")), Some(3));
}

#[test]
fn a_refusing_route_is_obeyed_before_the_default_route_and_throw_asks_the_next_table() {
    let refusing = |network: &str, target| Route { target, ..in_table(254, network, 16, 0) };
    let routes = routing(
        [
            in_table(254, "0.0.0.0", 0, 1),
            refusing("10.1.0.0", Target::Reject(Reject::Blackhole)),
            refusing("10.2.0.0", Target::Reject(Reject::Unreachable)),
            refusing("10.3.0.0", Target::Throw),
            in_table(253, "0.0.0.0", 0, 5),
        ],
        Rule::defaults().into_iter().chain([rule(32767, look_in(253))]),
    );
    let to = |to| find(&routes, &path("10.0.0.1", to));
    assert_eq!(to("10.1.0.1"), Some(Err(Reject::Blackhole)));
    assert_eq!(to("10.2.0.1"), Some(Err(Reject::Unreachable)));
    assert_eq!(interface(&routes, &path("10.0.0.1", "10.3.0.1")), Some(5));
    assert_eq!(interface(&routes, &path("10.0.0.1", "10.4.0.1")), Some(1));
}

#[test]
fn several_ways_are_taken_by_their_weights_and_one_flow_keeps_to_one() {
    let hop = |ifindex, weight| Hop { ifindex, gateway: None, weight };
    let hops = Target::Hops([hop(1, 1), hop(2, 3)].into());
    let routes = routing([Route { target: hops, ..in_table(254, "0.0.0.0", 0, 0) }], Rule::defaults());
    let way = |n: u32| {
        let destination = IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 + n));
        interface(&routes, &Path { destination, ..path("10.0.0.1", "10.0.0.1") })
    };
    let second = (0..1000).filter(|n| way(*n) == Some(2)).count();
    assert!((650..850).contains(&second), "{second} of 1000 by the way of weight 3 of 4");
    assert!((0..100).all(|n| way(n) == way(n)));
}

#[test]
fn a_packet_that_came_in_by_a_member_of_a_vrf_takes_its_table_and_others_take_theirs() {
    let vrf = |ifindex, table| Vrf { ifindex, table };
    let links = Links::default().with_vrfs([(7, vrf(70, 10)), (8, vrf(80, 20))]);
    let rules = [rule(1000, Action::LookupVrf { suppress: None })];
    let by_device = Rule { ingress: Some(80), ..rule(500, look_in(30)) };
    let tables = [10, 20, 30, 254].map(|table| in_table(table, "0.0.0.0", 0, table));
    let all = routing(tables, rules.into_iter().chain(Rule::defaults()).chain([by_device]));
    let by = |ingress| {
        let path = Path { ingress, ..path("10.0.0.1", "192.0.2.1") };
        Some(all.find(&path, &links, &Objects::default())?.ok()?.0.ifindex)
    };
    assert_eq!([by(7), by(8), by(9), by(0)], [Some(10), Some(30), Some(254), Some(254)]);
    assert!(!all.is_by_destination());
}

#[test]
fn a_route_over_a_link_that_is_not_alive_gives_way_to_the_next_metric_and_then_to_a_shorter_prefix() {
    let hop = |ifindex| Hop { ifindex, gateway: None, weight: 1 };
    let all = routing(
        [
            in_table(254, "0.0.0.0", 0, 1),
            Route { metric: 5, ..in_table(254, "10.1.0.0", 16, 2) },
            Route { metric: 9, ..in_table(254, "10.1.0.0", 16, 3) },
            Route { target: Target::Hops([hop(2), hop(4)].into()), ..in_table(254, "10.2.0.0", 16, 0) },
            Route { target: Target::Object(77), ..in_table(254, "10.3.0.0", 16, 0) },
            Route { target: Target::Object(78), ..in_table(254, "10.4.0.0", 16, 0) },
        ],
        Rule::defaults(),
    );
    let objects = Objects::from([(77, Target::Hop(hop(2)))]);
    let by = |to: &str, alive: &[u32]| {
        let links = Links::default().with_alive(alive.iter().copied());
        Some(all.find(&path("10.0.0.1", to), &links, &objects)?.ok()?.0.ifindex)
    };
    assert_eq!(by("10.1.0.1", &[1, 2, 3]), Some(2));
    assert_eq!(by("10.1.0.1", &[1, 3]), Some(3));
    assert_eq!(by("10.1.0.1", &[1]), Some(1));
    assert_eq!(by("10.1.0.1", &[]), None);
    assert!((0..20).all(|n| by(&format!("10.2.0.{n}"), &[1, 4]) == Some(4)));
    assert_eq!(by("10.2.0.1", &[1]), Some(1));
    assert_eq!([by("10.3.0.1", &[1, 2]), by("10.3.0.1", &[1])], [Some(2), Some(1)]);
    assert_eq!(by("10.4.0.1", &[1, 2]), Some(1), "of an object that is gone nothing is alive");
}
