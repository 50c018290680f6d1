//! Later fragments that came before the first one of their datagram: the network may have swapped them, or another
//! worker has the first and is not done with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Fragments a worker holds at most; then the oldest is lost.
const MAX_FRAMES: usize = 512;

/// Their bytes at most.
const MAX_BYTES: usize = 1 << 20;

/// How long one is held.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(30);

/// A fragment as it was received.
#[derive(Debug)]
pub struct HeldFragment {
    /// The interface it arrived on.
    pub ifindex: u32,
    /// Its virtio_net_hdr and the frame.
    pub bytes: Box<[u8]>,
    since: Instant,
}

/// The fragments of one worker that are held.
#[derive(Debug, Default)]
pub struct Held {
    frames: VecDeque<HeldFragment>,
    bytes: usize,
    /// Datagrams that had begun when they were last looked at.
    begun: u64,
}

impl Held {
    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Keeps a copy of a fragment whose first had not come when `begun` datagrams had begun. Tells how many had to go
    /// for it.
    pub fn hold(&mut self, ifindex: u32, bytes: &[u8], begun: u64, now: Instant) -> u64 {
        self.begun = self.begun.min(begun);
        self.bytes += bytes.len();
        self.frames.push_back(HeldFragment { ifindex, bytes: bytes.into(), since: now });
        let mut lost = 0;
        while self.frames.len() > MAX_FRAMES || self.bytes > MAX_BYTES {
            self.pop();
            lost += 1;
        }
        lost
    }

    /// Gives up one that was held long enough, the oldest first.
    pub fn expire(&mut self, now: Instant) -> Option<HeldFragment> {
        if self.frames.front().is_some_and(|frame| now >= frame.since + MAX_WAIT) { self.pop() } else { None }
    }

    /// Takes out those whose first fragment has come, in the order of arrival. `begun` tells how many datagrams have
    /// begun: nothing is looked at until it grows.
    pub fn take_followed(
        &mut self,
        begun: u64,
        is_followed: impl Fn(&HeldFragment) -> bool,
    ) -> Vec<HeldFragment> {
        if self.begun == begun {
            return Vec::new();
        }
        self.begun = begun;
        let (followed, held) =
            std::mem::take(&mut self.frames).into_iter().partition::<VecDeque<_>, _>(is_followed);
        self.frames = held;
        self.bytes -= followed.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        followed.into()
    }

    fn pop(&mut self) -> Option<HeldFragment> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(fragments: &[HeldFragment]) -> Vec<u8> {
        fragments.iter().map(|f| f.bytes[0]).collect()
    }

    #[test]
    fn fragments_follow_in_the_order_of_arrival_once_their_first_has_come() {
        let (mut held, now) = (Held::default(), Instant::now());
        for byte in 1..=4 {
            assert_eq!(held.hold(7, &[byte], 0, now), 0);
        }
        assert_eq!(bytes(&held.take_followed(1, |f| f.bytes[0] % 2 == 0)), [2, 4]);
        assert_eq!(bytes(&held.take_followed(1, |_| true)), [0; 0], "no datagram has begun since");
        assert_eq!(bytes(&held.take_followed(2, |_| true)), [1, 3]);
        assert!(held.is_empty());
    }

    #[test]
    fn what_is_held_while_a_datagram_begins_is_looked_at_again() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.hold(7, &[1], 0, now);
        held.take_followed(1, |_| false);
        held.hold(7, &[2], 1, now);
        assert!(held.take_followed(1, |_| true).is_empty(), "none has begun since");
        held.hold(7, &[3], 0, now);
        assert_eq!(bytes(&held.take_followed(1, |_| true)), [1, 2, 3]);
    }

    #[test]
    fn after_thirty_milliseconds_a_fragment_is_given_up() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.hold(7, &[1], 0, now);
        held.hold(7, &[2], 0, now + Duration::from_millis(20));
        for (ms, left) in [(29, 2), (30, 1), (49, 1), (50, 0)] {
            while held.expire(now + Duration::from_millis(ms)).is_some() {}
            assert_eq!(held.frames.len(), left, "{ms} ms");
        }
    }

    #[test]
    fn a_flood_is_held_within_bounds_the_newest_stay() {
        let (mut held, now) = (Held::default(), Instant::now());
        let lost: u64 = (0..10_000u32).map(|n| held.hold(7, &n.to_be_bytes(), 0, now)).sum();
        assert_eq!(lost, 10_000 - MAX_FRAMES as u64);
        let last = held.take_followed(1, |_| true).pop().map(|f| f.bytes);
        assert_eq!(last.as_deref(), Some(&9999u32.to_be_bytes()[..]));
        let long = vec![0; MAX_BYTES / 4];
        let lost: u64 = (0..10).map(|_| held.hold(7, &long, 0, now)).sum();
        assert_eq!((lost, held.bytes), (6, MAX_BYTES));
    }
}
