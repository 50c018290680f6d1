//! The thread that keeps links, routes and neighbours as the kernel has them, chooses the interfaces, and
//! publishes what the workers go by.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convey_engine::routes::Target;
use convey_engine::{Hop, Link, Links, NextHops, Objects, Path, Rule, Topology};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::interfaces::{Choice, Interfaces};
use crate::kernel_tables;
use crate::link_tables::{LinkTables, ways_to};
use crate::neighbours::{Key, Neighbours};
use crate::netlink::{self, Netlink};
use crate::route_follower::RouteFollower;
use crate::wake::{Inbox, Message};

/// Wait after a change before it is read or published, so that a burst of changes is one.
const SETTLE: Duration = Duration::from_millis(5);

/// Reading links and publishing take at most this part of the time each, however many changes there are.
const MAX_SHARE: u32 = 4;

/// How long news waits at most for others to be published with.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// How often neighbours that packets are sent to are looked at for their age.
const AGING: Duration = Duration::from_millis(500);

/// How soon tables are read again after the kernel refused.
const AGAIN: Duration = Duration::from_secs(1);

/// What an engine wants of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where to listen.
    pub interfaces: Interfaces,
    /// Addresses of servers, whose neighbours are kept fresh.
    pub servers: Vec<IpAddr>,
}

/// The engine, as the keeper sees it. Called from the keeper's thread alone.
pub trait LinkSink: Send + Sync {
    /// Whether the engine closes.
    fn is_closing(&self) -> bool;
    /// What it wants now; asked again after every [`Wake::refresh`](crate::Wake::refresh).
    fn wanted(&self) -> Wanted;
    /// Listens on these interfaces, in rising order, from now on. Tells whether on all of them; if not, it is
    /// asked again in a second.
    ///
    /// # Errors
    /// Why it listens where it did.
    fn listen_on(&self, interfaces: &[u32]) -> io::Result<bool>;
    /// Sends packets by these from now on.
    fn publish(&self, next_hops: Arc<NextHops>);
    /// The host has these addresses, loopback ones included, in rising order.
    fn addresses(&self, addresses: &[IpAddr]);
    /// Tells the operator.
    fn warn(&self, message: String);
}

/// What is to be published.
#[derive(Default)]
struct Changed {
    topology: bool,
    neighbours: bool,
    /// Time taken by it so far.
    took: Duration,
}

/// The thread's state.
pub struct NextHopKeeper<S> {
    sink: Arc<S>,
    netlink: Netlink,
    inbox: Inbox,
    wanted: Wanted,
    listening: Vec<u32>,
    links: Arc<Links>,
    rules: Vec<Rule>,
    objects: Arc<Objects>,
    names: HashMap<u32, String>,
    routes: RouteFollower,
    topology: Arc<Topology>,
    addresses: Vec<IpAddr>,
    told: Vec<String>,
    told_routes: Vec<String>,
    /// Servers nobody answers for, as last told.
    unanswered: Vec<IpAddr>,
    neighbours: Neighbours,
    published_neighbours: Arc<convey_engine::Neighbours>,
    read_due: Option<Instant>,
    read_not_before: Instant,
    changed: Changed,
    publish_due: Option<Instant>,
    publish_not_before: Instant,
    published: Arc<NextHops>,
    /// Kept until the next one is published: no worker is to be the one that frees a full table.
    former: Arc<NextHops>,
    age_due: Instant,
}

