//! Preparing a host in a namespace of its own, and finding it again as it was.
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "../../convey-xdp/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Netns, cable};
use convey_core::Protocol;
use convey_runtime::host::{Host, HostError, HostSpec, cleanup, dry_run};
use convey_xdp::netlink::interface_index;
use convey_xdp::{Endpoint, GuardMethod, GuardRules, NatRange};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A folder for journals that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(ns: &Netns) -> Self {
        Self(std::env::temp_dir().join(format!("convey-{}", ns.name)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn spec(folder: &Path, vip: &str, ports: std::ops::RangeInclusive<u16>) -> HostSpec {
    let addr: std::net::SocketAddr = vip.parse().unwrap();
    HostSpec {
        interfaces: vec!["veth0".to_owned()],
        rules: GuardRules {
            vips: vec![Endpoint { protocol: Protocol::Tcp, addr }],
            nat: vec![NatRange { protocol: Protocol::Tcp, addr: addr.ip(), ports }],
            servers: vec![Endpoint { protocol: Protocol::Tcp, addr: "10.9.0.1:80".parse().unwrap() }],
        },
        guard: None,
        state_dir: folder.to_owned(),
    }
}

fn pair() -> (Netns, Netns, Folder) {
    let (peer, host) = (Netns::new("peer"), Netns::new("host"));
    cable(&peer, &host);
    let folder = Folder::new(&host);
    (peer, host, folder)
}

/// Every readable kernel parameter of IP, the nft rules, addresses, and qdiscs of the present namespace.
fn state_of_the_host() -> BTreeMap<String, String> {
    fn walk(folder: &Path, into: &mut BTreeMap<String, String>) {
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let path = file.path();
            if path.is_dir() {
                walk(&path, into);
            } else if let Ok(value) = std::fs::read_to_string(&path) {
                into.insert(path.display().to_string(), value);
            }
        }
    }
    let mut state = BTreeMap::new();
    walk(Path::new("/proc/sys/net/ipv4"), &mut state);
    walk(Path::new("/proc/sys/net/ipv6"), &mut state);
    for words in ["nft list ruleset", "ip -o addr", "tc qdisc", "ethtool -k veth0"] {
        let mut parts = words.split(' ');
        let output = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // Link-local addresses are still being checked for duplicates, at first.
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("fe80::")).collect();
        state.insert(words.to_owned(), lines.join("\n"));
    }
    state
}

fn reserved() -> String {
    std::fs::read_to_string(RESERVED).unwrap().trim_end().to_owned()
}

/// The example program at work in a namespace.
struct Prepared {
    child: Child,
    /// Held: what it prints at its end must find a reader.
    _output: BufReader<ChildStdout>,
}

impl Prepared {
    fn new(ns: &Netns, folder: &Path, vip: &str, from: u16, to: u16) -> Self {
        Self::with(ns, folder, vip, from, to, &[])
    }

    fn with(ns: &Netns, folder: &Path, vip: &str, from: u16, to: u16, more: &[&str]) -> Self {
        let test = std::env::current_exe().unwrap();
        let example = test.parent().unwrap().parent().unwrap().join("examples/prepare_host");
        assert!(
            example.exists(),
            "cargo test builds it unless told otherwise: cargo build --example prepare_host"
        );
        let mut child = Command::new("ip")
            .args(["netns", "exec", &ns.name])
            .arg(example)
            .arg(folder)
            .args(["veth0", vip, &from.to_string(), &to.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the example ended early");
        }
        Self { child, _output: output }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn closing_leaves_the_host_as_it_was(method: GuardMethod) {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        std::fs::write(RESERVED, "1000,40000,60990-61010").unwrap();
        let before = state_of_the_host();
        let spec = HostSpec { guard: Some(method), ..spec(&path, "10.9.0.2:80", 33768..=61000) };
        let host = Host::install(&spec).unwrap();
        assert_eq!(host.guard_method(), Some(method));
        assert_eq!(reserved(), "1000,33768-61010");
        assert_ne!(state_of_the_host(), before);
        host.close().unwrap();
        assert_eq!(state_of_the_host(), before);
        assert!(!path.exists(), "the state folder is gone, too");
    });
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn closing_leaves_the_host_as_it_was_with_the_kernel_program() {
    closing_leaves_the_host_as_it_was(GuardMethod::Bpf);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn closing_leaves_the_host_as_it_was_with_nft() {
    closing_leaves_the_host_as_it_was(GuardMethod::Nft);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn balancers_of_one_host_share_reserved_ports_and_end_in_any_order() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        std::fs::write(RESERVED, "45000").unwrap();
        for first_ends_first in [true, false] {
            let a = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
            let b = Host::install(&spec(&path, "10.9.0.3:80", 45000..=55000)).unwrap();
            assert_eq!(reserved(), "40000-55000");
            if first_ends_first {
                a.close().unwrap();
                assert_eq!(reserved(), "45000-55000");
                b.close().unwrap();
            } else {
                b.close().unwrap();
                assert_eq!(reserved(), "40000-50000");
                a.close().unwrap();
            }
            assert_eq!(reserved(), "45000");
        }
    });
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn what_the_operator_reserves_meanwhile_stays() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        let host = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
        std::fs::write(RESERVED, "1234,40000-50000").unwrap();
        host.close().unwrap();
        assert_eq!(reserved(), "1234");
    });
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn a_second_balancer_on_the_address_is_refused_and_told_who_has_it() {
    let (_peer, host, folder) = pair();
    let first = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 41000);
    let path = folder.0.clone();
    let before = host.enter(state_of_the_host);
    let error = host.enter(move || Host::install(&spec(&path, "10.9.0.2:80", 50000..=51000)).unwrap_err());
    let HostError::SecondInstance { holder, .. } = error else { panic!("{error}") };
    assert_eq!(holder, Some(first.child.id()));
    assert_eq!(host.enter(state_of_the_host), before, "the refused one has changed nothing");

    // The same address in another network namespace is another address.
    let (_peer, elsewhere, other) = pair();
    let path = other.0.clone();
    elsewhere.enter(move || {
        Host::install(&spec(&path, "10.9.0.2:80", 40000..=41000)).unwrap().close().unwrap();
    });
    first.end();
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn nat_ports_of_another_balancer_on_the_same_address_are_refused() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        let first = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
        let error = Host::install(&spec(&path, "10.9.0.2:443", 50000..=51000)).unwrap_err();
        assert!(matches!(error, HostError::NatPortsTaken { .. }), "{error}");
        assert_eq!(reserved(), "40000-50000");
        let second = Host::install(&spec(&path, "10.9.0.2:443", 50001..=51000)).unwrap();
        first.close().unwrap();
        second.close().unwrap();
    });
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_range_that_leaves_the_host_no_port_is_refused() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 50000").unwrap();
        let error = Host::install(&spec(&path, "10.9.0.2:80", 32768..=61000)).unwrap_err();
        assert!(matches!(error, HostError::NoPortsLeft { .. }), "{error}");
        let host = Host::install(&spec(&path, "10.9.0.2:80", 32768..=49990)).unwrap();
        assert!(host.notes().iter().any(|n| n.contains("10 ports of 40000-50000")), "{:?}", host.notes());
        host.close().unwrap();
        assert_eq!(reserved(), "");
    });
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn what_a_killed_balancer_left_is_reclaimed_and_nothing_of_a_living_one() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    let killed = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000);
    let alive = Prepared::new(&host, &folder.0, "10.9.0.3:80", 45000, 55000);
    killed.kill();
    assert_eq!(host.enter(reserved), "40000-55000", "SIGKILL leaves its ports reserved");

    let path = folder.0.clone();
    let lines = host.enter(move || cleanup(&path).unwrap());
    // The clsact qdisc stays: the living one's guard hangs on it.
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("removed the guard from veth0"), "{lines:?}");
    assert!(lines[1].contains("40000-44999"), "{lines:?}");
    assert_eq!(host.enter(reserved), "45000-55000");

    alive.end();
    assert_eq!(host.enter(state_of_the_host), before);
    let path = folder.0.clone();
    assert_eq!(host.enter(move || cleanup(&path).unwrap()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn an_nft_table_that_a_killed_balancer_left_is_reclaimed_and_no_other() {
    let (_peer, host, folder) = pair();
    host.exec("nft add table netdev convey_of_somebody_else");
    let before = host.enter(state_of_the_host);
    let killed = Prepared::with(&host, &folder.0, "10.9.0.2:80", 40000, 50000, &["nft"]);
    killed.kill();
    assert!(host.exec("nft list ruleset").contains("tcp . 10.9.0.2 . 80"), "SIGKILL leaves the table");
    let path = folder.0.clone();
    let lines = host.enter(move || cleanup(&path).unwrap());
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(host.enter(state_of_the_host), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn the_next_start_reclaims_what_a_killed_balancer_left() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    let killed = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000);
    killed.kill();
    let next = Prepared::new(&host, &folder.0, "10.9.0.2:80", 50001, 51000);
    assert_eq!(host.enter(reserved), "50001-51000");
    next.end();
    assert_eq!(host.enter(state_of_the_host), before);
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn a_program_at_clsact_goes_with_its_balancer_and_where_that_was_killed_with_cleanup_or_the_next_start() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    let start = || Prepared::with(&host, &folder.0, "10.9.0.2:80", 40000, 50000, &["filter"]);
    let filters = || host.exec("tc filter show dev veth0 ingress");
    let programs = || filters().lines().filter(|line| line.contains("convey_tc")).count();
    let ended = start();
    assert_eq!(programs(), 1);
    ended.end();
    assert_eq!(host.enter(state_of_the_host), before);

    start().kill();
    assert_eq!(programs(), 1, "it forwards on");
    let next = start();
    assert_eq!(programs(), 1, "that of the next one alone");
    next.kill();
    let path = folder.0.clone();
    let told = host.enter(move || cleanup(&path).unwrap());
    assert!(told.iter().any(|line| line.starts_with("removed the engine's program from veth0")), "{told:?}");
    assert_eq!(host.enter(state_of_the_host), before);
}

/// Connects again and again until told to stop; returns how often the kernel refused, and how often it was tried.
fn knock(from: &Netns, to: &str, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, usize)> {
    let (to, stop) = (to.parse::<std::net::SocketAddr>().unwrap(), stop.clone());
    from.spawn(move || {
        let (mut refused, mut tried) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            tried += 1;
            let answer = TcpStream::connect_timeout(&to, Duration::from_millis(2));
            refused += usize::from(matches!(answer, Err(e) if e.kind() == ErrorKind::ConnectionRefused));
        }
        (refused, tried)
    })
}

fn the_kernel_stays_silent_from_sigkill_until_the_next_start(more: &[&str]) {
    let (peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    let killed = Prepared::with(&host, &folder.0, "10.9.0.2:80", 40000, 50000, more);
    let stop = Arc::new(AtomicBool::new(false));
    let client = knock(&peer, "10.9.0.2:80", &stop);
    killed.kill();
    std::thread::sleep(Duration::from_millis(300));
    let next = Prepared::with(&host, &folder.0, "10.9.0.2:80", 40000, 50000, more);
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let (refused, tried) = client.join().unwrap();
    assert_eq!(refused, 0, "of {tried} attempts");
    assert!(tried > 20, "{tried}");
    next.end();
    assert_eq!(host.enter(state_of_the_host), before);
    let refused = peer.enter(|| {
        TcpStream::connect_timeout(&"10.9.0.2:80".parse().unwrap(), Duration::from_secs(1))
            .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused, "given back, the kernel answers for itself");
}

#[test]
#[ignore = "needs ethtool, ip, nft, root, tc: makes network namespaces"]
fn the_kernel_stays_silent_from_sigkill_until_the_next_start_with_the_kernel_program() {
    the_kernel_stays_silent_from_sigkill_until_the_next_start(&[]);
}

#[test]
#[ignore = "needs ethtool, ip, nft, root, tc: makes network namespaces"]
fn the_kernel_stays_silent_from_sigkill_until_the_next_start_with_nft() {
    the_kernel_stays_silent_from_sigkill_until_the_next_start(&["nft"]);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_start_that_is_refused_leaves_the_guard_of_a_killed_balancer_alone() {
    let (peer, host, folder) = pair();
    let killed = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000);
    killed.kill();
    let path = folder.0.clone();
    // Every ephemeral port as a NAT port is refused.
    let refused = host.enter(move || Host::install(&spec(&path, "10.9.0.2:80", 1024..=65535)).is_err());
    assert!(refused);
    let silent = peer.enter(|| {
        TcpStream::connect_timeout(&"10.9.0.2:80".parse().unwrap(), Duration::from_millis(300))
            .is_err_and(|e| e.kind() == ErrorKind::TimedOut)
    });
    assert!(silent);
}

/// Files of flows: in the folder, and in shared memory, of the balancer `pid`.
fn flow_files(folder: &Path, pid: u32) -> usize {
    let of_pid = format!("balancer_{pid}_");
    let is_ours =
        |name: &str| name.contains(&of_pid) && (name.ends_with(".flows") || name.ends_with(".slots"));
    [folder, Path::new("/dev/shm")]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|files| files.flatten())
        .filter(|file| file.file_name().to_str().is_some_and(is_ours))
        .count()
}

#[test]
#[ignore = "needs ethtool, ip, nft, root, tc: makes network namespaces"]
fn flows_of_a_killed_balancer_wait_for_a_start_with_its_frontend_and_end_with_it_or_with_cleanup() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    for by_cleanup in [true, false] {
        let killed = Prepared::with(&host, &folder.0, "10.9.0.2:80", 40000, 50000, &["flows"]);
        let pid = killed.child.id();
        killed.kill();
        assert_eq!(flow_files(&folder.0, pid), 2);

        let path = folder.0.clone();
        let refused = host.enter(move || Host::install(&spec(&path, "10.9.0.2:80", 1024..=65535)).is_err());
        assert!(refused && flow_files(&folder.0, pid) == 2, "a refused start leaves them");

        let path = folder.0.clone();
        host.enter(move || {
            let mut other = Host::install(&spec(&path, "10.9.0.3:80", 50001..=51000)).unwrap();
            assert_eq!(other.flows_left().len(), 0);
            other.forget_flows_left().unwrap();
            other.close().unwrap();
        });
        assert_eq!(flow_files(&folder.0, pid), 2, "another balancer leaves them");

        let path = folder.0.clone();
        host.enter(move || {
            if by_cleanup {
                cleanup(&path).unwrap();
                return;
            }
            let mut next = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
            assert_eq!(next.flows_left().len(), 1, "{:?}", next.notes());
            next.forget_flows_left().unwrap();
            assert_eq!(flow_files(&path, pid), 0);
            next.close().unwrap();
        });
        assert_eq!(flow_files(&folder.0, pid), 0);
        assert_eq!(host.enter(state_of_the_host), before);
        assert!(!folder.0.exists(), "the folder goes with the last journal");
    }
}

#[test]
#[ignore = "needs ethtool, ip, nft, root, tc: makes network namespaces"]
fn an_interface_that_is_handled_no_more_is_given_back_with_its_qdisc() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    let path = folder.0.clone();
    host.enter(move || {
        let mut prepared = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
        let qdiscs =
            || String::from_utf8(Command::new("tc").args(["qdisc"]).output().unwrap().stdout).unwrap();
        assert!(qdiscs().contains("clsact"));
        prepared.set_interfaces(&[]).unwrap();
        assert!(!qdiscs().contains("clsact"));
        let veth = interface_index("veth0").unwrap().unwrap();
        prepared.set_interfaces(&[veth]).unwrap();
        assert!(qdiscs().contains("clsact"));
        prepared.close().unwrap();
    });
    assert_eq!(host.enter(state_of_the_host), before);
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_namespace_is_cleaned_up_without_touching_another() {
    let (_peer, host, folder) = pair();
    let (_other_peer, other, _unused) = pair();
    let killed = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000);
    killed.kill();
    other.enter(|| std::fs::write(RESERVED, "40000-50000").unwrap());
    let path = folder.0.clone();
    assert_eq!(other.enter(move || cleanup(&path).unwrap()), Vec::<String>::new());
    assert_eq!(other.enter(reserved), "40000-50000");
    assert_eq!(host.enter(reserved), "40000-50000");
    let path = folder.0.clone();
    let lines = host.enter(move || cleanup(&path).unwrap());
    assert_eq!(lines.len(), 3, "guard, its qdisc, ports: {lines:?}");
    assert_eq!(host.enter(reserved), "");
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn a_reload_changes_ports_addresses_and_interfaces() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    host.enter(move || {
        let before = state_of_the_host();
        let first = spec(&path, "10.9.0.2:80", 40000..=50000);
        let mut host = Host::install(&HostSpec { interfaces: Vec::new(), ..first }).unwrap();
        assert_eq!(host.guard_method(), None, "no interface, nothing to guard");
        host.set_interfaces(&[interface_index("veth0").unwrap().unwrap()]).unwrap();
        assert_eq!(host.guard_method(), Some(GuardMethod::Bpf));

        host.set_rules(&spec(&path, "10.9.0.3:80", 45000..=55000).rules).unwrap();
        assert_eq!(reserved(), "45000-55000");
        let other = Host::install(&spec(&path, "10.9.0.2:80", 1000..=1001)).unwrap();
        let error = host.set_rules(&spec(&path, "10.9.0.2:80", 45000..=55000).rules).unwrap_err();
        assert!(matches!(error, HostError::SecondInstance { .. }), "{error}");
        assert!(
            Host::install(&spec(&path, "10.9.0.3:80", 1..=2)).is_err(),
            "the former address is still locked"
        );

        let lo = interface_index("lo").unwrap().unwrap();
        host.set_interfaces(&[lo]).unwrap();
        other.close().unwrap();
        host.close().unwrap();
        assert_eq!(state_of_the_host(), before);
    });
}

