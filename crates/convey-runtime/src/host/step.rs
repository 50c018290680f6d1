//! One change of the host: how a person would type it, what has to be remembered, and doing it.

use convey_xdp::netlink::{self, InterfaceAddress};
use convey_xdp::{GuardMethod, GuardRules, dsr, nft};

use super::journal::{Found, Record};
use super::port_set::PortSet;
use super::undo::{RESERVED_PORTS, reserved_by};
use super::{HostError, sys, sysctl};

/// A change of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keeps the kernel from choosing these ports for connections of its own, which translation would mistake
    /// for its own.
    ReservePorts(PortSet),
    /// Coalesced by the NIC without what is needed to send them on, frames cannot be forwarded. The kernel does
    /// this by itself where it forwards; here it does not know that anybody does.
    DisableLro {
        /// The interface.
        interface: String,
    },
    /// Keeps the kernel from answering what the engine forwards.
    Guard {
        /// Names the nft table, where one is used.
        id: String,
        /// The interfaces.
        interfaces: Vec<String>,
        /// What is kept from the kernel.
        rules: GuardRules,
        /// `None`: a kernel program where it is allowed, nft otherwise.
        method: Option<GuardMethod>,
    },
    /// Sets a kernel parameter unless its value is acceptable already.
    Sysctl {
        /// Its name, as sysctl takes it.
        key: String,
        /// The value to set.
        value: String,
        /// Other values that do.
        acceptable: &'static [&'static str],
    },
    /// Gives an interface the qdisc that programs hang on.
    Clsact {
        /// The interface.
        interface: String,
    },
    /// Attaches the egress program of a server.
    EgressProgram {
        /// The interface.
        interface: String,
        /// What it rewrites.
        rewrite: dsr::DsrRewrite,
    },
    /// Adds an address.
    Address {
        /// The interface.
        interface: String,
        /// The address, with a prefix of its full length.
        address: std::net::IpAddr,
    },
}

impl Step {
    /// Commands a person could type, with comments where the step is done by other means.
    ///
    /// # Errors
    /// [`HostError`] when the present state, on which the command depends, cannot be read.
    pub fn describe(&self) -> Result<Vec<String>, HostError> {
        Ok(match self {
            Self::ReservePorts(ports) => {
                let merged = present_reserved()?.union(ports);
                vec![format!("sysctl -w {RESERVED_PORTS}={merged}")]
            }
            Self::DisableLro { interface } => {
                if sys::lro(interface) == Some(true) {
                    vec![format!("ethtool -K {interface} lro off")]
                } else {
                    Vec::new()
                }
            }
            Self::Guard { id, interfaces, rules, method } => {
                let mut lines = Vec::new();
                if *method != Some(GuardMethod::Nft) {
                    lines.push(format!(
                        "# by a kernel program at TCX ingress of {}; nft, which stands in where BPF is refused:",
                        interfaces.join(", ")
                    ));
                }
                lines.push("nft -f - <<'END'".to_owned());
                let ruleset = nft::guard_ruleset(&nft::guard_table(id), interfaces, rules)?;
                // The first two lines replace a table that is not there yet.
                lines.extend(ruleset.lines().skip(2).map(str::to_owned));
                lines.push("END".to_owned());
                lines
            }
            Self::Sysctl { key, value, acceptable } => {
                if is_acceptable(&sysctl::read(key)?, value, acceptable) {
                    Vec::new()
                } else {
                    vec![format!("sysctl -w {key}={value}")]
                }
            }
            Self::Clsact { interface } => vec![format!("# tc qdisc add dev {interface} clsact")],
            Self::EgressProgram { interface, rewrite } => {
                let mut lines = vec![format!("# by a kernel program at tc egress of {interface}; with nft:")];
                // A chain belongs to an interface.
                let name = interface.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
                let chain = format!("egress_{}", name.collect::<String>());
                lines.extend(nft_commands(&chain, interface, rewrite)?);
                lines
            }
            Self::Address { interface, address } => {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                vec![format!("ip addr add {address}/{} dev {interface}{nodad}", full_prefix(*address))]
            }
        })
    }

