use std::net::{Ipv4Addr, Ipv6Addr};

use convey_engine::PortRange;
use convey_engine::steering::worker_for;

use super::*;
use crate::bpf::interpreter::{Ancillary, run};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xaa, 1, 2, 3, 4, 5, 6));
const NAT: PortRange = PortRange { first: 33768, last: 61000 };

/// An IP packet with `option_words` of IPv4 options and the first eight bytes of layer 4.
fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8], option_words: u8) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut h = vec![0x45 + option_words, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            h.extend(s.octets());
            h.extend(d.octets());
            h.extend(std::iter::repeat_n(1, usize::from(option_words) * 4));
            h
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut h = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            h.extend(s.octets());
            h.extend(d.octets());
            h
        }
        _ => unreachable!("one family a packet"),
    };
    packet.extend(payload);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 4]].concat()
}

fn icmp_error(from: IpAddr, to: IpAddr, quoted: &[u8], option_words: u8) -> Vec<u8> {
    let (protocol, kind) = if from.is_ipv4() { (1, 3) } else { (58, 2) };
    ip(from, to, protocol, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat(), option_words)
}

fn protocol_of(packet: &[u8]) -> u32 {
    if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }
}

fn steered(packet: &[u8], workers: usize) -> usize {
    let program = steering(Some(NAT), workers);
    let ancillary = Ancillary { protocol: protocol_of(packet), ..Ancillary::default() };
    run(&program, packet, ancillary) as usize % workers
}

fn sample() -> Interest {
    Interest {
        interfaces: vec![3, 9],
        addresses: vec![VIP, VIP6],
        ports: vec![80..=80, 443..=443, 33768..=61000],
    }
}

fn kept_with(interest_of: &Interest, packet: &[u8], change: impl Fn(&mut Ancillary)) -> bool {
    let protocol = protocol_of(packet);
    let frame = [&[0; 12][..], &(protocol as u16).to_be_bytes(), packet].concat();
    let mut ancillary = Ancillary { protocol, ifindex: 3, ..Ancillary::default() };
    change(&mut ancillary);
    run(&interest(interest_of)[0], &frame, ancillary) != 0
}

fn kept(packet: &[u8]) -> bool {
    kept_with(&sample(), packet, |_| ())
}

#[test]
fn a_program_steers_as_the_rules_say_for_both_families_and_any_options() {
    for workers in [1, 2, 3, 7] {
        for step in 0..200u16 {
            let port = 32768 + step * 61;
            for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
                for (source, destination) in [(port, 80), (80, port)] {
                    let options = if vip.is_ipv4() { (step % 11) as u8 } else { 0 };
                    let packet = ip(client, vip, 6, &ports(source, destination), options);
                    let expected = worker_for(client, source, destination, NAT, workers);
                    assert_eq!(steered(&packet, workers), expected, "{client} {source}->{destination}");
                }
            }
        }
    }
}

#[test]
fn an_icmp_error_follows_the_flow_it_quotes_in_either_direction() {
    let router = IpAddr::from([10, 0, 0, 254]);
    let router6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));
    for step in 0..200u16 {
        let options = (step % 11) as u8;
        let (client_port, nat_port) = (1024 + step * 13, 33768 + step * 7);
        for (client, vip, router) in [(CLIENT, VIP, router), (CLIENT6, VIP6, router6)] {
            let inner_options = if vip.is_ipv4() { options } else { 0 };
            let outer_options = if vip.is_ipv4() { 10 - options } else { 0 };
            // About our answer to the client.
            let quoted = ip(vip, client, 17, &ports(80, client_port), inner_options);
            let error = icmp_error(router, vip, &quoted, outer_options);
            assert_eq!(steered(&error, 5), worker_for(client, client_port, 80, NAT, 5));
            // About our request to the server.
            let quoted = ip(vip, router, 6, &ports(nat_port, 80), inner_options);
            let error = icmp_error(router, vip, &quoted, outer_options);
            assert_eq!(steered(&error, 5), usize::from(nat_port) % 5);
        }
    }
}

