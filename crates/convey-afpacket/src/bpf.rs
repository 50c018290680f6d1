//! A tiny assembler for classic BPF: labels instead of offsets, and search trees over ranges.
//!
//! Conditional jumps reach 255 instructions only, so each is written as a short one over an unconditional
//! jump, which reaches anywhere.

use std::ops::RangeInclusive;

use crate::sys::Instruction;

/// Most instructions the kernel takes in one program.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Where a jump goes; bound to a place by [`Assembler::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A condition on the accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// It equals the operand.
    Equal(u32),
    /// It is at least the operand.
    AtLeast(u32),
    /// It is greater than the operand.
    Above(u32),
    /// It has a bit of the operand set.
    Masked(u32),
}

/// Builds one program.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    places: Vec<usize>,
}

impl Assembler {
    /// A label without a place yet.
    pub fn label(&mut self) -> Label {
        self.places.push(usize::MAX);
        Label(self.places.len() - 1)
    }

    /// Puts `label` before the next instruction. Jumps go forward only, as the kernel demands.
    pub fn place(&mut self, label: Label) {
        self.places[label.0] = self.code.len();
    }

    /// Appends an instruction that does not jump.
    pub fn put(&mut self, code: u32, k: u32) {
        self.code.push(Instruction { code: code as u16, jt: 0, jf: 0, k });
    }

    /// Goes to `label`.
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.put(libc::BPF_JMP | libc::BPF_JA, 0);
    }

    /// Goes to `label` when the condition holds, on to the next instruction otherwise.
    pub fn jump_if(&mut self, is: Is, label: Label) {
        let (operation, k) = match is {
            Is::Equal(k) => (libc::BPF_JEQ, k),
            Is::AtLeast(k) => (libc::BPF_JGE, k),
            Is::Above(k) => (libc::BPF_JGT, k),
            Is::Masked(k) => (libc::BPF_JSET, k),
        };
        let code = (libc::BPF_JMP | operation | libc::BPF_K) as u16;
        self.code.push(Instruction { code, jt: 0, jf: 1, k });
        self.jump(label);
    }

    /// Goes to `inside` when the accumulator lies in one of `ranges` (sorted, disjoint), else to `outside`.
    pub fn search(&mut self, ranges: &[RangeInclusive<u32>], inside: Label, outside: Label) {
        match ranges {
            // A short chain of comparisons takes less room than a tree down to single values.
            values if values.len() <= 8 && values.iter().all(|v| v.start() == v.end()) => {
                for value in values {
                    self.jump_if(Is::Equal(*value.start()), inside);
                }
                self.jump(outside);
            }
            [range] => {
                self.jump_if(Is::Above(*range.end()), outside);
                self.jump_if(Is::AtLeast(*range.start()), inside);
                self.jump(outside);
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let upper = self.label();
                self.jump_if(Is::AtLeast(*high[0].start()), upper);
                self.search(low, inside, outside);
                self.place(upper);
                self.search(high, inside, outside);
            }
        }
    }

    /// Ends with the constant `k`.
    pub fn answer(&mut self, k: u32) {
        self.put(libc::BPF_RET | libc::BPF_K, k);
    }

    /// The finished program.
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in std::mem::take(&mut self.jumps) {
            let place = self.places[label.0];
            debug_assert!(place > at && place < self.code.len(), "a jump leads forward to an instruction");
            self.code[at].k = place.wrapping_sub(at + 1) as u32;
        }
        self.code
    }
}

