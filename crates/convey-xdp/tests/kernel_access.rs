//! Lists of networks in the kernel: who may begin flows.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod lab;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use aya::maps::PerCpuArray;
use convey_bpf::tables::Method;
use convey_core::{AccessList, Prefix};
use convey_testkit::build::{ACK, SYN};
use convey_testkit::{PacketBuilder, few};
use convey_xdp::kernel::{Hook, Image, Kernel, Tables};
use convey_xdp::pins::PinFolder;
use lab::bpffs::BpfFs;
use lab::{Lab, Verdict, at, ends, frontend, image, path, server, sizes};

const VIP: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|p| p.parse().unwrap()).collect()
}

/// Two frontends, IPv4 in slot 0 and IPv6 in slot 1, with these lists.
fn with(allow: &[Prefix], deny: &[Prefix]) -> Image {
    let access = AccessList::new(allow, deny).unwrap().map(Arc::new);
    let nats = VIP.map(|vip| at(vip).ip().to_string());
    let mut vips: Vec<_> =
        (0u16..).zip(VIP).map(|(i, vip)| frontend(vip, i, &[&nats[usize::from(i)]])).collect();
    vips.iter_mut().for_each(|vip| vip.access = access.is_some());
    let servers = ["10.1.0.1:80", "[2001:db8:1::1]:80"];
    let paths = nats.iter().zip(servers).map(|(nat, server)| path(nat, server, 6)).collect();
    let servers = servers.map(|address| server(address, Method::Nat)).to_vec();
    Image {
        access: vec![access.clone(), access],
        ..image(vips.into_iter().map(Some).collect(), servers, paths)
    }
}

fn syn(client: &str) -> PacketBuilder {
    let client = if client.contains(':') { format!("[{client}]:4000") } else { format!("{client}:4000") };
    let vip = VIP[usize::from(client.starts_with('['))];
    PacketBuilder::syn(&client, vip)
}

/// Whether a client's SYN is dropped by the program, without anybody being told.
fn is_denied(lab: &mut Lab, client: &str) -> bool {
    let before = lab.counted("denied");
    let (verdict, _) = lab.run(&syn(client).build());
    let counted = lab.counted("denied") - before;
    let handed_up = lab::handed_up(lab).len();
    match (verdict, counted, handed_up) {
        (Verdict::Drop, 1, 0) => true,
        (Verdict::Forward, 0, 0) => false,
        _ => panic!("{client}: {verdict:?}, counted {counted}, handed up {handed_up}"),
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn the_longest_network_decides_in_both_families_and_refusals_are_counted_for_their_frontend() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let allow = prefixes(&["198.51.100.0/24", "2001:db8:c::/48", "198.51.100.77"]);
        let deny = prefixes(&["198.51.100.64/26", "2001:db8:c:1::/64", "2001:db8:c::7"]);
        let mut lab = Lab::new(hook, &sizes(true), &with(&allow, &deny));
        for client in ["198.51.100.1", "198.51.100.77", "198.51.100.128", "2001:db8:c::8", "2001:db8:c:2::1"]
        {
            assert!(!is_denied(&mut lab, client), "{hook:?} {client}");
        }
        let denied = ["198.51.100.64", "198.51.100.127", "203.0.113.1"];
        let denied6 = ["2001:db8:c::7", "2001:db8:c:1::9", "2001:db8:d::1", "2001:db8:e::1"];
        for client in denied.iter().chain(&denied6) {
            assert!(is_denied(&mut lab, client), "{hook:?} {client}");
        }
        let refusals = |slot: u32| -> u64 {
            let map: PerCpuArray<_, [u8; 48]> = lab.kernel.ebpf.map("refusals").unwrap().try_into().unwrap();
            let cpus = map.get(&slot, 0).unwrap();
            cpus.iter().map(|c| u64::from_ne_bytes(c[40..].try_into().unwrap())).sum()
        };
        assert_eq!([refusals(0), refusals(1)], [3, 4]);
        // Everybody again.
        lab.install(&with(&[], &[]));
        for client in denied.iter().chain(&denied6) {
            assert!(!is_denied(&mut lab, client), "{hook:?} {client}");
        }
    }
}

#[test]
#[ignore = "needs root: loads kernel programs"]
fn a_flow_that_is_open_when_its_client_is_denied_goes_on_and_no_other_begins() {
    for &hook in few(&[Hook::Tc, Hook::Xdp]) {
        let mut lab = Lab::new(hook, &sizes(true), &with(&[], &[]));
        let client = "198.51.100.7:4000";
        lab.know(at(client).ip());
        let (nat, to) = ends(&lab.forwards(&syn("198.51.100.7").seq(1000, 0)));
        lab.forwards(&PacketBuilder::tcp(&to.to_string(), &nat.to_string()).flags(SYN | ACK).seq(5000, 1001));
        lab.install(&with(&[], &prefixes(&["0.0.0.0/0"])));
        lab.forwards(&PacketBuilder::tcp(client, VIP[0]).seq(1001, 5001));
        lab.forwards(&PacketBuilder::tcp(&to.to_string(), &nat.to_string()).seq(5001, 1001));
        assert!(is_denied(&mut lab, "198.51.100.8"), "{hook:?}");
        assert!(!is_denied(&mut lab, "2001:db8::7"), "{hook:?}");
    }
}

#[test]
#[ignore = "needs root: loads a kernel program"]
fn ten_thousand_networks_are_written_at_once_and_another_process_goes_on_with_them() {
    let bpffs = BpfFs::mount("access");
    let folder = bpffs.0.join("convey/here_balancer_1_0");
    let deny: Vec<Prefix> = (0..10_000)
        .map(|n| Prefix::new(Ipv4Addr::from_bits(0xc633_0000 + n * 16).into(), 30).unwrap())
        .collect();
    let lists = with(&[], &deny);
    {
        let pins = Arc::new(PinFolder::create(&folder).unwrap());
        let kernel = Kernel::load_with(Hook::Tc, &sizes(true), &Tables::Pinned(pins)).unwrap();
        let mut lab = Lab { kernel };
        let begin = Instant::now();
        lab.install(&lists);
        println!("written in {:?}", begin.elapsed());
        let begin = Instant::now();
        lab.install(&lists);
        println!("not written again in {:?}", begin.elapsed());
        for n in (0..10_000).step_by(99) {
            let first = 0xc633_0000u32 + n * 16;
            assert!(is_denied(&mut lab, &Ipv4Addr::from_bits(first).to_string()));
            assert!(is_denied(&mut lab, &Ipv4Addr::from_bits(first + 3).to_string()));
        }
    }
    let pins = Arc::new(PinFolder::hold(&folder).unwrap());
    let kernel = Kernel::load_with(Hook::Tc, &sizes(true), &Tables::Adopted(pins.clone())).unwrap();
    let mut lab = Lab { kernel };
    assert!(is_denied(&mut lab, "198.51.0.16"), "as the first has written it");
    lab.install(&with(&[], &deny[..1]));
    assert!(is_denied(&mut lab, "198.51.0.1"));
    assert!(!is_denied(&mut lab, "198.51.0.16"));
    lab.install(&with(&[], &[]));
    assert!(!is_denied(&mut lab, "198.51.0.1"));
    drop(lab);
    convey_xdp::pins::remove_held(&pins).unwrap();
}
