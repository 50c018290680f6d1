//! The directory of IPv4 packets that are ours: lines of four entries, placed by a hash with a seed that leaves no
//! line too full. `find_direction` in `engine/directory.h` reads it.
//!
//! The map has room for two: the seed's lowest bit tells which half of its lines is in force, so that one word in
//! `struct config` puts another directory in force.

use std::net::Ipv4Addr;

/// Lines of a half; `DIRECTORY_LINES`.
pub const LINES: usize = 1 << 14;
/// Entries of a line; `DIRECTORY_WAYS`.
pub const WAYS: usize = 4;
/// Bytes of a line.
pub const LINE_BYTES: usize = 16 * WAYS;
/// Entries that are accepted: an eighth of the places.
pub const CAPACITY: usize = LINES * WAYS / 8;

/// From one seed to the next, even.
const STEP: u64 = 0x9e37_79b9_7f4a_7c16;

/// What a packet is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// It goes to a VIP; port 0: any.
    Vip {
        /// The VIP.
        address: Ipv4Addr,
        /// Its port.
        port: u16,
        /// IP protocol number.
        protocol: u8,
    },
    /// A server answers.
    Path {
        /// To this NAT address.
        nat: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
        /// The server's port.
        port: u16,
        /// IP protocol number.
        protocol: u8,
    },
}

impl Direction {
    fn words(self) -> (u64, u32) {
        let number = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
        let rest = |port: u16, protocol: u8, kind: u8| {
            u32::from(port.to_be()) | u32::from(protocol) << 16 | u32::from(kind) << 24
        };
        match self {
            Self::Vip { address, port, protocol } => (number(address), rest(port, protocol, 1)),
            Self::Path { nat, server, port, protocol } => {
                (number(nat) | number(server) << 32, rest(port, protocol, 2))
            }
        }
    }

    /// What an entry of a line says, and whose it is; `None`: it is free.
    fn parse(entry: &[u8; 16]) -> Option<(Self, u32)> {
        let address = |at: usize| Ipv4Addr::new(entry[at], entry[at + 1], entry[at + 2], entry[at + 3]);
        let (port, protocol) = (u16::from_be_bytes([entry[8], entry[9]]), entry[10]);
        let direction = match entry[11] {
            1 => Self::Vip { address: address(0), port, protocol },
            2 => Self::Path { nat: address(0), server: address(4), port, protocol },
            _ => return None,
        };
        Some((direction, u32::from_ne_bytes([entry[12], entry[13], entry[14], entry[15]])))
    }

    fn line(self, seed: u64) -> usize {
        let (addresses, rest) = self.words();
        let hash = (addresses ^ seed ^ u64::from(rest)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (((hash ^ hash >> 32) as u32).wrapping_mul(0xc4ce_b9fe) >> 18) as usize
    }
}

/// The directory as the map's values, with its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// For `struct config`.
    pub seed: u64,
    /// All lines.
    pub lines: Vec<[u8; LINE_BYTES]>,
}

impl Directory {
    /// The directory of these, each with its slot or path. It keeps `seed` while that fits, and its half always.
    /// `None`: there are more than [`CAPACITY`].
    pub fn new(entries: &[(Direction, u32)], seed: u64) -> Option<Self> {
        if entries.len() > CAPACITY {
            return None;
        }
        (0..1024u64).find_map(|i| Self::with_seed(entries, seed.wrapping_add(i.wrapping_mul(STEP))))
    }

    /// What it holds.
    pub fn entries(&self) -> impl Iterator<Item = (Direction, u32)> + '_ {
        self.lines.iter().flat_map(|line| line.as_chunks::<16>().0).filter_map(Direction::parse)
    }

    /// The map's line where it begins.
    pub fn first_line(&self) -> u32 {
        (self.seed & 1) as u32 * LINES as u32
    }

    fn with_seed(entries: &[(Direction, u32)], seed: u64) -> Option<Self> {
        let mut lines = vec![[0; LINE_BYTES]; LINES];
        let mut used = vec![0; LINES];
        for (direction, value) in entries {
            let line = direction.line(seed);
            if used[line] == WAYS {
                return None;
            }
            let at = 16 * used[line];
            used[line] += 1;
            let (addresses, rest) = direction.words();
            lines[line][at..at + 8].copy_from_slice(&addresses.to_ne_bytes());
            lines[line][at + 8..at + 12].copy_from_slice(&rest.to_ne_bytes());
            lines[line][at + 12..at + 16].copy_from_slice(&value.to_ne_bytes());
        }
        Some(Self { seed, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(n: u32) -> Vec<(Direction, u32)> {
        let path = |i: u32| Direction::Path {
            nat: Ipv4Addr::from(0x0a00_0001 + i % 8),
            server: Ipv4Addr::from(0x0a64_0000 + i / 8),
            port: 8080,
            protocol: 6,
        };
        (0..n).map(|i| (path(i), i)).collect()
    }

    #[test]
    fn as_many_entries_as_are_accepted_find_a_seed() {
        for (n, seed) in [(0, 7), (1, 8), (1000, 7), (CAPACITY, 7), (CAPACITY, 8)] {
            let directory = Directory::new(&paths(n as u32), seed).unwrap();
            assert_eq!(directory.seed & 1, seed & 1, "it stays in its half");
            let used = directory.lines.iter().flat_map(|l| l.chunks(16)).filter(|e| e[11] != 0).count();
            assert_eq!(used, n);
        }
    }

    #[test]
    fn what_a_directory_holds_is_read_back() {
        let vip = Direction::Vip { address: Ipv4Addr::new(192, 0, 2, 200), port: 443, protocol: 17 };
        let entries: Vec<_> = paths(100).into_iter().chain([(vip, 70_000)]).collect();
        let mut read: Vec<_> = Directory::new(&entries, 8).unwrap().entries().collect();
        read.sort_by_key(|(_, value)| *value);
        assert_eq!(read, entries);
    }

    #[test]
    fn more_are_refused() {
        assert_eq!(Directory::new(&paths(CAPACITY as u32 + 1), 7), None);
    }
}
