//! From the kernel's rules of policy routing to those the packet path follows. Pure.
//!
//! A forwarded packet has no mark and no socket, so what asks for either is decided here. What asks for ports or a
//! type of service is not followed, and told.

use std::net::IpAddr;

use convey_engine::Rule;
use convey_engine::routes::{Action, Reject};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

const TABLE_LOCAL: u32 = 255;

/// What becomes of a rule.
#[derive(Debug, PartialEq, Eq)]
pub enum Followed {
    /// It is followed.
    Yes(Rule),
    /// No forwarded packet meets it.
    Never,
    /// It is not followed; in words.
    No(String),
}

/// The rule a message describes; `index` gives the index of an interface by its name.
pub fn rule(message: &RuleMessage, index: impl Fn(&str) -> Option<u32>) -> Followed {
    let header = &message.header;
    let is_v4 = match header.family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return Followed::Never,
    };
    let (mut priority, mut table, mut goto, mut suppress) = (0, u32::from(header.table), None, None);
    let (mut from, mut to, mut ingress) = (None, None, None);
    let (mut mark, mut mask) = (0, None);
    let (mut never, mut strange, mut is_vrf) = (false, None, false);
    if header.tos != 0 {
        strange = Some("a type of service");
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Goto(value) => goto = Some(*value),
            RuleAttribute::SuppressPrefixLen(len) => suppress = u8::try_from(*len).ok(),
            RuleAttribute::Source(address) => from = Some((*address, header.src_len)),
            RuleAttribute::Destination(address) => to = Some((*address, header.dst_len)),
            RuleAttribute::Iifname(name) => match index(name) {
                Some(ifindex) if name != "lo" => ingress = Some(ifindex),
                _ => never = true,
            },
            RuleAttribute::Oifname(_) | RuleAttribute::TunId(_) => never = true,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::IpProtocol(_) => strange = Some("a protocol"),
            RuleAttribute::SourcePortRange(_) | RuleAttribute::DestinationPortRange(_) => {
                strange = Some("ports");
            }
            RuleAttribute::UidRange(_) => strange = Some("a user"),
            RuleAttribute::L3MDev(true) => is_vrf = true,
            RuleAttribute::SuppressIfGroup(group) if *group != u32::MAX => {
                strange = Some("a group of interfaces");
            }
            _ => (),
        }
    }
    never |= mark & mask.unwrap_or(u32::MAX) != 0;
    let is_inverted = header.flags.contains(RuleFlags::Invert);
    if never && !is_inverted {
        return Followed::Never;
    }
    if let Some(what) = strange {
        let family = if is_v4 { "" } else { "-6 " };
        return Followed::No(format!(
            "Rule {priority} of policy routing (`ip {family}rule`) asks for {what}, which is not followed; packets go by \
             the other rules"
        ));
    }
    let action = match header.action {
        RuleAction::ToTable if is_vrf => Action::LookupVrf { suppress },
        RuleAction::ToTable if table == TABLE_LOCAL => return Followed::Never,
        RuleAction::ToTable => Action::Lookup { table, suppress },
        RuleAction::Goto => match goto {
            Some(priority) if !header.flags.contains(RuleFlags::Unresolved) => Action::Goto(priority),
            _ => return Followed::Never,
        },
        RuleAction::Blackhole => Action::Reject(Reject::Blackhole),
        RuleAction::Unreachable => Action::Reject(Reject::Unreachable),
        RuleAction::Prohibit => Action::Reject(Reject::Prohibit),
        _ => Action::Nop,
    };
    // What never matches, the other way round, always does.
    let always = never && is_inverted;
    let unless = |prefix: Option<(IpAddr, u8)>| prefix.filter(|_| !always);
    Followed::Yes(Rule {
        is_v4,
        priority,
        from: unless(from),
        to: unless(to),
        ingress: ingress.filter(|_| !always),
        is_inverted: is_inverted && !always,
        action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.header.src_len = 32;
        message.attributes = vec![RuleAttribute::Priority(1000), RuleAttribute::Table(100)];
        message.attributes.extend(attributes);
        message
    }

    fn read(message: &RuleMessage) -> Followed {
        rule(message, |name| (name == "front").then_some(3))
    }

    #[test]
    fn a_rule_by_source_or_arrival_is_followed() {
        let vip = IpAddr::from([10, 0, 0, 1]);
        let Followed::Yes(rule) =
            read(&message(vec![RuleAttribute::Source(vip), RuleAttribute::Iifname("front".into())]))
        else {
            panic!("not followed")
        };
        assert_eq!((rule.priority, rule.from, rule.ingress), (1000, Some((vip, 32)), Some(3)));
        assert_eq!(rule.action, Action::Lookup { table: 100, suppress: None });
    }

    #[test]
    fn a_rule_for_marked_or_local_packets_meets_none_and_its_opposite_meets_all() {
        let marked = || message(vec![RuleAttribute::FwMark(0xca6c), RuleAttribute::FwMask(u32::MAX)]);
        assert_eq!(read(&marked()), Followed::Never);
        assert_eq!(read(&message(vec![RuleAttribute::Iifname("lo".into())])), Followed::Never);
        assert_eq!(read(&message(vec![RuleAttribute::Iifname("gone".into())])), Followed::Never);
        let mut opposite = marked();
        opposite.header.flags = RuleFlags::Invert;
        let Followed::Yes(rule) = read(&opposite) else { panic!("not followed") };
        assert_eq!((rule.is_inverted, rule.from), (false, None));
    }

    #[test]
    fn the_rule_of_vrfs_is_followed() {
        let mut vrf = message(vec![RuleAttribute::L3MDev(true)]);
        vrf.attributes.retain(|a| !matches!(a, RuleAttribute::Table(_)));
        let Followed::Yes(rule) = read(&vrf) else { panic!("not followed") };
        assert_eq!(rule.action, Action::LookupVrf { suppress: None });
    }

    #[test]
    fn a_rule_that_is_not_followed_is_named() {
        let ports = netlink_packet_route::rule::RulePortRange { start: 80, end: 80 };
        let Followed::No(why) = read(&message(vec![RuleAttribute::SourcePortRange(ports)])) else {
            panic!("followed")
        };
        assert!(why.starts_with("Rule 1000 of policy routing") && why.contains("ports"), "{why}");
    }
}
