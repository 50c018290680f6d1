//! A host in a namespace that a test prepares, and processes that prepared it.
#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use convey_core::Protocol;
use convey_runtime::host::HostSpec;
use convey_testkit::netns::{Netns, cable};
use convey_xdp::{Endpoint, GuardRules, NatRange};

pub const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A folder for journals that is gone after the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(ns: &Netns) -> Self {
        Self(std::env::temp_dir().join(format!("convey-{}", ns.name)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn spec(folder: &Path, vip: &str, ports: std::ops::RangeInclusive<u16>) -> HostSpec {
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

pub fn pair() -> (Netns, Netns, Folder) {
    let (peer, host) = (Netns::new("peer"), Netns::new("host"));
    cable(&peer, &host);
    let folder = Folder::new(&host);
    (peer, host, folder)
}

/// Every readable kernel parameter of IP, the nft rules, addresses, and qdiscs of the present namespace.
pub fn state_of_the_host() -> BTreeMap<String, String> {
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

pub fn reserved() -> String {
    std::fs::read_to_string(RESERVED).unwrap().trim_end().to_owned()
}

/// The example program at work in a namespace.
pub struct Prepared {
    pub child: Child,
    /// Held: what it prints at its end must find a reader.
    _output: BufReader<ChildStdout>,
}

impl Prepared {
    pub fn new(ns: &Netns, folder: &Path, vip: &str, from: u16, to: u16) -> Self {
        Self::with(ns, folder, vip, from, to, &[])
    }

    pub fn with(ns: &Netns, folder: &Path, vip: &str, from: u16, to: u16, more: &[&str]) -> Self {
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

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}
