//! The few rtnetlink requests that attaching programs and preparing a host take.
//!
//! In the network namespace of the calling thread; `/sys/class/net` would show the namespace that mounted it
//! instead.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use convey_links::client::{self, ACK, CREATE, DUMP, EXCLUSIVE, attribute, attributes};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::XdpError;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A direction of the clsact qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Frames that arrive.
    Ingress,
    /// Frames that leave.
    Egress,
}

impl Hook {
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => CLSACT_INGRESS,
            Self::Egress => CLSACT_EGRESS,
        }
    }
}

/// A filter at a clsact hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Smaller runs earlier.
    pub priority: u16,
    /// Unique within the priority.
    pub handle: u32,
    /// Ethertype in host order; 3 is "all".
    pub protocol: u16,
    /// "bpf" for kernel programs.
    pub kind: String,
    /// The name given with a kernel program; empty otherwise.
    pub name: String,
    /// The kernel program's id; 0 when there is none.
    pub program_id: u32,
}

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// The index of an interface, `None` if there is none of that name.
///
/// # Errors
/// [`XdpError::Netlink`] when no socket can be had.
pub fn interface_index(name: &str) -> Result<Option<u32>, XdpError> {
    Ok(rustix::net::netdevice::name_to_index(any_socket()?, name).ok())
}

/// The name of the interface with an index.
///
/// # Errors
/// [`XdpError::NoInterface`].
pub fn interface_name(index: u32) -> Result<String, XdpError> {
    rustix::net::netdevice::index_to_name(any_socket()?, index).map_err(|_| XdpError::NoInterface(index))
}

fn any_socket() -> Result<OwnedFd, XdpError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| XdpError::Netlink { what: "opening a socket".into(), source: e.into() })
}

/// Bytes that stand in front of the IP header in frames of this interface: 14 on Ethernet (and loopback), 0 on
/// devices without a link layer, such as tunnels.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn link_header_bytes(interface: u32) -> Result<u32, XdpError> {
    const ARPHRD_ETHER: u16 = 1;
    const ARPHRD_LOOPBACK: u16 = 772;
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    let messages = exchange(RTM_GETLINK, 0, &body).map_err(|source| XdpError::Netlink {
        what: format!("asking about interface {interface}"),
        source,
    })?;
    let kind = messages.iter().find(|(t, _)| *t == RTM_NEWLINK).and_then(|(_, m)| u16_at(m, 2)).unwrap_or(0);
    Ok(if matches!(kind, ARPHRD_ETHER | ARPHRD_LOOPBACK) { 14 } else { 0 })
}

/// Every address of every interface.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn addresses() -> Result<Vec<InterfaceAddress>, XdpError> {
    let messages = exchange(RTM_GETADDR, DUMP, &[0; 8])
        .map_err(|source| XdpError::Netlink { what: "listing addresses".into(), source })?;
    Ok(messages.iter().filter(|(t, _)| *t == RTM_NEWADDR).filter_map(|(_, m)| parse_address(m)).collect())
}

fn parse_address(message: &[u8]) -> Option<InterfaceAddress> {
    let (prefix, interface) = (*message.get(1)?, u32_at(message, 4)?);
    let all = attributes(message.get(8..)?);
    // On point-to-point links IFA_ADDRESS is the other end's.
    let bytes = find(&all, IFA_LOCAL).or_else(|| find(&all, IFA_ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(InterfaceAddress { interface, address, prefix })
}

/// Adds an address; IPv6 without duplicate address detection. One that is there already is an error (EEXIST).
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn add_address(at: InterfaceAddress) -> Result<(), XdpError> {
    let flags = ACK | CREATE | EXCLUSIVE;
    exchange(RTM_NEWADDR, flags, &address_body(at)).map(drop).map_err(|source| XdpError::Netlink {
        what: format!("adding {}/{} to interface {}", at.address, at.prefix, at.interface),
        source,
    })
}

/// Removes an address. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn delete_address(at: InterfaceAddress) -> Result<bool, XdpError> {
    absent_is_false(exchange(RTM_DELADDR, ACK, &address_body(at)), || {
        format!("removing {}/{} from interface {}", at.address, at.prefix, at.interface)
    })
}

fn address_body(at: InterfaceAddress) -> Vec<u8> {
    let (family, bytes): (u8, Vec<u8>) = match at.address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    };
    let mut body = vec![family, at.prefix, 0, 0];
    body.extend(at.interface.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &bytes);
    attribute(&mut body, IFA_ADDRESS, &bytes);
    if at.address.is_ipv6() {
        attribute(&mut body, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
    }
    body
}

/// Gives the interface a clsact qdisc. Returns false when it has one.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn add_clsact(interface: u32) -> Result<bool, XdpError> {
    let mut body = tc_body(interface, CLSACT_HANDLE, CLSACT_PARENT, 0);
    attribute(&mut body, TCA_KIND, b"clsact\0");
    match exchange(RTM_NEWQDISC, ACK | CREATE | EXCLUSIVE, &body) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => {
            Err(XdpError::Netlink { what: format!("adding a clsact qdisc to interface {interface}"), source })
        }
    }
}

