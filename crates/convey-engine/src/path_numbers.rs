//! Numbers of NAT paths that programs in the kernel and the worker beside them agree on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::hash::MixBuild;
use crate::snapshot::{NatPath, PacketSnapshot};

/// Paths by number. A path keeps its number for as long as it is in the configuration or a port of it is held.
#[derive(Debug, Default)]
pub struct PathNumbers(Mutex<Vec<Option<NatPath>>>);

impl PathNumbers {
    /// Numbers the paths of `snapshot`, none above `limit`. `is_held` tells whether a port of the path is held. Gives
    /// the paths by number, those included that left and have flows. `None`: there are more than `limit`, and the numbers
    /// are as before.
    pub fn assign(
        &self,
        snapshot: &PacketSnapshot,
        limit: usize,
        is_held: impl Fn(u16) -> bool,
    ) -> Option<Vec<Option<NatPath>>> {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = (0..=u16::MAX)
            .zip(numbers.iter())
            .map(|(number, path)| path.filter(|path| snapshot.is_nat_path(path) || is_held(number)));
        let mut next: Vec<Option<NatPath>> = held.collect();
        let known: HashMap<NatPath, (), MixBuild> = next.iter().flatten().map(|path| (*path, ())).collect();
        let mut free = 0;
        for path in snapshot.nat_paths().filter(|path| !known.contains_key(path)) {
            while next.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            if free >= limit {
                return None;
            }
            match next.get_mut(free) {
                Some(place) => *place = Some(*path),
                None => next.push(Some(*path)),
            }
        }
        numbers.clone_from(&next);
        Some(next)
    }

    /// The paths by number.
    pub fn get(&self) -> Vec<Option<NatPath>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes by the numbers of another process, whose tables are taken over.
    pub fn adopt(&self, numbers: Vec<Option<NatPath>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
    }
}
