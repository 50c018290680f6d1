//! From an admitted client to a connected server: selection, connect, another server when that fails.
//!
//! Invariants: no byte is read from the client before a server is connected, so trying another server can
//! never lose or repeat one; a server's place is held from before the connect, so its limit holds throughout.
//!
//! A client that resets its connection meanwhile gives its places back at once. One that only sent its FIN may
//! have closed or may wait for an answer to what it has sent; nothing tells which before a write to it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use convey_core::selection::{Asker, Candidates};
use convey_core::{Backend, Endpoint, Event, Frontend, Reason, Server, WaitsFor};
use rustix::io::{Errno, ioctl_fionread};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::choice;
use crate::client_hello;
use crate::connections::{Connected, Connection, Listed};
use crate::events::Subject;
use crate::introduce::introduce;
use crate::limits::{ClientPlace, Full, ServerPlace};
use crate::log::Fate;
use crate::meters::Meters;
use crate::passive::{self, Witness};
use crate::published::Published;
use crate::relay::{self, Limits};
use crate::shortage::{BACKOFF, Spare, is_shortage};
use crate::source::{self, Destination, SourceUnavailable};
use crate::unix;
use crate::waiting::{self, Standing, Waits};
use crate::worker::Worker;

/// As IP numbers it.
const TCP: u8 = 6;

/// Longer connect timeouts are cut to this; the kernel gives up long before.
const LONGEST_CONNECT: Duration = Duration::from_secs(24 * 3600);

/// How long an accepted client may wait for a descriptor: the one it holds is what others wait for.
const SHORTAGE_PATIENCE: Duration = Duration::from_millis(500);

/// Serves one client from accept to close.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    published: Arc<Published>,
    frontend: usize,
    client: TcpStream,
    (place, listed, spare): (ClientPlace, Listed, Option<Spare>),
) {
    let mut timer = pin!(sleep_until(Instant::now()));
    let (for_whom, client_side) = ((frontend, &listed.connection), (&client, spare));
    let reached = match reach(&worker, &published, for_whom, client_side, timer.as_mut()).await {
        Ok(reached) => reached,
        Err(reason) => {
            let frontend = &published.snapshot.frontends[frontend];
            let backend = led_to(&published, frontend, &listed.connection);
            let ends = listed.connection.ends();
            choice::tell(&worker.shared.watches, ends, (frontend, backend), || Err(reason));
            listed.connection.story().ends(Fate::Ended(reason));
            worker.shared.reasons.count(reason);
            frontend.reasons.count(reason);
            return;
        }
    };
    // A long connection must not keep the configuration it began with in memory.
    drop(published);
    relay::run(client, reached, timer).await;
    drop((place, listed));
}

/// The backend that a connection of `frontend` goes to.
fn led_to<'a>(published: &'a Published, frontend: &Frontend, connection: &Connection) -> &'a Backend {
    let backends = &published.snapshot.backends;
    let own = &backends[frontend.backend];
    let name = connection.backend();
    if own.name == *name { own } else { backends.iter().find(|b| b.name == *name).unwrap_or(own) }
}

/// Dropped with its client's task while that looks for a server, or for who the client is: the proxy closes, or an
/// operator has ended it.
pub(crate) struct CutWithoutServer<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
}

impl<'a> CutWithoutServer<'a> {
    pub fn new(worker: &'a Worker, connection: &'a Connection) -> Self {
        Self { worker, connection }
    }
}

impl Drop for CutWithoutServer<'_> {
    fn drop(&mut self) {
        if self.worker.shared.is_closing() {
            self.connection.story().ends(Fate::Ended(Reason::DrainDeadline));
        }
    }
}

