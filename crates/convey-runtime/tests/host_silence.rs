//! The kernel does not answer for a balancer that was killed.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod host_lab;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convey_runtime::host::Host;
use convey_testkit::netns::Netns;
use host_lab::{Prepared, pair, spec, state_of_the_host};

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
