//! The kernel programs, as objects ready to load, and the layout of their maps.
//!
//! The C sources stand beside this file; `build.sh` makes `objects/` from them, which are committed so that
//! building the balancer needs no clang. Keys and values are byte arrays here: [`endpoint_key`] and its
//! siblings are the only places in Rust that know `layout.h`.
#![forbid(unsafe_code)]

pub mod directory;
pub mod tables;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// The ELF reader wants its input aligned.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static GUARD: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/guard.o"));
static AF_XDP: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/af_xdp.o"));
static PASS: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/pass.o"));
static DSR_EGRESS: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/dsr_egress.o"));

static TC: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/tc.o"));
static XDP: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/xdp.o"));
static CSUM_PROBE: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/csum_probe.o"));
static WRAPPER: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/wrapper.o"));
static REFERENCE: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/reference.o"));
static GENERATOR: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/generator.o"));

/// `engine/tc.c`: program `convey_tc`; maps of `engine/tables.h`.
pub fn tc() -> &'static [u8] {
    &TC.0
}

/// `engine/xdp.c`: program `convey_xdp`; maps of `engine/tables.h`.
pub fn xdp() -> &'static [u8] {
    &XDP.0
}

/// `engine/csum_probe.c`: program `csum_probe`, which gives 1 where the kernel has what `csum_ipv6` of `tc.c` asks for.
pub fn csum_probe() -> &'static [u8] {
    &CSUM_PROBE.0
}

/// `bench/wrapper.c`: program `wrapper`, which restores a packet and calls the program under test.
pub fn wrapper() -> &'static [u8] {
    &WRAPPER.0
}

/// `bench/reference.c`: programs `empty`, `chain` and `lru`.
pub fn reference() -> &'static [u8] {
    &REFERENCE.0
}

/// `bench/generator.c`: program `generate`; map `flood`.
pub fn generator() -> &'static [u8] {
    &GENERATOR.0
}

/// `guard.c`: program `convey_guard`; maps `vips`, `servers`, `nat`, `drops`.
pub fn guard() -> &'static [u8] {
    &GUARD.0
}

/// `pass.c`: program `convey_pass`, no maps.
pub fn pass() -> &'static [u8] {
    &PASS.0
}

/// `af_xdp.c`: program `convey_af_xdp`; maps `vips`, `servers`, `nat`, `addresses`, `ports`, `sockets`,
/// `unserved`.
pub fn af_xdp() -> &'static [u8] {
    &AF_XDP.0
}

/// `dsr_egress.c`: program `convey_dsr`; maps `rewrites`, `excluded`; global `link_header_bytes` (u32).
pub fn dsr_egress() -> &'static [u8] {
    &DSR_EGRESS.0
}

/// `struct address`: IPv6, or IPv4 as `::ffff:a.b.c.d`.
pub fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct endpoint`; `protocol` is the IP protocol number.
pub fn endpoint_key(at: SocketAddr, protocol: u8) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address(at.ip()));
    key[16..18].copy_from_slice(&at.port().to_be_bytes());
    key[18] = protocol;
    key
}

/// `struct nat_address`; `protocol` is the IP protocol number.
pub fn nat_key(ip: IpAddr, protocol: u8) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address(ip));
    key[16] = protocol;
    key
}

/// Port ranges that one local address and protocol may have.
pub const NAT_RANGES: usize = 4;

/// `struct nat_ports`; `None` when there are more than [`NAT_RANGES`].
pub fn nat_ports(ranges: &[RangeInclusive<u16>]) -> Option<[u8; 16]> {
    if ranges.len() > NAT_RANGES {
        return None;
    }
    let mut value = [0; 16];
    for i in 0..NAT_RANGES {
        // An unused range contains nothing.
        let (from, to) = ranges.get(i).map_or((1, 0), |r| (*r.start(), *r.end()));
        value[2 * i..2 * i + 2].copy_from_slice(&from.to_ne_bytes());
        value[8 + 2 * i..10 + 2 * i].copy_from_slice(&to.to_ne_bytes());
    }
    Some(value)
}

/// `struct port` of `af_xdp.c`: the first of its sockets, how many there are, and the interface's MAC address.
pub fn port(first: u32, queues: u32, mac: [u8; 6]) -> [u8; 16] {
    let mut value = [0; 16];
    value[..4].copy_from_slice(&first.to_ne_bytes());
    value[4..8].copy_from_slice(&queues.to_ne_bytes());
    value[8..14].copy_from_slice(&mac);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_laid_out_as_in_layout_h() {
        let key = endpoint_key("192.0.2.1:80".parse().unwrap(), 6);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 0, 80, 6, 0]);
    }

    #[test]
    fn unused_port_ranges_contain_nothing() {
        let value = nat_ports(&[10..=20]).unwrap();
        let u16_at = |i: usize| u16::from_ne_bytes([value[i], value[i + 1]]);
        assert_eq!((u16_at(0), u16_at(8)), (10, 20));
        assert!((1..NAT_RANGES).all(|i| u16_at(2 * i) > u16_at(8 + 2 * i)));
    }

    #[test]
    fn too_many_port_ranges_are_refused() {
        assert_eq!(nat_ports(&[1..=1, 3..=3, 5..=5, 7..=7, 9..=9]), None);
    }
}
