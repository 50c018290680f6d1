//! Preparing a host in a namespace of its own, and finding it again as it was.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod host_lab;

use std::process::{Command, Stdio};

use convey_runtime::host::{Host, HostError, HostSpec, cleanup, dry_run};
use convey_testkit::netns::Netns;
use convey_xdp::GuardMethod;
use convey_xdp::netlink::interface_index;
use host_lab::{Folder, Prepared, RESERVED, pair, reserved, spec, state_of_the_host};

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