/// The first `count` of a chain of every kind of extension header that is walked, each before `protocol`.
fn behind_extensions(count: usize, protocol: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let kinds: Vec<u8> = [0, 60, 43, 44, 60, 43, 60, 44, 60].into_iter().take(count).collect();
    let mut bytes = Vec::new();
    for (i, &kind) in kinds.iter().enumerate() {
        let next = kinds.get(i + 1).copied().unwrap_or(protocol);
        // Length in units of eight bytes beyond the first; a fragment header is eight bytes long, always.
        let longer = if kind == 44 { 0 } else { i % 3 };
        bytes.extend([next, if kind == 44 { 0 } else { longer as u8 }, 0, 0, 0, 0, 0, 1]);
        bytes.extend(std::iter::repeat_n(0, longer * 8));
    }
    bytes.extend(payload);
    (kinds.first().copied().unwrap_or(protocol), bytes)
}

#[test]
fn packets_of_one_flow_with_and_without_ipv6_extension_headers_meet_one_worker() {
    for workers in [2, 3, 7] {
        for step in 0..60u16 {
            let port = 32768 + step * 61;
            for (source, destination) in [(port, 80), (80, port)] {
                let expected = worker_for(CLIENT6, source, destination, NAT, workers);
                for count in 0..=MAX_EXTENSION_HEADERS {
                    let (first, rest) = behind_extensions(count, 17, &ports(source, destination));
                    assert_eq!(steered(&ip(CLIENT6, VIP6, first, &rest, 0), workers), expected, "{count}");
                    // Quoted in an error, which itself stands behind a header.
                    let (first, rest) = behind_extensions(count, 6, &ports(destination, source));
                    let quoted = ip(VIP6, CLIENT6, first, &rest, 0);
                    let error = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
                    let (first, rest) = behind_extensions(count.min(1), 58, &error);
                    let error = ip(CLIENT6, VIP6, first, &rest, 0);
                    assert_eq!(steered(&error, workers), expected, "an error about {count}");
                }
                let (first, rest) =
                    behind_extensions(MAX_EXTENSION_HEADERS + 1, 17, &ports(source, destination));
                assert_eq!(steered(&ip(CLIENT6, VIP6, first, &rest, 0), workers), 0, "one too many");
            }
        }
    }
}

#[test]
#[ignore = "needs root: opens a packet socket"]
fn the_kernel_takes_the_steering_program() {
    let socket = crate::sys::PacketSocket::open(1 << 16).expect("a socket");
    socket.bind_all().expect("bound");
    socket.start_fanout().expect("a group");
    for nat in [None, Some(NAT)] {
        socket.steer(&steering(nat, 7)).expect("taken");
    }
}

#[test]
fn what_has_no_ports_goes_to_worker_zero() {
    let mut fragment = ip(CLIENT, VIP, 6, &ports(40001, 40003), 0);
    fragment[7] = 100;
    assert_eq!(steered(&fragment, 4), 0);
    let later = [&[6, 0, 0, 8, 0, 0, 0, 1][..], &ports(40001, 40003)].concat();
    assert_eq!(steered(&ip(CLIENT6, VIP6, 44, &later, 0), 4), 0, "a later fragment");
    assert_eq!(steered(&ip(CLIENT, VIP, 1, &[8, 0, 0, 0, 0, 0, 0, 0], 0), 4), 0);
    assert_eq!(steered(&[0x45], 4), 0, "a runt");
}

#[test]
fn frames_for_a_frontend_or_a_nat_port_are_kept_and_others_are_not() {
    for (client, vip) in [(CLIENT, VIP), (CLIENT6, VIP6)] {
        assert!(kept(&ip(client, vip, 6, &ports(5000, 80), 0)));
        assert!(kept(&ip(client, vip, 17, &ports(80, 40000), 0)));
        assert!(!kept(&ip(client, vip, 6, &ports(5000, 22), 0)), "ssh stays the host's alone");
        assert!(!kept(&ip(vip, client, 6, &ports(80, 80), 0)), "another destination");
        assert!(!kept(&ip(client, vip, 47, &ports(80, 80), 0)), "GRE");
    }
    assert!(kept(&ip(CLIENT, VIP, 6, &ports(5000, 443), 10)), "behind IP options");
}

