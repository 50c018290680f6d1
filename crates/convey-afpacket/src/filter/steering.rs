//! The program of the fan-out: which worker gets a frame.

use std::ops::RangeInclusive;

use convey_engine::PortRange;

use super::*;

/// The fan-out program for `workers` sockets: the rules of [`convey_engine::steering`]. Runs on the packet from
/// its IP header on.
pub fn steering(nat_ports: Option<PortRange>, workers: usize) -> Vec<Instruction> {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    let nat: Vec<_> = nat_ports.iter().map(|r| u32::from(r.first)..=u32::from(r.last)).collect();
    let mut asm = Assembler::default();
    let (is_v4, is_v6, by_port, by_client, other) =
        (asm.label(), asm.label(), asm.label(), asm.label(), asm.label());
    asm.put(LOAD_WORD, PROTOCOL);
    asm.jump_if(Is::Equal(IPV4), is_v4);
    asm.jump_if(Is::Equal(IPV6), is_v6);
    asm.jump(other);

    let targets = Targets { by_port, by_client, other };
    asm.place(is_v4);
    steer_v4(&mut asm, &nat, &targets);
    asm.place(is_v6);
    steer_v6(&mut asm, &nat, &targets);

    // M[ADDRESS] and M[PORT] hold the client's address (folded) and port.
    asm.place(by_client);
    asm.put(LOAD_MEMORY, PORT);
    asm.put(SHIFT_LEFT, 16);
    asm.put(LOAD_X_MEMORY, ADDRESS);
    asm.put(XOR_X, 0);
    asm.put(MULTIPLY, 0x9E37_79B1);
    asm.put(LOAD_X_MEMORY, PORT);
    asm.put(ADD_X, 0);
    asm.put(MULTIPLY, 0x85EB_CA6B);
    asm.put(SHIFT_RIGHT, 16);
    asm.place(by_port);
    asm.put(MODULO, workers);
    asm.put(ANSWER_A, 0);
    asm.place(other);
    asm.answer(0);
    asm.finish()
}

struct Targets {
    /// The accumulator holds a NAT port.
    by_port: Label,
    /// Memory holds the client's address and port.
    by_client: Label,
    other: Label,
}

fn steer_v4(asm: &mut Assembler, nat: &[RangeInclusive<u32>], to: &Targets) {
    let (layer4, icmp, client) = (asm.label(), asm.label(), asm.label());
    asm.put(LOAD_HALF, 6);
    asm.jump_if(Is::Masked(FRAGMENT_OFFSET), to.other);
    asm.put(IPV4_HEADER_LEN_TO_X, 0);
    asm.put(LOAD_BYTE, 9);
    asm.jump_if(Is::Equal(TCP), layer4);
    asm.jump_if(Is::Equal(UDP), layer4);
    asm.jump_if(Is::Equal(ICMP), icmp);
    asm.jump(to.other);

    asm.place(layer4);
    asm.put(LOAD_HALF_AT_X, 2);
    asm.search(nat, to.by_port, client);
    asm.place(client);
    asm.put(LOAD_HALF_AT_X, 0);
    asm.put(STORE, PORT);
    asm.put(LOAD_WORD, 12);
    asm.put(STORE, ADDRESS);
    asm.jump(to.by_client);

    asm.place(icmp);
    let (error, quoted_client) = (asm.label(), asm.label());
    asm.put(LOAD_BYTE_AT_X, 0);
    jump_if_icmp_error(asm, error);
    asm.jump(to.other);
    asm.place(error);
    let quoted = asm.label();
    asm.put(LOAD_BYTE_AT_X, 8 + 9);
    asm.jump_if(Is::Equal(TCP), quoted);
    asm.jump_if(Is::Equal(UDP), quoted);
    asm.jump(to.other);
    asm.place(quoted);
    asm.put(LOAD_WORD_AT_X, 8 + 16);
    asm.put(STORE, ADDRESS);
    // Skip the quoted IPv4 header, whatever its length.
    asm.put(LOAD_BYTE_AT_X, 8);
    asm.put(AND, 15);
    asm.put(SHIFT_LEFT, 2);
    asm.put(ADD_X, 0);
    asm.put(A_TO_X, 0);
    asm.put(LOAD_HALF_AT_X, 8);
    asm.search(nat, to.by_port, quoted_client);
    asm.place(quoted_client);
    asm.put(LOAD_HALF_AT_X, 8 + 2);
    asm.put(STORE, PORT);
    asm.jump(to.by_client);
}

fn steer_v6(asm: &mut Assembler, nat: &[RangeInclusive<u32>], to: &Targets) {
    let (layer4, icmp, client) = (asm.label(), asm.label(), asm.label());
    asm.put(LOAD_CONSTANT, 0);
    asm.put(STORE, HEADER);
    walk_v6(asm, layer4, Some(icmp), to.other);

    asm.place(layer4);
    asm.put(LOAD_HALF_AT_X, 2);
    asm.search(nat, to.by_port, client);
    asm.place(client);
    asm.put(LOAD_HALF_AT_X, 0);
    asm.put(STORE, PORT);
    fold_v6(asm, 8);
    asm.jump(to.by_client);

    asm.place(icmp);
    let (error, quoted, quoted_client) = (asm.label(), asm.label(), asm.label());
    asm.put(LOAD_BYTE_AT_X, 0);
    asm.search(&[1..=4], error, to.other);
    asm.place(error);
    asm.put(X_TO_A, 0);
    asm.put(ADD, 8);
    asm.put(STORE, HEADER);
    walk_v6(asm, quoted, None, to.other);
    asm.place(quoted);
    asm.put(LOAD_HALF_AT_X, 0);
    asm.search(nat, to.by_port, quoted_client);
    asm.place(quoted_client);
    asm.put(LOAD_HALF_AT_X, 2);
    asm.put(STORE, PORT);
    fold_v6(asm, 24);
    asm.jump(to.by_client);
}

/// M[ADDRESS] = the four words at `at` behind M[HEADER], combined by exclusive or.
fn fold_v6(asm: &mut Assembler, at: u32) {
    asm.put(LOAD_X_MEMORY, HEADER);
    asm.put(LOAD_WORD_AT_X, at);
    asm.put(STORE, ADDRESS);
    for word in [4, 8, 12] {
        asm.put(LOAD_X_MEMORY, HEADER);
        asm.put(LOAD_WORD_AT_X, at + word);
        asm.put(LOAD_X_MEMORY, ADDRESS);
        asm.put(XOR_X, 0);
        asm.put(STORE, ADDRESS);
    }
}
