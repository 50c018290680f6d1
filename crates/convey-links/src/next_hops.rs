//! The thread that keeps links, routes and neighbours as the kernel has them, chooses the interfaces, and
//! publishes what the workers go by.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convey_engine::{Link, NextHops, Path, Topology};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::interfaces::{Choice, Interface, Interfaces, choose};
use crate::kernel_tables;
use crate::neighbours::{Key, Neighbours};
use crate::netlink::{self, Netlink};
use crate::next_hop_objects::NextHopObjects;
use crate::rules::{Followed, rule};
use crate::wake::{Inbox, Message};

/// Wait after a change before the tables are read again, so that a burst of changes is one.
const SETTLE: Duration = Duration::from_millis(5);

/// Reading tables and publishing neighbours take at most this part of the time each, however many changes there are.
const MAX_SHARE: u32 = 4;

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
    /// What it wants now; asked again after every [`Wake::look`](crate::Wake::look).
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

/// Links, routes and rules as they are now.
pub(crate) struct Tables {
    pub(crate) choice: Choice,
    pub(crate) topology: Topology,
    links: Vec<Link>,
    names: HashMap<u32, String>,
    /// Every gateway of a route, with its interface.
    gateways: Vec<Key>,
}

impl Tables {
    /// Reads them.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn read(wanted: &Interfaces) -> io::Result<Self> {
        let messages = netlink::links()?;
        let interfaces: Vec<Interface> = messages.iter().filter_map(kernel_tables::interface).collect();
        let mut choice = choose(wanted, &interfaces);
        let links: Vec<Link> = interfaces.iter().filter_map(|i| i.link).collect();

        let index = |name: &str| interfaces.iter().find(|i| i.name == name).map(|i| i.ifindex);
        let mut rules = Vec::new();
        for message in netlink::rules()? {
            match rule(&message, index) {
                Followed::Yes(rule) => rules.push(rule),
                Followed::Never => (),
                Followed::No(why) => choice.warnings.push(why),
            }
        }
        if rules.is_empty() {
            rules.extend(convey_engine::Rule::defaults());
        }
        let objects = netlink::next_hop_objects()?;
        let objects = NextHopObjects::new(objects.iter().map(Vec::as_slice));
        let routes = netlink::routes(|message| kernel_tables::route(message, &objects))?;
        let mut gateways: Vec<Key> = routes
            .iter()
            .flat_map(|route| route.hops())
            .filter_map(|hop| Some((hop.ifindex, hop.gateway?)))
            .collect();
        gateways.sort_unstable();
        gateways.dedup();
        let topology = Topology::new(links.iter().copied(), routes, rules);
        let names = interfaces.into_iter().map(|i| (i.ifindex, i.name)).collect();
        Ok(Self { choice, topology, links, names, gateways })
    }
}

