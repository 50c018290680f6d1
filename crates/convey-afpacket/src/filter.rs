//! The classic BPF programs of the sockets: which frames are copied to user space at all, and which worker
//! gets them.
//!
//! Both are supersets and approximations that must only err on the safe side: a frame let through for nothing
//! costs a copy and is then left to the kernel by the packet path; a frame kept out is not forwarded. The
//! steering must agree with [`convey_engine::steering`] exactly: a test runs both.

mod steering;

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use convey_engine::MAX_EXTENSION_HEADERS;

pub use steering::steering;

use crate::bpf::{Assembler, Is, Label, MAX_INSTRUCTIONS, join};
use crate::sys::Instruction;

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_BYTE_AT_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_WORD_AT_X: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const LOAD_CONSTANT: u32 = libc::BPF_LD | libc::BPF_IMM;
const LOAD_MEMORY: u32 = libc::BPF_LD | libc::BPF_MEM;
const LOAD_X_MEMORY: u32 = libc::BPF_LDX | libc::BPF_MEM;
const IPV4_HEADER_LEN_TO_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const STORE: u32 = libc::BPF_ST;
const A_TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const X_TO_A: u32 = libc::BPF_MISC | libc::BPF_TXA;
const ADD: u32 = libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const SHIFT_LEFT: u32 = libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K;
const SHIFT_RIGHT: u32 = libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K;
const MULTIPLY: u32 = libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const ADD_X: u32 = libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X;
const XOR_X: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;
const ANSWER_A: u32 = libc::BPF_RET | libc::BPF_A;

// linux/filter.h: what is known of the frame beside its bytes, at -0x1000 and on.
const PROTOCOL: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = PROTOCOL + 4;
const INTERFACE: u32 = PROTOCOL + 8;
const VLAN_TAG_PRESENT: u32 = PROTOCOL + 48;

const ETHERNET_BYTES: u32 = 14;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;
/// IPv6 extension headers that say how long they are: hop-by-hop, routing, destination options.
const EXTENSIONS_WITH_LENGTH: [u32; 3] = [0, 43, 60];
const FRAGMENT: u32 = 44;
/// Later fragments: an offset above zero.
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// What the packet path wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    /// Interfaces, by index.
    pub interfaces: Vec<u32>,
    /// Destination addresses: frontends and NAT sources.
    pub addresses: Vec<IpAddr>,
    /// Destination ports: frontends and the NAT range.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// A program that lets nothing through.
pub fn nothing() -> Vec<Instruction> {
    let mut asm = Assembler::default();
    asm.answer(0);
    asm.finish()
}

/// The program that lets through what `interest` describes, with the ICMP errors and fragments that belong to it.
/// Runs on the frame from its Ethernet header on. Several, each shorter and less exact than the one before: without
/// ports, then without addresses; the packet path sorts out what comes in excess. The kernel may have no room for
/// the first (before Linux 6.8 `net.core.optmem_max` is 20 KB, and old and new count together).
///
/// IPv6 addresses are compared by their last 32 bits only.
pub fn interest(interest: &Interest) -> Vec<Vec<Instruction>> {
    let any_port = Interest { ports: vec![0..=u16::MAX], ..interest.clone() };
    let programs =
        [exact_interest(interest, false), exact_interest(&any_port, false), exact_interest(&any_port, true)];
    programs.into_iter().filter(|program| program.len() <= MAX_INSTRUCTIONS).collect()
}

/// Has `set` take the most exact of `programs` (of [`interest`]) that the kernel has room for. The shortest goes
/// first where the exact one has no room beside the one in use.
///
/// # Errors
/// What the kernel answers when it takes none of them; the program in use stays.
pub fn attach(
    programs: &[Vec<Instruction>],
    set: impl Fn(&[Instruction]) -> io::Result<()>,
) -> io::Result<()> {
    let Some((shortest, longer)) = programs.split_last() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let is_full = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
    let Some(exact) = longer.first() else { return set(shortest) };
    match set(exact) {
        Err(error) if is_full(&error) => set(shortest)?,
        done => return done,
    }
    for program in longer {
        match set(program) {
            Err(error) if is_full(&error) => (),
            done => return done,
        }
    }
    Ok(())
}

