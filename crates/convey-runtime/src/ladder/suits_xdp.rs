//! Whether XDP is the engine for these links, from what is known of them.

use convey_xdp::interface::{self, Features};

/// Bytes of an MTU that a program without fragments takes with every driver.
const MAX_MTU: u32 = 3498;

/// A link that packets are to be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    /// Its name.
    pub(crate) name: String,
    /// What kind of virtual device it is ("veth", "bridge"); empty for hardware.
    pub(crate) kind: String,
    /// The driver of hardware, where it is known.
    pub(crate) driver: Option<String>,
    /// In bytes.
    pub(crate) mtu: u32,
    /// What its driver has of XDP; `None` where the kernel does not tell (before Linux 6.3).
    pub(crate) features: Option<Features>,
    /// Whether it has an XDP program of somebody else.
    pub(crate) has_program: bool,
}

impl LinkFacts {
    /// Asks the kernel about links, by index; those that are gone are passed over.
    pub(crate) fn of(interfaces: &[u32]) -> Vec<Self> {
        let ask = |ifindex: &u32| {
            let facts = interface::facts(*ifindex).ok()?;
            Some(Self {
                driver: facts.driver(),
                features: interface::features(*ifindex),
                has_program: facts.xdp_program.is_some(),
                mtu: facts.mtu,
                name: facts.name,
                kind: facts.kind,
            })
        };
        interfaces.iter().filter_map(ask).collect()
    }
}

/// # Errors
/// Why not, as a sentence without its full stop.
pub(super) fn check(links: &[LinkFacts]) -> Result<(), String> {
    if links.is_empty() {
        return Err("no interface is there yet".to_owned());
    }
    links.iter().try_for_each(check_link)
}

fn check_link(link: &LinkFacts) -> Result<(), String> {
    let LinkFacts { name, kind, driver, mtu, features, has_program } = link;
    let driver = driver.as_deref().unwrap_or("unknown");
    if driver == "virtio_net" {
        return Err(format!("{name} is a virtio card, on which tc keeps super-frames whole"));
    }
    match kind.as_str() {
        // A bond has what all of its cards have.
        "" | "bond" => (),
        "veth" => return Err(format!("{name} is a veth, on which tc is faster")),
        kind => {
            return Err(format!("{name} is a virtual interface ({kind}), which has no native XDP of use"));
        }
    }
    if *has_program {
        return Err(format!("{name} has an XDP program of somebody else, which is not replaced"));
    }
    match features {
        None => {
            return Err(format!(
                "the kernel does not tell what the driver of {name} has of XDP (before Linux 6.3)"
            ));
        }
        Some(features) if !features.native => {
            return Err(format!("the driver of {name} ({driver}) has no native XDP"));
        }
        Some(_) => (),
    }
    if *mtu > MAX_MTU {
        return Err(format!("{name} has an MTU of {mtu}, and XDP takes frames of one page"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: Features = Features { native: true, sends: false };

    impl LinkFacts {
        /// A card whose driver has native XDP.
        pub(crate) fn card(name: &str) -> Self {
            Self {
                name: name.to_owned(),
                kind: String::new(),
                driver: Some("ice".to_owned()),
                mtu: 1500,
                features: Some(NATIVE),
                has_program: false,
            }
        }

        /// A virtual device of this kind.
        pub(crate) fn virtual_link(name: &str, kind: &str) -> Self {
            Self { kind: kind.to_owned(), driver: None, ..Self::card(name) }
        }
    }

    #[test]
    fn xdp_is_for_cards_with_native_xdp_and_what_stands_against_it_is_named() {
        let card = || LinkFacts::card("eth0");
        let driver = |driver: &str| LinkFacts { driver: Some(driver.to_owned()), ..card() };
        let of = |kind| LinkFacts::virtual_link("eth1", kind);
        let table: [(&str, Vec<LinkFacts>, Option<&str>); 15] = [
            ("a card", vec![card()], None),
            ("two of them", vec![card(), driver("mlx5_core")], None),
            ("of an unknown driver", vec![LinkFacts { driver: None, ..card() }], None),
            ("a bond of cards", vec![of("bond")], None),
            ("a page at most", vec![LinkFacts { mtu: 3498, ..card() }], None),
            ("jumbo frames", vec![LinkFacts { mtu: 9000, ..card() }], Some("eth0 has an MTU of 9000")),
            ("virtio", vec![driver("virtio_net")], Some("eth0 is a virtio card")),
            ("veth", vec![of("veth")], Some("eth1 is a veth")),
            ("one veth beside a card", vec![card(), of("veth")], Some("eth1 is a veth")),
            ("bridge", vec![of("bridge")], Some("eth1 is a virtual interface (bridge)")),
            ("VLAN", vec![of("vlan")], Some("eth1 is a virtual interface (vlan)")),
            (
                "a driver without",
                vec![LinkFacts { features: Some(Features::default()), ..driver("e1000e") }],
                Some("the driver of eth0 (e1000e) has no native XDP"),
            ),
            (
                "an old kernel",
                vec![LinkFacts { features: None, ..card() }],
                Some("the kernel does not tell what the driver of eth0 has"),
            ),
            (
                "a foreign program",
                vec![LinkFacts { has_program: true, ..card() }],
                Some("eth0 has an XDP program of somebody else"),
            ),
            ("nothing", vec![], Some("no interface is there yet")),
        ];
        for (name, links, want) in table {
            match (check(&links), want) {
                (Ok(()), None) => (),
                (Err(why), Some(want)) => assert!(why.starts_with(want), "{name}: {why}"),
                (have, want) => panic!("{name}: {have:?}, not {want:?}"),
            }
        }
    }
}
