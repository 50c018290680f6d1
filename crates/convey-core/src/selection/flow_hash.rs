//! The hash of a flow: 64-bit multiplications and shifts alone, so that a kernel program computes the same.

/// Folds `words` into one; every bit of the result depends on every bit of the input.
#[inline]
pub const fn flow_hash<const N: usize>(seed: u64, words: [u64; N]) -> u64 {
    let mut h = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut i = 0;
    while i < N {
        h = (h ^ words[i]).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
        i += 1;
    }
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 29)
}

/// The words of a flow for [`flow_hash`]: client address (16 bytes, IPv4 mapped), client port, the address
/// and port it talks to, protocol number.
#[inline]
pub const fn flow_words(client: u128, client_port: u16, vip: u128, port: u16, protocol: u8) -> [u64; 5] {
    let ports = (client_port as u64) << 32 | (port as u64) << 16 | protocol as u64;
    [(client >> 64) as u64, client as u64, (vip >> 64) as u64, vip as u64, ports]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ports_and_addresses_spread_over_all_buckets() {
        let mut buckets = [0u32; 64];
        for client in 0..64u128 {
            for port in 0..256 {
                let words = flow_words(0xffff_0a00_0000 + client, 1024 + port, 0xffff_c000_0201, 80, 6);
                buckets[flow_hash(0, words) as usize % 64] += 1;
            }
        }
        // 16,384 flows, 256 a bucket expected, standard deviation 16.
        assert!(buckets.iter().all(|&n| (176..336).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn the_hash_is_fixed_for_all_time_because_restarted_balancers_and_kernel_programs_share_it() {
        let words = flow_words(0xffff_0a00_0001, 40000, 0xffff_c000_0201, 80, 6);
        assert_eq!(flow_hash(0, words), 0x8d7e526caabedbc1);
    }
}
