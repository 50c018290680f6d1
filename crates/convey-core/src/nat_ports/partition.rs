//! Which ports a pool hands out, and the numbers they go by.

/// Ports a pool hands out: those from `first` to `last` that leave `remainder` when divided by `stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Lowest port of all workers.
    pub first: u16,
    /// Highest port of all workers.
    pub last: u16,
    /// Number of workers.
    pub stride: u16,
    /// Index of this worker.
    pub remainder: u16,
}

impl Partition {
    fn lowest(self) -> u32 {
        let first = u32::from(self.first);
        let stride = u32::from(self.stride.max(1));
        first + (u32::from(self.remainder) + stride - first % stride) % stride
    }

    /// How many ports it has.
    pub fn len(self) -> usize {
        let last = u32::from(self.last);
        match last.checked_sub(self.lowest()) {
            Some(span) => (span / u32::from(self.stride.max(1))) as usize + 1,
            None => 0,
        }
    }

    /// Whether it has no port.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The place of a port in it; `None` when it is none of its ports.
    pub fn offset(self, port: u16) -> Option<usize> {
        let above = u32::from(port).checked_sub(self.lowest())?;
        let stride = u32::from(self.stride.max(1));
        (above.is_multiple_of(stride) && port <= self.last).then_some((above / stride) as usize)
    }

    /// The port at a place below [`Partition::len`].
    pub fn port(self, offset: usize) -> u16 {
        (self.lowest() + offset as u32 * u32::from(self.stride.max(1))) as u16
    }

    /// One number for a port of a pool: where its word lies when the memory of all pools is one array, each with
    /// [`super::PortPool::words`]. `None`: it is none of its ports, or lies beyond 32 bits.
    pub fn index(self, pool: u32, port: u16) -> Option<u32> {
        let offset = self.offset(port).filter(|at| *at < self.len())?;
        let index = u64::from(pool) * super::PortPool::words(self) as u64 + offset as u64;
        u32::try_from(index).ok()
    }

    /// The pool and the port that [`Partition::index`] gave this number. `None`: no port has it.
    pub fn pool_and_port(self, index: u32) -> Option<(u32, u16)> {
        let words = super::PortPool::words(self) as u32;
        let offset = (index % words) as usize;
        (offset < self.len()).then(|| (index / words, self.port(offset)))
    }
}
