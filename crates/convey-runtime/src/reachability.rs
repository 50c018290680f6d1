//! What only this host can know of a configuration: whether its servers can be reached the way it says, whether
//! it holds the frontends' addresses, and who will be answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use convey_core::SpecError;
use convey_engine::{Method, Missing, NextHops, PacketServer, PacketSnapshot, Path, Reject};
use convey_xdp::netlink::InterfaceAddress;

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable word for what it is.
    pub kind: &'static str,
    /// What was found.
    pub fact: String,
    /// What comes of it; empty where the fact says so.
    pub consequence: String,
    /// What to do; empty where that is for others to say.
    pub remedy: String,
}

impl Problem {
    fn new(kind: &'static str, fact: String, consequence: impl Into<String>) -> Self {
        Self { kind, fact, consequence: consequence.into(), remedy: String::new() }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

/// As one sentence.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fact)?;
        for (mark, part) in [(": ", &self.consequence), ("; ", &self.remedy)] {
            if !part.is_empty() {
                write!(f, "{mark}{part}")?;
            }
        }
        Ok(())
    }
}

/// What stands in the way.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Reachability {
    /// A server that can never be served as the configuration says; the first one.
    pub(crate) refused: Option<SpecError>,
    /// What an operator should know.
    pub(crate) problems: Vec<Problem>,
}

/// Looks at every server and frontend in service; `addresses` are the host's.
pub(crate) fn check(
    packet: &PacketSnapshot,
    next_hops: &NextHops,
    addresses: &[InterfaceAddress],
) -> Reachability {
    let mut reach = Reachability::default();
    for server in packet.servers_in_service() {
        let at = IpAddr::from(server.address);
        if addresses.iter().any(|a| a.address == at) {
            let why = format!(
                "{at} is an address of this host, and packets to it never leave by a link; run the server elsewhere, or \
                 use mode = \"proxy\""
            );
            reach.refuse(server, why);
            continue;
        }
        match next_hops.way(&Path::to(at)) {
            Ok((_, neighbour)) if server.method == Method::L2 && neighbour != at => {
                let why = format!(
                    "{at} is behind the router {neighbour}; method \"l2\" reaches servers on the balancer's own link \
                     only, use \"rewrite\""
                );
                reach.refuse(server, why);
            }
            Ok(_) => (),
            Err(missing) => {
                let fact = format!(
                    "Server \"{}\" of backend \"{}\" cannot be reached: {}",
                    server.name,
                    server.backend,
                    cause(missing, at)
                );
                reach.problems.push(Problem::new("no_way", fact, ""));
            }
        }
    }
    reach.problems.extend(unheld(packet, addresses));
    reach.problems.extend(rewritten_to_one(packet));
    reach.problems.extend(asked_in_vain(packet, next_hops, addresses));
    reach
}

impl Reachability {
    /// What an operator should know, in words.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }

    fn refuse(&mut self, server: &PacketServer, message: String) {
        let field = format!("backends.{}.servers.{}.addr", server.backend, server.name);
        self.refused.get_or_insert(SpecError { field, message });
    }
}

/// Why no packet can be sent to `to`, in words.
pub(crate) fn cause(missing: Missing, to: IpAddr) -> String {
    match missing {
        Missing::Route | Missing::Neighbour { .. } => format!("no route leads to {to}"),
        Missing::Link { ifindex } => {
            let name = convey_xdp::netlink::interface_name(ifindex).unwrap_or_else(|_| ifindex.to_string());
            format!("the route to {to} is over {name}, no Ethernet link that is up")
        }
        Missing::Rejected(reject) => {
            let kind = match reject {
                Reject::Blackhole => "blackhole",
                Reject::Unreachable => "unreachable",
                Reject::Prohibit => "prohibit",
            };
            format!("the route to {to} is of type {kind}")
        }
    }
}

/// Frontends whose address nobody would find here.
fn unheld(packet: &PacketSnapshot, addresses: &[InterfaceAddress]) -> Vec<Problem> {
    let mut unheld: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for (_, address, port) in packet.vips() {
        if addresses.iter().all(|a| a.address != address) {
            unheld.entry(address).or_default().insert(port);
        }
    }
    let told = unheld.keys().map(|address| {
        let fact = format!("{address}, where a frontend listens, is no address of this host");
        Problem::new("unheld", fact, "no packets for it come here until it is, or a route leads them here")
    });
    told.collect()
}

/// Servers that cannot answer for every frontend they serve: one rewrites its answers to one address.
fn rewritten_to_one(packet: &PacketSnapshot) -> Vec<Problem> {
    let mut vips: BTreeMap<(SocketAddr, u8), BTreeSet<IpAddr>> = BTreeMap::new();
    for (frontend, server) in packet.pairs_in_service().filter(|(_, s)| s.method == Method::Rewrite) {
        let port = if frontend.port == 0 { server.port } else { frontend.port };
        let at = SocketAddr::new(server.address.into(), port);
        vips.entry((at, frontend.protocol)).or_default().insert(frontend.address.into());
    }
    let several = vips.into_iter().filter(|(_, vips)| vips.len() > 1);
    let mut told: Vec<Problem> = several
        .map(|((server, _), vips)| {
            let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
            let fact = format!("Server {server} is to answer for {}", vips.join(" and "));
            let consequence = "with method \"rewrite\" a server answers from one address, so clients of the others get no answer";
            Problem::new("rewritten_to_one", fact, consequence)
                .with_remedy("give each address servers or ports of its own, or use method \"l2\"")
        })
        .collect();
    // Once, not for TCP and UDP each: they stand beside each other.
    told.dedup();
    told
}

/// With method "l2" servers hold the frontend's address, and their kernel does not answer who asks from it.
fn asked_in_vain(
    packet: &PacketSnapshot,
    next_hops: &NextHops,
    addresses: &[InterfaceAddress],
) -> Vec<Problem> {
    let l2: Vec<_> = packet.pairs_in_service().filter(|(_, s)| s.method == Method::L2).collect();
    let mut vips: HashMap<&str, BTreeSet<IpAddr>> = HashMap::new();
    for (frontend, server) in &l2 {
        vips.entry(&*server.backend).or_default().insert(frontend.address.into());
    }
    let mut told = BTreeMap::new();
    for (_, server) in &l2 {
        let at = IpAddr::from(server.address);
        let Ok((ifindex, _)) = next_hops.way(&Path::to(at)) else { continue };
        let is_usable = |a: &&InterfaceAddress| a.interface == ifindex && a.address.is_ipv4() == at.is_ipv4();
        let mut own = addresses.iter().filter(is_usable).map(|a| a.address).peekable();
        let Some(vips) = vips.get(&*server.backend).filter(|_| at.is_ipv4() && own.peek().is_some()) else {
            continue;
        };
        if own.all(|address| vips.contains(&address)) {
            let name = convey_xdp::netlink::interface_name(ifindex).unwrap_or_else(|_| ifindex.to_string());
            let consequence = format!(
                "the servers of backend \"{}\" hold these too (method \"l2\") and answer no ARP that comes from them",
                server.backend
            );
            let fact = format!("{name} has no address but those of frontends");
            let problem = Problem::new("no_own_address", fact, consequence);
            told.insert(
                (name.clone(), server.backend.clone()),
                problem.with_remedy(format!("give {name} an address of its own")),
            );
        }
    }
    told.into_values().collect()
}
