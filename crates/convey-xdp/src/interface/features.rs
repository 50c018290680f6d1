//! What the driver of an interface has of XDP, as the kernel tells by generic netlink (Linux 6.3).

use convey_links::client::{attribute, attributes, generic};

const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// NETDEV_XDP_ACT_*.
const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// It runs programs, which may drop, pass and send back, and redirect.
    pub native: bool,
    /// It sends what is redirected to it. Some drivers say so once they have a program themselves; of a veth it is the
    /// other end that must have one, or GRO.
    pub sends: bool,
}

impl Features {
    /// From the kernel's bits.
    const fn from_bits(bits: u64) -> Self {
        Self { native: bits & (BASIC | REDIRECT) == BASIC | REDIRECT, sends: bits & NDO_XMIT != 0 }
    }
}

/// Asks the kernel. `None` when it cannot tell: before Linux 6.3, or when there is no such interface.
pub fn features(ifindex: u32) -> Option<Features> {
    let mut body = Vec::new();
    attribute(&mut body, DEV_IFINDEX, &ifindex.to_ne_bytes());
    let mut found = None;
    generic("netdev", DEV_GET, &body, |answer| {
        let bits = attributes(answer).into_iter().find(|(kind, _)| *kind == DEV_XDP_FEATURES);
        found = bits.and_then(|(_, value)| value.first_chunk().copied()).map(u64::from_ne_bytes);
    })
    .ok()?;
    found.map(Features::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_told_apart() {
        let has = |native, sends| Features { native, sends };
        assert_eq!(Features::from_bits(0), has(false, false));
        assert_eq!(Features::from_bits(0x23), has(true, false), "a veth whose other end has no program");
        assert_eq!(Features::from_bits(0x67), has(true, true), "one whose has");
        assert_eq!(Features::from_bits(0x0f), has(true, true), "a card");
        assert_eq!(Features::from_bits(4), has(false, true));
    }

    #[test]
    fn loopback_has_no_native_xdp() {
        // Where the kernel tells.
        assert!(features(1).is_none_or(|features| !features.native));
        assert_eq!(features(u32::MAX >> 1), None);
    }
}
