//! An interface as the kernel describes it.

use std::io;

use convey_links::client::{attributes, request};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_XDP: u16 = 43;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
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
    /// What the hardware hangs on ("pci", "virtio"), and its name there; empty for virtual devices.
    bus: String,
    device: String,
}

impl Facts {
    /// Whether senders on this machine may leave checksums open on the way here.
    pub fn has_open_checksums(&self) -> bool {
        matches!(self.kind.as_str(), "veth" | "tun")
    }

    /// The driver of hardware ("virtio_net", "ice"); `None` where there is none, or it cannot be told.
    pub fn driver(&self) -> Option<String> {
        if self.bus.is_empty() || self.device.is_empty() {
            return None;
        }
        // Unlike /sys/class/net this is the same in every network namespace.
        let link = std::fs::read_link(format!("/sys/bus/{}/devices/{}/driver", self.bus, self.device)).ok();
        let name = link.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        name.or_else(|| (self.bus == "virtio").then(|| "virtio_net".to_owned()))
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
            IFLA_PARENT_DEV_NAME => facts.device = text(value),
            IFLA_PARENT_DEV_BUS_NAME => facts.bus = text(value),
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
