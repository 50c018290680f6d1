//! What the probing sockets hear: TCP to one of the probes' ports.

use crate::bpf::{Assembler, Is, join};
use crate::sys::Instruction;

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const IPV4_HEADER_LEN_TO_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const ETHERNET_BYTES: u32 = 14;
const TCP: u32 = 6;
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// The program of a socket of `ethertype` (IP or IPv6), run on frames from their Ethernet header on. Segments behind
/// IPv6 extension headers are not heard: no answer to a SYN has any.
pub(super) fn answers(ethertype: u32, ports: &[u16]) -> Vec<Instruction> {
    let ports = join(ports.iter().map(|port| u32::from(*port)..=u32::from(*port)).collect());
    let mut asm = Assembler::default();
    let (tcp, keep, drop) = (asm.label(), asm.label(), asm.label());
    let is_v4 = ethertype == libc::ETH_P_IP as u32;
    asm.put(LOAD_BYTE, ETHERNET_BYTES + if is_v4 { 9 } else { 6 });
    asm.jump_if(Is::Equal(TCP), tcp);
    asm.jump(drop);
    asm.place(tcp);
    if is_v4 {
        asm.put(LOAD_HALF, ETHERNET_BYTES + 6);
        asm.jump_if(Is::Masked(FRAGMENT_OFFSET), drop);
        asm.put(IPV4_HEADER_LEN_TO_X, ETHERNET_BYTES);
        asm.put(LOAD_HALF_AT_X, ETHERNET_BYTES + 2);
    } else {
        asm.put(LOAD_HALF, ETHERNET_BYTES + 42);
    }
    asm.search(&ports, keep, drop);
    asm.place(keep);
    asm.answer(u32::MAX);
    asm.place(drop);
    asm.answer(0);
    asm.finish()
}
