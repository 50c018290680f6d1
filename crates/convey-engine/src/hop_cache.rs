//! The next hops a worker found lately: one line to read instead of rules, a table for each prefix length, a link
//! and a neighbour.

use std::net::IpAddr;

use convey_packet::Addr;

use crate::next_hop::{Missing, NextHop, NextHops, Version};
use crate::routes::Path;

/// Sets of two entries; a power of two.
const SETS: usize = 512;

/// Empty while its destination is 0, which no packet is sent on to.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Entry {
    from: Addr,
    to: Addr,
    ingress: u32,
    hop: NextHop,
}

const EMPTY: Entry = Entry {
    from: Addr::from_bits(0),
    to: Addr::from_bits(0),
    ingress: 0,
    hop: NextHop { ifindex: 0, source: [0; 6], destination: [0; 6], mtu: 0, on_link: false },
};

/// A small table in which two next hops share a place, the one found last in front. It holds what one version of
/// [`NextHops`] says and begins empty with the next.
#[derive(Debug)]
pub(crate) struct HopCache {
    version: Version,
    sets: Box<[[Entry; 2]]>,
}

impl Default for HopCache {
    fn default() -> Self {
        Self { version: Version::default(), sets: vec![[EMPTY; 2]; SETS].into() }
    }
}

impl HopCache {
    /// As [`NextHops::lookup`].
    pub(crate) fn find(
        &mut self,
        next_hops: &NextHops,
        from: Addr,
        to: Addr,
        ingress: u32,
    ) -> Result<NextHop, Missing> {
        let version = next_hops.version();
        if version != self.version {
            self.version = version;
            self.sets.fill([EMPTY; 2]);
        }
        // All clients of a server share an entry where the destination alone decides.
        let (from_key, ingress_key) =
            if next_hops.is_by_destination() { (Addr::from_bits(0), 0) } else { (from, ingress) };
        let is_it = |entry: &Entry| entry.to == to && entry.from == from_key && entry.ingress == ingress_key;
        let set = &mut self.sets[place(from_key, to, ingress_key)];
        if is_it(&set[0]) {
            return Ok(set[0].hop);
        }
        if is_it(&set[1]) {
            return Ok(set[1].hop);
        }
        let path = Path { source: IpAddr::from(from), destination: IpAddr::from(to), ingress };
        let hop = next_hops.lookup(&path)?;
        set[1] = set[0];
        set[0] = Entry { from: from_key, to, ingress: ingress_key, hop };
        Ok(hop)
    }
}

fn place(from: Addr, to: Addr, ingress: u32) -> usize {
    let fold = |bits: u128| (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
    let mixed = (fold(to.bits()) ^ fold(from.bits()).rotate_left(17) ^ u64::from(ingress) << 40)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 55) as usize & (SETS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::links::{Link, Links};
    use crate::next_hop::Topology;
    use crate::routes::{Action, Hop, Route, RouteTable, Rule, Target};

    fn address(n: u32) -> Addr {
        Addr::v4(0x0a00_0000 + n)
    }

    fn table(mac: u8, known: u32) -> NextHops {
        NextHops::new(
            [Link { ifindex: 2, mac: [2; 6], mtu: 1500 }],
            [Route::by(IpAddr::from(address(0)), 8, 2, None)],
            (1..=known).map(|n| ((2, IpAddr::from(address(n))), [mac; 6])),
        )
    }

    #[test]
    fn it_says_what_the_tables_say_however_many_share_a_place() {
        let (table, mut cache) = (table(7, 4000), HopCache::default());
        for n in (1..=4000).chain(1..=4000).chain([7, 7, 8, 7]) {
            let path = Path::to(address(n).into());
            assert_eq!(cache.find(&table, address(9), address(n), 3), table.lookup(&path));
        }
    }

    #[test]
    fn where_source_or_arrival_decide_each_pair_of_addresses_keeps_its_own() {
        let hop = |ifindex| Hop { ifindex, gateway: None, weight: 1 };
        let several = Target::Hops([hop(2), hop(3)].into());
        let default = Route::by(Ipv4Addr::UNSPECIFIED.into(), 0, 4, None);
        let routes = [
            Route { target: several, ..Route::by(IpAddr::from(address(0)), 8, 0, None) },
            Route { table: 100, ..default },
        ];
        let arrival = Rule {
            priority: 5,
            ingress: Some(9),
            action: Action::Lookup { table: 100, suppress: None },
            ..Rule::defaults()[0].clone()
        };
        let routes: RouteTable = routes.into_iter().collect();
        let links = Links::new((2..=4).map(|ifindex| Link { ifindex, mac: [2; 6], mtu: 1500 }));
        let rules = Rule::defaults().into_iter().chain([arrival]);
        let topology = Topology::new(links.into(), routes.routes(), rules, Arc::default());
        let known = (2..=4).flat_map(|i| (1..=40).map(move |n| ((i, IpAddr::from(address(n))), [7; 6])));
        let table = NextHops::over(topology.into(), Arc::new(known.collect()));
        let (mut cache, mut seen) = (HopCache::default(), BTreeSet::new());
        for (from, to) in (0..2).flat_map(|_| (41..80).flat_map(|from| (1..=40).map(move |to| (from, to)))) {
            for ingress in [8, 9] {
                let (from, to) = (address(from), address(to));
                let path = Path { source: from.into(), destination: to.into(), ingress };
                let found = cache.find(&table, from, to, ingress);
                assert_eq!(found, table.lookup(&path));
                seen.insert(found.map(|hop| hop.ifindex).ok());
            }
        }
        assert_eq!(seen, [2, 3, 4].map(Some).into());
    }

    #[test]
    fn a_new_version_is_looked_up_anew_and_so_is_what_was_missing() {
        let mut cache = HopCache::default();
        let mut mac = |table: &NextHops, n| {
            cache.find(table, address(9), address(n), 3).ok().map(|hop| hop.destination[0])
        };
        let (first, second) = (table(7, 1), table(8, 2));
        assert_eq!([mac(&first, 1), mac(&first, 2)], [Some(7), None]);
        assert_eq!([mac(&second, 1), mac(&second, 2)], [Some(8), Some(8)]);
        assert_eq!([mac(&first, 1), mac(&first, 2)], [Some(7), None]);
    }

    #[test]
    fn a_neighbour_counts_as_used_again_after_every_look_at_what_was_used() {
        let (table, mut cache) = (table(7, 1), HopCache::default());
        for _ in 0..3 {
            assert!(cache.find(&table, address(9), address(1), 3).is_ok());
            assert!(cache.find(&table, address(9), address(1), 3).is_ok());
            assert_eq!(table.take_used().count(), 1);
            assert_eq!(table.take_used().count(), 0);
        }
    }
}