fn exact_interest(interest: &Interest, any_address: bool) -> Vec<Instruction> {
    let one = |value: u32| value..=value;
    let interfaces = join(interest.interfaces.iter().map(|&i| one(i)).collect());
    let ports = join(interest.ports.iter().map(|r| u32::from(*r.start())..=u32::from(*r.end())).collect());
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in &interest.addresses {
        match address {
            IpAddr::V4(a) => v4.push(one(a.to_bits())),
            IpAddr::V6(a) => v6.push(one(a.to_bits() as u32)),
        }
    }
    let whole = |set: Vec<RangeInclusive<u32>>| {
        if any_address && !set.is_empty() { vec![0..=u32::MAX] } else { join(set) }
    };
    let (v4, v6) = (whole(v4), whole(v6));

    let mut asm = Assembler::default();
    let (keep, drop) = (asm.label(), asm.label());
    asm.put(LOAD_WORD, PACKET_TYPE);
    // Anything but PACKET_HOST (0) is for others: broadcast, multicast, or seen in promiscuous mode.
    asm.jump_if(Is::Above(0), drop);
    asm.put(LOAD_WORD, VLAN_TAG_PRESENT);
    asm.jump_if(Is::Above(0), drop);
    asm.put(LOAD_WORD, INTERFACE);
    let ours = asm.label();
    asm.search(&interfaces, ours, drop);
    asm.place(ours);

    let (is_v4, is_v6) = (asm.label(), asm.label());
    asm.put(LOAD_HALF, 12);
    asm.jump_if(Is::Equal(IPV4), is_v4);
    asm.jump_if(Is::Equal(IPV6), is_v6);
    asm.jump(drop);

    let port = asm.label();
    asm.place(is_v4);
    keep_v4(&mut asm, &v4, port, keep, drop);
    asm.place(is_v6);
    keep_v6(&mut asm, &v6, port, keep, drop);

    asm.place(port);
    asm.search(&ports, keep, drop);
    asm.place(keep);
    asm.answer(u32::MAX);
    asm.place(drop);
    asm.answer(0);
    asm.finish()
}

fn keep_v4(asm: &mut Assembler, addresses: &[RangeInclusive<u32>], port: Label, keep: Label, drop: Label) {
    let (to_us, layer4, icmp) = (asm.label(), asm.label(), asm.label());
    asm.put(LOAD_WORD, ETHERNET_BYTES + 16);
    asm.search(addresses, to_us, drop);
    asm.place(to_us);
    asm.put(LOAD_BYTE, ETHERNET_BYTES + 9);
    asm.jump_if(Is::Equal(TCP), layer4);
    asm.jump_if(Is::Equal(UDP), layer4);
    asm.jump_if(Is::Equal(ICMP), icmp);
    asm.jump(drop);

    asm.place(layer4);
    asm.put(LOAD_HALF, ETHERNET_BYTES + 6);
    asm.jump_if(Is::Masked(FRAGMENT_OFFSET), keep);
    asm.put(IPV4_HEADER_LEN_TO_X, ETHERNET_BYTES);
    asm.put(LOAD_HALF_AT_X, ETHERNET_BYTES + 2);
    asm.jump(port);

    asm.place(icmp);
    asm.put(IPV4_HEADER_LEN_TO_X, ETHERNET_BYTES);
    asm.put(LOAD_BYTE_AT_X, ETHERNET_BYTES);
    jump_if_icmp_error(asm, keep);
    asm.jump(drop);
}

