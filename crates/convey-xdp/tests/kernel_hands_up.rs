//! What the programs leave to user space: it comes whole, and fragments after the first of their datagram.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use aya::maps::HashMap;
use aya::programs::{SchedClassifier, TcAttachType};
use convey_bpf::tables::{Hop, Method};
use convey_testkit::netns::{Netns, cable};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::Hook;
use lab::{Lab, Verdict, frontend, handed_up, image, path, server, sizes};

const HOOKS: [Hook; 2] = [Hook::Tc, Hook::Xdp];

/// A UDP frontend on port 53 of an IPv4 and an IPv6 address, the NAT addresses; a TCP one on port 80.
fn lab(hook: Hook) -> Lab {
    let udp = |listen: &str, backend, nat| {
        let mut frontend = frontend(listen, backend, &[nat]);
        frontend.protocol = 17;
        Some(frontend)
    };
    let frontends = vec![
        udp("192.0.2.10:53", 0, "192.0.2.10"),
        udp("[2001:db8::10]:53", 1, "2001:db8::10"),
        Some(frontend("192.0.2.10:80", 0, &["192.0.2.10"])),
    ];
    let servers = vec![server("10.1.0.1:53", Method::Nat), server("[2001:db8:1::1]:53", Method::Nat)];
    let paths = vec![path("192.0.2.10", "10.1.0.1:53", 17), path("2001:db8::10", "[2001:db8:1::1]:53", 17)];
    Lab::new(hook, &sizes(true), &image(frontends, servers, paths))
}

const CLIENTS: [(&str, &str); 2] =
    [("198.51.100.7:4000", "192.0.2.10"), ("[2001:db8:c::7]:4000", "[2001:db8::10]")];

