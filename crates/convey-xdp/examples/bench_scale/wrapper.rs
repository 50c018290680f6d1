//! Packets for a program, one flow's behind another's, by BPF_PROG_TEST_RUN: see `bench/wrapper.c`.

use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use convey_testkit::PacketBuilder;

use crate::Outcome;

const PATTERN_BYTES: usize = 88;

/// Which flow's packet comes next.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Any of them.
    Random,
    /// From this one on.
    Ordered(u32),
    /// Answers, in the order they were given.
    Reply,
}

/// The wrapper, and the packet it makes.
pub struct Wrapper(Ebpf);

impl Wrapper {
    /// Calls `program`, and has room for so many answers.
    pub fn new(program: &ProgramFd, answers: u32) -> Outcome<Self> {
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("replies", answers.max(1))
            .load(convey_bpf::wrapper())?;
        let wrapper: &mut Xdp = ebpf.program_mut("wrapper").ok_or("no program")?.try_into()?;
        wrapper.load()?;
        let mut programs: ProgramArray<_> = ebpf.map_mut("program").ok_or("no map")?.try_into()?;
        programs.set(0, program, 0)?;
        Ok(Self(ebpf))
    }

    /// Answer `at`, a `struct reply`.
    pub fn answers(&mut self, answers: impl Iterator<Item = [u8; 8]>) -> Outcome<u32> {
        let mut map: Array<_, [u8; 8]> = self.0.map_mut("replies").ok_or("no map")?.try_into()?;
        let mut count = 0;
        for answer in answers {
            map.set(count, answer, 0)?;
            count += 1;
        }
        Ok(count)
    }

    /// Nanoseconds a packet, of `packets` of `flows` flows. An error when the last of them was not sent.
    pub fn run(&mut self, order: Order, flows: u32, packet: &PacketBuilder, packets: u32) -> Outcome<f64> {
        let frame = packet.build();
        let words = frame[14..34].chunks(2).enumerate().filter(|(i, _)| !matches!(i, 5..=7));
        let sum: u32 = words.map(|(_, word)| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
        let mut value = [0; PATTERN_BYTES];
        value[..8].copy_from_slice(&0x1234_5678_9abc_def1_u64.to_ne_bytes());
        let (kind, first) = match order {
            Order::Random => (0, 0),
            Order::Ordered(first) => (1, first),
            Order::Reply => (2, 0),
        };
        for (i, word) in [kind, flows, first, sum].into_iter().enumerate() {
            value[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_ne_bytes());
        }
        value[24..24 + 54].copy_from_slice(&frame[..54]);
        let mut pattern: Array<_, [u8; PATTERN_BYTES]> =
            self.0.map_mut("pattern").ok_or("no map")?.try_into()?;
        pattern.set(0, value, 0)?;
        let wrapper: &Xdp = self.0.program("wrapper").ok_or("no program")?.try_into()?;
        let options = TestRunOptions { data_in: Some(&[0; 64]), repeat: packets, ..TestRunOptions::new() };
        let result = wrapper.test_run(options)?;
        // XDP_TX or XDP_REDIRECT
        if !matches!(result.return_value, 3 | 4) {
            return Err(format!("the last packet ({order:?}) returned {}", result.return_value).into());
        }
        Ok(result.duration.as_nanos() as f64)
    }
}
