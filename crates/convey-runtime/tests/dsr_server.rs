//! A server that answers in the name of the VIP. The client's namespace plays the balancer, too: nft sends what
//! goes to the VIP to the server's address, one way only, as a balancer does.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use convey_core::Protocol;
use convey_engine::DsrMethod;
use convey_runtime::host::dsr_server::{self, DsrServerSpec, discover_server_addr};
use convey_runtime::host::{HostError, cleanup};
use convey_testkit::netns::{Netns, cable, run};

const VIP: &str = "10.9.0.100:80";
const VIP6: &str = "[fd09::100]:80";
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(400);
const MEBIBYTE: usize = 1 << 20;

struct Pair {
    client: Netns,
    server: Netns,
    folder: PathBuf,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Pair {
    /// Client 10.9.0.1 and, as a balancer's other address, 10.9.0.9; server 10.9.0.2; the VIPs' frames go to the
    /// server's MAC.
    fn new() -> Self {
        let (client, server) = (Netns::new("client"), Netns::new("server"));
        cable(&client, &server);
        client.ip("addr add 10.9.0.9/24 dev veth0");
        let link = server.exec("cat /sys/class/net/veth0/address");
        for vip in ["10.9.0.100", "fd09::100"] {
            client.ip(&format!("neigh replace {vip} lladdr {} dev veth0 nud permanent", link.trim()));
        }
        let folder = std::env::temp_dir().join(format!("convey-{}", server.name));
        let pair = Self { client, server, folder };
        pair.server.enter(|| {
            serve(TcpListener::bind("[::]:80").unwrap());
            serve_udp(UdpSocket::bind("[::]:80").unwrap());
        });
        pair
    }

    /// Plays the balancer: only the destination changes, on the way out.
    fn balance(&self) {
        let rules = "table netdev balancer { chain out { type filter hook egress device \"veth0\" priority 0;\n\
                     ip daddr 10.9.0.100 ip daddr set 10.9.0.2\nip6 daddr fd09::100 ip6 daddr set fd09::2\n}\n}\n";
        let name = self.client.name.clone();
        let script = format!("printf '{}' | ip netns exec {name} nft -f -", rules.replace('\n', "\\n"));
        run("sh", &["-c", &script]);
    }

    fn spec(&self, vip: &str, protocol: Protocol, method: DsrMethod) -> DsrServerSpec {
        let vip: SocketAddr = vip.parse().unwrap();
        DsrServerSpec {
            vip,
            protocol,
            method,
            server_addr: if vip.is_ipv4() { "10.9.0.2" } else { "fd09::2" }.parse().unwrap(),
            interfaces: Vec::new(),
            balancers: if vip.is_ipv4() { vec!["10.9.0.9".parse().unwrap()] } else { Vec::new() },
            state_dir: self.folder.clone(),
        }
    }

    fn apply(&self, spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
        let spec = spec.clone();
        self.server.enter(move || dsr_server::apply(&spec))
    }

    fn check(&self, spec: &DsrServerSpec) -> Vec<String> {
        let spec = spec.clone();
        self.server.enter(move || dsr_server::check(&spec)).unwrap()
    }

    fn undo(&self, spec: &DsrServerSpec) -> Vec<String> {
        let spec = spec.clone();
        self.server.enter(move || dsr_server::undo(spec.vip, spec.protocol, &spec.state_dir)).unwrap()
    }

    /// Everything that preparing a server may touch.
    fn state_of_the_server(&self) -> String {
        ["sysctl -a", "ip -o addr", "tc qdisc", "tc filter show dev veth0 egress", "nft list ruleset"]
            .map(|words| self.server.exec(words))
            .join("\n")
            .lines()
            .filter(|line| line.contains("arp_") || !line.contains(" = "))
            // Still being checked for duplicates, at first.
            .filter(|line| !line.contains("fe80::"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Answers each connection with as many mebibytes of a pattern as its first byte says, after echoing that.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut first = [0];
                if stream.read_exact(&mut first).is_ok() {
                    let _ = stream.write_all(&pattern(usize::from(first[0]) * MEBIBYTE + 1));
                }
            });
        }
    });
}

fn serve_udp(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
}

fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Fetches so many mebibytes and compares them; false when no connection comes about.
fn fetch(to: &str, mebibytes: u8) -> bool {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), SILENCE);
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused) => return false,
        Err(e) => panic!("{to}: {e}"),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[mebibytes]).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(
        got == pattern(usize::from(mebibytes) * MEBIBYTE + 1),
        "{to}: {} bytes, not the right ones",
        got.len()
    );
    true
}

/// As `fetch`, from a chosen source address.
fn fetch_from(source: &str, to: &str) -> bool {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(SILENCE))
        .unwrap();
    rustix::net::connect(&socket, &to.parse::<SocketAddr>().unwrap()).is_ok()
}

fn udp_echo(to: &str, bytes: usize) -> Result<(), ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let sent = pattern(bytes);
    socket.send(&sent).unwrap();
    let mut buffer = vec![0; 65536];
    let n = socket.recv(&mut buffer).map_err(|e| e.kind())?;
    assert!(buffer[..n] == sent);
    Ok(())
}

fn tcp_is_rewritten(vip: &'static str) {
    let pair = Pair::new();
    pair.balance();
    let before = pair.state_of_the_server();
    let spec = pair.spec(vip, Protocol::Tcp, DsrMethod::Rewrite);
    assert!(!pair.client.enter(move || fetch(vip, 0)), "unprepared, replies come from the wrong address");
    assert_eq!(pair.check(&spec).len(), 1, "and the check says so");

    pair.apply(&spec).unwrap();
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    for tx in ["on", "off"] {
        // Off: the checksum that the program leaves is the one on the wire, and the client's kernel verifies it.
        pair.server.exec(&format!("ethtool -K veth0 tx {tx}"));
        pair.client.exec(&format!("ethtool -K veth0 tx {tx}"));
        assert!(pair.client.enter(move || fetch(vip, 20)), "tx {tx}");
    }
    pair.server.exec("ethtool -K veth0 tx on");
    let again = pair.apply(&spec).unwrap();
    assert_eq!(again.len(), 1, "applied again it changes nothing: {again:?}");

    assert_eq!(pair.undo(&spec).len(), 2, "program and qdisc");
    assert!(!pair.client.enter(move || fetch(vip, 0)));
    assert_eq!(pair.state_of_the_server(), before);
    assert!(!pair.folder.exists());
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn tcp_over_ipv4_is_answered_from_the_vip_with_right_checksums() {
    tcp_is_rewritten(VIP);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn tcp_over_ipv6_is_answered_from_the_vip_with_right_checksums() {
    tcp_is_rewritten(VIP6);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn health_checks_are_answered_from_the_servers_own_address() {
    let pair = Pair::new();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    pair.client.enter(|| {
        assert!(fetch_from("10.9.0.9", "10.9.0.2:80"), "from a named balancer");
        assert!(!fetch_from("10.9.0.1", "10.9.0.2:80"), "from anybody else, rewritten");
    });
    // A balancer that checks from the VIP itself needs no naming.
    pair.client.ip("neigh del 10.9.0.100 dev veth0");
    pair.client.ip("addr add 10.9.0.100/24 dev veth0");
    assert!(pair.client.enter(|| fetch_from("10.9.0.100", "10.9.0.2:80")));

    // Named later: preparing again replaces the former preparation.
    let more = DsrServerSpec { balancers: vec!["10.9.0.1".parse().unwrap()], ..spec.clone() };
    assert!(!pair.check(&more).is_empty());
    pair.apply(&more).unwrap();
    assert_eq!(pair.check(&more), Vec::<String>::new());
    assert!(pair.client.enter(|| fetch_from("10.9.0.1", "10.9.0.2:80")));
    pair.undo(&more);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn udp_is_answered_from_the_vip_whole_fragmented_and_refused() {
    let pair = Pair::new();
    pair.balance();
    for vip in [VIP, VIP6] {
        pair.apply(&pair.spec(vip, Protocol::Udp, DsrMethod::Rewrite)).unwrap();
        let closed = vip.replace(":80", ":81");
        pair.apply(&pair.spec(&closed, Protocol::Udp, DsrMethod::Rewrite)).unwrap();
        for tx in ["on", "off"] {
            pair.server.exec(&format!("ethtool -K veth0 tx {tx}"));
            let closed = closed.clone();
            pair.client.enter(move || {
                for bytes in [0, 1, 1000, 1001, 5000, 20_001] {
                    assert_eq!(udp_echo(vip, bytes), Ok(()), "{bytes} bytes to {vip}, tx {tx}");
                }
                assert_eq!(
                    udp_echo(&closed, 10),
                    Err(ErrorKind::ConnectionRefused),
                    "an ICMP error names the VIP, tx {tx}"
                );
            });
        }
    }
    // Four programs, one qdisc: it goes with the last of them.
    let before = pair.server.exec("tc qdisc show dev veth0");
    assert!(before.contains("clsact"));
    for vip in [VIP, VIP6] {
        pair.undo(&pair.spec(vip, Protocol::Udp, DsrMethod::Rewrite));
        assert!(pair.server.exec("tc qdisc show dev veth0").contains("clsact"));
        pair.undo(&pair.spec(&vip.replace(":80", ":81"), Protocol::Udp, DsrMethod::Rewrite));
    }
    assert!(!pair.server.exec("tc qdisc show dev veth0").contains("clsact"));
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn other_services_of_the_server_keep_their_address() {
    let pair = Pair::new();
    pair.server.enter(|| serve(TcpListener::bind("[::]:22").unwrap()));
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    pair.client.enter(|| {
        assert!(fetch("10.9.0.2:22", 1));
        assert_eq!(udp_echo("10.9.0.2:80", 100), Ok(()), "the other protocol on the same port");
    });
    pair.undo(&spec);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn by_method_l2_the_server_holds_the_vip_and_does_not_announce_it() {
    let pair = Pair::new();
    let before = pair.state_of_the_server();
    for vip in [VIP, VIP6] {
        let spec = pair.spec(vip, Protocol::Tcp, DsrMethod::L2);
        assert!(!pair.check(&spec).is_empty());
        pair.apply(&spec).unwrap();
        assert_eq!(pair.check(&spec), Vec::<String>::new());
        assert!(pair.client.enter(move || fetch(vip, 5)), "frames for {vip} reach the server by its MAC");
        let ip = spec.vip.ip();
        pair.client.ip(&format!("neigh del {ip} dev veth0"));
        let asked = pair.client.enter(move || TcpStream::connect_timeout(&vip.parse().unwrap(), SILENCE));
        assert!(asked.is_err(), "nobody answers who asks for {ip}");
    }
    // A second port of the VIP shares the address; the last one takes it away.
    let web_again = pair.spec(VIP, Protocol::Tcp, DsrMethod::L2);
    assert_eq!(pair.server.enter(move || dsr_server::plan(&web_again)).unwrap(), Vec::<String>::new());
    let (web, tls) = (
        pair.spec(VIP, Protocol::Tcp, DsrMethod::L2),
        pair.spec("10.9.0.100:443", Protocol::Tcp, DsrMethod::L2),
    );
    pair.apply(&tls).unwrap();
    let taken_back = pair.undo(&web);
    assert!(taken_back[0].contains("taken back; other services of this host need"), "{taken_back:?}");
    assert_eq!(pair.undo(&web), Vec::<String>::new());
    assert_eq!(pair.check(&tls), Vec::<String>::new());
    pair.undo(&tls);
    pair.undo(&pair.spec(VIP6, Protocol::Tcp, DsrMethod::L2));
    assert_eq!(pair.state_of_the_server(), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn the_method_of_a_vip_can_be_changed() {
    let pair = Pair::new();
    let before = pair.state_of_the_server();
    let l2 = pair.spec(VIP, Protocol::Tcp, DsrMethod::L2);
    let rewrite = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&l2).unwrap();
    pair.apply(&rewrite).unwrap();
    assert_eq!(pair.check(&rewrite), Vec::<String>::new());
    assert!(!pair.check(&l2).is_empty());
    pair.apply(&l2).unwrap();
    assert!(!pair.check(&rewrite).is_empty());
    pair.undo(&l2);
    assert_eq!(pair.state_of_the_server(), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn a_preparation_outlives_cleanup_and_its_loss_is_noticed() {
    let pair = Pair::new();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    let folder = pair.folder.clone();
    assert_eq!(pair.server.enter(move || cleanup(&folder).unwrap()), Vec::<String>::new());
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    pair.server.exec("tc qdisc del dev veth0 clsact");
    let missing = pair.check(&spec);
    assert!(missing[0].contains("not attached"), "{missing:?}");
    pair.apply(&spec).unwrap();
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    pair.undo(&spec);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn an_interrupted_preparation_is_taken_back_by_cleanup() {
    let pair = Pair::new();
    let before = pair.state_of_the_server();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    edit_journal(&pair, "\"complete\": true", "\"complete\": false");
    let folder = pair.folder.clone();
    let lines = pair.server.enter(move || cleanup(&folder).unwrap());
    assert_eq!(lines.len(), 2, "program and qdisc: {lines:?}");
    assert_eq!(pair.state_of_the_server(), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn after_a_reboot_the_preparation_is_missing_and_can_be_made_again() {
    let pair = Pair::new();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    pair.server.exec("tc qdisc del dev veth0 clsact");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    edit_journal(&pair, boot.trim(), "another-boot");
    assert!(pair.check(&spec)[0].contains("restarted"));
    pair.apply(&spec).unwrap();
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    pair.undo(&spec);
}

fn edit_journal(pair: &Pair, from: &str, to: &str) {
    let journal = std::fs::read_dir(&pair.folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "json"))
        .unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&journal, text.replace(from, to)).unwrap();
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn a_clsact_qdisc_of_somebody_else_stays() {
    let pair = Pair::new();
    pair.server.exec("tc qdisc add dev veth0 clsact");
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    pair.undo(&spec);
    assert!(pair.server.exec("tc qdisc show dev veth0").contains("clsact"));
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn what_cannot_work_is_refused_and_changes_nothing() {
    let pair = Pair::new();
    let before = pair.state_of_the_server();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    let refused = |spec: DsrServerSpec| pair.apply(&spec).unwrap_err().to_string();
    let foreign = DsrServerSpec { server_addr: "10.9.0.77".parse().unwrap(), ..spec.clone() };
    assert!(refused(foreign).contains("not an address of this host"));
    let mixed = DsrServerSpec { server_addr: "fd09::2".parse().unwrap(), ..spec.clone() };
    assert!(refused(mixed).contains("one family"));
    let missing = DsrServerSpec { interfaces: vec!["eth9".into()], ..spec.clone() };
    assert!(refused(missing).contains("eth9"));
    for (vip, why) in [
        ("0.0.0.0:80", "wildcard"),
        ("224.0.0.5:80", "multicast"),
        ("127.0.0.9:80", "loopback"),
        ("255.255.255.255:80", "broadcast"),
    ] {
        for method in [DsrMethod::Rewrite, DsrMethod::L2] {
            let nobody = DsrServerSpec { vip: vip.parse().unwrap(), method, ..spec.clone() };
            let asked = nobody.clone();
            let asked = pair.server.enter(move || dsr_server::check(&asked)).unwrap_err().to_string();
            assert!(asked.contains(why), "{asked}");
            assert!(refused(nobody).contains(why), "{vip}");
        }
    }
    pair.apply(&spec).unwrap();
    let second = pair.spec("10.9.0.101:80", Protocol::Tcp, DsrMethod::Rewrite);
    assert!(refused(second).contains("one VIP"));
    pair.undo(&spec);
    assert_eq!(pair.state_of_the_server(), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn the_printed_nft_commands_do_the_same() {
    let pair = Pair::new();
    pair.balance();
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    let lines = pair.server.enter(move || dsr_server::print(&spec)).unwrap();
    let tc: Vec<_> = lines.iter().filter(|l| l.starts_with("tc ")).collect();
    assert!(tc.last().unwrap().ends_with("action nat egress 10.9.0.2/32 10.9.0.100"), "{tc:?}");
    assert!(tc.iter().any(|l| l.contains("match ip dst 10.9.0.9/32 action pass")), "{tc:?}");
    let nft: Vec<String> = lines.into_iter().filter(|l| l.starts_with("nft ")).collect();
    let script = nft.join("\n");
    pair.server.enter(move || {
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    pair.client.enter(|| {
        assert!(fetch(VIP, 5));
        assert!(fetch_from("10.9.0.9", "10.9.0.2:80"), "from a named balancer");
    });
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_servers_own_address_is_found_by_the_route_to_the_vip() {
    let pair = Pair::new();
    pair.server.enter(|| {
        assert_eq!(discover_server_addr(VIP.parse().unwrap(), &[]), Some("10.9.0.2".parse().unwrap()));
        assert_eq!(discover_server_addr(VIP6.parse().unwrap(), &[]), Some("fd09::2".parse().unwrap()));
    });
}

#[test]
#[ignore = "needs root, ip, sysctl: makes network namespaces"]
fn by_method_l2_the_servers_address_is_found_too_when_the_vip_is_held_already() {
    let pair = Pair::new();
    let l2 = pair.spec(VIP, Protocol::Tcp, DsrMethod::L2);
    pair.apply(&l2).unwrap();
    pair.server.enter(|| {
        let (vip, balancer) = (VIP.parse().unwrap(), "10.9.0.9".parse().unwrap());
        let own = Some("10.9.0.2".parse().unwrap());
        assert_eq!(discover_server_addr(vip, &[balancer]), own, "by the way to the balancer");
        assert_eq!(discover_server_addr(vip, &[]), own, "by the addresses there are");
    });
    assert!(pair.apply(&l2).unwrap()[0].contains("prepared already"));
}

#[test]
#[ignore = "needs root, ip, nft, sysctl: makes network namespaces"]
fn clients_in_a_network_of_another_interface_are_answered_from_the_vip_once_it_is_named() {
    let pair = Pair::new();
    pair.balance();
    pair.server.ip(&format!("link add out type veth peer name out netns {}", pair.client.name));
    pair.server.ip("link set out up");
    pair.client.ip("link set out up");
    pair.server.ip("addr add 10.8.0.2/24 dev out");
    pair.client.ip("addr add 10.8.0.1/24 dev out");
    for ns in [&pair.client, &pair.server] {
        ns.exec("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.out.rp_filter=0 net.ipv4.conf.veth0.rp_filter=0");
    }
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    let told = pair.apply(&spec).unwrap();
    assert!(told.iter().any(|line| line.contains("in a network of out itself")), "{told:?}");
    assert!(!pair.client.enter(|| fetch_from("10.8.0.1", VIP)));
    let both = DsrServerSpec { interfaces: vec!["veth0".into(), "out".into()], ..spec };
    let told = pair.apply(&both).unwrap();
    assert!(told.iter().all(|line| !line.contains("in a network of")), "{told:?}");
    assert!(pair.client.enter(|| fetch_from("10.8.0.1", VIP)));
    assert!(pair.client.enter(|| fetch(VIP, 0)));
    assert_eq!(pair.check(&both), Vec::<String>::new());
    pair.undo(&both);
}

#[test]
#[ignore = "needs root, ip, nft, sysctl: makes network namespaces"]
fn answers_that_leave_by_another_interface_than_the_servers_own_are_rewritten_there() {
    let pair = Pair::new();
    pair.balance();
    // A second cable, by which the server's default route leads.
    pair.server.ip(&format!("link add out type veth peer name out netns {}", pair.client.name));
    pair.server.ip("link set out up");
    pair.client.ip("link set out up");
    pair.server.ip("addr add 10.8.0.2/24 dev out");
    pair.client.ip("addr add 10.8.0.1/24 dev out");
    pair.client.ip("addr add 10.7.0.1/32 dev lo");
    let spec = pair.spec(VIP, Protocol::Tcp, DsrMethod::Rewrite);
    pair.apply(&spec).unwrap();
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    pair.server.ip("route add default via 10.8.0.1");
    let missing = pair.check(&spec);
    assert!(missing.iter().any(|line| line.contains("answers may leave by out")), "{missing:?}");
    pair.apply(&spec).unwrap();
    assert_eq!(pair.check(&spec), Vec::<String>::new());
    // The answers' way in is not the requests' way out.
    for ns in [&pair.client, &pair.server] {
        ns.exec("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.out.rp_filter=0 net.ipv4.conf.veth0.rp_filter=0");
    }
    assert!(pair.client.enter(|| fetch_from("10.7.0.1", VIP)), "answers by the default route bear the VIP");
    let before = pair.undo(&spec);
    assert_eq!(before.iter().filter(|line| line.contains("egress program")).count(), 2, "{before:?}");
}