fn datagram(client: &str, to: &str) -> PacketBuilder {
    PacketBuilder::udp(client, to).payload(&[7; 3000])
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn the_fragments_of_a_datagram_to_a_frontend_are_handed_up_in_order() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        for (client, ip) in CLIENTS {
            let parts = datagram(client, &format!("{ip}:53")).id(77).cut(1400);
            assert_eq!(parts.len(), 3);
            for part in &parts {
                assert_eq!(lab.run(&part.build()).0, Verdict::Drop, "{hook:?} {ip}: user space sends it on");
            }
            let want: Vec<Vec<u8>> = parts.iter().map(PacketBuilder::build).collect();
            let have: Vec<_> = handed_up(&mut lab).into_iter().map(|(_, _, frame)| frame).collect();
            assert_eq!(have, want, "{hook:?} {ip}");
            // An answer, to the address that it is sent from.
            let server = if ip.contains(':') { "[2001:db8:1::1]:53" } else { "10.1.0.1:53" };
            for part in datagram(server, &format!("{ip}:20007")).id(78).cut(1400) {
                assert_eq!(lab.run(&part.build()).0, Verdict::Drop, "{hook:?} {ip}: an answer");
            }
            assert_eq!(handed_up(&mut lab).len(), 3);
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_copy_of_a_fragment_that_came_before_its_first_waits_in_user_space() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        for (client, ip) in CLIENTS {
            let parts = datagram(client, &format!("{ip}:53")).id(77).cut(1400);
            let last = parts[2].build();
            assert_eq!(lab.run(&last).0, Verdict::Pass, "{hook:?} {ip}: it may be the host's");
            assert_eq!(handed_up(&mut lab), [("fragment", last.len() as u32, last)]);
            assert_eq!(lab.run(&parts[0].build()).0, Verdict::Drop);
            assert_eq!(lab.run(&parts[1].build()).0, Verdict::Drop);
            assert_eq!(handed_up(&mut lab).len(), 2);
            // Of other addresses nothing is handed up.
            let other = if ip.contains(':') { "[2001:db8::99]:53" } else { "192.0.2.99:53" };
            for part in datagram(client, other).id(77).cut(1400) {
                assert_eq!(lab.run(&part.build()).0, Verdict::Pass, "{hook:?} {ip}");
            }
            assert!(handed_up(&mut lab).is_empty());
        }
        // Those that user space has a copy of are counted there.
        assert_eq!(lab.counted("fragment"), 4, "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn an_identification_used_again_or_two_seconds_later_is_not_followed() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        for (client, ip) in CLIENTS {
            let ours = datagram(client, &format!("{ip}:53")).id(77).cut(1400);
            let hosts = datagram(client, &format!("{ip}:5353")).id(77).cut(1400);
            assert_eq!(lab.run(&ours[0].build()).0, Verdict::Drop);
            assert_eq!(lab.run(&hosts[0].build()).0, Verdict::Pass, "{hook:?}: a service of the host's");
            assert_eq!(lab.run(&hosts[1].build()).0, Verdict::Pass, "{hook:?}");
            assert_eq!(lab.run(&ours[0].build()).0, Verdict::Drop);
            let mut begun: HashMap<_, [u8; 40], u32> =
                lab.kernel.ebpf.map_mut("fragments").unwrap().try_into().unwrap();
            let keys: Vec<[u8; 40]> = begun.keys().map(Result::unwrap).collect();
            for key in keys {
                let tick = begun.get(&key, 0).unwrap();
                begun.insert(key, tick.wrapping_sub(125) & 0xff_ffff, 0).unwrap();
            }
            assert_eq!(lab.run(&ours[1].build()).0, Verdict::Pass, "{hook:?}: too late");
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn frames_are_handed_up_whole_whichever_record_they_need() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        for len in [0, 1460, 1461, 1994, 1995, 3000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let packet = PacketBuilder::tcp("198.51.100.7:4000", "192.0.2.10:80").payload(&payload);
            assert_eq!(lab.run(&packet.build()).0, Verdict::Drop);
            let up = handed_up(&mut lab);
            let frame = packet.build();
            assert_eq!(up, [("no_flow", frame.len() as u32, frame)], "{hook:?} {len}");
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_whole_checksum_that_looks_open_needs_nobody_in_user_space() {
    let frontends = vec![
        Some(frontend("192.0.2.10:80", 0, &["192.0.2.10"])),
        Some(frontend("[2001:db8::10]:80", 1, &["2001:db8::10"])),
    ];
    let servers = vec![server("10.1.0.1:80", Method::Nat), server("[2001:db8:1::1]:80", Method::Nat)];
    let paths = vec![path("192.0.2.10", "10.1.0.1:80", 6), path("2001:db8::10", "[2001:db8:1::1]:80", 6)];
    let mut lab = Lab::new(Hook::Xdp, &sizes(true), &image(frontends, servers, paths));
    for (client, ip) in CLIENTS {
        for len in [0usize, 1, 43, 44, 45, 500, 1400] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let syn = PacketBuilder::syn(client, &format!("{ip}:80")).payload(&payload);
            let looks_open = (0..=u32::from(u16::MAX))
                .map(|seq| syn.clone().seq(seq, 0))
                .find(|syn| syn.build() == syn.clone().partial().build());
            assert_eq!(lab.run(&looks_open.unwrap().build()).0, Verdict::Forward, "{ip} {len}");
            assert!(handed_up(&mut lab).is_empty(), "{ip} {len}");
            let open = syn.seq(7, 0).partial().build();
            assert_eq!(lab.run(&open).0, Verdict::Drop, "{ip} {len}: user space sends it on");
            assert_eq!(handed_up(&mut lab), [("handed_up", open.len() as u32, open)], "{ip} {len}");
        }
    }
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn frames_longer_than_a_record_are_cut_and_tell_so() {
    let (client, balancer) = (Netns::new("client"), Netns::new("balancer"));
    cable(&client, &balancer);
    client.ip("link set veth0 mtu 12000");
    balancer.ip("link set veth0 mtu 12000");
    client.ip("route add 192.0.2.10/32 via 10.9.0.2");
    let up = balancer.enter(move || {
        // The server's next hop is not known.
        let mut nowhere = server("10.1.0.1:53", Method::Nat).unwrap();
        nowhere.hop = Hop::default();
        let mut vip = frontend("192.0.2.10:53", 0, &["192.0.2.10"]);
        vip.protocol = 17;
        let paths = vec![path("192.0.2.10", "10.1.0.1:53", 17)];
        let mut lab = Lab::new(Hook::Tc, &sizes(true), &image(vec![Some(vip)], vec![Some(nowhere)], paths));
        let program: &mut SchedClassifier =
            lab.kernel.ebpf.program_mut("convey_tc").unwrap().try_into().unwrap();
        program.attach("veth0", TcAttachType::Ingress).unwrap();
        client.enter(|| {
            let socket = std::net::UdpSocket::bind("10.9.0.1:4000").unwrap();
            for len in [9000, 9686, 9687, 11_000] {
                socket.send_to(&vec![3; len], "192.0.2.10:53").unwrap();
            }
        });
        (0..100).fold(Vec::new(), |mut all, _| {
            all.extend(handed_up(&mut lab));
            if all.len() < 4 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            all
        })
    });
    let lengths: Vec<_> = up.iter().map(|(why, len, frame)| (*why, *len, frame.len())).collect();
    let whole = |len: usize| ("no_next_hop", len as u32, len.min(9728));
    assert_eq!(lengths, [9042, 9728, 9729, 11_042].map(whole));
    assert!(up.iter().all(|(_, _, frame)| frame[42..].iter().all(|byte| *byte == 3)));
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn what_a_full_ring_does_not_take_is_counted() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        let frame = PacketBuilder::tcp("198.51.100.7:4000", "192.0.2.10:80").build();
        for _ in 0..200 {
            assert_eq!(lab.run(&frame).0, Verdict::Drop);
        }
        let up = handed_up(&mut lab).len() as u64;
        assert!((50..200).contains(&up), "{hook:?} {up}");
        assert_eq!((lab.counted("handed_up"), lab.counted("ring_full")), (up, 200 - up), "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_flood_of_fragments_that_come_before_their_first_leaves_half_of_the_ring_to_others() {
    for &hook in few(&HOOKS) {
        let mut lab = lab(hook);
        let last = datagram("198.51.100.7:4000", "192.0.2.10:53").id(77).cut(1400)[2].build();
        for _ in 0..300 {
            assert_eq!(lab.run(&last).0, Verdict::Pass);
        }
        let copies = lab.counted("handed_up");
        assert!((50..80).contains(&copies), "{hook:?} {copies}");
        assert_eq!(lab.counted("ring_full"), 300 - copies, "{hook:?}");
        let refused = PacketBuilder::tcp("198.51.100.7:4000", "192.0.2.10:80").build();
        assert_eq!(lab.run(&refused).0, Verdict::Drop);
        assert_eq!(handed_up(&mut lab).last().unwrap().0, "no_flow", "{hook:?}");
    }
}
