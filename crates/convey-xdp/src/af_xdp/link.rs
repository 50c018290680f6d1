//! What must be known of an interface before it is listened on.

use std::io;

use convey_links::client::{attributes, request};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_XDP: u16 = 43;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Of an attribute's type: it contains others.
const NESTED: u16 = 0x8000;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its MAC address; zero where it has none.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// What kind of virtual device it is ("veth"); empty for hardware.
    pub kind: String,
    /// The XDP program that is attached, by its id; 0 where the id is not told.
    pub xdp_program: Option<u32>,
}

impl Facts {
    /// Whether senders on this machine may leave checksums open on the way here.
    pub fn has_open_checksums(&self) -> bool {
        matches!(self.kind.as_str(), "veth" | "tun")
    }
}

/// Asks the kernel about an interface.
///
/// # Errors
/// What it answers; ENODEV when there is none.
pub fn facts(ifindex: u32) -> io::Result<Facts> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut found = None;
    request(RTM_GETLINK, 0, &body, |kind, body| {
        if kind == RTM_NEWLINK {
            found = body.get(16..).map(parse);
        }
    })?;
    found.ok_or_else(|| rustix::io::Errno::NODEV.into())
}

fn parse(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    for (kind, value) in attributes(bytes) {
        match kind & !NESTED {
            IFLA_ADDRESS => facts.mac = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => facts.name = text(value),
            IFLA_MTU => facts.mtu = number(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).into_iter().find(|(k, _)| k & !NESTED == IFLA_INFO_KIND);
                facts.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_XDP => {
                let all = attributes(value);
                let of = |wanted| all.iter().find(|(k, _)| k & !NESTED == wanted).map(|(_, value)| *value);
                let is_attached = of(IFLA_XDP_ATTACHED).is_some_and(|value| value.first() != Some(&0));
                facts.xdp_program = is_attached.then(|| of(IFLA_XDP_PROG_ID).map_or(0, number));
            }
            _ => (),
        }
    }
    facts
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
