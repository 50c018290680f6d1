//! Who may come, by address: of all networks in two lists, the longest that has the address decides.
//!
//! The networks are laid out as ranges of addresses that do not overlap, in order, so that a look-up is one search by
//! halves, whatever their number, and a list is made by sorting once.

use std::net::IpAddr;

use super::prefix::{Prefix, mapped};

/// No network of a list.
const NONE: u32 = u32::MAX;

/// Networks that are allowed and denied. An address in none of them is refused where there is a list of those allowed,
/// and allowed otherwise.
#[derive(Debug, PartialEq, Eq)]
pub struct AccessList {
    /// Allowed or not, in order, each once.
    networks: Box<[(Prefix, bool)]>,
    allows_others: bool,
    /// Where ranges of addresses begin; the first at zero.
    starts: Box<[u128]>,
    /// Of each range its network's place in `networks`, or [`NONE`].
    ranges: Box<[u32]>,
}

/// A network is allowed and denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is allowed and denied")]
pub struct Conflict(pub Prefix);

/// What a list says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it may come.
    pub is_allowed: bool,
    /// The network that says so; `None`: it is in none.
    pub network: Option<Prefix>,
}

impl AccessList {
    /// A list of these networks, in any order; `None` where there are none, which allows everybody.
    ///
    /// # Errors
    /// A network that stands in both.
    pub fn new(allow: &[Prefix], deny: &[Prefix]) -> Result<Option<Self>, Conflict> {
        let marked = |list: &[Prefix], allowed| list.iter().map(|p| (*p, allowed)).collect::<Vec<_>>();
        let mut networks = [marked(allow, true), marked(deny, false)].concat();
        if networks.is_empty() {
            return Ok(None);
        }
        networks.sort_unstable();
        networks.dedup();
        if let Some(pair) = networks.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Conflict(pair[0].0));
        }
        let (starts, ranges) = lay_out(&networks);
        Ok(Some(Self { networks: networks.into(), allows_others: allow.is_empty(), starts, ranges }))
    }

    /// What it says of `ip`; an IPv4 address mapped into IPv6 is the IPv4 address.
    pub fn judge(&self, ip: IpAddr) -> Judgement {
        let ip = mapped(ip);
        let behind = self.starts.partition_point(|start| *start <= ip);
        let network = behind.checked_sub(1).and_then(|range| self.networks.get(self.ranges[range] as usize));
        match network {
            Some(&(network, is_allowed)) => Judgement { is_allowed, network: Some(network) },
            None => Judgement { is_allowed: self.allows_others, network: None },
        }
    }

    /// Whether `ip` may come.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.judge(ip).is_allowed
    }

    /// Networks that cover every address, and whether they are allowed: for a table in which the longest decides.
    pub fn table(&self) -> impl Iterator<Item = (Prefix, bool)> + '_ {
        let is_listed = |network: &Prefix| self.networks.binary_search_by_key(network, |(p, _)| *p).is_ok();
        let others = [Prefix::ALL_V6, Prefix::ALL_V4].into_iter().filter(move |all| !is_listed(all));
        others.map(|all| (all, self.allows_others)).chain(self.networks.iter().copied())
    }
}

/// The ranges of networks while they are laid out.
#[derive(Default)]
struct Layout {
    starts: Vec<u128>,
    ranges: Vec<u32>,
    /// The networks that have the present address by their last one, the longest on top.
    around: Vec<(u128, u32)>,
}

impl Layout {
    fn begin(&mut self, start: u128, network: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.ranges.pop();
        }
        self.starts.push(start);
        self.ranges.push(network);
    }

    fn enter(&mut self, network: Prefix, number: u32) {
        self.leave_those(|last| last < network.first());
        self.begin(network.first(), number);
        self.around.push((network.last(), number));
    }

    /// Leaves the networks whose last address is one of `before`.
    fn leave_those(&mut self, before: impl Fn(u128) -> bool) {
        while let Some((last, _)) = self.around.pop_if(|(last, _)| before(*last)) {
            if let Some(next) = last.checked_add(1) {
                self.begin(next, self.around.last().map_or(NONE, |(_, network)| *network));
            }
        }
    }
}

