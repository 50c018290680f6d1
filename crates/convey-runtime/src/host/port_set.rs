//! Sets of ports as the kernel writes them: `8080,9148,33768-61000`.

use std::fmt;
use std::ops::RangeInclusive;

const WORDS: usize = 65536 / 64;

/// A set of port numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl PortSet {
    /// Reads the kernel's form; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            set.insert(from.parse().ok()?..=to.parse().ok()?);
        }
        Some(set)
    }

    /// Adds a range.
    pub fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.0[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] & (1 << (port % 64)) != 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// What is in this one alone.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = self.clone();
        for (word, other) in out.0.iter_mut().zip(other.0.iter()) {
            *word = f(*word, *other);
        }
        out
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut port: u32 = 0;
        let has = |port: u32| u16::try_from(port).is_ok_and(|p| self.contains(p));
        while port < 65536 {
            if !has(port) {
                port += 1;
                continue;
            }
            let from = port;
            while has(port + 1) {
                port += 1;
            }
            if from == port {
                write!(f, "{separator}{from}")?;
            } else {
                write!(f, "{separator}{from}-{port}")?;
            }
            separator = ",";
            port += 1;
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read_and_written_the_same() {
        for text in ["", "8080", "8080,9148", "1-3,33768-61000,65535", "0-65535"] {
            assert_eq!(PortSet::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn neighbouring_ranges_become_one() {
        assert_eq!(PortSet::parse("1-3,4-5,7").unwrap().to_string(), "1-5,7");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["a", "1-", "70000", "1-2-3"] {
            assert_eq!(PortSet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn taking_away_what_was_added_gives_back_the_first_set() {
        let before = PortSet::parse("40000,50000-50010").unwrap();
        let wanted = PortSet::parse("33768-61000").unwrap();
        let added = wanted.without(&before);
        assert_eq!(before.union(&wanted).without(&added), before);
    }
}
