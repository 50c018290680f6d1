//! Memory of flows in a file, so that it is there when this process is not. Besides `ring` and `sys` the only
//! module of this crate where unsafe code is allowed; what lies where is [`Layout`]'s to say.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use convey_core::conntrack::Memory;
use convey_engine::PacketOptions;
use convey_engine::memory::{ALIVE_WORDS, HEADER_BYTES, Layout, MAX_POOLS, Untaken, WorkerMemory};
use rustix::fs::{FallocateFlags, fallocate};

use crate::clock::monotonic;

/// Empties `file`, takes the room it needs at once, so that no access fails later for want of memory, and gives
/// each worker its part. Without IPv6 frontends (`has_v6`) the room for their flows is not taken: it is a hole in
/// the file until a worker takes its share. The file must be open for reading and writing and be this process's alone.
///
/// # Errors
/// What the system answers: ENOSPC where there is no room, EOPNOTSUPP where it cannot be taken beforehand.
pub fn share_flows(file: &File, layout: &Layout, has_v6: bool) -> io::Result<Vec<WorkerMemory>> {
    let made = make(file, layout, has_v6);
    if made.is_err() {
        // What was taken of a file system that is full is given back.
        let _ = file.set_len(0);
    }
    made
}

fn make(file: &File, layout: &Layout, has_v6: bool) -> io::Result<Vec<WorkerMemory>> {
    let bytes = layout.file_bytes();
    file.set_len(0)?;
    file.set_len(bytes as u64)?;
    take(file, 0..HEADER_BYTES)?;
    let parts = (0..layout.workers).map(|i| HEADER_BYTES + i * layout.worker_bytes());
    for part in parts.clone() {
        take(file, part..part + layout.worker_bytes_at_once(has_v6))?;
    }
    let mapping = Arc::new(Mapping::new(file, bytes)?);
    let mut carver = Carver { mapping: mapping.clone(), at: HEADER_BYTES };
    let mut memory = Vec::with_capacity(layout.workers);
    for part in parts {
        let at_once = part..part + layout.worker_bytes_at_once(has_v6);
        let later = at_once.end..part + layout.worker_bytes();
        mapping.populate(at_once);
        let alive = carver.next::<AtomicU64>(ALIVE_WORDS)?;
        if let Some(alive) = alive.first() {
            alive.store(monotonic().0, Relaxed);
        }
        let nat = carver.next(MAX_POOLS)?;
        let flows = [carver.words(layout.words[0])?, carver.words(layout.words[1])?];
        let untaken_v6 = if has_v6 {
            None
        } else {
            let (file, mapping) = (file.try_clone()?, Arc::downgrade(&mapping));
            Some(Untaken::new(move || {
                take(&file, later.clone())?;
                if let Some(mapping) = mapping.upgrade() {
                    mapping.populate(later);
                }
                Ok(())
            }))
        };
        memory.push(WorkerMemory { flows, untaken_v6, alive, nat });
    }
    // Last: only a whole file is one to take over.
    file.write_all_at(&layout.header(), 0)?;
    Ok(memory)
}

/// Memory for one worker that ends with this process, its flows for others to look at. Much of it costs nothing until
/// it is touched.
pub fn own_flows(options: &PacketOptions) -> WorkerMemory {
    map_own(options).unwrap_or_else(|_| WorkerMemory::own(options))
}

fn map_own(options: &PacketOptions) -> io::Result<WorkerMemory> {
    let words = WorkerMemory::words(options);
    let mapping = Arc::new(Mapping::anonymous((words[0] + words[1]) * 4)?);
    let mut carver = Carver { mapping, at: 0 };
    let flows = [carver.words(words[0])?, carver.words(words[1])?];
    Ok(WorkerMemory { flows, untaken_v6: None, alive: Memory::own(0), nat: Memory::own(0) })
}

/// Takes room for these bytes of the file.
fn take(file: &File, bytes: Range<usize>) -> io::Result<()> {
    fallocate(file, FallocateFlags::empty(), bytes.start as u64, bytes.len() as u64)?;
    Ok(())
}

/// Bytes of a page, at least: larger ones are mapped when they are touched.
const PAGE: usize = 4096;

