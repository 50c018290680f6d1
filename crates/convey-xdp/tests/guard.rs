//! The guard between two namespaces: what the engine handles stays unanswered, everything else works.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use convey_core::Protocol;
use convey_testkit::netns::{Netns, cable, ping};
use convey_xdp::netlink::interface_index;
use convey_xdp::{Endpoint, Guard, GuardMethod, GuardRules, NatRange};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How long silence must last to count as such; a refusal takes microseconds.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Works,
    Refused,
    Silence,
}

fn tcp(to: &str) -> Answer {
    match TcpStream::connect_timeout(&to.parse().unwrap(), SILENCE) {
        Ok(_) => Answer::Works,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Err(e) if e.kind() == ErrorKind::TimedOut => Answer::Silence,
        Err(e) => panic!("{to}: {e}"),
    }
}

/// Connects from a chosen source port, non-blocking, and reports what came back within the time.
fn tcp_from(source_port: u16, to: &str) -> Answer {
    let to: SocketAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(any, source_port)).unwrap();
    let _ = rustix::net::connect(&socket, &to);
    std::thread::sleep(SILENCE);
    let stream = TcpStream::from(socket);
    match stream.take_error().unwrap() {
        Some(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Some(e) => panic!("{to}: {e}"),
        None if stream.peer_addr().is_ok() => Answer::Works,
        None => Answer::Silence,
    }
}

fn udp(to: &str, bytes: usize) -> Answer {
    let to: SocketAddr = to.parse().unwrap();
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.send(&vec![7; bytes]).unwrap();
    let mut buffer = vec![0; 65536];
    match socket.recv(&mut buffer) {
        Ok(n) => {
            assert_eq!(n, bytes);
            Answer::Works
        }
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Refused,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Answer::Silence,
        Err(e) => panic!("{to}: {e}"),
    }
}

fn serve_tcp_echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 64];
            if let Ok(n) = stream.read(&mut buffer) {
                let _ = stream.write_all(&buffer[..n]);
            }
        }
    });
}

fn serve_udp_echo(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
}

fn endpoint(protocol: Protocol, addr: &str) -> Endpoint {
    Endpoint { protocol, addr: addr.parse().unwrap() }
}

fn rules() -> GuardRules {
    GuardRules {
        vips: vec![
            endpoint(Protocol::Tcp, "10.9.0.2:80"),
            endpoint(Protocol::Tcp, "[fd09::2]:80"),
            endpoint(Protocol::Udp, "10.9.0.2:53"),
            endpoint(Protocol::Udp, "[fd09::2]:53"),
        ],
        nat: vec![NatRange {
            protocol: Protocol::Tcp,
            addr: "10.9.0.2".parse().unwrap(),
            ports: 40000..=50000,
        }],
        servers: vec![endpoint(Protocol::Tcp, "10.9.0.1:8080"), endpoint(Protocol::Tcp, "10.9.0.1:8082")],
    }
}

