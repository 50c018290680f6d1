//! Kernel parameters of the calling thread's network namespace.

use std::path::PathBuf;

use super::HostError;

/// Where a parameter stands; a dot inside an interface name is written as a slash in `key`, as sysctl does.
fn path(key: &str) -> PathBuf {
    let swapped: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    PathBuf::from("/proc/sys").join(swapped)
}

/// The value, without the newline.
///
/// # Errors
/// [`HostError::Sysctl`].
pub fn read(key: &str) -> Result<String, HostError> {
    std::fs::read_to_string(path(key))
        .map(|text| text.trim_end_matches('\n').to_owned())
        .map_err(|source| HostError::Sysctl { action: "read", key: key.to_owned(), source })
}

/// Whether two texts are one value: the kernel prints a tab between numbers where people write a space.
pub fn is_same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// Sets the value.
///
/// # Errors
/// [`HostError::Sysctl`].
pub fn write(key: &str, value: &str) -> Result<(), HostError> {
    // An empty list of ports is written as a newline: a write of no bytes changes nothing.
    std::fs::write(path(key), format!("{value}\n")).map_err(|source| HostError::Sysctl {
        action: "set",
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_whatever_stands_between_them() {
        assert!(is_same("1024\t65535", "1024 65535"));
        assert!(!is_same("1024 65535", "1024 65534"));
        assert!(!is_same("1", ""));
    }

    #[test]
    fn a_dot_in_an_interface_name_survives() {
        assert_eq!(
            path("net.ipv4.conf.eth0/5.arp_ignore"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.5/arp_ignore")
        );
    }
}
