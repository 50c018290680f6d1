//! Limits of connections.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use convey_bpf::tables::{Method, Standing};
use convey_testkit::build::{ACK, SYN};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::{Hook, Image};
use lab::{Lab, Verdict, at, ends, frontend, handed_up, image, path, server, sizes};

const VIP: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];
const SERVERS: [[&str; 2]; 2] =
    [["10.1.0.1:80", "10.1.0.2:80"], ["[2001:db8:1::1]:80", "[2001:db8:1::2]:80"]];
const CLIENTS: [[&str; 2]; 2] =
    [["198.51.100.7:1", "198.51.100.7:2"], ["[2001:db8:c::7]:1", "[2001:db8:c::7]:2"]];

/// All go to server `to`, which takes one connection, as all do.
fn limited(family: usize, to: u16) -> Image {
    let nat = at(VIP[family]).ip().to_string();
    let mut vip = frontend(VIP[family], 0, &[&nat]);
    vip.max_connections = 1;
    let mut servers: Vec<_> = SERVERS[family].iter().map(|s| server(s, Method::Nat)).collect();
    for (i, server) in (0u16..).zip(servers.iter_mut().flatten()) {
        server.max_connections = 1;
        server.standing = if i == to { Standing::Up } else { Standing::Down };
    }
    let paths = SERVERS[family].iter().map(|server| path(&nat, server, 6)).collect();
    let mut image = image(vec![Some(vip)], servers, paths);
    image.config.max_connections = 1;
    image.tables[0] = Some(vec![to; 65_537]);
    image
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_connection_that_takes_the_place_of_another_is_not_one_more() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        for family in 0..2 {
            let (vip, [client, other]) = (VIP[family], CLIENTS[family]);
            let mut lab = Lab::new(hook, &sizes(true), &limited(family, 0));
            lab.know(at(client).ip());
            let (nat, to) = ends(&lab.forwards(&PacketBuilder::syn(client, vip).seq(1000, 0)));
            let answer = PacketBuilder::tcp(&to.to_string(), &nat.to_string()).flags(SYN | ACK);
            lab.forwards(&answer.seq(5000, 1001));
            lab.forwards(&PacketBuilder::tcp(client, vip).seq(1001, 5001));
            assert_eq!(lab.run(&PacketBuilder::syn(other, vip).build()).0, Verdict::Drop);
            assert_eq!(handed_up(&mut lab).last().unwrap().0, "limit_total", "{hook:?}");
            // Its server goes down, and the client begins anew from the same port.
            lab.install(&limited(family, 1));
            let (_, to) = ends(&lab.forwards(&PacketBuilder::syn(client, vip).seq(90_000, 0)));
            assert_eq!(to, at(SERVERS[family][1]), "{hook:?}");
        }
    }
}
