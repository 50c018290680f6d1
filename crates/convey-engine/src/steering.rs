//! Which worker a frame belongs to, so that both directions of a flow meet one worker and workers share
//! nothing. Simple enough for a classic BPF fan-out program:
//!
//! 1. TCP or UDP, destination port within the NAT range: `destination port % workers`.
//! 2. TCP or UDP otherwise: [`client_hash`] of source address and source port, `% workers`.
//! 3. An ICMP or ICMPv6 error: the same by the quoted packet, whose direction is the other way round:
//!    quoted source port within the NAT range: `quoted source port % workers`; otherwise [`client_hash`]
//!    of quoted destination address and port, `% workers`.
//! 4. Everything else (fragments without ports, ARP, …): worker 0.
//!
//! IPv6 extension headers are walked, [`crate::MAX_EXTENSION_HEADERS`] of them, also where quoted: a flow of whose
//! packets only some have them meets one worker.
//!
//! A worker takes only NAT ports with `port % workers == index`, so replies come home by rule 1.

use std::net::IpAddr;

use crate::options::PortRange;

/// The worker for a TCP or UDP packet with this source address and these ports (rules 1 and 2).
pub fn worker_for(
    source_address: IpAddr,
    source: u16,
    destination: u16,
    nat_ports: PortRange,
    workers: usize,
) -> usize {
    let by = if nat_ports.contains(destination) {
        u32::from(destination)
    } else {
        client_hash(source_address, source)
    };
    by as usize % workers.max(1)
}

/// Spreads clients over workers by 16 bits. The bare port would not do: Linux prefers ports of one parity when
/// it connects, and resolvers send from one port for ever.
pub fn client_hash(address: IpAddr, port: u16) -> u32 {
    let folded = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    };
    (folded ^ (u32::from(port) << 16))
        .wrapping_mul(0x9E37_79B1)
        .wrapping_add(u32::from(port))
        .wrapping_mul(0x85EB_CA6B)
        >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_one_parity_from_one_client_reach_every_worker_about_equally() {
        let nat = PortRange { first: 33768, last: 61000 };
        let client = IpAddr::from([10, 0, 0, 1]);
        for workers in [2, 3, 4, 8] {
            let mut hits = vec![0u32; workers];
            for port in (32768..60000).step_by(2) {
                hits[worker_for(client, port, 80, nat, workers)] += 1;
            }
            let fair = 13616 / workers as u32;
            assert!(hits.iter().all(|h| h.abs_diff(fair) < fair / 5), "{workers}: {hits:?}");
        }
    }

    #[test]
    fn clients_that_share_a_port_are_spread_by_their_address() {
        let nat = PortRange { first: 33768, last: 61000 };
        let mut hits = [0u32; 2];
        for last in 0..200 {
            hits[worker_for(IpAddr::from([10, 0, 0, last]), 123, 53, nat, 2)] += 1;
        }
        assert!(hits.iter().all(|&h| h > 60), "{hits:?}");
    }

    #[test]
    fn a_reply_to_a_nat_port_goes_by_that_port_alone() {
        let nat = PortRange { first: 33768, last: 61000 };
        assert_eq!(worker_for(IpAddr::from([10, 1, 0, 1]), 80, 40001, nat, 4), 1);
    }
}