/// Whether the interface has a clsact (or ingress) qdisc.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn has_clsact(interface: u32) -> Result<bool, XdpError> {
    let messages = exchange(RTM_GETQDISC, DUMP, &tc_body(interface, 0, 0, 0)).map_err(|source| {
        XdpError::Netlink { what: format!("listing the qdiscs of interface {interface}"), source }
    })?;
    Ok(messages.iter().filter(|(t, _)| *t == RTM_NEWQDISC).any(|(_, m)| {
        // Not every kernel heeds the interface asked for.
        u32_at(m, 4) == Some(interface) && u32_at(m, 12) == Some(CLSACT_PARENT)
    }))
}

/// Takes the clsact qdisc away, filters included. Returns whether there was one.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn delete_clsact(interface: u32) -> Result<bool, XdpError> {
    let mut body = tc_body(interface, CLSACT_HANDLE, CLSACT_PARENT, 0);
    attribute(&mut body, TCA_KIND, b"clsact\0");
    absent_is_false(exchange(RTM_DELQDISC, ACK, &body), || {
        format!("removing the clsact qdisc of interface {interface}")
    })
}

/// The filters at a hook; empty without a clsact qdisc.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn filters(interface: u32, hook: Hook) -> Result<Vec<Filter>, XdpError> {
    let body = tc_body(interface, 0, hook.parent(), 0);
    let messages = match exchange(RTM_GETTFILTER, DUMP, &body) {
        Ok(messages) => messages,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(source) => {
            return Err(XdpError::Netlink {
                what: format!("listing filters of interface {interface}"),
                source,
            });
        }
    };
    let mut filters: Vec<Filter> =
        messages.iter().filter(|(t, _)| *t == RTM_NEWTFILTER).filter_map(|(_, m)| parse_filter(m)).collect();
    // Each priority is announced once by itself, with handle 0.
    filters.retain(|f| f.handle != 0);
    Ok(filters)
}

fn parse_filter(message: &[u8]) -> Option<Filter> {
    let (handle, info) = (u32_at(message, 8)?, u32_at(message, 16)?);
    let all = attributes(message.get(20..)?);
    let options = find(&all, TCA_OPTIONS).map(attributes).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    Some(Filter {
        priority: (info >> 16) as u16,
        handle,
        protocol: u16::from_be(info as u16),
        kind: find(&all, TCA_KIND).map(text).unwrap_or_default(),
        name: find(&options, TCA_BPF_NAME).map(text).unwrap_or_default(),
        program_id: find(&options, TCA_BPF_ID).and_then(|b| u32_at(b, 0)).unwrap_or(0),
    })
}

/// Removes one filter. Returns whether it was there.
///
/// # Errors
/// [`XdpError::Netlink`].
pub fn delete_filter(interface: u32, hook: Hook, filter: &Filter) -> Result<bool, XdpError> {
    let info = u32::from(filter.priority) << 16 | u32::from(filter.protocol.to_be());
    let mut body = tc_body(interface, filter.handle, hook.parent(), info);
    let mut kind = filter.kind.clone().into_bytes();
    kind.push(0);
    attribute(&mut body, TCA_KIND, &kind);
    absent_is_false(exchange(RTM_DELTFILTER, ACK, &body), || {
        format!("removing a filter from interface {interface}")
    })
}

fn absent_is_false<T>(result: io::Result<T>, what: impl FnOnce() -> String) -> Result<bool, XdpError> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(source) => Err(XdpError::Netlink { what: what(), source }),
    }
}

/// Interface, qdisc, filter or address: the kernel has a different error for each that is not there.
fn is_absent(error: &io::Error) -> bool {
    const ENOENT: i32 = 2;
    const ENODEV: i32 = 19;
    const EINVAL: i32 = 22;
    const EADDRNOTAVAIL: i32 = 99;
    matches!(error.raw_os_error(), Some(ENOENT | ENODEV | EINVAL | EADDRNOTAVAIL))
}

fn tc_body(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [interface, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn find<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The answers to one request: type and body.
fn exchange(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
    if flags == DUMP {
        return client::dump(kind, body, |kind, body| Some((kind, body.to_vec())));
    }
    let mut answers = Vec::new();
    client::request(kind, flags, body, |kind, body| answers.push((kind, body.to_vec())))?;
    Ok(answers)
}