#[test]
#[ignore = "needs root, ip, nft, tc, ethtool, sysctl: makes network namespaces"]
fn what_dry_run_prints_can_be_typed() {
    let (_peer, host, folder) = pair();
    let path = folder.0.clone();
    let (lines, untouched) = host.enter(move || {
        let before = state_of_the_host();
        let lines = dry_run(&spec(&path, "10.9.0.2:80", 40000..=50000), true).unwrap();
        (lines, state_of_the_host() == before && !path.exists())
    });
    assert!(untouched, "a dry run changes nothing");
    let script = lines.join("\n");
    host.enter(move || {
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(reserved(), "40000-50000");
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(String::from_utf8(rules.stdout).unwrap().contains("tcp . 10.9.0.2 . 80"));
    });
}

#[test]
#[ignore = "needs root, ip: changes the owner of a folder"]
fn a_state_folder_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let host = Netns::new("host");
    let folder = Folder::new(&host);
    std::fs::create_dir(&folder.0).unwrap();
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = cleanup(&folder.0).unwrap_err();
    assert!(matches!(error, HostError::StateNotOurs { .. }), "{error}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn the_journal_of_a_namespace_that_is_gone_is_forgotten_and_that_of_one_that_lives_is_kept() {
    let (_peer, host, folder) = pair();
    let (other_peer, other, _other_folder) = pair();
    let killed = Prepared::new(&other, &folder.0, "10.9.0.2:80", 40000, 41000);
    killed.kill();
    let clean = |path: PathBuf| host.enter(move || cleanup(&path).unwrap());
    assert_eq!(clean(folder.0.clone()), Vec::<String>::new(), "its namespace lives");
    drop((other, other_peer));
    let lines = clean(folder.0.clone());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("its network namespace is gone"), "{lines:?}");
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn flows_of_a_killed_balancer_go_with_its_namespace_even_without_a_journal_and_those_of_others_stay() {
    let (_peer, host, folder) = pair();
    let (gone_peer, gone, gone_folder) = pair();
    let alive_folder = Folder(std::env::temp_dir().join(format!("convey-{}-alive", gone.name)));
    let start = |ns: &Netns, folder: &Folder, vip, ports: (u16, u16)| {
        Prepared::with(ns, &folder.0, vip, ports.0, ports.1, &["flows"])
    };
    let killed_here = start(&host, &folder, "10.9.0.2:80", (40000, 50000));
    let killed_there = start(&gone, &gone_folder, "10.9.0.2:80", (40000, 50000));
    let alive = start(&gone, &alive_folder, "10.9.0.3:80", (51000, 52000));
    let tables = |of: u32| flow_files(Path::new("/nowhere"), of);
    let [here, there, living] = [&killed_here, &killed_there, &alive].map(|p| p.child.id());
    assert_eq!([here, there, living].map(tables), [1, 1, 1], "the tables lie in shared memory");
    killed_here.kill();
    killed_there.kill();
    for folder in [&folder, &gone_folder] {
        std::fs::remove_dir_all(&folder.0).unwrap();
    }
    let clean = || {
        let path = folder.0.clone();
        host.enter(move || cleanup(&path).unwrap())
    };
    clean();
    assert_eq!([here, there, living].map(tables), [1, 1, 1], "the namespaces live");
    // The namespace of the one that lives loses its name and lives on with it.
    drop((gone, gone_peer));
    clean();
    assert_eq!([here, there, living].map(tables), [1, 1, 1], "one balancer still lives there");
    alive.kill();
    let told = |lines: &[String]| lines.iter().filter(|l| l.contains(&format!("balancer_{there}_"))).count();
    let mut lines = Vec::new();
    // A namespace takes its time to go.
    for _ in 0..200 {
        lines.extend(clean());
        if tables(there) + tables(living) == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!([here, there, living].map(tables), [1, 0, 0]);
    assert_eq!(told(&lines), 1, "{lines:?}");
    drop(host);
    let (_other_peer, other, other_folder) = pair();
    let path = other_folder.0.clone();
    other.enter(move || Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap().close().unwrap());
    assert_eq!(tables(here), 0, "the next start removes it, too");
}

#[test]
#[ignore = "needs root, ip, socat: makes network namespaces"]
fn a_local_user_who_takes_the_name_of_an_address_keeps_no_balancer_from_it() {
    let (_peer, host, folder) = pair();
    let name = "ABSTRACT-LISTEN:convey/tcp/10.9.0.2\\:80";
    let mut squatter = Command::new("ip")
        .args([
            "netns",
            "exec",
            &host.name,
            "setpriv",
            "--reuid",
            "65534",
            "--clear-groups",
            "socat",
            name,
            "-",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let taken = || host.exec("cat /proc/net/unix").contains("@convey/tcp/10.9.0.2:80");
    assert!((0..200).any(|_| taken() || {
        std::thread::sleep(std::time::Duration::from_millis(25));
        false
    }));
    let path = folder.0.clone();
    host.enter(move || {
        let first = Host::install(&spec(&path, "10.9.0.2:80", 40000..=50000)).unwrap();
        let second = Host::install(&spec(&path, "10.9.0.2:80", 51000..=52000)).unwrap_err();
        assert!(matches!(second, HostError::SecondInstance { .. }), "{second}");
        first.close().unwrap();
    });
    squatter.kill().unwrap();
    squatter.wait().unwrap();
}
