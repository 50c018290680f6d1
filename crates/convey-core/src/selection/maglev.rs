//! Weighted Maglev: a table of 65,537 slots that says which server a flow gets, by its hash alone.
//!
//! Every server claims slots in the order of its own permutation, which depends on nothing but its seed;
//! turns are dealt out by weight up to an exact quota. So the table does not depend on the order of servers,
//! two balancers with one configuration agree, and a server that leaves moves few slots of the others.

/// Slots of a table; a prime, so that every skip visits all of them.
pub const SLOTS: usize = 65_537;

/// A server that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Hash of what names the server for good (its address): see [`member_seed`].
    pub seed: u64,
    /// Its share; 0 leaves it out.
    pub weight: u32,
    /// What its slots hold.
    pub value: u16,
}

/// The seed of a server named by `identity`.
pub fn member_seed(identity: &[u8]) -> u64 {
    // FNV-1a, finished so that nearby addresses do not get nearby permutations.
    let h = identity
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(h)
}

/// The finished table of one backend.
#[derive(Clone, PartialEq, Eq)]
pub struct MaglevTable(Box<[u16]>);

impl std::fmt::Debug for MaglevTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaglevTable")
    }
}

/// How many slots name another value under `after` than under `before`. Servers that are in both have one value.
pub fn moved_slots(before: &[Member], after: &[Member]) -> usize {
    match (MaglevTable::build(before), MaglevTable::build(after)) {
        (None, None) => 0,
        (Some(old), Some(new)) => old.slots().iter().zip(new.slots()).filter(|(a, b)| a != b).count(),
        _ => SLOTS,
    }
}

struct Claimant {
    value: u16,
    offset: u32,
    skip: u32,
    weight: u64,
    quota: u32,
    credit: u64,
}

impl MaglevTable {
    /// The table for `members`; `None` when nobody has a weight above zero.
    pub fn build(members: &[Member]) -> Option<Self> {
        let mut claimants = claimants(members);
        let heaviest = claimants.iter().map(|c| c.weight).max()?;
        const EMPTY: u32 = u32::MAX;
        let mut slots = vec![EMPTY; SLOTS];
        let mut left = SLOTS;
        while left > 0 {
            for c in claimants.iter_mut().filter(|c| c.quota > 0) {
                c.credit += c.weight;
                while c.credit >= heaviest && c.quota > 0 {
                    c.credit -= heaviest;
                    c.quota -= 1;
                    left -= 1;
                    while slots[c.offset as usize] != EMPTY {
                        c.offset = (c.offset + c.skip) % SLOTS as u32;
                    }
                    slots[c.offset as usize] = u32::from(c.value);
                }
            }
        }
        Some(Self(slots.into_iter().map(|v| v as u16).collect()))
    }

    /// The slot of a flow with this hash.
    #[inline]
    pub const fn slot(hash: u64) -> usize {
        // The upper half scaled down: no division, and the kernel programs do the same.
        (((hash >> 32) * SLOTS as u64) >> 32) as usize
    }

    /// What `slot` holds.
    #[inline]
    pub fn get(&self, slot: usize) -> Option<u16> {
        self.0.get(slot).copied()
    }

    /// All slots.
    pub fn slots(&self) -> &[u16] {
        &self.0
    }
}

/// Members with a weight, in an order of their own, with their exact share of slots (largest remainders
/// first).
fn claimants(members: &[Member]) -> Vec<Claimant> {
    let mut sorted: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0).collect();
    sorted.sort_unstable();
    let total: u64 = sorted.iter().map(|m| u64::from(m.weight)).sum();
    let share = |m: &Member| u64::from(m.weight) * SLOTS as u64;
    let mut quotas: Vec<u32> = sorted.iter().map(|m| (share(m) / total.max(1)) as u32).collect();
    let missing = SLOTS - quotas.iter().map(|&q| q as usize).sum::<usize>().min(SLOTS);
    let mut by_remainder: Vec<usize> = (0..sorted.len()).collect();
    by_remainder.sort_by_key(|&i| (std::cmp::Reverse(share(&sorted[i]) % total.max(1)), i));
    for &i in by_remainder.iter().take(missing) {
        quotas[i] += 1;
    }
    sorted
        .iter()
        .zip(quotas)
        .map(|(m, quota)| Claimant {
            value: m.value,
            offset: (mix(m.seed ^ 0x6f66_6673_6574) % SLOTS as u64) as u32,
            skip: (mix(m.seed ^ 0x0073_6b69_7020) % (SLOTS as u64 - 1)) as u32 + 1,
            weight: u64::from(m.weight),
            quota,
            credit: 0,
        })
        .collect()
}