impl<S: LinkSink> NextHopKeeper<S> {
    /// Reads the tables and publishes them for the first time.
    ///
    /// # Errors
    /// rtnetlink cannot be opened or read.
    pub fn start(sink: Arc<S>, inbox: Inbox) -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let now = Instant::now();
        let mut keeper = Self {
            sink,
            netlink,
            inbox,
            wanted: Wanted::default(),
            listening: Vec::new(),
            links: Arc::default(),
            rules: Vec::new(),
            objects: Arc::default(),
            names: HashMap::new(),
            routes: RouteFollower::start()?,
            topology: Arc::default(),
            addresses: Vec::new(),
            told: Vec::new(),
            told_routes: Vec::new(),
            unanswered: Vec::new(),
            neighbours: Neighbours::default(),
            published_neighbours: Arc::default(),
            read_due: None,
            read_not_before: now,
            changed: Changed::default(),
            publish_due: None,
            publish_not_before: now,
            published: Arc::default(),
            former: Arc::default(),
            age_due: now + AGING,
        };
        keeper.tell_not_followed();
        keeper.learn_all(&netlink::neighbours()?);
        keeper.read()?;
        keeper.publish();
        Ok(keeper)
    }

    /// Asks for the link-layer addresses of servers and gateways and waits for them, but not for long: the first
    /// packet of the first client should not be the one that misses them.
    pub fn resolve_first(&mut self, at_most: Duration) {
        let end = Instant::now() + at_most;
        while Instant::now() < end && !self.neighbours.all_known() {
            self.round(Some(end));
        }
    }

    /// Runs until the engine closes.
    pub fn run(&mut self) {
        while !self.sink.is_closing() {
            self.round(None);
        }
    }

    fn round(&mut self, deadline: Option<Instant>) {
        let (requests, mut wait) = self.neighbours.tick(Instant::now());
        for (request, (ifindex, address)) in requests {
            self.netlink.request(request, ifindex, address);
        }
        let now = Instant::now();
        if now >= self.age_due {
            self.age_due = now + AGING;
            self.tell_unanswered(now);
            for (request, (ifindex, address)) in self.neighbours.age(self.published.take_used(), now) {
                self.netlink.request(request, ifindex, address);
            }
        }
        wait = wait.min(self.age_due - now);
        for due in [self.read_due, self.publish_due, self.routes.due(), deadline].into_iter().flatten() {
            wait = wait.min(due.saturating_duration_since(now));
        }
        self.wait(wait);
        self.take_messages();
        self.take_news();
        let now = Instant::now();
        if self.neighbours.take_silence_changed() {
            self.publish_soon(now);
        }
        let routes = self.routes.tick(now);
        if matches!(routes, Ok(true)) {
            self.tell_not_followed();
            self.changed.topology = true;
            self.publish_soon(now);
        }
        let links = if self.read_due.is_some_and(|due| now >= due) { self.read() } else { Ok(()) };
        if let Some(error) = links.err().or(routes.err()) {
            let message = format!(
                "Cannot follow links and routes of the kernel ({error}); packets go by the last ones known"
            );
            self.sink.warn(message);
            self.read_due = Some(now + AGAIN);
        }
        if self.publish_due.is_some_and(|due| now >= due) {
            self.publish();
        }
    }

    /// Tells of servers whose neighbour does not answer, once each time that happens.
    fn tell_unanswered(&mut self, now: Instant) {
        let silent: Vec<Key> = self.neighbours.unanswered(now).collect();
        if silent.is_empty() && self.unanswered.is_empty() {
            return;
        }
        let mut unanswered = Vec::new();
        for server in self.sink.wanted().servers {
            let Ok((ifindex, neighbour)) = self.published.way(&Path::to(server)) else { continue };
            if !silent.contains(&(ifindex, neighbour)) {
                continue;
            }
            unanswered.push(server);
            if !self.unanswered.contains(&server) {
                let link = self.names.get(&ifindex).map_or("?", String::as_str);
                let by =
                    if neighbour == server { String::new() } else { format!(" by the router {neighbour}") };
                self.sink.warn(format!(
                    "Server address {server} cannot be reached{by}: nobody on {link} answers for {neighbour}; packets to it \
                     are dropped as no_next_hop"
                ));
            }
        }
        self.unanswered = unanswered;
    }

    /// Tells of routes that packets do not go by, once each time there is one.
    fn tell_not_followed(&mut self) {
        let now = self.routes.not_followed();
        for warning in now.iter().filter(|w| !self.told_routes.contains(w)) {
            self.sink.warn(warning.clone());
        }
        self.told_routes = now.to_vec();
    }

    fn wait(&self, at_most: Duration) {
        let fds = [Some(self.netlink.news_fd()), Some(self.inbox.0.as_fd()), self.routes.fd()];
        let mut fds: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn take_messages(&mut self) {
        while let Some(message) = self.inbox.next() {
            match message {
                Message::Refresh => self.read_soon(),
                Message::Resolve { ifindex, address } => {
                    if let Some(request) = self.neighbours.resolve((ifindex, address), Instant::now()) {
                        self.netlink.request(request, ifindex, address);
                    }
                }
            }
        }
    }

    fn take_news(&mut self) {
        let began = Instant::now();
        let news = self.netlink.news();
        for (present, message) in &news.neighbours {
            if let Some(neighbour) = kernel_tables::neighbour(message) {
                self.changed.neighbours |= self.neighbours.learn(*present, &neighbour, began);
            }
        }
        for change in news.routes {
            self.changed.topology |= self.routes.apply(change);
        }
        if news.links {
            self.read_soon();
        }
        if news.routes_may_be_gone {
            self.routes.read_soon(began);
        }
        if news.lost {
            // A missed neighbour would otherwise be missed for good.
            match netlink::neighbours() {
                Ok(all) => self.learn_all(&all),
                Err(_) => self.read_due = Some(began + AGAIN),
            }
            self.read_soon();
            self.routes.read_soon(began);
        }
        if self.changed.topology || self.changed.neighbours {
            self.changed.took += began.elapsed();
            self.publish_soon(began);
        }
    }

    fn read_soon(&mut self) {
        let due = (Instant::now() + SETTLE).max(self.read_not_before);
        self.read_due.get_or_insert(due);
    }

    fn publish_soon(&mut self, now: Instant) {
        self.publish_due.get_or_insert(now.max(self.publish_not_before));
    }

    fn read(&mut self) -> io::Result<()> {
        let began = Instant::now();
        self.read_due = None;
        self.wanted = self.sink.wanted();
        let LinkTables { choice, links, rules, objects, names } = LinkTables::read(&self.wanted.interfaces)?;
        self.neighbours.retain_interfaces(|ifindex| links.usable(ifindex).is_some());
        let came_up = links.all_usable().any(|link: &Link| self.links.usable(link.ifindex) != Some(link));
        if links != self.links {
            // A link that goes down takes IPv4 routes with it without a word.
            self.routes.read_soon(began);
        }
        (self.links, self.rules, self.objects, self.names) = (links, rules, objects, names);
        let Choice { listen, warnings } = choice;
        for warning in warnings.iter().filter(|w| !self.told.contains(w)) {
            self.sink.warn(warning.clone());
        }
        self.told = warnings;
        self.listening = listen;
        self.changed.topology = true;
        self.changed.neighbours = true;
        self.publish_soon(began);
        if came_up {
            self.neighbours.ask_all(began);
        }
        let all = self.sink.listen_on(&self.listening);
        self.read_not_before = began + began.elapsed() * MAX_SHARE;
        if !all? {
            // Something else holds the place of the guard: whoever put it there may go.
            self.read_due.get_or_insert(Instant::now() + AGAIN);
        }
        let messages = netlink::addresses()?;
        let mut addresses: Vec<IpAddr> =
            messages.iter().filter_map(kernel_tables::interface_address).map(|(_, a)| a).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses != self.addresses {
            self.sink.addresses(&addresses);
            self.addresses = addresses;
        }
        Ok(())
    }

    fn learn_all(&mut self, messages: &[netlink_packet_route::neighbour::NeighbourMessage]) {
        let now = Instant::now();
        for neighbour in messages.iter().filter_map(kernel_tables::neighbour) {
            self.neighbours.learn(true, &neighbour, now);
        }
        self.changed.neighbours = true;
        self.publish_soon(now);
    }

    /// Those that lead to servers, and the gateways of the interfaces listened on.
    fn neighbours_to_keep(&self) -> Vec<Key> {
        let gateway = |hop: &Hop| Some((hop.ifindex, hop.gateway?));
        let by_routes = self.routes.table().hops().filter_map(gateway);
        let by_objects = self.objects.values().flat_map(Target::hops).filter_map(gateway);
        let gateways = by_routes.chain(by_objects).filter(|(ifindex, _)| self.listening.contains(ifindex));
        let mut keep: Vec<Key> =
            gateways.chain(ways_to(&self.wanted.servers, &self.topology, &self.links)).collect();
        keep.sort_unstable();
        keep.dedup();
        keep
    }

    /// Publishes what has changed; what has not is shared with what was published before.
    fn publish(&mut self) {
        let began = Instant::now();
        self.publish_due = None;
        let changed = std::mem::take(&mut self.changed);
        if changed.topology {
            let routes = self.routes.table().routes();
            let (links, objects) = (self.links.clone(), self.objects.clone());
            self.topology = Arc::new(Topology::new(links, routes, self.rules.iter().cloned(), objects));
            self.neighbours.keep(self.neighbours_to_keep(), began);
        }
        if changed.neighbours {
            self.published_neighbours = Arc::new(self.neighbours.usable().collect());
        }
        let table = NextHops::over(self.topology.clone(), self.published_neighbours.clone());
        let table = Arc::new(table.with_silent(self.neighbours.silent()));
        self.former = std::mem::replace(&mut self.published, table.clone());
        self.sink.publish(table);
        // Taking in a change copies what was published: with many, that is the greater part.
        let took = changed.took + began.elapsed();
        self.publish_not_before = Instant::now() + (took * MAX_SHARE).min(MAX_DELAY);
    }
}
