//! Which worker a frame belongs to, so that both directions of a flow meet one worker and workers share
//! nothing. Simple enough for a classic BPF fan-out program:
//!
//! 1. TCP or UDP, destination port within the NAT range: `destination port % workers`.
//! 2. TCP or UDP otherwise: `source port % workers`.
//! 3. An ICMP or ICMPv6 error: the same by the quoted packet, whose direction is the other way round:
//!    quoted source port within the NAT range: `quoted source port % workers`; otherwise
//!    `quoted destination port % workers`.
//! 4. Everything else (fragments without ports, ARP, …): worker 0.
//!
//! A worker takes only NAT ports with `port % workers == index`, so replies come home by rule 1.

use crate::options::PortRange;

/// The worker for a TCP or UDP packet with these ports (rules 1 and 2).
pub const fn worker_for_ports(source: u16, destination: u16, nat_ports: PortRange, workers: usize) -> usize {
    let port = if nat_ports.contains(destination) { destination } else { source };
    port as usize % if workers == 0 { 1 } else { workers }
}
