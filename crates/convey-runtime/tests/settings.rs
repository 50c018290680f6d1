//! Settings that an operator has made, in a namespace of its own, and how they are taken back.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::path::{Path, PathBuf};

use convey_runtime::host::settings::{Setting, apply, undo};
use convey_runtime::host::{PortSet, cleanup};
use convey_testkit::netns::Netns;

const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn host() -> (Netns, Folder) {
    let ns = Netns::new("settings");
    let folder = Folder(std::env::temp_dir().join(format!("convey-{}", ns.name)));
    (ns, folder)
}

fn sysctl(key: &str, value: &str) -> Setting {
    Setting::Sysctl { key: key.to_owned(), value: value.to_owned() }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn no_journal(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_err()
}

#[test]
#[ignore = "needs root, ip: makes a network namespace"]
fn settings_are_made_once_and_taken_back_to_the_letter() {
    let (ns, folder) = host();
    let path = folder.0.clone();
    ns.enter(move || {
        let before = (read(SOMAXCONN), read(RANGE), read(RESERVED));
        let settings = [
            sysctl("net.core.somaxconn", "777"),
            sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
            Setting::ReservePorts(PortSet::parse("3000-3009").unwrap()),
        ];
        assert_eq!(apply(&path, &settings).unwrap().len(), 3);
        assert_eq!((read(SOMAXCONN).as_str(), read(RANGE).as_str()), ("777\n", "1024\t65535\n"));
        assert_eq!(read(RESERVED), "3000-3009\n");
        assert_eq!(
            apply(&path, &settings).unwrap(),
            Vec::<String>::new(),
            "the second time there is nothing to do"
        );
        assert_eq!(cleanup(&path).unwrap(), Vec::<String>::new(), "which leaves them");
        assert_eq!(undo(&path).unwrap().len(), 3);
        assert_eq!((read(SOMAXCONN), read(RANGE), read(RESERVED)), before);
        assert_eq!(undo(&path).unwrap(), Vec::<String>::new());
        assert!(no_journal(&path));
    });
}

#[test]
#[ignore = "needs root, ip: makes a network namespace"]
fn settings_are_made_all_or_none() {
    let (ns, folder) = host();
    let path = folder.0.clone();
    ns.enter(move || {
        let before = read(SOMAXCONN);
        let error =
            apply(&path, &[sysctl("net.core.somaxconn", "777"), sysctl("net.ipv4.none", "1")]).unwrap_err();
        assert!(error.to_string().contains("net.ipv4.none"), "{error}");
        assert_eq!(read(SOMAXCONN), before);
        assert!(no_journal(&path));

        // What was made before stays, with what undoing it takes.
        apply(&path, &[sysctl("net.core.somaxconn", "777")]).unwrap();
        apply(&path, &[sysctl("net.core.somaxconn", "888"), sysctl("net.ipv4.none", "1")]).unwrap_err();
        assert_eq!(read(SOMAXCONN), "777\n");
        assert_eq!(undo(&path).unwrap().len(), 1);
        assert_eq!(read(SOMAXCONN), before);
    });
}

#[test]
#[ignore = "needs root, ip: makes a network namespace"]
fn the_value_that_comes_back_is_the_one_that_was_meant_last() {
    let (ns, folder) = host();
    let path = folder.0.clone();
    ns.enter(move || {
        let setting = [sysctl("net.core.somaxconn", "777")];
        apply(&path, &setting).unwrap();
        std::fs::write(SOMAXCONN, "1000").unwrap();
        // Somebody wants 1000, and asks for 777 again.
        apply(&path, &setting).unwrap();
        undo(&path).unwrap();
        assert_eq!(read(SOMAXCONN), "1000\n");

        apply(&path, &setting).unwrap();
        std::fs::write(SOMAXCONN, "1001").unwrap();
        assert_eq!(
            undo(&path).unwrap(),
            ["left net.core.somaxconn at 1001: someone changed it from 777 meanwhile"]
        );
        assert_eq!(read(SOMAXCONN), "1001\n");
    });
}