fn guard_keeps_the_kernel_out_with(method: GuardMethod) {
    let client = Netns::new("client");
    let host = Netns::new("host");
    cable(&client, &host);
    host.enter(|| {
        serve_tcp_echo(TcpListener::bind("[::]:22").unwrap());
        serve_udp_echo(UdpSocket::bind("[::]:54").unwrap());
    });

    // Unguarded, the kernel answers for a service it does not have.
    client.enter(|| {
        assert_eq!(tcp("10.9.0.2:80"), Answer::Refused);
        assert_eq!(tcp("[fd09::2]:80"), Answer::Refused);
        assert_eq!(udp("10.9.0.2:53", 10), Answer::Refused);
        assert_eq!(udp("10.9.0.2:53", 5000), Answer::Refused, "fragmented");
        assert_eq!(tcp_from(8080, "10.9.0.2:45000"), Answer::Refused);
    });

    let mut guard = host.enter(move || {
        let index = interface_index("veth0").unwrap().unwrap();
        Guard::install("test", &[index], &rules(), Some(method)).unwrap()
    });
    assert_eq!(guard.method(), method);

    client.enter(|| {
        assert_eq!(tcp("10.9.0.2:80"), Answer::Silence);
        assert_eq!(tcp("[fd09::2]:80"), Answer::Silence);
        assert_eq!(udp("10.9.0.2:53", 10), Answer::Silence);
        assert_eq!(udp("[fd09::2]:53", 10), Answer::Silence);
        assert_eq!(udp("10.9.0.2:53", 5000), Answer::Silence, "fragmented v4");
        assert_eq!(udp("[fd09::2]:53", 5000), Answer::Silence, "fragmented v6");
        assert_eq!(tcp_from(8080, "10.9.0.2:45000"), Answer::Silence, "from a server to a NAT port");

        assert_eq!(tcp("10.9.0.2:22"), Answer::Works, "another service of the same address");
        assert_eq!(tcp("[fd09::2]:22"), Answer::Works);
        assert_eq!(udp("10.9.0.2:54", 10), Answer::Works);
        assert_eq!(udp("10.9.0.2:54", 5000), Answer::Works, "fragmented v4");
        assert_eq!(udp("[fd09::2]:54", 5000), Answer::Works, "fragmented v6");
        assert_eq!(tcp("10.9.0.2:81"), Answer::Refused, "a closed port is still refused");
        assert_eq!(tcp_from(8081, "10.9.0.2:45000"), Answer::Refused, "to a NAT port, but not from a server");
        assert_eq!(tcp_from(8080, "10.9.0.2:39999"), Answer::Refused, "from a server, but not to a NAT port");
    });
    assert!(client.enter(|| ping("10.9.0.2") && ping("fd09::2")), "echo is the kernel's, as before");

    // The host's own connections, to a server's address and port too.
    client.enter(|| serve_tcp_echo(TcpListener::bind("10.9.0.1:8082").unwrap()));
    host.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "40000-50000").unwrap();
        assert_eq!(tcp("10.9.0.1:8082"), Answer::Works, "a health check");
    });

    if let Some(drops) = guard.drops().unwrap() {
        assert!(drops.to_vip >= 6, "{drops:?}");
        assert!(drops.from_server >= 1, "{drops:?}");
    } else {
        assert_eq!(guard.nft_table(), Some("convey_test"));
    }

    let guard = host.enter(move || {
        let index = interface_index("veth0").unwrap().unwrap();
        let rules =
            GuardRules { vips: vec![endpoint(Protocol::Tcp, "10.9.0.2:443")], ..GuardRules::default() };
        guard.update(&[index], &rules).unwrap();
        guard
    });
    client.enter(|| {
        assert_eq!(tcp("10.9.0.2:443"), Answer::Silence, "added by the update");
        assert_eq!(tcp("10.9.0.2:80"), Answer::Refused, "removed by the update");
        assert_eq!(tcp_from(8080, "10.9.0.2:45001"), Answer::Refused, "removed by the update");
    });

    host.enter(move || drop(guard));
    client.enter(|| assert_eq!(tcp("10.9.0.2:443"), Answer::Refused, "the guard is gone"));
    assert_eq!(host.exec("nft list ruleset"), "");
}

#[test]
#[ignore = "needs root, ip, nft: makes network namespaces"]
fn the_kernel_program_silences_what_is_handled_and_nothing_else() {
    guard_keeps_the_kernel_out_with(GuardMethod::Bpf);
}

#[test]
#[ignore = "needs root, ip, nft: makes network namespaces"]
fn nft_silences_what_is_handled_and_nothing_else() {
    guard_keeps_the_kernel_out_with(GuardMethod::Nft);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_kernel_program_is_chosen_where_it_is_allowed() {
    let host = Netns::new("host");
    host.enter(|| {
        let lo = interface_index("lo").unwrap().unwrap();
        let guard = Guard::install("auto", &[lo], &rules(), None).unwrap();
        assert_eq!(guard.method(), GuardMethod::Bpf);
        assert_eq!(guard.bpf_refused(), None);
    });
}

#[test]
#[ignore = "needs root, ip: gives up capabilities in a thread"]
fn the_kernel_program_needs_no_more_than_cap_bpf_and_cap_net_admin() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let host = Netns::new("host");
    host.enter(|| {
        let lo = interface_index("lo").unwrap().unwrap();
        let only = CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
        set_capabilities(None, CapabilitySets { effective: only, permitted: only, inheritable: only })
            .unwrap();
        let guard = Guard::install("caps", &[lo], &rules(), Some(GuardMethod::Bpf)).unwrap();
        drop(guard);
    });
}

#[test]
fn an_interface_that_is_not_there_is_an_error() {
    let error = Guard::install("none", &[u32::MAX >> 1], &rules(), Some(GuardMethod::Nft)).unwrap_err();
    assert!(error.to_string().contains("no network interface"), "{error}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn five_thousand_frontends_are_guarded_by_the_kernel_program() {
    let (left, right) = (Netns::new("left"), Netns::new("right"));
    cable(&left, &right);
    right.enter(|| {
        let at = |port: u16| Endpoint { protocol: Protocol::Tcp, addr: ([10, 9, 0, 2], port).into() };
        let rules = GuardRules { vips: (1..=5000).map(at).collect(), ..GuardRules::default() };
        let index = interface_index("veth0").unwrap().unwrap();
        let mut guard = Guard::install("many", &[index], &rules, Some(GuardMethod::Bpf)).unwrap();
        let more = GuardRules { vips: (1..=9000).map(at).collect(), ..GuardRules::default() };
        guard.update(&[index], &more).unwrap();
    });
}