pub(super) const fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| Member {
                seed: member_seed(format!("10.0.{}.{}:80", i / 250, i % 250).as_bytes()),
                weight,
                value: i as u16,
            })
            .collect()
    }

    fn counts(table: &MaglevTable, servers: usize) -> Vec<u32> {
        let mut counts = vec![0; servers];
        for &v in table.slots() {
            counts[usize::from(v)] += 1;
        }
        counts
    }

    /// Slots of servers other than `gone` that changed.
    fn moved(before: &MaglevTable, after: &MaglevTable, gone: u16) -> usize {
        before.slots().iter().zip(after.slots()).filter(|(b, a)| **b != gone && a != b).count()
    }

    #[test]
    fn equal_weights_differ_by_at_most_one_slot_and_leave_no_hole() {
        for n in [1, 2, 3, 7, 100, 1000] {
            let counts = counts(&MaglevTable::build(&members(&vec![1; n])).unwrap(), n);
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 1, "{n} servers: {min}..{max}");
            assert_eq!(counts.iter().sum::<u32>() as usize, SLOTS);
        }
    }

    #[test]
    fn shares_follow_weights_within_one_percent() {
        for weights in [vec![1, 2], vec![10, 100, 1, 1], vec![65535, 1], vec![3, 5, 7, 11, 13]] {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let counts = counts(&MaglevTable::build(&members(&weights)).unwrap(), weights.len());
            for (&w, &n) in weights.iter().zip(&counts) {
                let want = f64::from(w) / total * SLOTS as f64;
                assert!((f64::from(n) - want).abs() <= (want * 0.01).max(1.0), "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_order_of_servers_does_not_matter() {
        let mut m = members(&[1, 2, 3, 4, 5, 1, 1]);
        let table = MaglevTable::build(&m).unwrap();
        m.reverse();
        assert_eq!(MaglevTable::build(&m).unwrap(), table);
        m.swap(1, 4);
        assert_eq!(MaglevTable::build(&m).unwrap(), table);
    }

    #[test]
    fn removing_one_server_of_100_moves_at_most_two_percent_of_the_other_slots() {
        let all = members(&[1; 100]);
        let before = MaglevTable::build(&all).unwrap();
        let mut worst = 0;
        for gone in 0..100u16 {
            let rest: Vec<Member> = all.iter().copied().filter(|m| m.value != gone).collect();
            worst = worst.max(moved(&before, &MaglevTable::build(&rest).unwrap(), gone));
        }
        assert!(worst * 50 <= SLOTS, "{worst} slots moved");
    }

    #[test]
    fn a_removed_server_leaves_a_table_of_live_members_alone_and_a_double_add_is_the_same_table() {
        // The ancestor's ring removed another server's slot on a collision; here every slot names a live member.
        let all = members(&[1; 5]);
        let rest: Vec<Member> = all.iter().copied().filter(|m| m.value != 2).collect();
        let after = MaglevTable::build(&rest).unwrap();
        assert!(after.slots().iter().all(|v| [0, 1, 3, 4].contains(v)));
        assert_eq!(MaglevTable::build(&all).unwrap(), MaglevTable::build(&members(&[1; 5])).unwrap());
    }

    #[test]
    fn zero_weight_gets_no_slot_and_an_empty_pool_is_none() {
        let table = MaglevTable::build(&members(&[0, 1, 0])).unwrap();
        assert!(table.slots().iter().all(|&v| v == 1));
        assert_eq!(MaglevTable::build(&members(&[0, 0])), None);
        assert_eq!(MaglevTable::build(&[]), None);
    }

    #[test]
    fn two_servers_at_one_address_still_share_as_weighted() {
        let twin = |value| Member { seed: 7, weight: 1, value };
        let counts = counts(&MaglevTable::build(&[twin(0), twin(1)]).unwrap(), 2);
        assert!(counts[0].abs_diff(counts[1]) <= 1);
    }

    #[test]
    fn the_slots_that_move_are_those_of_a_server_that_leaves_and_few_of_the_others() {
        let all = members(&[1; 4]);
        assert_eq!(moved_slots(&all, &all), 0);
        let moved = moved_slots(&all, &all[..3]);
        assert!((SLOTS / 4..SLOTS * 3 / 8).contains(&moved), "{moved} slots moved");
        assert_eq!(moved_slots(&[], &all), SLOTS);
        assert_eq!(moved_slots(&all, &members(&[0; 4])), SLOTS);
        assert_eq!(moved_slots(&[], &members(&[0])), 0);
    }

    #[test]
    fn every_hash_has_a_slot() {
        assert_eq!(MaglevTable::slot(0), 0);
        assert_eq!(MaglevTable::slot(u64::MAX), SLOTS - 1);
    }
}
