//! Memory shared with the kernel: the frames of an AF_XDP socket and its four rings. The only module of this crate where
//! unsafe code is allowed; it decides nothing.
//!
//! A ring is a power of two of entries, a word up to which the one side has written and one up to which the other has
//! read. Each word has one writer. A frame is written and read on this side only while its [`Place`] says that it is
//! here, and it goes to the kernel only by [`Frames::give`], so that both are never in it at once.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::net::xdp::XdpRingOffset;

/// Memory that is given back when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: memory mapped into the process is no thread's own.
unsafe impl Send for Mapping {}

impl Mapping {
    fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so nothing else is replaced.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags)? };
        Self::at(start, len)
    }

    fn of(fd: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so nothing else is replaced.
        let start = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, fd, offset)? };
        Self::at(start, len)
    }

    fn at(start: *mut c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and whoever had a part of it borrowed this.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One of a socket's rings, seen from the side that is ours.
#[derive(Debug)]
pub struct Ring<T> {
    mapping: Mapping,
    offset: XdpRingOffset,
    mask: u32,
    /// How far this side has come, told to the other or not yet.
    at: u32,
    entry: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `entries` entries, a power of two, that `fd` has at the page offset `page`.
    ///
    /// # Errors
    /// What the kernel answers; InvalidInput where its layout makes no sense.
    pub fn map(fd: BorrowedFd<'_>, offset: XdpRingOffset, entries: u32, page: u64) -> io::Result<Self> {
        let bytes = offset.desc + u64::from(entries) * size_of::<T>() as u64;
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let words = [Some(offset.producer), Some(offset.consumer), offset.flags];
        let sound = |at: u64| at.is_multiple_of(4) && at + 4 <= bytes;
        if !entries.is_power_of_two()
            || !words.into_iter().flatten().all(sound)
            || !offset.desc.is_multiple_of(align_of::<T>() as u64)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::of(fd, len, page)?;
        Ok(Self { mapping, offset, mask: entries - 1, at: 0, entry: std::marker::PhantomData })
    }

    fn word(&self, at: u64) -> &AtomicU32 {
        // SAFETY: `map` has checked that the word is aligned and within the mapping, which lives as long as `self`; both
        // sides use it atomically.
        unsafe { &*self.mapping.start.as_ptr().add(at as usize).cast::<AtomicU32>() }
    }

    fn entry(&self, at: u32) -> *mut T {
        let index = (at & self.mask) as usize;
        // SAFETY: the index is masked by the number of entries, all of which are within the mapping.
        unsafe { self.mapping.start.as_ptr().add(self.offset.desc as usize).cast::<T>().add(index) }
    }

    /// Places that the kernel has read, of a ring that this side writes.
    pub fn room(&self) -> u32 {
        let read = self.word(self.offset.consumer).load(Ordering::Acquire);
        (self.mask + 1).saturating_sub(self.at.wrapping_sub(read))
    }

    /// Writes an entry; whether there was room. The kernel sees it after [`Ring::publish`].
    pub fn push(&mut self, entry: T) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: there is room, so the kernel has read what stood here and does not look before it is published.
        unsafe { self.entry(self.at).write(entry) };
        self.at = self.at.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    pub fn publish(&self) {
        self.word(self.offset.producer).store(self.at, Ordering::Release);
    }

    /// Takes an entry out of a ring that the kernel writes. Its place is free after [`Ring::release`].
    pub fn pop(&mut self) -> Option<T> {
        let written = self.word(self.offset.producer).load(Ordering::Acquire);
        if written == self.at {
            return None;
        }
        // SAFETY: the kernel has written it, and does not write here again before it is released.
        let entry = unsafe { self.entry(self.at).read() };
        self.at = self.at.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel the places of what was popped.
    pub fn release(&self) {
        self.word(self.offset.consumer).store(self.at, Ordering::Release);
    }

    /// Entries that the kernel has not read yet, of a ring that this side writes.
    pub fn unread(&self) -> u32 {
        self.mask + 1 - self.room()
    }

    /// Whether the kernel goes on with this ring only when it is called.
    pub fn needs_wakeup(&self) -> bool {
        self.offset.flags.is_none_or(|at| self.word(at).load(Ordering::Acquire) & 1 != 0)
    }
}

/// Who may touch a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This side.
    Here,
    /// The kernel: in a ring, or on its way.
    Kernel,
}

/// The frames of a socket (its UMEM), each in one place.
#[derive(Debug)]
pub struct Frames {
    mapping: Mapping,
    chunk: usize,
    places: Box<[Cell<Place>]>,
}

impl Frames {
    /// `count` frames of `chunk` bytes, a power of two; all are here.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn new(count: usize, chunk: usize) -> io::Result<Self> {
        let mapping = Mapping::anonymous(count * chunk)?;
        Ok(Self { mapping, chunk, places: vec![Cell::new(Place::Here); count].into() })
    }

    /// Address and length of all of it, for the kernel.
    pub fn region(&self) -> (u64, u64) {
        (self.mapping.start.as_ptr() as u64, self.mapping.len as u64)
    }

    /// Bytes of a frame.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    #[cfg(test)]
    /// How many of these are in `place`.
    pub fn count(&self, of: std::ops::Range<usize>, place: Place) -> usize {
        self.places[of].iter().filter(|p| p.get() == place).count()
    }

    /// Marks a frame as the kernel's; its address, for a ring. `None`: the kernel has it already.
    ///
    /// Nothing may be borrowed of a frame that is given: hence `&mut`, or [`Frames::write`], which lends nothing.
    pub fn give(&mut self, frame: usize) -> Option<u64> {
        self.hand_over(frame)
    }

    /// Takes back the frame in which `address` lies. `None`: the kernel never had it.
    pub fn take(&self, address: u64) -> Option<usize> {
        let frame = usize::try_from(address).ok()? / self.chunk;
        let place = self.places.get(frame)?;
        (place.replace(Place::Here) == Place::Kernel).then_some(frame)
    }

    /// The bytes from `address` to the end of its frame; none unless the frame is here.
    pub fn bytes(&self, address: usize) -> &[u8] {
        let Some(len) = self.lent(address) else { return &[] };
        // SAFETY: the range is within one frame, the kernel has none of it, and what changes frames here borrows `self`
        // mutably or, as `write` does, never a frame that is lent.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr().add(address), len) }
    }

    /// [`Frames::bytes`], to be changed.
    pub fn bytes_mut(&mut self, address: usize) -> &mut [u8] {
        let Some(len) = self.lent(address) else { return &mut [] };
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr().add(address), len) }
    }

    /// Bytes from `address` to the end of its frame, where that may be lent.
    fn lent(&self, address: usize) -> Option<usize> {
        let here =
            self.is_read(address / self.chunk) && self.place(address / self.chunk) == Some(Place::Here);
        here.then(|| self.chunk - address % self.chunk)
    }

    /// Whether a frame is one of those that are received into and lent out, the first half, rather than written and
    /// sent.
    fn is_read(&self, frame: usize) -> bool {
        frame < self.places.len() / 2
    }

    fn place(&self, frame: usize) -> Option<Place> {
        self.places.get(frame).map(Cell::get)
    }

    fn hand_over(&self, frame: usize) -> Option<u64> {
        let place = self.places.get(frame)?;
        (place.replace(Place::Kernel) == Place::Here).then(|| (frame * self.chunk) as u64)
    }

    /// Copies these bytes without the first `skipped` into a frame of the second half, has `finish` change them, and marks
    /// the frame as the kernel's; its address and the number of bytes. `None`: they do not fit, or it is not to be written.
    pub fn write(
        &self,
        frame: usize,
        skipped: usize,
        pieces: &[IoSlice<'_>],
        finish: impl FnOnce(&mut [u8]),
    ) -> Option<(u64, u32)> {
        let len = pieces.iter().map(|p| p.len()).sum::<usize>().checked_sub(skipped)?;
        if self.is_read(frame) || self.place(frame) != Some(Place::Here) || len > self.chunk {
            return None;
        }
        let (mut at, mut skipped) = (frame * self.chunk, skipped);
        for piece in pieces {
            let bytes = piece.get(skipped..).unwrap_or_default();
            skipped = skipped.saturating_sub(piece.len());
            // SAFETY: all pieces together fit the frame. It is here and of the half that is never lent, so nobody else
            // has a reference to it, and no piece lies in it.
            unsafe {
                self.mapping.start.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
            };
            at += bytes.len();
        }
        // SAFETY: as above; `len` fits the frame.
        let written = unsafe {
            std::slice::from_raw_parts_mut(self.mapping.start.as_ptr().add(frame * self.chunk), len)
        };
        finish(written);
        Some((self.hand_over(frame)?, len as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_in_one_place_and_is_lent_only_while_it_is_here() {
        let mut frames = Frames::new(4, 2048).unwrap();
        assert_eq!(frames.bytes(2048 + 256).len(), 2048 - 256);
        let address = frames.give(1).unwrap();
        assert_eq!((address, frames.give(1)), (2048, None));
        assert!(frames.bytes(2048 + 256).is_empty() && frames.bytes_mut(2048).is_empty());
        assert_eq!(frames.count(0..4, Place::Kernel), 1);
        assert_eq!(frames.take(address + 256), Some(1));
        assert_eq!(frames.take(address + 256), None, "it came back before");
        assert_eq!(frames.take(4 * 2048), None, "there is no such frame");
        assert_eq!(frames.count(0..4, Place::Here), 4);
    }

    #[test]
    fn pieces_are_written_behind_each_other_into_a_frame_that_is_sent() {
        let mut frames = Frames::new(4, 2048).unwrap();
        let pieces = [IoSlice::new(b"skipped+head"), IoSlice::new(b"-tail")];
        assert_eq!(
            frames.write(1, 8, &pieces, |_| ()),
            None,
            "frames that are received into are not written"
        );
        assert_eq!(frames.write(2, 8, &pieces, |bytes| assert_eq!(bytes, b"head-tail")), Some((4096, 9)));
        assert_eq!(frames.write(2, 8, &pieces, |_| ()), None, "the kernel has it");
        assert!(frames.bytes_mut(4096).is_empty());
        let long = vec![0; 2049];
        assert_eq!(frames.write(3, 0, &[IoSlice::new(&long)], |_| ()), None);
        assert_eq!(frames.write(3, 1, &[IoSlice::new(&long)], |_| ()).map(|(_, len)| len), Some(2048));
    }
}
