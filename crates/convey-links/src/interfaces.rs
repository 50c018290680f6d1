//! Which interfaces the packet path listens on.

use convey_engine::Link;

/// Interfaces as the operator wants them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Every Ethernet link that is up.
    #[default]
    Auto,
    /// These, by name.
    Named(Vec<String>),
}

impl Interfaces {
    /// Those with these names; every Ethernet link when there are none.
    pub fn named(names: &[String]) -> Self {
        if names.is_empty() { Self::Auto } else { Self::Named(names.to_vec()) }
    }
}

/// Devices whose frames are seen elsewhere, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shows frames that its member interfaces have shown.
    Vrf,
    /// Shows frames that another interface was made to hand over.
    Ifb,
    /// Any other.
    Other,
}

/// An interface of this host that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What packets need to leave by it; `None` when it is no Ethernet link.
    pub link: Option<Link>,
    /// The bridge, bond or VRF it is part of.
    pub controller: Option<u32>,
    /// What it is.
    pub kind: Kind,
}

/// The interfaces to listen on, and why not on some.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// Indices, in rising order.
    pub listen: Vec<u32>,
    /// What the operator should know, in words.
    pub warnings: Vec<String>,
}

/// Chooses among `interfaces`, those that are up.
pub fn choose(wanted: &Interfaces, interfaces: &[Interface]) -> Choice {
    let mut choice = Choice::default();
    for interface in interfaces {
        let is_named = match wanted {
            Interfaces::Auto => true,
            Interfaces::Named(names) => names.contains(&interface.name),
        };
        if !is_named {
            continue;
        }
        if interface.link.is_none() {
            choice.warnings.push(format!(
                "Interface {} is no Ethernet link: packets that come in by it are not forwarded, nor sent out by it",
                interface.name
            ));
        } else if let Some(elsewhere) = seen_elsewhere(interface, interfaces) {
            // Listening on both would forward every packet twice.
            if matches!(wanted, Interfaces::Named(_)) {
                choice.warnings.push(format!("Interface {} {elsewhere}", interface.name));
            }
        } else {
            choice.listen.push(interface.ifindex);
        }
    }
    if let Interfaces::Named(names) = wanted {
        for name in names.iter().filter(|name| interfaces.iter().all(|i| i.name != **name)) {
            // The loopback device is never among `interfaces`.
            choice.warnings.push(if name == "lo" {
                "Interface lo, named in \"interfaces\", is the loopback device: clients on this host are not served"
                    .to_owned()
            } else {
                format!(
                    "Interface {name}, named in \"interfaces\", is not there or not up; it is listened on once it is"
                )
            });
        }
    }
    choice.listen.sort_unstable();
    choice
}

/// Where the frames of an interface are listened for instead.
fn seen_elsewhere(interface: &Interface, all: &[Interface]) -> Option<&'static str> {
    match interface.kind {
        Kind::Vrf => return Some("is a VRF; name its member interfaces"),
        Kind::Ifb => return Some("shows frames of other interfaces; name those"),
        Kind::Other => (),
    }
    let controller = interface.controller?;
    match all.iter().find(|i| i.ifindex == controller) {
        Some(Interface { kind: Kind::Vrf, .. }) => None,
        Some(_) => Some("is part of a bridge or bond; name that"),
        // What it belongs to is down, or in another namespace.
        None => Some("is part of a bridge or bond that is not up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, name: &str) -> Interface {
        let link = Some(Link { ifindex, mac: [2; 6], mtu: 1500 });
        Interface { ifindex, name: name.to_owned(), link, controller: None, kind: Kind::Other }
    }

    #[test]
    fn every_ethernet_link_that_is_up_is_listened_on_and_others_are_told() {
        let all = [
            interface(5, "docker0"),
            interface(2, "front"),
            Interface { link: None, ..interface(4, "tun0") },
        ];
        let choice = choose(&Interfaces::Auto, &all);
        assert_eq!(choice.listen, [2, 5]);
        assert_eq!(choice.warnings.len(), 1);
        assert!(choice.warnings[0].contains("tun0"), "{choice:?}");
    }

    #[test]
    fn a_frame_is_listened_for_in_one_place_where_a_bridge_bond_or_vrf_shows_it_again() {
        let all = [
            interface(2, "br0"),
            Interface { controller: Some(2), ..interface(3, "port") },
            Interface { kind: Kind::Vrf, ..interface(4, "red") },
            Interface { controller: Some(4), ..interface(5, "member") },
            Interface { kind: Kind::Ifb, ..interface(6, "ifb0") },
        ];
        assert_eq!(choose(&Interfaces::Auto, &all), Choice { listen: vec![2, 5], warnings: vec![] });
        let named = choose(&Interfaces::Named(vec!["port".into(), "member".into()]), &all);
        assert_eq!(named.listen, [5]);
        assert_eq!(named.warnings.len(), 1);
    }

    #[test]
    fn named_interfaces_are_listened_on_and_no_others_and_missing_ones_are_told() {
        let all = [interface(2, "front"), interface(3, "back")];
        let choice = choose(&Interfaces::named(&["back".into(), "absent".into(), "lo".into()]), &all);
        assert_eq!(choice.listen, [3]);
        let told = |name, what| choice.warnings.iter().any(|w| w.contains(name) && w.contains(what));
        assert!(told("Interface absent", "once it is"), "{choice:?}");
        assert!(told("Interface lo", "loopback device") && !told("Interface lo", "once it is"), "{choice:?}");
        assert_eq!(Interfaces::named(&[]), Interfaces::Auto);
    }
}
