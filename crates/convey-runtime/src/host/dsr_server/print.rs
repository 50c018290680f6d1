//! The same as [`super::apply`] for a host without convey.

use convey_engine::DsrMethod;
use convey_xdp::protocol_number;

use super::super::HostError;
use super::super::step::{Step, full_prefix, nft_commands};
use super::discover::interfaces;
use super::steps::{ARP_ANNOUNCE, ARP_IGNORE, check_addresses, rewrite};
use super::{DsrServerSpec, LOOPBACK};

/// The same as commands for a host without convey: by nft and, for IPv4, by tc with the `nat` action.
///
/// # Errors
/// [`HostError`] when the interface is neither given nor found by `server_addr`.
pub fn print(spec: &DsrServerSpec) -> Result<Vec<String>, HostError> {
    check_addresses(spec)?;
    let vip = spec.vip.ip();
    if spec.method == DsrMethod::L2 {
        let mut lines = Vec::new();
        if vip.is_ipv4() {
            for (key, value, _) in [ARP_IGNORE, ARP_ANNOUNCE] {
                lines.push(format!("sysctl -w {key}={value}"));
            }
        }
        lines.extend(Step::Address { interface: LOOPBACK.to_owned(), address: vip }.describe()?);
        lines.push(format!("# undo: ip addr del {vip}/{} dev {LOOPBACK}", full_prefix(vip)));
        return Ok(lines);
    }
    let interfaces = interfaces(spec)?;
    let mut lines = vec!["# with nft (Linux 5.16 and later):".to_owned()];
    for (n, interface) in interfaces.iter().enumerate() {
        let chain = if n == 0 { "egress".to_owned() } else { format!("egress_{n}") };
        // The table is there after the first.
        lines.extend(nft_commands(&chain, interface, &rewrite(spec))?.into_iter().skip(n.min(1)));
    }
    lines.push("# undo: nft delete table netdev convey_dsr".to_owned());
    if vip.is_ipv4() {
        lines.push(
            "# or with tc, where the kernel has the actions nat and gact (packets without IP options):"
                .to_owned(),
        );
        for interface in &interfaces {
            lines.extend(tc_commands(spec, interface));
            lines.push(format!("# undo: tc qdisc del dev {interface} clsact"));
        }
    }
    Ok(lines)
}

fn tc_commands(spec: &DsrServerSpec, interface: &str) -> Vec<String> {
    let (server, vip, port) = (spec.server_addr, spec.vip.ip(), spec.vip.port());
    let select = format!(
        "u32 match ip protocol {} 0xff match ip src {server}/32 match ip sport {port} 0xffff",
        protocol_number(spec.protocol)
    );
    let filter = format!("tc filter add dev {interface} egress protocol ip");
    let mut lines = vec![format!("tc qdisc add dev {interface} clsact")];
    for excluded in spec.balancers.iter().filter(|b| b.is_ipv4() && **b != vip).chain([&vip]) {
        lines.push(format!("{filter} prio 1 {select} match ip dst {excluded}/32 action pass"));
    }
    lines.push(format!("{filter} prio 2 {select} action nat egress {server}/32 {vip}"));
    lines
}
