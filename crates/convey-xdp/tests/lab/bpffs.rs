//! A place for pins.

use std::path::PathBuf;

use convey_testkit::netns;

/// A BPF file system of the test's own, until dropped.
pub struct BpfFs(pub PathBuf);

impl BpfFs {
    pub fn mount(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("convey-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        netns::run("mount", &["-t", "bpf", "bpf", folder.to_str().unwrap()]);
        Self(folder)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        netns::run("umount", &[self.0.to_str().unwrap()]);
        let _ = std::fs::remove_dir(&self.0);
    }
}