    /// What must be written down before [`Step::perform`]; `None` when nothing needs undoing.
    ///
    /// # Errors
    /// [`HostError`].
    pub(crate) fn record(&self, peers: &[Found]) -> Result<Option<Record>, HostError> {
        let of_peer = |matches: fn(&Record, &str) -> bool, name: &str| {
            peers.iter().flat_map(|p| &p.entry.records).find(|r| matches(r, name)).cloned()
        };
        Ok(match self {
            Self::ReservePorts(ports) => {
                // What the operator had reserved stays reserved after us; what another convey added is ours too.
                let foreign = present_reserved()?.without(&reserved_by(peers));
                Some(Record::ReservedPorts { added: ports.without(&foreign).to_string() })
            }
            Self::DisableLro { interface } => {
                let shared =
                    of_peer(|r, i| matches!(r, Record::Lro { interface } if interface == i), interface);
                let on = sys::lro(interface) == Some(true);
                shared.or_else(|| on.then(|| Record::Lro { interface: interface.clone() }))
            }
            // The program needs no record: it vanishes with the process. Whether nft stands in shows later.
            Self::Guard { id, method, .. } => {
                (*method != Some(GuardMethod::Bpf)).then(|| Record::NftTable { name: nft::guard_table(id) })
            }
            Self::Sysctl { key, value, acceptable } => {
                let present = sysctl::read(key)?;
                if !is_acceptable(&present, value, acceptable) {
                    return Ok(Some(Record::Sysctl { key: key.clone(), set: value.clone(), saved: present }));
                }
                // Who changed it first knows what it was; whoever ends last puts that back.
                let changed = |r: &Record, k: &str| matches!(r, Record::Sysctl { key, set, saved } if key == k && set != saved);
                let unchanged = Record::Sysctl { key: key.clone(), set: present.clone(), saved: present };
                of_peer(changed, key).or(Some(unchanged))
            }
            Self::Clsact { interface } => {
                let index = required_index(interface)?;
                let record = Record::Clsact { interface: interface.clone(), index };
                let shared = peers.iter().any(|p| p.entry.records.contains(&record));
                (shared || !netlink::has_clsact(index)?).then_some(record)
            }
            Self::EgressProgram { interface, .. } => {
                let index = required_index(interface)?;
                let handle = dsr::next_handle(index)?;
                Some(Record::EgressProgram { interface: interface.clone(), index, handle })
            }
            Self::Address { interface, address } => {
                let record = Record::Address {
                    interface: interface.clone(),
                    address: *address,
                    prefix: full_prefix(*address),
                };
                let shared = peers.iter().any(|p| p.entry.records.contains(&record));
                (shared || !has_address(required_index(interface)?, *address)?).then_some(record)
            }
        })
    }

    /// Does it. The guard, which is held rather than left, is installed by whoever holds it.
    ///
    /// # Errors
    /// [`HostError`].
    pub(crate) fn perform(&self, record: Option<&Record>) -> Result<(), HostError> {
        match self {
            Self::ReservePorts(ports) => {
                let present = present_reserved()?;
                let next = present.union(ports);
                if next != present {
                    sysctl::write(RESERVED_PORTS, &next.to_string())?;
                }
            }
            Self::DisableLro { interface } => {
                if sys::lro(interface) == Some(true) {
                    sys::set_lro(interface, false)
                        .map_err(|source| HostError::Offload { interface: interface.clone(), source })?;
                }
            }
            Self::Guard { .. } => {}
            Self::Sysctl { key, value, acceptable } => {
                if !is_acceptable(&sysctl::read(key)?, value, acceptable) {
                    sysctl::write(key, value)?;
                }
            }
            Self::Clsact { interface } => {
                netlink::add_clsact(required_index(interface)?)?;
            }
            Self::EgressProgram { rewrite, .. } => {
                if let Some(Record::EgressProgram { index, handle, .. }) = record {
                    dsr::attach(*index, *handle, rewrite)?;
                }
            }
            Self::Address { interface, address } => {
                let index = required_index(interface)?;
                if !has_address(index, *address)? {
                    let prefix = full_prefix(*address);
                    netlink::add_address(InterfaceAddress { interface: index, address: *address, prefix })?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn required_index(interface: &str) -> Result<u32, HostError> {
    netlink::interface_index(interface)?.ok_or_else(|| HostError::NoInterface(interface.to_owned()))
}

pub(crate) fn full_prefix(address: std::net::IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

pub(crate) fn has_address(interface: u32, address: std::net::IpAddr) -> Result<bool, HostError> {
    Ok(netlink::addresses()?.iter().any(|a| a.interface == interface && a.address == address))
}

pub(crate) fn is_acceptable(present: &str, value: &str, acceptable: &[&str]) -> bool {
    sysctl::is_same(present, value) || acceptable.contains(&present)
}

pub(crate) fn present_reserved() -> Result<PortSet, HostError> {
    let text = sysctl::read(RESERVED_PORTS)?;
    PortSet::parse(&text).ok_or_else(|| HostError::Sysctl {
        action: "read",
        key: RESERVED_PORTS.to_owned(),
        source: std::io::Error::other(format!("{text:?} is no list of ports")),
    })
}

pub(crate) fn nft_commands(
    chain: &str,
    interface: &str,
    rewrite: &dsr::DsrRewrite,
) -> Result<Vec<String>, HostError> {
    let mut excluded = rewrite.excluded.clone();
    excluded.push(rewrite.vip);
    excluded.retain(|ip| ip.is_ipv6() == rewrite.vip.is_ipv6());
    excluded.sort();
    excluded.dedup();
    Ok(nft::dsr_commands(["convey_dsr", chain], interface, rewrite.server, rewrite.vip, &excluded)?)
}
