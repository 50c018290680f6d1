//! What a killed balancer leaves on its host, and who takes it back.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod host_lab;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convey_runtime::host::{Host, cleanup};
use convey_testkit::netns::Netns;
use host_lab::{Folder, Prepared, RESERVED, pair, reserved, spec, state_of_the_host};

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
fn ports_of_a_killed_balancer_stay_reserved_all_the_time_that_the_next_one_starts() {
    let (_peer, host, folder) = pair();
    let before = host.enter(state_of_the_host);
    Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000).kill();
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let until = is_over.clone();
        let watch = scope.spawn(|| {
            host.enter(move || {
                let mut seen = BTreeSet::from([reserved()]);
                while !until.load(Ordering::Relaxed) {
                    seen.insert(reserved());
                }
                seen
            })
        });
        let next = Prepared::new(&host, &folder.0, "10.9.0.2:80", 40000, 50000);
        is_over.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap();
        next.end();
        seen
    });
    assert_eq!(seen, BTreeSet::from(["40000-50000".to_owned()]));
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
