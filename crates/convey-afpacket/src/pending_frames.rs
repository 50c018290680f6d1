//! Frames that wait, not for long, for their neighbour's link-layer address: a client's first connection should
//! not stand still for the second that TCP takes to try again.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use convey_engine::NextHops;

/// Frames a worker keeps at most; the rest are lost as they would be without it.
const MAX_FRAMES: usize = 64;

/// How long one waits at most.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A frame as it was received.
#[derive(Debug)]
pub struct PendingFrame {
    /// The interface it arrived on.
    pub ifindex: u32,
    /// Its virtio_net_hdr and the frame.
    pub bytes: Box<[u8]>,
    /// The neighbour it waits for: by interface too, for gateways on several links may share an address.
    neighbour: (u32, IpAddr),
    since: Instant,
}

/// The frames of one worker that wait.
#[derive(Debug, Default)]
pub struct PendingFrames(VecDeque<PendingFrame>);

impl PendingFrames {
    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a copy of a frame until `neighbour` (interface and address) is resolved. Tells whether there was room.
    pub fn push(&mut self, ifindex: u32, bytes: &[u8], neighbour: (u32, IpAddr), now: Instant) -> bool {
        if self.0.len() >= MAX_FRAMES {
            return false;
        }
        self.0.push_back(PendingFrame { ifindex, bytes: bytes.into(), neighbour, since: now });
        true
    }

    /// The next frame that can go on, in the order of arrival. Those that waited too long are forgotten.
    pub fn next_ready(&mut self, next_hops: &NextHops, now: Instant) -> Option<PendingFrame> {
        self.0.retain(|frame| now < frame.since + MAX_WAIT);
        let is_known = |(ifindex, address)| next_hops.neighbour(ifindex, address).is_some();
        let ready = self.0.iter().position(|frame| is_known(frame.neighbour))?;
        self.0.remove(ready)
    }
}

#[cfg(test)]
mod tests {
    use convey_engine::{Link, Route};

    use super::*;

    fn table(resolved: &[IpAddr]) -> NextHops {
        let network = IpAddr::from([10, 0, 0, 0]);
        NextHops::new(
            [Link { ifindex: 2, mac: [2; 6], mtu: 1500 }],
            [Route::by(network, 24, 2, None)],
            resolved.iter().map(|address| ((2, *address), [9; 6])),
        )
    }

    #[test]
    fn a_frame_goes_on_in_order_once_its_neighbour_is_known() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (mut pending, now) = (PendingFrames::default(), Instant::now());
        for (byte, address) in [(1, a), (2, b), (3, a)] {
            assert!(pending.push(7, &[byte], (2, address), now));
        }
        assert!(pending.next_ready(&table(&[]), now).is_none());
        let known = table(&[a]);
        let mut next = || pending.next_ready(&known, now).map(|frame| frame.bytes[0]);
        assert_eq!([next(), next(), next()], [Some(1), Some(3), None]);
        assert!(!pending.is_empty());
    }

    #[test]
    fn a_frame_for_one_of_two_gateways_with_one_address_waits_for_the_one_on_its_own_link() {
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let destination = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]);
        let table = |known: &[u32]| {
            NextHops::new(
                [2, 3].map(|ifindex| Link { ifindex, mac: [2; 6], mtu: 1500 }),
                // The kernel has a route to fe80::/64 on every link; the first one wins a look-up of the gateway.
                [2, 3]
                    .map(|ifindex| Route::by(gateway, 64, ifindex, None))
                    .into_iter()
                    .chain([(32, 2), (48, 3)].map(|(len, i)| Route::by(destination, len, i, Some(gateway)))),
                known.iter().map(|ifindex| ((*ifindex, gateway), [9; 6])),
            )
        };
        let (mut pending, now) = (PendingFrames::default(), Instant::now());
        pending.push(7, &[1], (3, gateway), now);
        assert!(pending.next_ready(&table(&[2]), now).is_none(), "the twin's answer is not its own");
        assert!(pending.next_ready(&table(&[3]), now).is_some(), "its own is, whatever the twin does");
    }

    #[test]
    fn a_frame_that_waited_too_long_is_forgotten() {
        let a = IpAddr::from([10, 0, 0, 1]);
        let (mut pending, now) = (PendingFrames::default(), Instant::now());
        pending.push(7, &[1], (2, a), now);
        assert!(pending.next_ready(&table(&[a]), now + MAX_WAIT).is_none());
        assert!(pending.is_empty());
    }

    #[test]
    fn a_flood_to_nobody_keeps_a_few_frames_only() {
        let (mut pending, now) = (PendingFrames::default(), Instant::now());
        let kept = (0..1000).filter(|_| pending.push(7, &[1], (2, IpAddr::from([10, 0, 0, 1])), now)).count();
        assert_eq!(kept, MAX_FRAMES);
    }
}
