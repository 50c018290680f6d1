//! Giving up capabilities, seen through /proc. Alone in its process, which has fewer afterwards.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::process::Command;
use std::sync::mpsc;

use convey_core::Mode;
use convey_runtime::host::{Capability, check_privileges, drop_capabilities};

const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;

fn sets_of(status: &str) -> Vec<(String, u64)> {
    status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| name.starts_with("Cap"))
        .map(|(name, value)| (name.to_owned(), u64::from_str_radix(value, 16).unwrap()))
        .collect()
}

fn every_thread() -> Vec<Vec<(String, u64)>> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .map(|status| sets_of(&status))
        .collect()
}

/// Blocks every signal that libc lets a thread block, as the inspector's thread in Node does.
fn block_all_signals() {
    // SAFETY: the set is filled before it is used, and null is allowed for the former one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()), 0);
    }
}

#[test]
#[ignore = "needs root: gives up its capabilities"]
fn every_thread_and_every_child_keeps_only_what_was_named() {
    check_privileges(Mode::Passthrough).unwrap();
    let (release, wait) = mpsc::channel::<()>();
    let (ready, started) = mpsc::channel();
    let sleeper = std::thread::spawn({
        let ready = ready.clone();
        move || {
            block_all_signals();
            ready.send(()).unwrap();
            wait.recv()
        }
    });
    let (stop, stopped) = mpsc::channel::<()>();
    let spinner = std::thread::spawn(move || {
        ready.send(()).unwrap();
        let mut turns = 0u64;
        while matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            turns += 1;
        }
        turns
    });
    started.recv().unwrap();
    started.recv().unwrap();

    let keep = [Capability::NetAdmin, Capability::NetRaw];
    let report = drop_capabilities(&keep).unwrap();
    assert_eq!(report.kept, keep);
    assert!(report.bounding, "root may shrink its bounding set");
    assert!(report.threads >= 4, "{report:?}");

    let threads = every_thread();
    assert!(threads.len() >= 4);
    for sets in threads {
        for (name, bits) in sets {
            let expected = match name.as_str() {
                "CapPrm" | "CapEff" | "CapBnd" => NET_ADMIN_AND_RAW,
                _ => 0,
            };
            assert_eq!(bits, expected, "{name}");
        }
    }

    let child = Command::new("cat").arg("/proc/self/status").output().unwrap();
    for (name, bits) in sets_of(&String::from_utf8(child.stdout).unwrap()) {
        assert_eq!(bits & !NET_ADMIN_AND_RAW, 0, "{name} of a child, though its user is root");
    }

    drop_capabilities(&keep).expect("a second time changes nothing");
    drop_capabilities(&[]).unwrap();
    let error = check_privileges(Mode::Dsr).unwrap_err();
    let message = error.to_string();
    for word in ["dsr mode", "CAP_NET_RAW and CAP_NET_ADMIN", "sudo", "setcap", "AmbientCapabilities"] {
        assert!(message.contains(word), "{message}");
    }
    check_privileges(Mode::Proxy).expect("proxy mode needs none");

    drop((release, stop));
    assert!(sleeper.join().unwrap().is_err());
    assert!(spinner.join().unwrap() > 0);
}
