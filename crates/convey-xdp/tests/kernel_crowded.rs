//! Where half-open flows are as many as may be, or no port is free, programs end the flows that the portable engine ends,
//! and no more.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod differential;

use convey_testkit::PacketBuilder as P;
use convey_testkit::few;
use convey_xdp::kernel::Hook;
use differential::pair::{Difference, Outcome, Pair, Step};
use differential::{alone, traffic, worlds};

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "[2001:db8:1::10]";

/// A small table in passthrough, where an IPv4 newcomer meets 32 half-open flows at most and an IPv6 one 16, with so many
/// ports towards each server, and without limits.
fn pair(hook: Hook, ports: u16) -> Pair {
    let mut setups = worlds::all().into_iter();
    let mut setup =
        setups.find(|setup| setup.hook == hook && setup.sets == 32 && worlds::is_passthrough(setup)).unwrap();
    setup.options.nat_ports.last = setup.options.nat_ports.first + ports - 1;
    setup.spec.limits.max_connections = 0;
    setup.spec.frontends.iter_mut().for_each(|frontend| frontend.max_connections = 0);
    setup.spec.backends.iter_mut().flat_map(|b| &mut b.servers).for_each(|server| server.max_connections = 0);
    let mut pair = Pair::new(setup);
    pair.reset();
    pair
}

fn step(pair: &mut Pair, step: &Step, told: &str) -> Option<Outcome> {
    pair.step(step).unwrap_or_else(|Difference(what)| panic!("{told}: {what}"))
}

fn client(v6: bool, n: u16) -> String {
    let (host, port) = (1 + n % 5, 2000 + n);
    if v6 { format!("[2001:db8:99::{host}]:{port}") } else { format!("198.51.100.{host}:{port}") }
}

fn syn(v6: bool, n: u16) -> Step {
    Step::Frame(P::syn(&client(v6, n), &format!("{}:80", if v6 { VIP6 } else { VIP4 })).build())
}

fn datagram(v6: bool, n: u16) -> Step {
    Step::Frame(P::udp(&client(v6, n), &format!("{}:53", if v6 { VIP6 } else { VIP4 })).payload(&[1]).build())
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn of_half_open_flows_that_are_equally_old_both_end_the_first() {
    alone();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        for v6 in [false, true] {
            let mut pair = pair(hook, 64);
            for n in 0..150 {
                step(&mut pair, &syn(v6, n), &format!("{hook:?} {v6} SYN {n}"));
                step(&mut pair, &datagram(v6, n), &format!("{hook:?} {v6} datagram {n}"));
            }
            pair.check().unwrap_or_else(|Difference(what)| panic!("{what}"));
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn where_a_chain_has_no_half_open_flow_both_end_the_same_one_behind_it() {
    alone();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut pair = pair(hook, 64);
        for n in 0..3 {
            step(&mut pair, &datagram(true, n), "first");
        }
        // These count in IPv6, too.
        for n in 0..25 {
            step(&mut pair, &datagram(false, n), "first");
        }
        for n in 3..200 {
            step(&mut pair, &datagram(true, n), &format!("{hook:?} datagram {n}"));
        }
        pair.check().unwrap_or_else(|Difference(what)| panic!("{what}"));
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_newcomer_that_takes_a_port_over_ends_no_second_half_open_flow() {
    alone();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut pair = pair(hook, 7);
        for n in 0..40 {
            step(&mut pair, &syn(true, n), "first");
            step(&mut pair, &syn(false, n), "first");
            step(&mut pair, &datagram(false, n), "first");
        }
        for n in 40..200 {
            step(&mut pair, &syn(true, n), &format!("{hook:?} SYN {n}"));
        }
        pair.check().unwrap_or_else(|Difference(what)| panic!("{what}"));
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_newcomer_finds_the_same_port_though_a_flow_with_its_key_is_over_and_was_not_swept() {
    alone();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut pair = pair(hook, 7);
        let mut random = 1u32;
        let mut below = |most: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) % most
        };
        for n in 0..4000 {
            let told = format!("{hook:?} step {n}");
            if below(12) == 0 {
                let ticks = [1, 30, 60, 119, 900, 1800, 17_900][below(7) as usize];
                step(&mut pair, &Step::Age(ticks), &told);
            }
            let sent = step(&mut pair, &datagram(false, below(30) as u16), &told);
            // Some are answered, and go on.
            if let Some(Outcome::Sent(frame)) = sent
                && below(2) == 0
                && let Some((nat, server)) = traffic::ends(&frame)
            {
                step(&mut pair, &Step::Frame(P::udp(&server, &nat).payload(&[2]).build()), &told);
            }
        }
        pair.check().unwrap_or_else(|Difference(what)| panic!("{what}"));
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_newcomer_ends_no_other_flow_beside_the_half_open_one_with_its_key_whose_time_is_over() {
    alone();
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut pair = pair(hook, 64);
        for round in 0..20 {
            let told = format!("{hook:?} round {round}");
            let first = round * 10;
            step(&mut pair, &syn(true, first), &told);
            for n in first + 1..first + 4 {
                step(&mut pair, &datagram(true, n), &told);
            }
            // These count in IPv6, too.
            for n in 0..20 {
                step(&mut pair, &datagram(false, n), &told);
            }
            step(&mut pair, &Step::Age(1000), &told);
            for n in first + 1..first + 4 {
                step(&mut pair, &datagram(true, n), &told);
            }
            step(&mut pair, &Step::Age(1000), &told);
            step(&mut pair, &syn(true, first), &told);
            step(&mut pair, &Step::Sweep, &told);
        }
        pair.check().unwrap_or_else(|Difference(what)| panic!("{what}"));
    }
}
