//! Maps of the kernel as memory of this process: arrays made with BPF_F_MMAPABLE. With `inner_maps` the only
//! module of this crate where unsafe code is allowed.
#![allow(unsafe_code)]

use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use aya::maps::{Map, MapData};
use convey_core::conntrack::Memory;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// An array, mapped whole.
#[derive(Debug, Clone)]
pub struct MapMemory(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address range, in which nothing but atomics is ever lent out.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl MapMemory {
    /// Maps `map`, an array.
    ///
    /// # Errors
    /// It is no array, or what the kernel answers.
    pub fn new(map: &Map) -> io::Result<Self> {
        let (Map::Array(data) | Map::Unsupported(data)) = map else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Self::of(data)
    }

    fn of(data: &MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        // The kernel rounds values up to eight bytes, and the whole to pages.
        let bytes = info.max_entries() as usize * (info.value_size() as usize).next_multiple_of(8);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base =
            unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, data.fd().as_fd(), 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self(Arc::new(Mapping { base, bytes })))
    }

    /// All of it as words of 32 bits.
    pub fn words32(&self) -> Memory<AtomicU32> {
        self.slice(0, self.0.bytes / 4)
    }

    /// All of it as words of 64 bits.
    pub fn words64(&self) -> Memory<AtomicU64> {
        self.slice(0, self.0.bytes / 8)
    }

    /// `len` words of 64 bits from the `first` on; none when there are not that many.
    pub fn part64(&self, first: usize, len: usize) -> Memory<AtomicU64> {
        self.slice(first, len)
    }

    fn slice<T: Atomic>(&self, first: usize, len: usize) -> Memory<T> {
        let fits = first.checked_add(len).is_some_and(|end| end <= self.0.bytes / size_of::<T>());
        let len = if fits { len } else { 0 };
        let first = if fits { first } else { 0 };
        // SAFETY: the range lies in the mapping, which is aligned to pages and holds integers, shared with others as
        // atomics alone; `Memory` keeps the mapping and lends nothing for longer than itself.
        let entries = unsafe { std::slice::from_raw_parts(self.0.base.cast::<T>().as_ptr().add(first), len) };
        let mapping: Arc<dyn Any + Send + Sync> = self.0.clone();
        Memory::shared(entries, mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping's own address and length, once; nobody reaches it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Integers whose every value is valid, changed atomically.
///
/// # Safety
/// That must be so.
unsafe trait Atomic {}

// SAFETY: an integer.
unsafe impl Atomic for AtomicU32 {}
// SAFETY: an integer.
unsafe impl Atomic for AtomicU64 {}
