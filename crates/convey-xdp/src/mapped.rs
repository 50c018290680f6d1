//! Arrays that kernel programs and this process both see as plain memory (BPF_F_MMAPABLE).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use convey_core::conntrack::Memory;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What an array may be seen as: any bytes are a value of it, and others may write while it is borrowed.
///
/// # Safety
/// That must be so.
pub unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}

/// A mapped array.
struct Mapping {
    base: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: an address range; its contents are reached through the one Memory that was made of it.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared Mapping lets nobody read or write.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping's own address and length, once. The Memory lends its entries no longer than it keeps
        // the mapping alive.
        let _ = unsafe { munmap(self.base.as_ptr(), self.bytes) };
    }
}

/// The values of an array, `len` words in all, the kernel's values being whole multiples of eight bytes. It stays
/// mapped when the map's file descriptor is closed.
///
/// # Errors
/// The kernel's: the map cannot be mapped, or is shorter.
pub fn map_array<T: Shared>(map: BorrowedFd<'_>, len: usize) -> io::Result<Memory<T>> {
    let bytes =
        len.checked_mul(size_of::<T>()).filter(|bytes| *bytes > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses one longer than the array.
    let base = unsafe {
        mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
    }?;
    let base = NonNull::new(base).ok_or(io::ErrorKind::InvalidData)?;
    let mapping = Arc::new(Mapping { base, bytes });
    // SAFETY: `len` words at the start of a page, mapped for as long as `mapping` lives. Only atomics are lent, so the
    // kernel and other mappings may write meanwhile.
    let words = unsafe { std::slice::from_raw_parts_mut(base.as_ptr().cast::<T>(), len) };
    Ok(Memory::mapped(words, mapping))
}