/// Sorts ranges and joins those that overlap or touch.
pub fn join(mut ranges: Vec<RangeInclusive<u32>>) -> Vec<RangeInclusive<u32>> {
    ranges.sort_unstable_by_key(|r| *r.start());
    let mut joined: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
pub(crate) mod interpreter {
    //! Runs the classic BPF that this crate emits, as the kernel would.

    use crate::sys::Instruction;

    /// What the kernel knows of a frame beside its bytes.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Ancillary {
        pub protocol: u32,
        pub packet_type: u32,
        pub ifindex: u32,
        pub vlan_tag_present: u32,
    }

    /// The program's answer; a load beyond the data ends it with 0.
    pub fn run(program: &[Instruction], data: &[u8], ancillary: Ancillary) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
        let mut at = 0;
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            let operand = if code & libc::BPF_X != 0 { x } else { k };
            match code & 7 {
                libc::BPF_LD => {
                    let size = match code & 0x18 {
                        libc::BPF_W => 4,
                        libc::BPF_H => 2,
                        _ => 1,
                    };
                    let from = match code & 0xe0 {
                        libc::BPF_MEM => {
                            a = memory[k as usize];
                            continue;
                        }
                        libc::BPF_IMM => {
                            a = k;
                            continue;
                        }
                        libc::BPF_IND => x.wrapping_add(k),
                        _ => k,
                    };
                    a = match from.wrapping_add(0x1000) {
                        0 => ancillary.protocol,
                        4 => ancillary.packet_type,
                        8 => ancillary.ifindex,
                        48 => ancillary.vlan_tag_present,
                        _ => match data.get(from as usize..from as usize + size) {
                            Some(bytes) => bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)),
                            None => return 0,
                        },
                    };
                }
                libc::BPF_LDX => {
                    x = match code & 0xe0 {
                        libc::BPF_MEM => memory[k as usize],
                        libc::BPF_IMM => k,
                        _ => match data.get(k as usize) {
                            Some(byte) => u32::from(byte & 15) * 4,
                            None => return 0,
                        },
                    }
                }
                libc::BPF_ST => memory[k as usize] = a,
                libc::BPF_STX => memory[k as usize] = x,
                libc::BPF_ALU => {
                    a = match code & 0xf0 {
                        libc::BPF_ADD => a.wrapping_add(operand),
                        libc::BPF_SUB => a.wrapping_sub(operand),
                        libc::BPF_MUL => a.wrapping_mul(operand),
                        libc::BPF_DIV => a / operand,
                        libc::BPF_MOD => a % operand,
                        libc::BPF_AND => a & operand,
                        libc::BPF_OR => a | operand,
                        libc::BPF_XOR => a ^ operand,
                        libc::BPF_LSH => a << operand,
                        libc::BPF_RSH => a >> operand,
                        other => panic!("operation {other:#x} is not among those emitted"),
                    }
                }
                libc::BPF_JMP => {
                    at += match code & 0xf0 {
                        libc::BPF_JA => k as usize,
                        condition => {
                            let holds = match condition {
                                libc::BPF_JEQ => a == operand,
                                libc::BPF_JGT => a > operand,
                                libc::BPF_JGE => a >= operand,
                                _ => a & operand != 0,
                            };
                            usize::from(if holds { jt } else { jf })
                        }
                    }
                }
                libc::BPF_RET => return if code & 0x18 == libc::BPF_A { a } else { k },
                _ => match code & 0xf8 {
                    libc::BPF_TAX => x = a,
                    _ => a = x,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::interpreter::{Ancillary, run};
    use super::*;

    fn contains(ranges: &[RangeInclusive<u32>], value: u32) -> bool {
        let mut assembler = Assembler::default();
        let (inside, outside) = (assembler.label(), assembler.label());
        assembler.put(libc::BPF_LD | libc::BPF_IMM, value);
        assembler.search(ranges, inside, outside);
        assembler.place(inside);
        assembler.answer(1);
        assembler.place(outside);
        assembler.answer(0);
        run(&assembler.finish(), &[], Ancillary::default()) == 1
    }

    #[test]
    fn a_search_tree_of_many_ranges_finds_exactly_what_lies_in_them() {
        let ranges = join((0..300u32).map(|i| i * 10..=i * 10 + 3).collect());
        for value in 0..3010 {
            assert_eq!(contains(&ranges, value), value < 3000 && value % 10 <= 3, "{value}");
        }
        assert!(!contains(&[], 5));
        assert!(contains(&[0..=u32::MAX], u32::MAX));
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        assert_eq!(join(vec![5..=9, 1..=4, 20..=30, 25..=26, 9..=10]), vec![1..=10, 20..=30]);
        assert_eq!(join(vec![7..=u32::MAX, 8..=9]), vec![7..=u32::MAX]);
    }
}