/// Tries to reach a server until the client has reset its connection. A function of its own, so that nothing of it is
/// kept while the connection is relayed.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn reach<'a>(
    worker: &'a Arc<Worker>,
    published: &'a Published,
    for_whom: (usize, &'a Arc<Connection>),
    (client, spare): (&'a TcpStream, Option<Spare>),
    mut timer: Pin<&'a mut Sleep>,
) -> impl Future<Output = Result<Reached, Reason>> + 'a {
    async move {
        let (frontend, connection) = for_whom;
        let cut = CutWithoutServer::new(worker, connection);
        let frontend = &published.snapshot.frontends[frontend];
        let mut backend = frontend.backend;
        if let Some(routes) = &frontend.hello_routes {
            // Boxed, so that connections without do not carry room for it.
            let waits = Waits::begins(worker, frontend, connection, WaitsFor::ClientHello);
            let chosen = Box::pin(client_hello::choose(client, frontend, routes, timer.as_mut())).await;
            match waits.over(chosen) {
                Ok(chosen) => backend = chosen,
                Err(reason) => {
                    std::mem::forget(cut);
                    return Err(reason);
                }
            }
            if backend != frontend.backend {
                connection.is_routed(&published.snapshot.backends[backend].name);
            }
        }
        let for_whom = (frontend, backend, connection);
        let mut reached = pin!(waiting::reach(worker, published, for_whom, (client, spare), timer));
        let mut left = pin!(left(client));
        let outcome = poll_fn(|cx| match reached.as_mut().poll(cx) {
            Poll::Pending => left.as_mut().poll(cx).map(|()| Err(Reason::ClientReset)),
            reached => reached,
        })
        .await;
        std::mem::forget(cut);
        outcome
    }
}

/// Waits until `client` has reset its connection.
async fn left(client: &TcpStream) {
    // Most clients say nothing until they are connected through: this registers what the relay needs anyway,
    // where waiting for an error costs something.
    let _ = poll_fn(|cx| client.poll_read_ready(cx)).await;
    let _ = client.ready(Interest::ERROR).await;
}

/// A server that was reached, and by what its connection goes.
pub(crate) struct Reached {
    pub server: TcpStream,
    /// The end of the handshake travels with the first bytes; see [`Destination`].
    pub holds_ack: bool,
    pub meters: Meters,
    pub limits: Limits,
}

/// A connection to a server that stands.
struct Dialled {
    stream: TcpStream,
    /// Where it starts from.
    source: Option<SocketAddr>,
    holds_ack: bool,
}

/// One client's search for a server among those that it has not tried.
pub(crate) struct Attempt<'a> {
    worker: &'a Arc<Worker>,
    frontend: &'a Frontend,
    backend: &'a Backend,
    client: &'a TcpStream,
    connection: &'a Arc<Connection>,
    standing: &'a mut Standing,
    tried: Vec<usize>,
}

impl<'a> Attempt<'a> {
    pub fn new(
        worker: &'a Arc<Worker>,
        frontend: &'a Frontend,
        backend: &'a Backend,
        (client, connection): (&'a TcpStream, &'a Arc<Connection>),
        standing: &'a mut Standing,
    ) -> Self {
        Self { worker, frontend, backend, client, connection, standing, tried: Vec::new() }
    }

    pub async fn run(&mut self, mut timer: Pin<&mut Sleep>) -> Result<Reached, Reason> {
        loop {
            let (index, mut place) = self.select()?;
            // The next in the queue may look.
            self.standing.ticket = None;
            let server = &self.backend.servers[index];
            self.connection.tries();
            let deadline = Instant::now() + self.backend.connect_timeout.min(LONGEST_CONNECT);
            timer.as_mut().reset(deadline);
            match self.dial(server, timer.as_mut()).await {
                Ok(Dialled { stream, source, holds_ack }) => {
                    let (name, addr) = (server.name.clone(), server.addr.clone());
                    let names = (self.frontend, self.backend);
                    let ends = self.connection.ends();
                    choice::tell(&self.worker.shared.watches, ends, names, || {
                        Ok((name.clone(), addr.clone(), source))
                    });
                    self.connection.connected(Connected { name, addr, source });
                    place.admit();
                    let witness = Witness::new(&self.worker.shared, self.backend, server);
                    let (meters, limits) = (self.meters(place, witness), Limits::of(self.backend));
                    return Ok(Reached { server: stream, holds_ack, meters, limits });
                }
                Err(error) if is_shortage(&error) => return Err(Reason::FdsExhausted),
                Err(error) => self.failed(server, &error),
            }
            self.standing.failed = true;
            self.tried.push(index);
            if self.tried.len() > self.backend.retries as usize {
                return Err(Reason::RetriesExhausted);
            }
        }
    }

