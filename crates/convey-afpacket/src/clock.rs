//! The clock that flows are dated by.

use convey_engine::Nanos;
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock of this boot, by which flows are dated.
pub fn monotonic() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    Nanos((now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64))
}