#[test]
fn icmp_errors_and_fragments_are_kept_and_echo_is_not() {
    assert!(kept(&icmp_error(CLIENT, VIP, &[], 3)));
    assert!(kept(&icmp_error(CLIENT6, VIP6, &[], 0)));
    assert!(!kept(&ip(CLIENT, VIP, 1, &[8, 0, 0, 0], 0)));
    assert!(!kept(&ip(CLIENT6, VIP6, 58, &[135, 0, 0, 0], 0)), "neighbour solicitation");
    let mut later = ip(CLIENT, VIP, 17, &[0; 8], 0);
    later[7] = 5;
    assert!(kept(&later));
    assert!(kept(&ip(CLIENT6, VIP6, 44, &[0; 8], 0)));
}

#[test]
fn frames_for_others_with_a_vlan_tag_or_of_another_interface_are_not_kept() {
    let packet = ip(CLIENT, VIP, 6, &ports(5000, 80), 0);
    let with = |change: fn(&mut Ancillary)| kept_with(&sample(), &packet, change);
    assert!(with(|a| a.ifindex = 9));
    assert!(!with(|a| a.ifindex = 4));
    assert!(!with(|a| a.vlan_tag_present = 1));
    for packet_type in 1..=4 {
        assert!(!kept_with(&sample(), &packet, |a| a.packet_type = packet_type));
    }
}

#[test]
fn a_thousand_addresses_still_make_a_program_and_ten_thousand_let_more_through() {
    let addresses = |n: u32| (0..n).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + i * 3))).collect();
    let mut many = Interest { addresses: addresses(1000), ..sample() };
    assert!(interest(&many).iter().all(|program| program.len() <= MAX_INSTRUCTIONS));
    let hit = ip(CLIENT, IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 2997)), 6, &ports(9, 80), 0);
    let miss = ip(CLIENT, IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 2996)), 6, &ports(9, 80), 0);
    assert!(kept_with(&many, &hit, |_| ()) && !kept_with(&many, &miss, |_| ()));

    many.addresses = addresses(10_000);
    assert!(interest(&many).iter().all(|program| program.len() <= MAX_INSTRUCTIONS));
    assert!(kept_with(&many, &hit, |_| ()));
}

#[test]
fn without_a_configuration_nothing_is_kept() {
    assert!(!kept_with(&Interest::default(), &ip(CLIENT, VIP, 6, &ports(5000, 80), 0), |_| ()));
    assert_eq!(run(&nothing(), &[0; 60], Ancillary::default()), 0);
}

/// Programs of 30, 20 and 10 instructions, and a kernel that has room for `room` together with the one in use.
fn attached(room: usize, in_use: usize) -> (io::Result<()>, usize) {
    let programs: Vec<_> = [30, 20, 10].map(|len| vec![nothing()[0]; len]).into();
    let now = std::cell::Cell::new(in_use);
    let done = attach(&programs, |program| {
        if now.get() + program.len() > room {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        now.set(program.len());
        Ok(())
    });
    (done, now.get())
}

#[test]
fn a_filter_the_kernel_has_no_room_for_gives_way_to_a_shorter_one() {
    assert_eq!(attached(60, 30).1, 30);
    assert_eq!(attached(45, 30).1, 30, "the exact one fits beside the shortest");
    assert_eq!(attached(40, 30).1, 30);
    assert_eq!(attached(35, 1).1, 30);
    assert_eq!(attached(30, 1).1, 20);
    assert_eq!(attached(15, 1).1, 10);
    let (failed, in_use) = attached(9, 1);
    assert_eq!((failed.unwrap_err().raw_os_error(), in_use), (Some(libc::ENOMEM), 1), "the one in use stays");
}
