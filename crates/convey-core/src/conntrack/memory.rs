//! Memory of plain entries: this process's own, or mapped from a file that outlives it.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zerocopy::FromZeros;

/// A fixed number of entries.
pub struct Memory<T: 'static>(Held<T>);

enum Held<T: 'static> {
    Own(Box<[T]>),
    Mapped { entries: &'static mut [T], _mapping: Arc<dyn Any + Send + Sync> },
    Shared { entries: &'static [T], mapping: Arc<dyn Any + Send + Sync> },
}

impl<T: FromZeros> Memory<T> {
    /// Memory of this process: `len` entries of zeros. Much of it costs nothing until it is touched.
    ///
    /// # Panics
    /// When there is no such memory.
    pub fn own(len: usize) -> Self {
        Self(Held::Own(zeros(len)))
    }
}

/// As [`Memory::own`].
pub(super) fn zeros<T: FromZeros>(len: usize) -> Box<[T]> {
    match <[T]>::new_box_zeroed_with_elems(len) {
        Ok(entries) => entries,
        Err(_) => panic!("no memory for {len} entries of {} bytes", size_of::<T>()),
    }
}

impl<T> Memory<T> {
    /// Entries that are there for as long as `mapping` lives. They are lent out no longer than this value
    /// lives, which keeps the mapping: so their maker may unmap them when the last `mapping` goes.
    pub fn mapped(entries: &'static mut [T], mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Held::Mapped { entries, _mapping: mapping })
    }

    /// As [`Memory::mapped`], of entries that others of this process may hold as well: to be changed through shared
    /// references alone, and an empty slice where an exclusive one is asked for.
    pub fn shared(entries: &'static [T], mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Held::Shared { entries, mapping })
    }

    /// The same entries once more; `None` but for [`Memory::shared`] ones.
    pub fn again(&self) -> Option<Self> {
        match &self.0 {
            Held::Shared { entries, mapping } => Some(Self::shared(entries, mapping.clone())),
            Held::Own(_) | Held::Mapped { .. } => None,
        }
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match &self.0 {
            Held::Own(entries) => entries,
            Held::Mapped { entries, .. } => entries,
            Held::Shared { entries, .. } => entries,
        }
    }
}

impl<T> DerefMut for Memory<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Held::Own(entries) => entries,
            Held::Mapped { entries, .. } => entries,
            Held::Shared { .. } => &mut [],
        }
    }
}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.0, Held::Own(_)) { "own" } else { "mapped" };
        f.debug_struct("Memory").field("kind", &kind).field("len", &self.len()).finish()
    }
}
