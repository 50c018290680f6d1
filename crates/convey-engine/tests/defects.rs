//! What the ancestor, convey 0.3.5, did wrong on the packet path.

mod common;

use std::collections::HashSet;

use common::{Lab, Out};
use convey_core::Mode;
use convey_engine::{FrameMeta, Nanos, PacketOptions, PacketSnapshot, Worker};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, PSH, RST, SYN};
use convey_testkit::fixture::Input;

const CLIENT: &str = "198.51.100.7:40001";
const VIP: &str = "192.0.2.10:80";
const SERVER: &str = "10.0.0.11:8080";

fn send(lab: &mut Lab, packet: P) -> Out {
    send_at(lab, packet, 1000)
}

fn send_at(lab: &mut Lab, packet: P, now_ms: u64) -> Out {
    let packet = packet.macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]);
    let frame = convey_testkit::hex(&packet.build());
    lab.run(&Input { frame, ingress: 1, now_ms, partial: None, gso: None })
}

fn source_port(out: &Out) -> u16 {
    let frame = out.frame();
    u16::from_be_bytes([frame[34], frame[35]])
}

fn client(n: usize) -> String {
    format!("198.51.100.{}:{}", n % 200 + 1, 2000 + n)
}

/// Shakes hands; gives the NAT address.
fn connect(lab: &mut Lab, client: &str, vip: &str) -> String {
    let nat = format!("192.0.2.10:{}", source_port(&send(lab, P::syn(client, vip))));
    send(lab, P::tcp(SERVER, &nat).flags(SYN | ACK).seq(5000, 1001));
    send(lab, P::tcp(client, vip).seq(1001, 5001));
    nat
}

#[test]
fn a_port_in_use_is_never_given_to_another_client_however_often_the_range_goes_round() {
    let mut lab = Lab::passthrough((40000, 40015), 1);
    let held = connect(&mut lab, CLIENT, VIP);
    for n in 0..200 {
        let out = send(&mut lab, P::syn(&client(n), VIP));
        assert_ne!(format!("192.0.2.10:{}", source_port(&out)), held);
    }
    let reply = send(&mut lab, P::tcp(SERVER, &held).seq(5001, 1001).payload(b"secret")).frame();
    assert_eq!(reply[30..34], [198, 51, 100, 7]);
}

#[test]
fn two_frontends_on_one_address_never_share_a_port_towards_one_server_and_relay_each_answer_once() {
    let mut world = common::world("passthrough");
    world.nat_ports = (40000, 40099);
    let mut spec = common::spec(&world);
    let mut second = spec.frontends[0].clone();
    second.name = "second".into();
    second.listen[0].set_port(81);
    spec.frontends.push(second);
    let mut lab = Lab::with(&world, spec, common::options(&world));
    let mut ports = HashSet::new();
    for n in 0..50 {
        for vip in [VIP, "192.0.2.10:81"] {
            let nat = connect(&mut lab, &client(n), vip);
            assert!(ports.insert(nat.clone()));
            let reply = send(&mut lab, P::tcp(SERVER, &nat).seq(5001, 1001));
            assert_eq!(format!("192.0.2.10:{}", source_port(&reply)), vip);
        }
    }
}

#[test]
fn an_answer_from_another_host_or_port_than_the_chosen_servers_never_reaches_the_client() {
    let mut lab = Lab::passthrough((40000, 40000), 2);
    let out = send(&mut lab, P::syn(CLIENT, VIP)).frame();
    let chosen = format!("10.0.0.{}", out[33]);
    for other in ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.11:8081", "203.0.113.9:8080"] {
        let out = send(&mut lab, P::tcp(other, "192.0.2.10:40000").flags(SYN | ACK).seq(5000, 1001));
        assert_eq!(out.verdict == "forward", other == format!("{chosen}:8080"), "{other}: {out:?}");
    }
}

#[test]
fn a_busy_old_flow_outlives_idle_ones_in_a_full_table() {
    let mut lab = Lab::dsr(3);
    send(&mut lab, P::syn(CLIENT, VIP));
    send(&mut lab, P::tcp(CLIENT, VIP));
    for n in 0..20_000 {
        let now = 1000 + 2 * n as u64;
        let name = format!("198.51.{}.{}:{}", n / 200, n % 200 + 1, 3000);
        send_at(&mut lab, P::syn(&name, VIP), now);
        send_at(&mut lab, P::tcp(&name, VIP), now);
        send_at(&mut lab, P::tcp(CLIENT, VIP), now);
    }
    let tcp = convey_core::Protocol::Tcp;
    let (source, destination) = (CLIENT.parse().unwrap(), VIP.parse().unwrap());
    let e = convey_engine::explain(tcp, source, destination, &lab.snapshot, &lab.next_hops, &lab.worker);
    assert_eq!(e.flow, Some("established"));
}

