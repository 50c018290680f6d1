//! Next hop objects (`ip nexthop`): routes may name one by its number alone.

use std::collections::HashMap;
use std::net::IpAddr;

use convey_engine::Objects;
use convey_engine::routes::{Hop, Reject, Target};

use crate::client::attributes;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_FDB: u16 = 11;
const HEADER_BYTES: usize = 8;

#[derive(Debug)]
enum Object {
    Hop(Hop),
    Group(Vec<(u32, u32)>),
    Blackhole,
}

/// What the objects lead to by number, from the bodies of their messages. Whether it is alive the links say.
pub fn next_hop_objects<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Objects {
    let objects: HashMap<u32, Object> = messages.into_iter().filter_map(object).collect();
    objects.iter().filter_map(|(id, object)| Some((*id, target(object, &objects)?))).collect()
}

fn target(object: &Object, all: &HashMap<u32, Object>) -> Option<Target> {
    let members = match object {
        Object::Hop(hop) => return Some(Target::Hop(*hop)),
        Object::Blackhole => return Some(Target::Reject(Reject::Blackhole)),
        Object::Group(members) => members,
    };
    let hops: Vec<Hop> = members
        .iter()
        .filter_map(|(id, weight)| match all.get(id)? {
            Object::Hop(hop) => Some(Hop { weight: *weight, ..*hop }),
            _ => None,
        })
        .collect();
    match hops.as_slice() {
        [] => members
            .iter()
            .any(|(id, _)| matches!(all.get(id), Some(Object::Blackhole)))
            .then_some(Target::Reject(Reject::Blackhole)),
        [hop] => Some(Target::Hop(*hop)),
        _ => Some(Target::Hops(hops.into())),
    }
}

fn object(message: &[u8]) -> Option<(u32, Object)> {
    let all = attributes(message.get(HEADER_BYTES..)?);
    let find = |kind| all.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value);
    let id = u32_at(find(NHA_ID)?, 0)?;
    // For bridges' forwarding tables, not for routes.
    if find(NHA_FDB).is_some() {
        return None;
    }
    if let Some(group) = find(NHA_GROUP) {
        let members = group.chunks_exact(8).filter_map(|entry| {
            let weight = u32::from(entry[4]) + (u32::from(entry[5]) << 8) + 1;
            Some((u32_at(entry, 0)?, weight))
        });
        return Some((id, Object::Group(members.collect())));
    }
    if find(NHA_BLACKHOLE).is_some() {
        return Some((id, Object::Blackhole));
    }
    // What has to be encapsulated goes over no link that packets can be put on.
    let ifindex = if find(NHA_ENCAP_TYPE).is_some() {
        0
    } else {
        find(NHA_OIF).and_then(|v| u32_at(v, 0)).unwrap_or(0)
    };
    let gateway = find(NHA_GATEWAY).and_then(|bytes| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    });
    Some((id, Object::Hop(Hop { ifindex, gateway, weight: 1 })))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
