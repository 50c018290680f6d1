//! The memory of workers, and how it lies in a file that outlives the process.
//!
//! A header of a page, then for each worker: when it was alive, the NAT address of each of its port pools, its IPv4
//! flows, its IPv6 flows. Flows are dated by ticks of the monotonic clock of the boot, which come again after 78 hours:
//! which of them a tick stands for is told by when the worker was alive. The file says nothing of the boot, of the
//! network namespace and of what its slots stand for: who keeps the file keeps that as well.

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::{fmt, io};

use convey_core::Mode;
use convey_core::conntrack::{FlowTable, Memory};

use crate::options::PacketOptions;

/// Bytes before the first worker's part.
pub const HEADER_BYTES: usize = 4096;
/// Port pools a worker may have.
pub const MAX_POOLS: usize = 1 << 16;
/// When a worker was alive, in the first of these; as many as a set of entries has, which follow behind.
pub const ALIVE_WORDS: usize = 16;
/// Bytes of a worker's part before its flows.
pub const PART_HEAD_BYTES: usize = ALIVE_WORDS * 8 + NAT_BYTES;
/// Bytes of the NAT addresses of one worker.
pub const NAT_BYTES: usize = MAX_POOLS * size_of::<u128>();

/// Also tells a machine of another byte order.
const MAGIC: u64 = u64::from_ne_bytes(*b"conveyfl");
/// Grows with every change of the layout, or of what a field of an entry means; so does `LAYOUT` of convey-bpf.
const VERSION: u32 = 3;
/// Words of flows in a file, at most: of 2^28 flows.
const MAX_WORDS: usize = 1 << 33;
/// Words of a set of entries.
const SET_WORDS: usize = 32;

/// Memory of IPv6 flows that is to be taken before it is touched: most configurations have no use for it.
pub struct Untaken(Box<dyn FnOnce() -> io::Result<()> + Send>);

impl Untaken {
    /// Memory that `take` takes.
    pub fn new(take: impl FnOnce() -> io::Result<()> + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// Takes it.
    ///
    /// # Errors
    /// What the system answers: it must not be touched then.
    pub fn take(self) -> io::Result<()> {
        (self.0)()
    }
}

impl fmt::Debug for Untaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untaken")
    }
}

/// What a worker keeps its flows in.
#[derive(Debug)]
pub struct WorkerMemory {
    /// 32-bit words of IPv4 flows, of IPv6 flows: see [`FlowTable::words`].
    pub flows: [Memory<AtomicU32>; 2],
    /// Set until the memory of IPv6 flows may be touched.
    pub untaken_v6: Option<Untaken>,
    /// In the first the worker writes, about once a second, that it is alive: nanoseconds of the monotonic clock.
    /// Empty where nobody will read it.
    pub alive: Memory<AtomicU64>,
    /// By port pool: its NAT address. Empty where nobody will read it.
    pub nat: Memory<u128>,
}

impl WorkerMemory {
    /// 32-bit words that one of the workers of `options` needs: of IPv4 flows, of IPv6 flows.
    pub fn words(options: &PacketOptions) -> [usize; 2] {
        FlowTable::words(capacity(options))
    }

    /// Memory of this process that nobody but the worker reads, for one of the workers of `options`.
    pub fn own(options: &PacketOptions) -> Self {
        let flows = FlowTable::own_memory(capacity(options));
        Self { flows, untaken_v6: None, alive: Memory::own(0), nat: Memory::own(0) }
    }
}

/// Flows of each worker.
fn capacity(options: &PacketOptions) -> usize {
    options.capacity.div_ceil(options.workers.max(1))
}

/// How the memory of all workers lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Passthrough or DSR.
    pub mode: Mode,
    /// Workers.
    pub workers: usize,
    /// 32-bit words of each worker's IPv4 flows, of its IPv6 flows.
    pub words: [usize; 2],
}

impl Layout {
    /// For the workers of `options`.
    pub fn new(mode: Mode, options: &PacketOptions) -> Self {
        Self { mode, workers: options.workers.max(1), words: FlowTable::words(capacity(options)) }
    }

    /// Bytes of one worker's part.
    pub fn worker_bytes(&self) -> usize {
        PART_HEAD_BYTES + (self.words[0] + self.words[1]) * 4
    }

    /// Bytes of one worker's part that are needed at once.
    pub fn worker_bytes_at_once(&self, has_v6: bool) -> usize {
        if has_v6 { self.worker_bytes() } else { self.worker_bytes() - self.words[1] * 4 }
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        HEADER_BYTES + self.workers * self.worker_bytes()
    }

    /// What the file begins with.
    pub fn header(&self) -> [u8; 40] {
        let mut header = [0; 40];
        let mode: u32 = if self.mode == Mode::Dsr { 2 } else { 1 };
        header[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        let numbers = [VERSION, SET_WORDS as u32, mode, self.workers as u32];
        for (bytes, number) in header[8..24].chunks_exact_mut(4).zip(numbers) {
            bytes.copy_from_slice(&number.to_ne_bytes());
        }
        for (bytes, words) in header[24..].chunks_exact_mut(8).zip(self.words) {
            bytes.copy_from_slice(&(words as u64).to_ne_bytes());
        }
        header
    }

    /// Reads what a file begins with. `None`: its layout is none that this version knows.
    pub fn parse(header: &[u8; 40]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_ne_bytes(*header.get(at..)?.first_chunk()?));
        let mode = match word(16)? {
            1 => Mode::Passthrough,
            2 => Mode::Dsr,
            _ => return None,
        };
        let workers = usize::try_from(word(20)?).ok().filter(|w| (1..=1024).contains(w))?;
        let words = [long(24)?, long(32)?].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let is_ours = long(0)? == MAGIC && word(8)? == VERSION && word(12)? == SET_WORDS as u32;
        let is_sound = |n: &usize| *n <= MAX_WORDS && n.is_multiple_of(SET_WORDS);
        (is_ours && words.iter().all(is_sound)).then_some(Self { mode, workers, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_back_from_its_header_and_no_other_header_is_taken_for_one() {
        for mode in [Mode::Passthrough, Mode::Dsr] {
            let options = PacketOptions { workers: 3, ..PacketOptions::default() };
            let layout = Layout::new(mode, &options);
            assert_eq!(Layout::parse(&layout.header()), Some(layout));
            for at in (0..20).chain(30..32) {
                let mut header = layout.header();
                header[at] ^= 0x81;
                assert_eq!(Layout::parse(&header), None, "byte {at}");
            }
        }
    }
}