#[test]
fn answers_to_the_hosts_own_health_checks_are_left_to_it() {
    let mut lab = Lab::passthrough((33768, 61000), 1);
    connect(&mut lab, CLIENT, VIP);
    for port in [1024, 32768, 33767, 61001] {
        let own = format!("192.0.2.10:{port}");
        let out = send(&mut lab, P::tcp(SERVER, &own).flags(SYN | ACK));
        assert_eq!(out.reason.as_deref(), Some("not_vip"), "{port}");
    }
}

#[test]
fn a_packet_with_ip_options_is_forwarded_and_panics_nobody() {
    for len in (0..=40).step_by(4) {
        let mut lab = Lab::passthrough((40000, 40000), 1);
        let out = send(&mut lab, P::syn(CLIENT, VIP).ip_options(&vec![1; len])).frame();
        assert_eq!(out.len(), 14 + 20 + len + 24);
    }
}

#[test]
fn a_coalesced_frame_of_64_kilobytes_goes_on_whole() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    connect(&mut lab, CLIENT, VIP);
    let packet = P::tcp(CLIENT, VIP).payload(&[3; 65_000]).partial();
    let input = Input {
        frame: convey_testkit::hex(&packet.build()),
        ingress: 1,
        now_ms: 1000,
        partial: Some((34, 16)),
        gso: Some((1, 1448)),
    };
    assert_eq!(lab.run(&input).frame().len(), 14 + 40 + 65_000);
}

#[test]
fn ethernet_padding_does_not_become_payload() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    connect(&mut lab, CLIENT, VIP);
    let out = send(&mut lab, P::tcp(CLIENT, VIP).trailer(6)).frame();
    assert_eq!(out.len(), 54);
    assert_eq!(lab.config.totals.bytes_tx(), 0);
}

#[test]
fn a_protocol_other_than_the_frontends_is_not_taken_for_it() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    assert_eq!(send(&mut lab, P::udp(CLIENT, VIP)).reason.unwrap(), "not_vip");
    for protocol in [2, 47, 50, 132] {
        let ports = [0x9c, 0x41, 0, 80, 0, 0, 0, 0];
        let out = send(&mut lab, P::other("198.51.100.7", "192.0.2.10", protocol, &ports));
        assert_eq!(out.reason.unwrap(), "other_protocol");
    }
    assert_eq!(lab.worker.flows(), 0);
}

#[test]
fn a_corrupted_packet_does_not_leave_with_a_valid_checksum() {
    for flip in [1u16, 0x80, 0x5555, 0xaaaa] {
        let mut lab = Lab::passthrough((40000, 40000), 1);
        let nat = connect(&mut lab, CLIENT, VIP);
        let out = send(&mut lab, P::tcp(CLIENT, VIP).payload(b"data").corrupt(flip)).frame();
        let right = P::tcp(&nat, SERVER).payload(b"data").ttl(63).build();
        assert_ne!(out[50..52], right[50..52], "{flip:x}");
    }
}

#[test]
fn the_flow_is_there_before_the_syn_leaves() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    let syn = send(&mut lab, P::syn(CLIENT, VIP));
    let nat = format!("192.0.2.10:{}", source_port(&syn));
    assert_eq!(send(&mut lab, P::tcp(SERVER, &nat).flags(SYN | ACK).seq(5000, 1001)).verdict, "forward");
}

#[test]
fn ttl_goes_down_by_one_so_that_loops_die() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    for ttl in [255, 225, 64, 2] {
        assert_eq!(send(&mut lab, P::syn(CLIENT, VIP).ttl(ttl)).frame()[22], ttl - 1);
    }
    assert_eq!(send(&mut lab, P::syn(CLIENT, VIP).ttl(1)).reason.unwrap(), "time_exceeded.ttl_exceeded");
    assert_eq!(send(&mut lab, P::syn(CLIENT, VIP).ttl(0)).reason.unwrap(), "time_exceeded.ttl_exceeded");
}

#[test]
fn fragmentation_needed_reaches_the_server_with_its_own_packet_quoted() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    let nat = connect(&mut lab, CLIENT, VIP);
    let quoted = P::tcp(VIP, CLIENT).seq(5001, 1001).payload(&[1; 1400]).quoted(28);
    let out = send(&mut lab, P::icmp("203.0.113.1", "192.0.2.10", 3, 4, 1280, &quoted)).frame();
    let want = P::tcp(SERVER, &nat).seq(5001, 1001).payload(&[1; 1400]).quoted(28);
    assert_eq!(out[30..34], [10, 0, 0, 11]);
    assert_eq!(out[42..], want);
}

