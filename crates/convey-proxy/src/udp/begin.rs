//! How a session begins: admitted against the limits, given a server, or moved to another one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use convey_core::{Backend, Event, Frontend, Limits, Reason, Server};
use rustix::io::Errno;

use super::datagrams::Datagrams;
use super::exchange::Exchange;
use super::group::{Counted, Service};
use super::relay::{Relay, route};
use super::select::select;
use super::session::{Peer, Session, connect};
use super::table::{Id, Key, Queue};
use crate::choice;
use crate::connections::Connected;
use crate::descriptors::REMEDY;
use crate::events::Subject;
use crate::limits::{ClientPlace, ServerPlace, may_come};
use crate::log::{Entry, Fate};
use crate::meters::Meters;
use crate::published::Published;
use crate::shortage::is_shortage;

/// What a session that moves to another server takes along.
struct Moved {
    client: ClientPlace,
    refused: Vec<Arc<str>>,
}

/// A server that was chosen and can be sent to.
struct Reached {
    server: usize,
    addr: SocketAddr,
    place: ServerPlace,
    socket: OwnedFd,
    source: Option<SocketAddr>,
    /// Servers tried.
    attempts: u32,
}

impl Relay {
    /// The session for the next datagram of `key`: the one there is, one with another server in its place, or a new one.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn session(
        &mut self,
        key: Key,
        published: &Arc<Published>,
        now: Instant,
    ) -> Result<Id, Reason> {
        let Some(id) = self.table.find(&key) else {
            if self.group.service() != Service::Open {
                return Err(Reason::Leaving);
            }
            return self.begin(key, None, published, now);
        };
        let Some(session) = self.table.get_mut(id) else { return Err(Reason::Leaving) };
        if session.ends.is_some_and(|ends| ends <= now) {
            self.end(id, Some(Reason::MaxDuration));
            return self.session(key, published, now);
        }
        if !session.has_to_move(&published.snapshot) {
            return Ok(id);
        }
        let Some(Session { client, refused, meters, .. }) = self.table.remove(id) else {
            return Err(Reason::Leaving);
        };
        // What was counted for it was counted when its server refused.
        meters.connection.story().ends(Fate::Ended(Reason::ServerReset));
        self.begin(key, Some(Moved { client, refused }), published, now)
    }

    fn begin(
        &mut self,
        key: Key,
        moved: Option<Moved>,
        published: &Arc<Published>,
        now: Instant,
    ) -> Result<Id, Reason> {
        let (routed, index) = route(published, &self.group).ok_or(Reason::Leaving)?;
        let snapshot = &routed.snapshot;
        let frontend = &snapshot.frontends[index];
        let backend = &snapshot.backends[frontend.backend];
        let listen =
            key.local.map_or(self.group.local, |local| SocketAddr::new(local.ip, self.group.local.port()));
        let began = (|| {
            let Moved { client, refused } = match moved {
                Some(moved) => moved,
                None => {
                    let client = self.admit(snapshot.limits, frontend, key.client.ip())?;
                    Moved { client, refused: Vec::new() }
                }
            };
            Ok((client, self.reach(backend, (key.client, listen), &refused)?, refused))
        })();
        let (client, reached, refused) = match began {
            Ok(began) => began,
            Err(reason) => {
                let names = (frontend, backend);
                choice::tell(&self.worker.shared.watches, (key.client, listen), names, || Err(reason));
                if let Some(ticket) = self.worker.shared.log.ticket() {
                    let names = (&*frontend.name, &*backend.name);
                    ticket.tell(self.worker.number, false, || {
                        Entry::refused((key.client, listen), names, reason)
                    });
                }
                return Err(reason);
            }
        };
        let Reached { server, addr, mut place, socket, source, attempts } = reached;
        let server = &backend.servers[server];
        let (name, to) = (server.name.clone(), server.addr.clone());
        choice::tell(&self.worker.shared.watches, (key.client, listen), (frontend, backend), || {
            Ok((name.clone(), to.clone(), source))
        });
        place.admit();
        let shared = &self.worker.shared;
        let number = self.worker.number;
        let datagrams = Datagrams::new(self.group.mailbox(number).clone());
        let names = (&frontend.name, listen, &backend.name);
        let ticket = shared.log.ticket();
        let listed = shared.connections.add_session(number, key.client, names, ticket, datagrams);
        let connection = listed.connection.clone();
        (0..attempts).for_each(|_| connection.tries());
        connection.connected(Connected { name: name.clone(), addr: to, source });
        let session = Session {
            socket,
            peer: Peer { backend: backend.name.clone(), name, addr },
            exchange: Exchange::default(),
            client,
            meters: Meters {
                shared: shared.clone(),
                worker: number,
                connection: connection.clone(),
                frontend: frontend.counters.clone(),
                frontend_reasons: frontend.reasons.clone(),
                server: place,
                // Datagrams are no connections: their servers are told by checks alone.
                witness: None,
            },
            server_reasons: server.reasons.clone(),
            began: now,
            ends: now.checked_add(backend.max_duration).filter(|_| !backend.max_duration.is_zero()),
            refused,
            is_refused: false,
            seen: published.snapshot.version,
            _listed: listed,
            _counted: Counted::new(&self.group),
        };
        let id = self.table.add(key, session, now);
        if let Some(datagrams) = connection.datagrams() {
            datagrams.is(id);
        }
        let watched = self.table.get(id).map(|session| self.watch(&session.socket, id));
        if let Some(Err(_)) = watched {
            // Without it no answer would be seen.
            self.end(id, None);
            return Err(Reason::FdsExhausted);
        }
        Ok(id)
    }

    /// A place for a new client. Where the frontend has as many sessions as it may, one makes room if it can.
    fn admit(&mut self, limits: Limits, frontend: &Frontend, client: IpAddr) -> Result<ClientPlace, Reason> {
        may_come(frontend, client)?;
        let admission = self.worker.shared.admission.clone();
        let mut first = true;
        loop {
            match ClientPlace::take(&admission, limits, frontend, client) {
                Err(Reason::LimitFrontend) if is_at_most_sessions(frontend) => {
                    if !first || !self.evict() {
                        return Err(Reason::LimitSessions);
                    }
                    first = false;
                }
                outcome => return outcome,
            }
        }
    }

    /// Ends the session that has been silent for longest of those that are no conversations; false if there is none.
    fn evict(&mut self) -> bool {
        let Some((id, _)) = self.table.longest_silent(Queue::New) else { return false };
        self.end(id, Some(Reason::SessionEvicted));
        true
    }

    /// A server that has not refused this client's datagrams before, or one that has if there is no other.
    fn reach(
        &mut self,
        backend: &Backend,
        ends: (SocketAddr, SocketAddr),
        refused: &[Arc<str>],
    ) -> Result<Reached, Reason> {
        let mut passed_over: Vec<usize> =
            (0..backend.servers.len()).filter(|&i| refused.contains(&backend.servers[i].name)).collect();
        let mut failures = 0;
        let mut may_evict = true;
        loop {
            let (server, addr, place) = match select(backend, ends, &passed_over) {
                Err(Reason::RetriesExhausted) if failures == 0 => {
                    passed_over.clear();
                    select(backend, ends, &passed_over)?
                }
                selected => selected?,
            };
            let chosen = &backend.servers[server];
            match connect(addr, self.most_descriptors) {
                Ok((socket, source)) => {
                    let attempts = failures + 1;
                    return Ok(Reached { server, addr, place, socket, source, attempts });
                }
                Err(error) => {
                    let scarce = is_shortage(&error) || Errno::from_io_error(&error) == Some(Errno::AGAIN);
                    if scarce {
                        if std::mem::take(&mut may_evict) && self.evict() {
                            continue;
                        }
                        return Err(self.short(&error, backend, chosen));
                    }
                    self.unreachable(backend, chosen, &error);
                    passed_over.push(server);
                    failures += 1;
                    if failures > backend.retries {
                        return Err(Reason::RetriesExhausted);
                    }
                }
            }
        }
    }

    fn short(&self, error: &io::Error, backend: &Backend, server: &Server) -> Reason {
        let events = &self.worker.shared.events;
        if is_shortage(error) {
            let subject = Subject("descriptors", self.group.frontend.clone(), "".into());
            events.send_thinned(subject, || Event::Warning {
                message: format!(
                    "no file descriptor is left for another session of frontend {}: {error}: {REMEDY}",
                    self.group.frontend
                ),
            });
            return Reason::FdsExhausted;
        }
        let (backend, name) = (backend.name.clone(), server.name.clone());
        events.send_thinned(Subject("ports", backend.clone(), name.clone()), || Event::Warning {
            message: format!(
                "no free UDP port for a session with {backend}/{name} ({}): widen net.ipv4.ip_local_port_range or \
                 lower max_sessions",
                server.addr
            ),
        });
        Reason::PortsExhausted
    }

    fn unreachable(&self, backend: &Backend, server: &Server, error: &io::Error) {
        server.reasons.count(Reason::ConnectFailed);
        self.count(Reason::ConnectFailed, 1);
        let (backend, name) = (backend.name.clone(), server.name.clone());
        let subject = Subject("connect", backend.clone(), name.clone());
        self.worker.shared.events.send_thinned(subject, || {
            let cause = format!("a session with {}: {error}", server.addr);
            Event::ServerConnectFailed { backend, server: name, cause }
        });
    }
}

fn is_at_most_sessions(frontend: &Frontend) -> bool {
    let (connections, sessions) = (frontend.max_connections, frontend.udp.max_sessions);
    sessions != 0 && (connections == 0 || sessions < connections)
}
