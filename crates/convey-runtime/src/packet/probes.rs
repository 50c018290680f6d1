//! Health checks that ask servers for frontends' addresses: where the probes of `convey-afpacket` get their next hops
//! and source addresses, and what came of them in names instead of numbers.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use convey_afpacket::probe::{Outcome, Probe, Prober, Report, Surroundings};
use convey_core::{Event, EventSink};
use convey_engine::{NextHops, PacketSnapshot};
use convey_xdp::netlink::{self, InterfaceAddress};

use super::{PacketPath, lock};
use crate::reachability;

/// How long addresses of interfaces count as known.
const FRESH: Duration = Duration::from_secs(1);

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The server answered for every frontend.
    Answered,
    /// It refused a connection to `vip`.
    Refused,
    /// It did not answer for `vip`; if `detail` names another server, that one did in its place.
    Silent,
    /// It answered from the address in `detail` instead of `vip`.
    Elsewhere,
    /// Nobody answers for its link-layer address, as `detail` says.
    Unresolved,
    /// No packet can be sent to it, as `detail` says.
    NoWay,
    /// It cannot be asked, as `detail` says.
    Unavailable,
    /// This machine could not send, as `detail` says.
    NotSent,
}

/// The end of a probe, in words where there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// The frontend it is about, if about one.
    pub vip: Option<SocketAddr>,
    /// See [`ProbeOutcome`]; empty where there is nothing to say.
    pub detail: String,
    /// From the first packet to the answer.
    pub latency: Duration,
}

impl ProbeReport {
    /// Servers cannot be asked at all.
    pub(crate) fn unavailable(why: String) -> Self {
        Self { outcome: ProbeOutcome::Unavailable, vip: None, detail: why, latency: Duration::ZERO }
    }

    fn of(report: Report, server: IpAddr) -> Self {
        let name = |index: u32| netlink::interface_name(index).unwrap_or_else(|_| index.to_string());
        let (outcome, vip, detail) = match report.outcome {
            Outcome::Answered => (ProbeOutcome::Answered, None, String::new()),
            Outcome::Refused(vip) => (ProbeOutcome::Refused, Some(vip), String::new()),
            Outcome::Silent(vip, other) => {
                (ProbeOutcome::Silent, Some(vip), other.map(|o| o.to_string()).unwrap_or_default())
            }
            Outcome::Elsewhere(from, vip) => (ProbeOutcome::Elsewhere, Some(vip), from.to_string()),
            Outcome::Unresolved(address, index) => {
                (ProbeOutcome::Unresolved, None, format!("nobody on {} answers for {address}", name(index)))
            }
            Outcome::NoWay(missing) => (ProbeOutcome::NoWay, None, reachability::cause(missing, server)),
            Outcome::BehindRouter => {
                let detail = "it is behind a router, and method \"l2\" reaches servers on the balancer's own link only";
                (ProbeOutcome::NoWay, None, detail.to_owned())
            }
            Outcome::NoTable => (ProbeOutcome::Unavailable, None, "the engine keeps no next hops".to_owned()),
            Outcome::NoSource(index) => {
                let detail = format!("{} has no address but those that the server holds too", name(index));
                (ProbeOutcome::Unavailable, None, detail)
            }
            Outcome::NotSent(error) => (ProbeOutcome::NotSent, None, error),
        };
        Self { outcome, vip, detail, latency: report.latency }
    }
}

/// The path that is asked for next hops, once it is there.
pub(super) type LatePath = Arc<OnceLock<Weak<PacketPath>>>;

/// Starts the probing thread while CAP_NET_RAW is still there; without it servers are checked another way.
pub(super) fn start(path: LatePath, events: &EventSink) -> Option<Prober> {
    Prober::start(Around { path, known: Mutex::default() }, events.clone())
        .inspect_err(|error| {
            let message = format!("Health checks cannot ask servers for frontends' addresses: {error}");
            events(Event::Warning { message });
        })
        .ok()
}

impl PacketPath {
    /// Asks a server; `done` is called from another thread, by the probe's timeout at the latest, or never once the
    /// path closes.
    pub(crate) fn probe(&self, probe: Probe, done: impl FnOnce(ProbeReport) + Send + 'static) {
        match &*lock(&self.prober) {
            Some(prober) => {
                let server = probe.server.ip();
                prober.ask(probe, Box::new(move |report| done(ProbeReport::of(report, server))));
            }
            None => done(ProbeReport::unavailable("there is no packet socket to ask by".to_owned())),
        }
    }
}

struct Around {
    path: LatePath,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The configuration `held` is of.
    snapshot: Weak<PacketSnapshot>,
    /// Server → addresses of frontends it serves, which it may hold itself.
    held: HashMap<IpAddr, HashSet<IpAddr>>,
    addresses: Vec<InterfaceAddress>,
    read_at: Option<Instant>,
}

impl Around {
    fn path(&self) -> Option<Arc<PacketPath>> {
        self.path.get().and_then(Weak::upgrade)
    }
}

impl Surroundings for Around {
    fn next_hops(&self) -> Option<Arc<NextHops>> {
        Some(self.path()?.engine.user_side().next_hops())
    }

    fn resolve(&self, ifindex: u32, address: IpAddr) {
        if let Some(path) = self.path() {
            path.engine.user_side().resolve(ifindex, address);
        }
    }

    fn source(&self, probe: &Probe, ifindex: u32) -> Option<IpAddr> {
        let path = self.path()?;
        let mut known = lock(&self.known);
        // A reload holds it for as long as it builds: what was known before serves meanwhile.
        if let Ok(installed) = path.installed.try_lock() {
            known.update(&installed.packet);
        }
        let server = probe.server.ip();
        let held = known.held.get(&server);
        let is_held = |a: &IpAddr| {
            held.is_some_and(|held| held.contains(a)) || probe.vips.iter().any(|vip| vip.ip() == *a)
        };
        // What an ordinary connect would come from, if the server does not hold it.
        if let Some(usual) = usual_source(probe.server).filter(|a| !is_held(a)) {
            return Some(usual);
        }
        let is_usable = |a: &&InterfaceAddress| {
            a.interface == ifindex
                && a.address.is_ipv4() == server.is_ipv4()
                && !matches!(a.address, IpAddr::V6(v6) if v6.is_unicast_link_local())
                && !is_held(&a.address)
        };
        // The server answers without a router where both are in one network.
        let usable = known.addresses.iter().filter(is_usable);
        usable.max_by_key(|a| common_bits(a.address, server) >= a.prefix).map(|a| a.address)
    }
}

impl Known {
    fn update(&mut self, packet: &Arc<PacketSnapshot>) {
        if !std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(packet)) {
            self.held.clear();
            for (frontend, server) in packet.pairs_in_service() {
                self.held.entry(server.address.into()).or_default().insert(frontend.address.into());
            }
            self.snapshot = Arc::downgrade(packet);
        }
        if self.read_at.is_none_or(|at| at.elapsed() >= FRESH) {
            if let Ok(addresses) = netlink::addresses() {
                self.addresses = addresses;
            }
            self.read_at = Some(Instant::now());
        }
    }
}

/// The address by which the kernel would connect. Sends nothing.
fn usual_source(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv6() { ([0u16; 8], 0).into() } else { ([0u8; 4], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn common_bits(a: IpAddr, b: IpAddr) -> u8 {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    bits as u8
}
