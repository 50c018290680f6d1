//! Network namespaces that a test makes, works in and takes away again.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A namespace; removed with everything in it when dropped.
pub struct Netns {
    /// As `ip netns` knows it.
    pub name: String,
}

impl Netns {
    /// A new one; `role` is part of its name.
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cvy{}-{n}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let ns = Self { name };
        ns.ip("link set lo up");
        ns
    }

    /// Runs `ip -n <this> <words>`.
    pub fn ip(&self, words: &str) {
        let mut args = vec!["-n", self.name.as_str()];
        args.extend(words.split_whitespace());
        run("ip", &args);
    }

    /// Runs a command inside; returns what it printed.
    pub fn exec(&self, words: &str) -> String {
        let mut args = vec!["netns", "exec", self.name.as_str()];
        args.extend(words.split_whitespace());
        run("ip", &args)
    }

    /// The index of its interface `name`.
    pub fn ifindex(&self, name: &str) -> u32 {
        let index = self.exec(&format!("cat /sys/class/net/{name}/ifindex"));
        index.trim().parse().expect("a number")
    }

    /// Runs `f` on a thread that lives in this namespace.
    pub fn enter<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// As `enter`, without waiting.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let ns = File::open(&path).unwrap_or_else(|e| panic!("cannot open {path}: {e}"));
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&ns), None)
                .expect("root may enter a namespace");
            f()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Two namespaces joined by a cable: `left` has 10.9.0.1/24 and fd09::1/64 on `veth0`, `right` .2 and ::2.
pub fn cable(left: &Netns, right: &Netns) {
    left.ip(&format!("link add veth0 type veth peer name veth0 netns {}", right.name));
    for (ns, n) in [(left, 1), (right, 2)] {
        ns.ip(&format!("addr add 10.9.0.{n}/24 dev veth0"));
        ns.ip(&format!("addr add fd09::{n}/64 dev veth0 nodad"));
        ns.ip("link set veth0 up");
    }
    // IPv6 takes a moment after the carrier.
    let up = left.enter(|| (0..50).any(|_| ping("fd09::2")));
    assert!(up, "the cable does not work");
}

/// A veth pair named `device` at both ends: `host` has 10.`subnet`.0.1/24, `peer` the address that ends in `at_peer`, if
/// any. `more` are words of `ip link` for either end.
pub fn link(host: &Netns, peer: &Netns, device: &str, subnet: u8, at_peer: Option<u8>, more: &str) {
    host.ip(&format!("link add {device} {more} type veth peer name {device} netns {} {more}", peer.name));
    host.ip(&format!("addr add 10.{subnet}.0.1/24 dev {device}"));
    if let Some(at_peer) = at_peer {
        peer.ip(&format!("addr add 10.{subnet}.0.{at_peer}/24 dev {device}"));
    }
    peer.ip(&format!("link set {device} up"));
    host.ip(&format!("link set {device} up"));
}

/// Waits until that holds, twenty seconds at most.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until `found` gives something, twenty seconds at most.
pub fn until_some<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end; returns what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether an echo request is answered within 200 ms.
pub fn ping(to: &str) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
    let to: IpAddr = to.parse().expect("an address");
    let (family, protocol, request, reply, skip) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0, 20),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129, 0),
    };
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))
        .expect("root may open a raw socket");
    let wait = Some(Duration::from_millis(200));
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, wait).expect("a timeout");
    let mut message = [request, 0, 0, 0, 0, 1, 0, 1];
    if to.is_ipv4() {
        // The kernel fills in the checksum of ICMPv6 only.
        let sum = !(u16::from(request) * 256 + 2);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    if rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddr::new(to, 0)).is_err() {
        return false;
    }
    let mut buffer = [0; 256];
    while let Ok((n, _)) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
        if n > skip && buffer[skip] == reply {
            return true;
        }
    }
    false
}
