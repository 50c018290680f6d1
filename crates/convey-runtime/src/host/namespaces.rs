//! Which network namespaces there are, to tell journals of those that are gone.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::sys;

/// The names ([`sys::netns_id`]) of all namespaces that a process lives in or that are mounted somewhere; `None` when
/// not all of them may be looked at, which takes root.
pub fn living() -> Option<HashSet<String>> {
    let mut by_inode: HashMap<u64, File> = HashMap::new();
    for path in places()? {
        match File::open(&path) {
            Ok(file) => {
                by_inode.entry(file.metadata().ok()?.ino()).or_insert(file);
            }
            // A process that has ended meanwhile, or a kernel thread.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => (),
            // Where init may do more than root, others live in its namespace.
            Err(_) if path.starts_with("/proc/1") => (),
            Err(_) => return None,
        }
    }
    // A thread of its own: this one stays where it is.
    let visit = move || {
        let enter = |file: &File| rustix::thread::move_into_link_name_space(file.as_fd(), None);
        by_inode.values().map(|file| enter(file).ok().map(|()| sys::netns_id())).collect()
    };
    std::thread::spawn(visit).join().ok()?
}

fn places() -> Option<Vec<PathBuf>> {
    let mut places = Vec::new();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        if process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            places.push(process.path().join("ns/net"));
        }
    }
    // "36 35 0:4 net:[4026532281] /run/netns/a rw … - nsfs nsfs rw": the root names the kind, then comes the place.
    for line in std::fs::read_to_string("/proc/self/mountinfo").ok()?.lines() {
        let mut fields = line.split(' ').skip(3);
        if let (Some(root), Some(place)) = (fields.next(), fields.next())
            && root.starts_with("net:[")
        {
            places.push(PathBuf::from(place));
        }
    }
    Some(places)
}