#[test]
fn ipv6_udp_and_two_interfaces_are_served() {
    let mut lab = Lab::new(&common::world("passthrough"));
    let out = send(&mut lab, P::udp("[2001:db8:99::7]:40001", "[2001:db8:1::10]:53").payload(b"q"));
    assert_eq!((out.verdict.as_str(), out.egress), ("forward", Some(2)));
}

#[test]
fn capacity_0_works_and_a_syn_flood_does_not_lock_clients_out() {
    let mut world = common::world("passthrough");
    world.nat_ports = (40000, 40099);
    let options = PacketOptions { capacity: 0, ..common::options(&world) };
    let mut lab = Lab::with(&world, common::spec(&world), options);
    for n in 0..5000 {
        send(&mut lab, P::syn(&client(n), VIP));
    }
    connect(&mut lab, CLIENT, VIP);
    assert_eq!(send(&mut lab, P::tcp(CLIENT, VIP)).verdict, "forward");
}

#[test]
fn a_flow_goes_on_when_its_server_fails_its_check_drains_or_is_removed() {
    let mut lab = Lab::passthrough((40000, 40000), 1);
    connect(&mut lab, CLIENT, VIP);
    lab.reload(|s| s.backends[0].servers[0].up = false);
    assert_eq!(send(&mut lab, P::tcp(CLIENT, VIP)).verdict, "forward");
    lab.reload(|s| s.backends[0].servers[0].draining = true);
    assert_eq!(send(&mut lab, P::tcp(CLIENT, VIP)).verdict, "forward");
    lab.reload(|s| s.backends[0].servers.clear());
    assert_eq!(send(&mut lab, P::tcp(CLIENT, VIP)).verdict, "forward");
}

#[test]
fn counters_end_at_zero_after_fin_push_ack_reset_and_repetition_and_hold_more_than_31_bits() {
    let mut lab = Lab::passthrough((40000, 40009), 1);
    let nat = connect(&mut lab, CLIENT, VIP);
    for _ in 0..3 {
        send(&mut lab, P::tcp(CLIENT, VIP).flags(FIN | PSH | ACK).seq(1001, 5001).payload(b"bye"));
        send(&mut lab, P::tcp(SERVER, &nat).flags(FIN | PSH | ACK).seq(5001, 1005));
        send(&mut lab, P::tcp(CLIENT, VIP).flags(RST).seq(1005, 0));
    }
    assert_eq!((lab.config.totals.total(), lab.config.totals.open()), (1, 0));
    lab.config.totals.add_tx(0, 1 << 40);
    assert!(lab.config.totals.bytes_tx() > 1 << 40);
}

#[test]
fn the_modes_are_told_apart_and_proxy_mode_is_refused() {
    let world = common::world("passthrough");
    let mut spec = common::spec(&world);
    spec.mode = Mode::Proxy;
    let config = convey_core::Snapshot::first(spec, 1).unwrap();
    let error = PacketSnapshot::build(&config, &PacketOptions::default(), None).unwrap_err();
    assert_eq!(error.field, "mode");
}

#[test]
fn a_dsr_server_on_another_port_than_its_frontend_is_a_configuration_error() {
    let world = common::world("dsr");
    let mut spec = common::spec(&world);
    let ip = spec.backends[0].servers[0].addr.ip().unwrap().ip();
    spec.backends[0].servers[0].addr = std::net::SocketAddr::new(ip, 8080).into();
    let config = convey_core::Snapshot::first(spec, 1).unwrap();
    let error = PacketSnapshot::build(&config, &common::options(&world), None).unwrap_err();
    assert_eq!(error.field, "backends.v4.servers.s1.addr");
}

#[test]
fn a_buffer_without_headroom_is_a_counted_drop() {
    let lab = Lab::passthrough((40000, 40000), 1);
    let mut worker = Worker::new(0, &lab.snapshot);
    let mut frame = P::syn(CLIENT, VIP).ttl(1).macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0xfe]).build();
    let len = frame.len();
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let verdict = convey_engine::process(
        &mut frame,
        len,
        &meta,
        &lab.snapshot,
        &lab.next_hops,
        &mut worker,
        Nanos::from_secs(1),
    );
    // 58 bytes hold no ICMP error with 28 bytes quoted: 14 + 28 + 28 = 70.
    assert_eq!(verdict, convey_engine::Verdict::Drop(convey_engine::DropReason::NoRoom));
}