    /// A server that was not tried yet and has room.
    fn select(&self) -> Result<(usize, ServerPlace), Reason> {
        let limit = self.backend.waiting.max_connections;
        if limit != 0 && self.backend.counters.open() >= limit {
            return Err(Reason::LimitBackend);
        }
        let (client, listen) = self.connection.ends();
        let asker = Asker { client, listen, protocol: TCP };
        let mut view = View { servers: &self.backend.servers, tried: &self.tried, full: Vec::new() };
        loop {
            let picked = self.backend.selector.pick(&asker, &view);
            let Some(index) = picked else { return Err(self.why_none()) };
            let server = &self.backend.servers[index];
            match ServerPlace::try_take(self.backend, server) {
                Ok(place) => return Ok((index, place)),
                Err(Full::Server) => view.full.push(index),
                Err(Full::Backend) => return Err(Reason::LimitBackend),
            }
        }
    }

    fn why_none(&self) -> Reason {
        let mut servers = self.backend.servers.iter().enumerate();
        let is_full = servers.any(|(i, s)| s.effective_weight() > 0 && !self.tried.contains(&i));
        if is_full && (self.tried.is_empty() || self.backend.waiting.queue != 0) {
            Reason::LimitServer
        } else if !self.tried.is_empty() {
            Reason::RetriesExhausted
        } else {
            Reason::NoServer
        }
    }

    /// Connects to `server` and tells it who the client is, if it is to hear it.
    async fn dial(&mut self, server: &Server, timer: Pin<&mut Sleep>) -> io::Result<Dialled> {
        // Most clients have sent their request by now.
        let holds_ack = server.addr.ip().is_some()
            && (server.send_proxy.is_some() || ioctl_fionread(self.client).is_ok_and(|bytes| bytes > 0));
        let (stream, source) = self.connect(server, holds_ack, timer).await?;
        let Some(version) = server.send_proxy else { return Ok(Dialled { stream, source, holds_ack }) };
        let client = (self.client, self.connection.ends().0);
        introduce(version, client, self.connection.told(), &stream).await?;
        source::acknowledge_at_once(&stream);
        Ok(Dialled { stream, source, holds_ack: false })
    }

    /// Starts a connect. The source address is one of IP alone.
    fn begin(&self, addr: &Endpoint, holds_ack: bool) -> io::Result<TcpStream> {
        match addr {
            Endpoint::Ip(addr) => {
                let to = Destination { addr: *addr, holds_ack };
                source::begin(to, &self.backend.source, self.connection.ends().0.ip())
            }
            Endpoint::Unix(path) => unix::begin(path),
        }
    }