/// A whole file, mapped, or memory without one.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address range; what lies in it is reached by the parts a Carver gave away, each to one owner, or
// as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared Mapping lets nobody read or write.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The file is at least as long.
    fn new(file: &File, bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)
    }

    fn map(bytes: usize, flags: libc::c_int, fd: RawFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, bytes })
    }

    /// Maps the pages of these bytes now and not one by one as they are touched, if the kernel can (Linux 5.14).
    fn populate(&self, bytes: Range<usize>) {
        // The kernel wants whole pages; those at the ends belong to neighbours that have theirs as well.
        let start = bytes.start.next_multiple_of(PAGE).min(self.bytes);
        let end = bytes.end / PAGE * PAGE;
        let Some(len) = end.checked_sub(start).filter(|len| *len > 0 && end <= self.bytes) else { return };
        // SAFETY: the range lies in the mapping; its contents stay as they are.
        unsafe {
            libc::madvise(self.base.as_ptr().add(start).cast(), len, libc::MADV_POPULATE_WRITE);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping's own address and length, once. Every part keeps the mapping alive and lends its
        // entries no longer than itself (`Memory::mapped`), so nobody can reach them any more.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

/// What may lie in a mapping: all bytes zero is a valid value of it.
///
/// # Safety
/// That must be so.
unsafe trait Plain {}

// SAFETY: an integer.
unsafe impl Plain for AtomicU32 {}
// SAFETY: an integer.
unsafe impl Plain for AtomicU64 {}
// SAFETY: an integer.
unsafe impl Plain for u128 {}

/// Gives a mapping away, part by part and each once.
struct Carver {
    mapping: Arc<Mapping>,
    at: usize,
}

impl Carver {
    /// Words that others of this process may look at.
    fn words(&mut self, len: usize) -> io::Result<Memory<AtomicU32>> {
        let words: &'static [AtomicU32] = self.cut(len)?;
        Ok(Memory::shared(words, self.mapping.clone()))
    }

    fn next<T: Plain>(&mut self, len: usize) -> io::Result<Memory<T>> {
        Ok(Memory::mapped(self.cut(len)?, self.mapping.clone()))
    }

    fn cut<T: Plain>(&mut self, len: usize) -> io::Result<&'static mut [T]> {
        let end = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(self.at));
        let end = end.filter(|end| *end <= self.mapping.bytes && self.at.is_multiple_of(align_of::<T>()));
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range lies in the mapping, which begins at a page, and is aligned for T. The file was made
        // of zeros, which are valid, and only owners of parts have written to it since, each to its own: `at`
        // only grows. The lifetime is that of the mapping: `entries` go into a
        // `Memory` at once, which keeps it and does not outlive it.
        let entries: &'static mut [T] = unsafe {
            std::slice::from_raw_parts_mut(self.mapping.base.as_ptr().add(self.at).cast::<T>(), len)
        };
        self.at = end;
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::MetadataExt;

    use convey_core::Mode;
    use convey_core::conntrack::{FlowTable, Overflow, Ticks};
    use convey_engine::memory::PART_HEAD_BYTES;

    use super::*;

    fn file(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("convey-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn what_workers_write_stands_in_the_file_where_the_layout_says() {
        let mut file = file("layout");
        let options = PacketOptions { workers: 2, capacity: 128, ..PacketOptions::default() };
        let layout = Layout::new(Mode::Passthrough, &options);
        let mut memory = share_flows(&file, &layout, true).unwrap();
        let at_start = monotonic().0;
        for part in &memory {
            let alive = part.alive[0].swap(0, Relaxed);
            assert!(alive <= at_start && at_start - alive < 60_000_000_000, "{alive} at {at_start}");
        }
        memory[1].alive[0].store(9, Relaxed);
        memory[1].flows[1][3].store(7, Relaxed);
        memory[1].nat[9] = 42;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), layout.file_bytes());
        assert_eq!(Layout::parse(bytes.first_chunk().unwrap()), Some(layout));
        let part = &bytes[HEADER_BYTES + layout.worker_bytes()..];
        assert_eq!(part[..8], 9u64.to_ne_bytes());
        let nat = ALIVE_WORDS * 8;
        assert_eq!(part[nat + 9 * 16..nat + 10 * 16], 42u128.to_ne_bytes());
        let at = PART_HEAD_BYTES + (layout.words[0] + 3) * 4;
        assert_eq!(part[at..at + 4], 7u32.to_ne_bytes());
        assert_eq!(bytes.iter().filter(|b| **b != 0).count(), {
            let header = layout.header().iter().filter(|b| **b != 0).count();
            header + 3
        });
    }

    #[test]
    fn parts_outlive_the_file_and_each_other() {
        let options = PacketOptions { workers: 2, capacity: 128, ..PacketOptions::default() };
        let layout = Layout::new(Mode::Dsr, &options);
        let file = file("lives");
        let mut memory = share_flows(&file, &layout, true).unwrap();
        drop(file);
        let last = memory.pop().unwrap();
        drop(memory);
        last.flows[0][0].store(1, Relaxed);
        assert_eq!(last.flows[0][0].load(Relaxed), 1);
    }

    #[test]
    fn ipv6_flows_cost_nothing_before_a_frontend_may_have_some() {
        let options = PacketOptions { workers: 2, capacity: 100_000, ..PacketOptions::default() };
        let layout = Layout::new(Mode::Passthrough, &options);
        let file = file("sparse");
        let taken = || file.metadata().unwrap().blocks() * 512;
        let memory = share_flows(&file, &layout, false).unwrap();
        let at_once = (HEADER_BYTES + 2 * layout.worker_bytes_at_once(false)) as u64;
        assert!((at_once..at_once + 16 * 4096).contains(&taken()), "{} for {at_once}", taken());
        for mut part in memory {
            let untaken = part.untaken_v6.take().unwrap();
            let lifetimes = convey_core::conntrack::Lifetimes([100; 9]);
            let table = FlowTable::in_memory(part.flows, Overflow::Refuse, lifetimes, 1);
            let before = taken();
            for now in 0..10 {
                table.sweep(Ticks(now), 1 << 20, |_| {});
            }
            table.take_all(|_| {});
            assert_eq!(taken(), before, "a sweep touches nothing that was never used");
            untaken.take().unwrap();
            assert!(taken() >= before + layout.words[1] as u64 * 4 - 2 * 4096);
        }
    }

    #[test]
    fn a_file_that_finds_no_room_is_an_error_and_takes_none() {
        let file = file("full");
        let options = PacketOptions { workers: 1000, capacity: 1 << 40, ..PacketOptions::default() };
        assert!(share_flows(&file, &Layout::new(Mode::Dsr, &options), true).is_err());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