/// Where ranges begin, and the network of each; `networks` are in order.
fn lay_out(networks: &[(Prefix, bool)]) -> (Box<[u128]>, Box<[u32]>) {
    let mut all: Vec<_> = (0..).zip(networks).map(|(number, (network, _))| (*network, number)).collect();
    // What is shorter than the network of all IPv4 addresses has none of them.
    if let Err(at) = all.binary_search_by_key(&Prefix::ALL_V4, |(network, _)| *network) {
        all.insert(at, (Prefix::ALL_V4, NONE));
    }
    let mut layout = Layout::default();
    layout.begin(0, NONE);
    all.into_iter().for_each(|(network, number)| layout.enter(network, number));
    layout.leave_those(|_| true);
    (layout.starts.into(), layout.ranges.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        let parse = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>();
        AccessList::new(&parse(allow), &parse(deny)).unwrap().unwrap()
    }

    fn allows(list: &AccessList, ip: &str) -> bool {
        list.allows(ip.parse().unwrap())
    }

    #[test]
    fn the_longest_network_decides_whichever_list_it_is_in() {
        let list = list(&["10.0.0.0/8", "10.1.2.3"], &["10.1.0.0/16"]);
        assert!(allows(&list, "10.2.0.1") && allows(&list, "10.1.2.3"));
        assert!(!allows(&list, "10.1.2.4"));
        assert_eq!(list.judge("10.1.9.9".parse().unwrap()).network.unwrap().to_string(), "10.1.0.0/16");
    }

    #[test]
    fn who_is_in_no_network_is_refused_where_some_are_allowed_and_let_in_otherwise() {
        assert!(!allows(&list(&["10.0.0.0/8"], &[]), "192.0.2.1"));
        assert!(!allows(&list(&["10.0.0.0/8"], &["10.1.0.0/16"]), "2001:db8::1"));
        assert!(allows(&list(&[], &["10.0.0.0/8"]), "192.0.2.1"));
        assert_eq!(AccessList::new(&[], &[]), Ok(None));
    }

    #[test]
    fn networks_of_ipv6_have_no_ipv4_address_and_a_mapped_one_is_ipv4() {
        let list = list(&[], &["::/0", "192.0.2.0/24"]);
        assert!(allows(&list, "198.51.100.1") && allows(&list, "::ffff:198.51.100.1"));
        assert!(!allows(&list, "2001:db8::1") && !allows(&list, "::ffff:192.0.2.9"));
    }

    #[test]
    fn a_network_in_both_lists_is_a_conflict_and_one_that_stands_twice_in_one_is_not() {
        let network: Prefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(AccessList::new(&[network], &[network]), Err(Conflict(network)));
        assert_eq!(AccessList::new(&[], &[network, network]).unwrap().unwrap().networks.len(), 1);
    }

    #[test]
    fn a_hundred_thousand_networks_are_searched_in_seventeen_steps_and_not_one_by_one() {
        let deny: Vec<Prefix> = (0..100_000u32)
            .map(|n| Prefix::new(Ipv4Addr::from_bits(0x0100_0000 + n * 512).into(), 24).unwrap())
            .collect();
        let list = AccessList::new(&[], &deny).unwrap().unwrap();
        assert!(list.starts.len() <= 200_004, "{} ranges", list.starts.len());
        let denied = |n: u32| !list.allows(Ipv4Addr::from_bits(n).into());
        assert!(denied(0x0100_0000) && denied(0x0100_00ff) && !denied(0x0100_0100) && denied(0x0100_0200));
    }

    /// Addresses that lie close together, so that networks meet and nest.
    fn ip() -> impl Strategy<Value = IpAddr> {
        let near = prop_oneof![Just(0), Just(u32::MAX), any::<u32>()];
        prop_oneof![
            (near.clone(), 0..64u32)
                .prop_map(|(high, low)| IpAddr::V4(Ipv4Addr::from_bits((high << 6) | low))),
            (0..4u128, near, 0..64u128).prop_map(|(high, middle, low)| IpAddr::V6(Ipv6Addr::from_bits(
                (high << 126) | (u128::from(middle) << 30) | low
            ))),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (ip(), 0..=128u8).prop_map(|(ip, bits)| {
            let width = if ip.is_ipv4() { 32 } else { 128 };
            Prefix::new(ip, bits % (width + 1)).unwrap()
        })
    }

    fn naive(allow: &[Prefix], deny: &[Prefix], ip: IpAddr) -> bool {
        let longest = |list: &[Prefix]| list.iter().filter(|p| p.contains(ip)).map(|p| p.bits()).max();
        match (longest(allow), longest(deny)) {
            (None, None) => allow.is_empty(),
            (allowed, denied) => allowed > denied,
        }
    }

    proptest! {
        #[test]
        fn a_list_says_what_looking_at_every_network_says(
            allow in proptest::collection::vec(prefix(), 0..20),
            mut deny in proptest::collection::vec(prefix(), 0..20),
            ips in proptest::collection::vec(ip(), 1..50),
        ) {
            deny.retain(|p| !allow.contains(p));
            let list = AccessList::new(&allow, &deny).unwrap();
            let ends = allow.iter().chain(&deny).flat_map(|p| {
                [p.first(), p.last(), p.first().wrapping_sub(1), p.last().wrapping_add(1)]
            });
            for ip in ips.into_iter().chain(ends.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))) {
                let ip = ip.to_canonical();
                let expected = naive(&allow, &deny, ip);
                prop_assert_eq!(list.as_ref().is_none_or(|list| list.allows(ip)), expected, "{}", ip);
                // A table in which the longest match decides, as the kernel has it, says the same.
                let by_table = list.as_ref().map(|list| {
                    let has = |p: &Prefix| (p.first()..=p.last()).contains(&mapped(ip));
                    list.table().filter(|(p, _)| has(p)).max_by_key(|(p, _)| p.bits()).unwrap().1
                });
                prop_assert_eq!(by_table.unwrap_or(true), expected, "{} by table", ip);
            }
        }

        #[test]
        fn a_network_that_is_written_out_is_read_as_the_same(prefix in prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }
}