fn keep_v6(asm: &mut Assembler, addresses: &[RangeInclusive<u32>], port: Label, keep: Label, drop: Label) {
    let (to_us, layer4, icmp) = (asm.label(), asm.label(), asm.label());
    asm.put(LOAD_WORD, ETHERNET_BYTES + 36);
    asm.search(addresses, to_us, drop);
    asm.place(to_us);
    asm.put(LOAD_BYTE, ETHERNET_BYTES + 6);
    asm.jump_if(Is::Equal(TCP), layer4);
    asm.jump_if(Is::Equal(UDP), layer4);
    asm.jump_if(Is::Equal(ICMPV6), icmp);
    // Extension headers the packet path walks: hop-by-hop, routing, fragment, destination options.
    for extension in EXTENSIONS_WITH_LENGTH.into_iter().chain([FRAGMENT]) {
        asm.jump_if(Is::Equal(extension), keep);
    }
    asm.jump(drop);

    asm.place(layer4);
    asm.put(LOAD_HALF, ETHERNET_BYTES + 42);
    asm.jump(port);

    asm.place(icmp);
    asm.put(LOAD_BYTE, ETHERNET_BYTES + 40);
    asm.search(&[1..=4], keep, drop);
}

fn jump_if_icmp_error(asm: &mut Assembler, label: Label) {
    // Destination unreachable, time exceeded, parameter problem.
    for kind in [3, 11, 12] {
        asm.jump_if(Is::Equal(kind), label);
    }
}

/// Memory words of the steering program.
const ADDRESS: u32 = 0;
const PORT: u32 = 1;
/// Offset of an IPv6 header.
const HEADER: u32 = 2;
/// Number of the header at X.
const NEXT: u32 = 3;

/// From the IPv6 header at M[HEADER] over as many extension headers as the packet path walks. Comes to `layer4`
/// (TCP or UDP) or `icmp` with X where that header starts; whatever else goes to `other`.
fn walk_v6(asm: &mut Assembler, layer4: Label, icmp: Option<Label>, other: Label) {
    asm.put(LOAD_X_MEMORY, HEADER);
    asm.put(LOAD_BYTE_AT_X, 6);
    asm.put(STORE, NEXT);
    asm.put(LOAD_MEMORY, HEADER);
    asm.put(ADD, 40);
    asm.put(A_TO_X, 0);
    for walked in 0..=MAX_EXTENSION_HEADERS {
        let (options, fragment, next) = (asm.label(), asm.label(), asm.label());
        asm.put(LOAD_MEMORY, NEXT);
        asm.jump_if(Is::Equal(TCP), layer4);
        asm.jump_if(Is::Equal(UDP), layer4);
        if let Some(icmp) = icmp {
            asm.jump_if(Is::Equal(ICMPV6), icmp);
        }
        if walked == MAX_EXTENSION_HEADERS {
            break;
        }
        for kind in EXTENSIONS_WITH_LENGTH {
            asm.jump_if(Is::Equal(kind), options);
        }
        asm.jump_if(Is::Equal(FRAGMENT), fragment);
        asm.jump(other);

        asm.place(options);
        asm.put(LOAD_BYTE_AT_X, 0);
        asm.put(STORE, NEXT);
        asm.put(LOAD_BYTE_AT_X, 1);
        asm.put(ADD, 1);
        asm.put(SHIFT_LEFT, 3);
        asm.put(ADD_X, 0);
        asm.put(A_TO_X, 0);
        asm.jump(next);

        asm.place(fragment);
        asm.put(LOAD_HALF_AT_X, 2);
        // A later fragment has no ports.
        asm.jump_if(Is::Masked(0xfff8), other);
        asm.put(LOAD_BYTE_AT_X, 0);
        asm.put(STORE, NEXT);
        asm.put(X_TO_A, 0);
        asm.put(ADD, 8);
        asm.put(A_TO_X, 0);
        asm.place(next);
    }
    asm.jump(other);
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
