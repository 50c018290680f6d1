//! The sets of a space as they lie in memory: what one who only reads needs to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::conntrack::entry::{Entry, PortField};
use crate::conntrack::flow::Flow;
use crate::conntrack::memory::Memory;

/// Words of a set: 128 bytes, which processors fetch together.
pub(in crate::conntrack) const SET_WORDS: usize = 32;
/// Sets that are touched or not together: a page.
pub(super) const SETS_A_CHUNK: usize = 32;

#[derive(Debug)]
pub(in crate::conntrack) struct Sets<const WORDS: usize> {
    pub(super) memory: Memory<AtomicU32>,
    /// Words before the first set: memory of this process may begin anywhere.
    offset: usize,
    pub(super) count: usize,
    pub(super) field: PortField,
    /// By chunk: whether it was ever used. Who looks at all flows does not touch the memory of others.
    touched: Arc<[AtomicU8]>,
}

impl<const WORDS: usize> Sets<WORDS> {
    /// Entries of a set.
    pub(super) const WAYS: usize = SET_WORDS / WORDS;

    /// As many as `memory` has room for. Memory that does not begin with a whole set loses one.
    pub(super) fn new(memory: Memory<AtomicU32>, field: PortField) -> Self {
        let misaligned = memory.as_ptr().addr() % (SET_WORDS * 4) / 4;
        let offset = if misaligned == 0 { 0 } else { SET_WORDS - misaligned };
        let count = (memory.len() - offset) / SET_WORDS;
        let touched = (0..count.div_ceil(SETS_A_CHUNK)).map(|_| AtomicU8::new(0)).collect();
        Self { memory, offset, count, field, touched }
    }

    /// The same sets for another thread to read. `None`: their memory has one owner.
    pub(in crate::conntrack) fn again(&self) -> Option<Self> {
        let touched = self.touched.clone();
        Some(Self {
            memory: self.memory.again()?,
            offset: self.offset,
            count: self.count,
            field: self.field,
            touched,
        })
    }

    /// Whether they are `count`, and begin where the memory does.
    pub(super) fn fill_memory(&self, count: usize) -> bool {
        self.offset == 0 && self.count == count
    }

    pub(in crate::conntrack) fn entries(&self) -> usize {
        self.count * Self::WAYS
    }

    /// Entries of a chunk.
    pub(in crate::conntrack) const fn entries_a_chunk() -> usize {
        SETS_A_CHUNK * Self::WAYS
    }

    pub(super) fn chunks(&self) -> usize {
        self.touched.len()
    }

    pub(in crate::conntrack) fn is_touched(&self, chunk: usize) -> bool {
        self.touched.get(chunk).is_some_and(|touched| touched.load(Relaxed) != 0)
    }

    /// The chunk with this entry is in use from now on.
    pub(super) fn touch(&self, at: usize) {
        let touched = &self.touched[at / Self::WAYS / SETS_A_CHUNK];
        if touched.load(Relaxed) == 0 {
            touched.store(1, Relaxed);
        }
    }

    pub(super) fn touch_all(&self) {
        self.touched.iter().for_each(|touched| touched.store(1, Relaxed));
    }

    #[inline]
    pub(super) fn set(&self, set: usize) -> &[AtomicU32; SET_WORDS] {
        static NO_SET: [AtomicU32; SET_WORDS] = [const { AtomicU32::new(0) }; SET_WORDS];
        let at = self.offset + set * SET_WORDS;
        self.memory.get(at..).and_then(<[_]>::first_chunk).unwrap_or(&NO_SET)
    }

    #[inline]
    pub(super) fn way(set: &[AtomicU32; SET_WORDS], way: usize) -> Entry<'_, WORDS> {
        let words: &[AtomicU32] = &set[way * WORDS..(way + 1) * WORDS];
        match words.first_chunk() {
            Some(words) => Entry(words),
            None => unreachable!(),
        }
    }

    #[inline]
    pub(super) fn entry(&self, at: usize) -> Entry<'_, WORDS> {
        Self::way(self.set(at / Self::WAYS), at % Self::WAYS)
    }

    #[inline]
    pub(in crate::conntrack) fn get(&self, at: usize) -> Option<Flow> {
        if at < self.entries() { self.entry(at).read(self.field) } else { None }
    }
}