    /// Connects to `server` until `timer` fires. While file descriptors are short it waits for one, and has
    /// accepting pause, rather than blame the server.
    async fn connect(
        &mut self,
        Server { addr, .. }: &Server,
        holds_ack: bool,
        mut timer: Pin<&mut Sleep>,
    ) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let give_up = timer.deadline().min(Instant::now() + SHORTAGE_PATIENCE);
        // Its descriptor is for the socket made now.
        self.standing.spare = None;
        let stream = loop {
            match self.begin(addr, holds_ack) {
                // Its queue is full: where TCP would wait in the kernel, this has to ask again.
                Err(error) if unix::is_busy(addr, &error) => unix::wait(timer.as_mut()).await?,
                Err(error) if is_shortage(&error) => {
                    if self.worker.fds_short.note() {
                        let frontend = self.frontend.name.clone();
                        let event = Event::AcceptBackoff { frontend, cause: error.to_string() };
                        self.worker.shared.events.send(event);
                    }
                    if give_up <= Instant::now() {
                        return Err(error);
                    }
                    tokio::time::sleep(BACKOFF).await;
                    // The wait was ours: the server still gets its whole time.
                    let deadline = timer.deadline() + BACKOFF;
                    timer.as_mut().reset(deadline);
                }
                socket => break socket?,
            }
        };
        let user_timeout = self.backend.ends.tcp_user_timeout;
        if !user_timeout.is_zero() {
            // Without it the kernel gives up later.
            let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(user_timeout));
        }
        let readiness = {
            let mut ready = pin!(stream.ready(Interest::WRITABLE));
            poll_fn(|cx| match ready.as_mut().poll(cx) {
                Poll::Ready(readiness) => Poll::Ready(readiness),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            })
            .await?
        };
        // A connect that failed hangs up, so the success path needs no getsockopt.
        if readiness.is_write_closed() {
            return Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        let source = stream.local_addr().ok();
        if addr.ip().is_some_and(|addr| is_connected_to_itself(&stream, source, addr)) {
            // With a FIN the port would stay in TIME_WAIT. That this fails costs no more than that.
            let _ = stream.set_zero_linger();
            return Err(Errno::CONNREFUSED.into());
        }
        Ok((stream, source))
    }

    fn failed(&self, server: &Server, error: &io::Error) {
        let shared = &self.worker.shared;
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
            io::ErrorKind::TimedOut => Reason::ConnectTimeout,
            io::ErrorKind::AddrNotAvailable => Reason::PortsExhausted,
            _ if SourceUnavailable::is(error) => Reason::SourceUnavailable,
            _ => Reason::ConnectFailed,
        };
        server.reasons.count(reason);
        self.count(reason);
        let (backend, name) = (self.backend.name.clone(), server.name.clone());
        if reason == Reason::PortsExhausted {
            // Ours to mend, not a sign of the server's health.
            shared.events.send_thinned(Subject("ports", backend.clone(), name.clone()), || Event::Warning {
                message: format!(
                    "no free source port towards {backend}/{name} ({}): widen net.ipv4.ip_local_port_range, \
                     set net.ipv4.tcp_tw_reuse=1 or name more addresses in source",
                    server.addr
                ),
            });
            return;
        }
        if reason == Reason::SourceUnavailable {
            // Nor is this.
            shared.events.send_thinned(Subject("source", backend.clone(), name.clone()), || Event::Warning {
                message: format!("cannot connect to {backend}/{name} ({}): {error}", server.addr),
            });
            return;
        }
        let cause = if reason == Reason::ConnectTimeout {
            format!("no answer from {} within {} ms", server.addr, self.backend.connect_timeout.as_millis())
        } else {
            format!("connect to {}: {error}", server.addr)
        };
        passive::connect_failed(shared, self.backend, server, &cause);
        shared.events.send_thinned(Subject("connect", backend.clone(), name.clone()), || {
            Event::ServerConnectFailed { backend, server: name, cause }
        });
    }

    fn count(&self, reason: Reason) {
        self.worker.shared.reasons.count(reason);
        self.frontend.reasons.count(reason);
    }

    fn meters(&self, server: ServerPlace, witness: Option<Box<Witness>>) -> Meters {
        Meters {
            shared: self.worker.shared.clone(),
            worker: self.worker.number,
            connection: self.connection.clone(),
            frontend: self.frontend.counters.clone(),
            frontend_reasons: self.frontend.reasons.clone(),
            server,
            witness,
        }
    }
}

/// The servers of a backend as one client's search sees them.
struct View<'a> {
    servers: &'a [Server],
    tried: &'a [usize],
    /// Servers that filled up between being picked and being entered.
    full: Vec<usize>,
}

impl Candidates for View<'_> {
    fn open(&self, server: usize) -> u64 {
        self.servers[server].counters.open()
    }

    fn limit(&self, server: usize) -> u64 {
        self.servers[server].max_connections
    }

    fn is_passed_over(&self, server: usize) -> bool {
        self.tried.contains(&server) || self.full.contains(&server)
    }

    fn passes_over(&self) -> bool {
        !(self.tried.is_empty() && self.full.is_empty())
    }
}

/// Whether the kernel chose the port of `addr` as the source port, on the same address: where nobody listens, the
/// two ends of one socket shake hands (RFC 9293, simultaneous open), and the client would hear its own words.
fn is_connected_to_itself(stream: &TcpStream, source: Option<SocketAddr>, addr: SocketAddr) -> bool {
    // The ports differ but for that.
    source.is_some_and(|local| {
        local.port() == addr.port() && stream.peer_addr().is_ok_and(|peer| peer.ip() == local.ip())
    })
}
