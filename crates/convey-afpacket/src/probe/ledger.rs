//! Probes under way: what is sent when, and what an answer means. No I/O and no clock.
//!
//! An answer counts by the number it acknowledges, 32 random bits that only whoever got the SYN can know, not by the
//! MAC address it comes from: a server with several links may answer by another. But a host that does not have the
//! frontend's address and forwards packets gives the SYN back to this balancer, which hands it to a server that has
//! it: an answer from the MAC address of another server that is probed is not an answer of this one.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use convey_engine::{MacAddr, Missing, NextHop, NextHops, Path};
use convey_packet::tcp_flags::{ACK, RST, SYN};

use super::frame::{self, Course, Words};

/// A SYN is sent this often within the timeout, but at most once a second.
const TRIES: u32 = 3;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How soon a neighbour that did not answer is looked for again.
const RESOLVE_AGAIN: Duration = Duration::from_millis(20);
/// How long a SYN may take to be answered by a server whose neighbour is silent: one that does not answer ARP may be
/// there all the same.
const SILENT_WAIT: Duration = Duration::from_millis(100);
/// What comes this long after the end of a probe is still reset: its answer may have been slow, our reset lost.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// More servers than that have none whose MAC addresses are worth remembering.
const MOST_MACS: usize = 1 << 16;

/// How packets reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By its MAC address alone.
    L2,
    /// By its own address; it answers from the frontend's.
    Rewrite,
}

/// One server to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its own address and port.
    pub server: SocketAddr,
    /// Frontends it serves, all of which it has to answer for, of its family; at least one.
    pub vips: Vec<SocketAddr>,
    /// How packets reach it.
    pub method: Method,
    /// From the asking until it is given up.
    pub timeout: Duration,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered for every frontend.
    Answered,
    /// It refused a connection to this one.
    Refused(SocketAddr),
    /// It did not answer for this one; another server did in its place, if one is named.
    Silent(SocketAddr, Option<IpAddr>),
    /// It answered from this address instead of this frontend's.
    Elsewhere(SocketAddr, SocketAddr),
    /// Nobody answers for this neighbour on this interface.
    Unresolved(IpAddr, u32),
    /// No packet can be sent to it.
    NoWay(Missing),
    /// It is behind a router, where its MAC address leads nowhere.
    BehindRouter,
    /// It cannot be asked: nobody knows the way.
    NoTable,
    /// It cannot be asked: this interface has no address but those of frontends.
    NoSource(u32),
    /// This machine could not send.
    NotSent(String),
}

/// The end of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What came of it.
    pub outcome: Outcome,
    /// From the first SYN, or the asking if there was none, to the answer.
    pub latency: Duration,
}

/// Is told the end of a probe, once.
pub type Done = Box<dyn FnOnce(Report) + Send>;

/// What a probe has to know of the balancer.
pub trait Surroundings: Send {
    /// The way to the servers; `None` where there is no table of it.
    fn next_hops(&self) -> Option<Arc<NextHops>>;
    /// Has a neighbour resolved.
    fn resolve(&self, ifindex: u32, address: IpAddr);
    /// An address of this host on the interface, to ask the probe's server from: one that no server holds.
    fn source(&self, probe: &Probe, ifindex: u32) -> Option<IpAddr>;
}

/// A frame to be sent.
pub(super) struct Sent {
    /// The probe it belongs to.
    probe: u64,
    pub ifindex: u32,
    /// Behind a virtio_net_hdr.
    pub bytes: Vec<u8>,
}

/// One SYN of a probe.
struct Ask {
    vip: SocketAddr,
    isn: u32,
    port: u16,
    /// Where it was sent last, and from.
    course: Option<(u32, Course)>,
    answered: bool,
    /// Whoever answered in the server's place.
    instead: Option<IpAddr>,
}

struct Entry {
    probe: Probe,
    asks: Vec<Ask>,
    began: Instant,
    first_sent: Option<Instant>,
    trouble: Option<Outcome>,
    due: Instant,
    /// `None` once it was called: the entry stays to reset what comes late.
    done: Option<Done>,
}

/// See the module's head.
pub(super) struct Ledger<'a, S> {
    surroundings: &'a S,
    ports: Vec<u16>,
    next_port: usize,
    entries: HashMap<u64, Entry>,
    due: BTreeSet<(Instant, u64)>,
    /// The number an answer acknowledges → probe, and which of its asks.
    expected: HashMap<u32, (u64, usize)>,
    /// Of servers probed by `l2`.
    macs: HashMap<MacAddr, IpAddr>,
    ready: Vec<Sent>,
    numbers: RandomState,
    next: u64,
}

