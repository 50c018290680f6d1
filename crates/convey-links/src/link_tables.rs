//! Links, rules and next hop objects, read at once, and what they say about servers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use convey_engine::{Links, Objects, Path, Rule, Topology, Vrf};

use crate::interfaces::{Choice, Interface, Interfaces, choose};
use crate::neighbours::Key;
use crate::next_hop_objects::next_hop_objects;
use crate::rules::{Followed, rule};
use crate::{kernel_tables, netlink};

/// Links, rules and next hop objects as they are now: everything but routes and neighbours.
pub(crate) struct LinkTables {
    pub(crate) choice: Choice,
    pub(crate) links: Arc<Links>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) names: HashMap<u32, String>,
}

impl LinkTables {
    /// Reads them.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn read(wanted: &Interfaces) -> io::Result<Self> {
        let messages = netlink::links()?;
        let interfaces: Vec<Interface> = messages.iter().filter_map(kernel_tables::interface).collect();
        let mut choice = choose(wanted, &interfaces);

        let index = |name: &str| interfaces.iter().find(|i| i.name == name).map(|i| i.ifindex);
        let mut rules = Vec::new();
        for message in netlink::rules()? {
            match rule(&message, index) {
                Followed::Yes(rule) => rules.push(rule),
                Followed::Never => (),
                Followed::No(why) => choice.warnings.push(why),
            }
        }
        if rules.is_empty() {
            rules.extend(Rule::defaults());
        }
        let objects = netlink::next_hop_objects()?;
        let objects = next_hop_objects(objects.iter().map(Vec::as_slice));

        let vrfs: HashMap<u32, u32> = messages.iter().filter_map(kernel_tables::vrf_table).collect();
        let member = |i: &Interface| {
            let (ifindex, table) = vrfs.get_key_value(&i.controller?)?;
            Some((i.ifindex, Vrf { ifindex: *ifindex, table: *table }))
        };
        let links = Links::new(interfaces.iter().filter_map(|i| i.link))
            .with_alive(messages.iter().filter_map(kernel_tables::alive))
            .with_vrfs(interfaces.iter().filter_map(member));
        let names = interfaces.into_iter().map(|i| (i.ifindex, i.name)).collect();
        Ok(Self { choice, links: Arc::new(links), rules, objects: Arc::new(objects), names })
    }
}

/// The neighbours that lead to `servers`, by the main table and by that of each VRF.
pub(crate) fn ways_to(servers: &[IpAddr], topology: &Topology, links: &Links) -> impl Iterator<Item = Key> {
    let from: Vec<u32> = std::iter::once(0).chain(links.vrf_members()).collect();
    servers.iter().flat_map(move |server| {
        let way = |ingress: &u32| {
            let (link, address, _) = topology.way(&Path { ingress: *ingress, ..Path::to(*server) }).ok()?;
            Some((link.ifindex, address))
        };
        from.iter().filter_map(way).collect::<Vec<Key>>()
    })
}
