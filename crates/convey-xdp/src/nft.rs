//! The same by nft, where BPF is refused, and for people who want to type it.
//!
//! The tables are ordinary ones. One with `flags owner` would vanish with the netlink socket that made it,
//! which is nft's own and gone when the command returns; so they are deleted by name.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use crate::{Endpoint, GuardRules, XdpError, protocol_name};

/// The table of the guard with this id.
pub fn guard_table(id: &str) -> String {
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("convey_{id}")
}

/// What `nft -f` takes to guard `interfaces`; replaces a table of the same name in one transaction.
///
/// Differs from the kernel program in two points. ICMP errors are not dropped: the kernel never answers one, so
/// nothing is lost by that. Nor are later fragments, which the kernel gives up without their first, and says nothing.
///
/// # Errors
/// [`XdpError::Rules`] for an interface name that nft cannot quote.
pub fn guard_ruleset(table: &str, interfaces: &[String], rules: &GuardRules) -> Result<String, XdpError> {
    let mut text =
        format!("add table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\n");
    let intervals = "flags interval; auto-merge; ";
    let mut matches = Vec::new();
    for (family, ip, v6) in [("ipv4", "ip", false), ("ipv6", "ip6", true)] {
        let vips = endpoints(&rules.vips, v6);
        let servers = endpoints(&rules.servers, v6);
        let mut nat: Vec<String> = rules
            .nat
            .iter()
            .filter(|r| r.addr.is_ipv6() == v6)
            .map(|r| {
                let (from, to) = (r.ports.start(), r.ports.end());
                format!("{} . {} . {from}-{to}", protocol_name(r.protocol), r.addr)
            })
            .collect();
        nat.sort();
        nat.dedup();
        if !vips.is_empty() {
            set(&mut text, &format!("vips_{ip}"), family, intervals, &vips);
            matches.push(format!("meta l4proto . {ip} daddr . th dport @vips_{ip} counter drop"));
        }
        if !servers.is_empty() && !nat.is_empty() {
            set(&mut text, &format!("servers_{ip}"), family, "", &servers);
            set(&mut text, &format!("nat_{ip}"), family, intervals, &nat);
            matches.push(format!(
                "meta l4proto . {ip} saddr . th sport @servers_{ip} \
                 meta l4proto . {ip} daddr . th dport @nat_{ip} counter drop"
            ));
        }
    }
    for (i, interface) in interfaces.iter().enumerate() {
        let device = quoted(interface)?;
        let _ = writeln!(text, "  chain ingress_{i} {{");
        let _ = writeln!(text, "    type filter hook ingress device {device} priority -500; policy accept;");
        for line in &matches {
            let _ = writeln!(text, "    {line}");
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    Ok(text)
}

fn endpoints(endpoints: &[Endpoint], v6: bool) -> Vec<String> {
    let mut elements: Vec<String> = endpoints
        .iter()
        .filter(|e| e.addr.is_ipv6() == v6)
        .map(|e| {
            let ports = match e.addr.port() {
                0 => "0-65535".to_owned(),
                port => port.to_string(),
            };
            format!("{} . {} . {ports}", protocol_name(e.protocol), e.addr.ip())
        })
        .collect();
    elements.sort();
    elements.dedup();
    elements
}

fn set(text: &mut String, name: &str, family: &str, flags: &str, elements: &[String]) {
    let elements = elements.join(", ");
    let kind = format!("inet_proto . {family}_addr . inet_service");
    let _ = writeln!(text, "  set {name} {{ type {kind}; {flags}elements = {{ {elements} }}; }}");
}

/// An interface name as nft's grammar takes it.
///
/// # Errors
/// [`XdpError::Rules`] when the name has a quote or a control character in it.
pub fn quoted(interface: &str) -> Result<String, XdpError> {
    if interface.chars().any(|c| c == '"' || c == '\\' || c.is_control()) {
        return Err(XdpError::Rules(format!(
            "nft cannot be told about the interface {interface:?}; rename it (ip link set … name …)"
        )));
    }
    Ok(format!("\"{interface}\""))
}

/// Commands that rewrite a server's replies by hand: source `server` becomes `vip` unless the packet goes to one
/// of `excluded`. Needs Linux 5.16 for the egress hook.
///
/// # Errors
/// As [`quoted`].
pub fn dsr_commands(
    [table, chain]: [&str; 2],
    interface: &str,
    server: Endpoint,
    vip: IpAddr,
    excluded: &[IpAddr],
) -> Result<Vec<String>, XdpError> {
    let ip = if vip.is_ipv6() { "ip6" } else { "ip" };
    let excluded: Vec<String> = excluded.iter().map(ToString::to_string).collect();
    Ok(vec![
        format!("nft add table netdev {table}"),
        format!(
            "nft 'add chain netdev {table} {chain} {{ type filter hook egress device {} priority 0; }}'",
            quoted(interface)?
        ),
        format!(
            "nft 'add rule netdev {table} {chain} {ip} saddr {} {} sport {} {ip} daddr != {{ {} }} {ip} saddr set {vip}'",
            server.addr.ip(),
            protocol_name(server.protocol),
            server.addr.port(),
            excluded.join(", "),
        ),
    ])
}

/// Deletes a table of the netdev family; none of that name is fine. Returns whether there was one.
///
/// # Errors
/// [`XdpError::Nft`].
pub fn delete_table(table: &str) -> Result<bool, XdpError> {
    match run(&format!("delete table netdev {table}\n")) {
        Ok(()) => Ok(true),
        Err(XdpError::Nft { reason }) if reason.contains("No such file or directory") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Feeds `ruleset` to `nft -f -`.
///
/// # Errors
/// [`XdpError::Nft`] with what nft printed.
pub fn run(ruleset: &str) -> Result<(), XdpError> {
    let failed = |reason: String| XdpError::Nft { reason };
    // sbin is missing from the PATH of many services.
    let child = ["nft", "/usr/sbin/nft", "/sbin/nft"]
        .iter()
        .map(|program| {
            Command::new(program)
                .args(["-f", "-"])
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
        })
        .find(|spawned| !matches!(spawned, Err(e) if e.kind() == std::io::ErrorKind::NotFound));
    let mut child = match child {
        Some(Ok(child)) => child,
        Some(Err(error)) => return Err(failed(error.to_string())),
        None => return Err(failed("there is no nft command".into())),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A parse error makes nft close its end early; its exit code and message say so below.
        let _ = stdin.write_all(ruleset.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().next().unwrap_or("it said nothing");
    Err(failed(format!("{first} ({})", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use convey_core::Protocol;

    #[test]
    fn an_interface_name_cannot_break_out_of_its_quotes() {
        assert!(quoted("eth0\" ; flush ruleset").is_err());
        assert_eq!(quoted("eth0.5").unwrap(), "\"eth0.5\"");
    }

    #[test]
    fn a_table_name_has_only_what_nft_takes() {
        assert_eq!(guard_table("b12-x y"), "convey_b12_x_y");
    }

    #[test]
    fn families_are_kept_apart() {
        let endpoint = |a: &str| Endpoint { protocol: Protocol::Tcp, addr: a.parse().unwrap() };
        let rules = GuardRules {
            vips: vec![endpoint("192.0.2.1:80"), endpoint("[2001:db8::1]:80")],
            ..GuardRules::default()
        };
        let text = guard_ruleset("t", &["eth0".into()], &rules).unwrap();
        assert!(text.contains("elements = { tcp . 192.0.2.1 . 80 }"));
        assert!(text.contains("elements = { tcp . 2001:db8::1 . 80 }"));
    }
}