impl<'a, S: Surroundings> Ledger<'a, S> {
    /// With these source ports, at least one.
    pub(super) fn new(ports: Vec<u16>, surroundings: &'a S) -> Self {
        Self {
            surroundings,
            ports,
            next_port: 0,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            expected: HashMap::new(),
            macs: HashMap::new(),
            ready: Vec::new(),
            numbers: RandomState::new(),
            next: 0,
        }
    }

    /// When [`Ledger::look`] is to be called next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Frames to be sent now.
    pub(super) fn take_ready(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.ready)
    }

    /// Begins a probe.
    pub(super) fn ask(&mut self, probe: Probe, done: Done, now: Instant) {
        self.next += 1;
        let id = self.next;
        let asks = (0..probe.vips.len()).map(|at| self.new_ask(id, at, probe.vips[at])).collect();
        let entry =
            Entry { probe, asks, began: now, first_sent: None, trouble: None, due: now, done: Some(done) };
        self.due.insert((now, id));
        self.entries.insert(id, entry);
    }

    fn new_ask(&mut self, id: u64, at: usize, vip: SocketAddr) -> Ask {
        // A keyed hash, so that nobody can guess the next from those before.
        let mut isn = self.numbers.hash_one((id, at)) as u32;
        while self.expected.contains_key(&isn.wrapping_add(1)) {
            isn = isn.wrapping_add(1);
        }
        self.expected.insert(isn.wrapping_add(1), (id, at));
        self.next_port = (self.next_port + 1) % self.ports.len().max(1);
        let port = self.ports.get(self.next_port).copied().unwrap_or_default();
        Ask { vip, isn, port, course: None, answered: false, instead: None }
    }

    /// Sends, sends again, gives up and forgets whatever is due.
    pub(super) fn look(&mut self, now: Instant) {
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            let Some(mut entry) = self.entries.remove(&id) else { continue };
            if entry.done.is_none() {
                for ask in &entry.asks {
                    self.expected.remove(&ask.isn.wrapping_add(1));
                }
                continue;
            }
            let deadline = entry.began + entry.probe.timeout;
            if now >= deadline {
                let outcome = entry.given_up();
                self.end(id, &mut entry, outcome, now);
            } else {
                match self.send_syns(id, &mut entry, now) {
                    Ok(again) => self.plan(id, &mut entry, (now + again).min(deadline)),
                    Err(outcome) => self.end(id, &mut entry, outcome, now),
                }
            }
            self.entries.insert(id, entry);
        }
    }

    /// How soon to look again, or why that is pointless.
    fn send_syns(&mut self, id: u64, entry: &mut Entry, now: Instant) -> Result<Duration, Outcome> {
        let at = entry.probe.server.ip();
        let table = self.surroundings.next_hops().ok_or(Outcome::NoTable)?;
        let hop = match table.lookup(&Path::to(at)) {
            Ok(hop) => hop,
            Err(Missing::Neighbour { ifindex, address }) => {
                self.surroundings.resolve(ifindex, address);
                entry.trouble = Some(Outcome::Unresolved(address, ifindex));
                return Ok(RESOLVE_AGAIN);
            }
            Err(missing) => return Err(Outcome::NoWay(missing)),
        };
        if entry.probe.method == Method::L2 && !hop.on_link {
            return Err(Outcome::BehindRouter);
        }
        let neighbour =
            table.way(&Path::to(at)).ok().filter(|(ifindex, address)| table.is_silent(*ifindex, *address));
        let unresolved = neighbour.map(|(ifindex, address)| Outcome::Unresolved(address, ifindex));
        if let Some(unresolved) = &unresolved
            && entry.first_sent.is_some_and(|first| now >= first + SILENT_WAIT)
        {
            return Err(unresolved.clone());
        }
        let source = self.surroundings.source(&entry.probe, hop.ifindex);
        let source = source.ok_or(Outcome::NoSource(hop.ifindex))?;
        self.remember(&entry.probe, &hop);
        let again = if unresolved.is_some() { SILENT_WAIT } else { LONGEST_WAIT };
        entry.trouble = unresolved;
        entry.first_sent.get_or_insert(now);
        for ask in entry.asks.iter_mut().filter(|ask| !ask.answered) {
            let to = match entry.probe.method {
                Method::L2 => ask.vip,
                Method::Rewrite => entry.probe.server,
            };
            let ends = (SocketAddr::new(source, ask.port), to);
            let course = Course { macs: (hop.source, hop.destination), ends };
            ask.course = Some((hop.ifindex, course));
            let bytes = frame::build(&course, Words { seq: ask.isn, flags: SYN });
            self.ready.push(Sent { probe: id, ifindex: hop.ifindex, bytes });
        }
        Ok((entry.probe.timeout / TRIES).min(again))
    }

    fn remember(&mut self, probe: &Probe, hop: &NextHop) {
        if probe.method == Method::L2 {
            if self.macs.len() >= MOST_MACS {
                self.macs.clear();
            }
            self.macs.insert(hop.destination, probe.server.ip());
        }
    }

    /// The kernel did not take a frame.
    pub(super) fn refused(&mut self, sent: &Sent, error: &io::Error) {
        if let Some(entry) = self.entries.get_mut(&sent.probe) {
            entry.trouble = Some(Outcome::NotSent(error.to_string()));
        }
    }

    /// Takes a frame that came in.
    pub(super) fn hear(&mut self, frame: &[u8], now: Instant) {
        let Some(heard) = frame::parse(frame) else { return };
        let Some(&(id, at)) = self.expected.get(&heard.ack) else { return };
        let Some(mut entry) = self.entries.remove(&id) else { return };
        let Entry { probe, asks, done, .. } = &mut entry;
        let ask = &mut asks[at];
        let Some((ifindex, course)) = ask.course else {
            self.entries.insert(id, entry);
            return;
        };
        let is_for_us = heard.to == course.ends.0 && heard.flags & ACK != 0;
        let is_refusal = heard.flags & RST != 0;
        let from_vip = heard.from == ask.vip;
        let mut outcome = None;
        if is_for_us && is_refusal && (from_vip || heard.from == course.ends.1) {
            outcome = Some(Outcome::Refused(ask.vip));
        } else if is_for_us && heard.flags & SYN != 0 && !is_refusal {
            let other = self.macs.get(&heard.mac).copied().filter(|other| {
                probe.method == Method::L2 && heard.mac != course.macs.1 && *other != probe.server.ip()
            });
            // Whoever answered holds a half-open connection.
            let mac = if other.is_some() { heard.mac } else { course.macs.1 };
            let back = Course { macs: (course.macs.0, mac), ..course };
            let bytes = frame::build(&back, Words { seq: ask.isn.wrapping_add(1), flags: RST });
            self.ready.push(Sent { probe: id, ifindex, bytes });
            if other.is_some() {
                ask.instead = other;
            } else if from_vip {
                ask.answered = true;
                outcome = asks.iter().all(|ask| ask.answered).then_some(Outcome::Answered);
            } else {
                outcome = Some(Outcome::Elsewhere(heard.from, ask.vip));
            }
        }
        if let Some(outcome) = outcome.filter(|_| done.is_some()) {
            self.end(id, &mut entry, outcome, now);
        }
        self.entries.insert(id, entry);
    }

    /// Nobody will hear what is not answered yet: the servers are told now. Otherwise they would answer again after
    /// seconds, when the ports are somebody else's, or nobody's.
    pub(super) fn leave(&mut self) {
        for (&id, entry) in &self.entries {
            for ask in entry.asks.iter().filter(|ask| !ask.answered) {
                let Some((ifindex, course)) = &ask.course else { continue };
                let words = Words { seq: ask.isn.wrapping_add(1), flags: RST };
                let bytes = frame::build(course, words);
                self.ready.push(Sent { probe: id, ifindex: *ifindex, bytes });
            }
        }
    }

    fn end(&mut self, id: u64, entry: &mut Entry, outcome: Outcome, now: Instant) {
        let latency = now.saturating_duration_since(entry.first_sent.unwrap_or(entry.began));
        if let Some(done) = entry.done.take() {
            done(Report { outcome, latency });
        }
        self.plan(id, entry, now + AFTERWARDS);
    }

    fn plan(&mut self, id: u64, entry: &mut Entry, due: Instant) {
        self.due.remove(&(entry.due, id));
        entry.due = due;
        self.due.insert((due, id));
    }
}

impl Entry {
    /// Why, when the time is up.
    fn given_up(&self) -> Outcome {
        let silent = self.asks.iter().find(|ask| !ask.answered);
        match (&self.trouble, silent) {
            (Some(trouble), _) => trouble.clone(),
            (None, Some(ask)) => Outcome::Silent(ask.vip, ask.instead),
            (None, None) => Outcome::Answered,
        }
    }
}