/// The thread's state.
pub struct NextHopKeeper<S> {
    sink: Arc<S>,
    netlink: Netlink,
    inbox: Inbox,
    links: Vec<Link>,
    names: HashMap<u32, String>,
    topology: Arc<Topology>,
    addresses: Vec<IpAddr>,
    told: Vec<String>,
    /// Servers nobody answers for, as last told.
    unanswered: Vec<IpAddr>,
    neighbours: Neighbours,
    read_due: Option<Instant>,
    read_not_before: Instant,
    publish_due: Option<Instant>,
    publish_not_before: Instant,
    published: Arc<NextHops>,
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
            links: Vec::new(),
            names: HashMap::new(),
            topology: Arc::default(),
            addresses: Vec::new(),
            told: Vec::new(),
            unanswered: Vec::new(),
            neighbours: Neighbours::default(),
            read_due: None,
            read_not_before: now,
            publish_due: None,
            publish_not_before: now,
            published: Arc::default(),
            age_due: now + AGING,
        };
        keeper.read(true)?;
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
        for due in [self.read_due, self.publish_due, deadline].into_iter().flatten() {
            wait = wait.min(due.saturating_duration_since(now));
        }
        self.wait(wait);
        self.take_messages();
        self.take_news();
        let now = Instant::now();
        if self.read_due.is_some_and(|due| now >= due)
            && let Err(error) = self.read(false)
        {
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

    fn wait(&self, at_most: Duration) {
        let (news, inbox) = (self.netlink.news_fd(), self.inbox.0.as_fd());
        let mut fds =
            [PollFd::from_borrowed_fd(news, PollFlags::IN), PollFd::from_borrowed_fd(inbox, PollFlags::IN)];
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
                Message::Look => self.read_soon(),
                Message::Resolve { ifindex, address } => {
                    if let Some(request) = self.neighbours.resolve((ifindex, address), Instant::now()) {
                        self.netlink.request(request, ifindex, address);
                    }
                }
            }
        }
    }

    fn take_news(&mut self) {
        let news = self.netlink.news();
        let now = Instant::now();
        let mut changed = false;
        for (present, message) in &news.neighbours {
            if let Some(neighbour) = kernel_tables::neighbour(message) {
                changed |= self.neighbours.learn(*present, &neighbour, now);
            }
        }
        if changed {
            self.publish_due.get_or_insert(now.max(self.publish_not_before));
        }
        if news.topology {
            self.read_soon();
        }
        if news.lost {
            // A missed neighbour would otherwise be missed for good.
            match netlink::neighbours() {
                Ok(all) => self.learn_all(&all),
                Err(_) => self.read_due = Some(now + AGAIN),
            }
            self.read_soon();
        }
    }

    fn read_soon(&mut self) {
        let due = (Instant::now() + SETTLE).max(self.read_not_before);
        self.read_due.get_or_insert(due);
    }

    fn read(&mut self, neighbours_too: bool) -> io::Result<()> {
        let began = Instant::now();
        self.read_due = None;
        let wanted = self.sink.wanted();
        let tables = Tables::read(&wanted.interfaces)?;
        if neighbours_too {
            let all = netlink::neighbours()?;
            self.learn_all(&all);
        }
        let links = &tables.links;
        self.neighbours.retain_interfaces(|ifindex| links.iter().any(|l| l.ifindex == ifindex));
        let came_up = links.iter().any(|link| !self.links.contains(link));
        self.topology = Arc::new(tables.topology);
        self.links = tables.links;
        self.names = tables.names;
        let Choice { listen: interfaces, warnings } = tables.choice;
        for warning in warnings.iter().filter(|w| !self.told.contains(w)) {
            self.sink.warn(warning.clone());
        }
        self.told = warnings;

        let now = Instant::now();
        let gateways = tables.gateways.into_iter().filter(|(ifindex, _)| interfaces.contains(ifindex));
        self.neighbours.keep(self.neighbours_to_keep(&wanted.servers, gateways), now);
        if came_up {
            self.neighbours.ask_all(now);
        }
        let all = self.sink.listen_on(&interfaces);
        self.read_not_before = began + began.elapsed() * MAX_SHARE;
        if !all? {
            // Something else holds the place of the guard: whoever put it there may go.
            self.read_due.get_or_insert(now + AGAIN);
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
        self.publish_due.get_or_insert(now);
        Ok(())
    }

    fn learn_all(&mut self, messages: &[netlink_packet_route::neighbour::NeighbourMessage]) {
        let now = Instant::now();
        for neighbour in messages.iter().filter_map(kernel_tables::neighbour) {
            self.neighbours.learn(true, &neighbour, now);
        }
        self.publish_due.get_or_insert(now);
    }

    /// Those that lead to servers, and the gateways of the interfaces listened on.
    fn neighbours_to_keep(&self, servers: &[IpAddr], gateways: impl Iterator<Item = Key>) -> Vec<Key> {
        let table = NextHops::over(self.topology.clone(), []);
        let mut keep: Vec<Key> = servers.iter().filter_map(|s| table.way(&Path::to(*s)).ok()).collect();
        keep.extend(gateways);
        keep.sort_unstable();
        keep.dedup();
        keep
    }

    fn publish(&mut self) {
        let began = Instant::now();
        self.publish_due = None;
        let table = NextHops::over(self.topology.clone(), self.neighbours.usable());
        self.published = Arc::new(table);
        self.sink.publish(self.published.clone());
        self.publish_not_before = began + began.elapsed() * MAX_SHARE;
    }
}
