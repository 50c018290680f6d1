//! Who may come in: by address, by how often, and places among the open connections in total, of a frontend and of a
//! client.
//!
//! Invariants: limits hold exactly over all threads; a place is given back by dropping its guard; the
//! table of client addresses holds those with open connections only, so its size is bounded by them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use convey_core::admission::Exceeded;
use convey_core::{Backend, ConnCounters, Frontend, Limits, Reason, Server, WaitQueue, client_of};

const SHARDS: usize = 64;
/// A shard this much emptier than its table gives memory back.
const SHRINK_BELOW: usize = 8;

/// Open connections by client: an IPv4 address, or an IPv6 network.
#[derive(Debug)]
struct ClientTable {
    // One keyed hash chooses the shard and, inside, the slot: clients cannot aim at either.
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<IpAddr, u64, RandomState>>]>,
}

impl ClientTable {
    fn new() -> Self {
        let hasher = RandomState::new();
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect();
        Self { hasher, shards }
    }

    /// Takes a place for `client` unless it has `limit` already (0: no limit).
    fn try_enter(&self, client: IpAddr, limit: u64) -> bool {
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_insert(0);
        // With a limit of one or more a fresh entry is always admitted, so none stays behind at zero.
        if limit != 0 && *open >= limit {
            return false;
        }
        *open += 1;
        true
    }

    fn leave(&self, client: IpAddr) {
        let mut shard = self.shard(client);
        if let Some(open) = shard.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                shard.remove(&client);
                if shard.capacity() > 64 && shard.len() < shard.capacity() / SHRINK_BELOW {
                    shard.shrink_to_fit();
                }
            }
        }
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u64, RandomState>> {
        // The top bits: the table inside uses the others.
        let index = (self.hasher.hash_one(client) >> 58) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What clients of all frontends share: the count in total and the table of addresses.
#[derive(Debug)]
pub(crate) struct Admission {
    totals: Arc<ConnCounters>,
    clients: ClientTable,
}

impl Admission {
    pub fn new(totals: Arc<ConnCounters>) -> Self {
        Self { totals, clients: ClientTable::new() }
    }
}

/// Whether the frontend's lists of networks let this client in: its own address, not that of a proxy before it.
pub(crate) fn may_come(frontend: &Frontend, client: IpAddr) -> Result<(), Reason> {
    match &frontend.admission.access {
        Some(access) if !access.allows(client) => Err(Reason::Denied),
        _ => Ok(()),
    }
}

/// A client connection's places. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct ClientPlace {
    admission: Arc<Admission>,
    frontend: Arc<ConnCounters>,
    /// Once it is known.
    client: Option<IpAddr>,
}

impl ClientPlace {
    /// Takes all three places and counts the connection, or takes none and names the limit or rate that was met.
    pub fn take(
        admission: &Arc<Admission>,
        limits: Limits,
        frontend: &Frontend,
        client: IpAddr,
    ) -> Result<Self, Reason> {
        let mut place = Self::reserve(admission, limits, frontend)?;
        place.admit(limits, frontend, client)?;
        Ok(place)
    }

    /// Takes the places in total and of the frontend for a connection whose client is not known yet.
    pub fn reserve(admission: &Arc<Admission>, limits: Limits, frontend: &Frontend) -> Result<Self, Reason> {
        if !admission.totals.try_reserve(limits.max_connections) {
            return Err(Reason::LimitTotal);
        }
        if !frontend.counters.try_reserve(frontend.connection_limit()) {
            admission.totals.closed();
            return Err(Reason::LimitFrontend);
        }
        Ok(Self { admission: admission.clone(), frontend: frontend.counters.clone(), client: None })
    }

    /// Takes the client's place, too, and counts the connection. Once only.
    pub fn admit(&mut self, limits: Limits, frontend: &Frontend, client: IpAddr) -> Result<(), Reason> {
        let client = client_of(client, limits.client_ipv6_prefix);
        if !self.admission.clients.try_enter(client, limits.max_connections_per_client) {
            return Err(Reason::LimitClient);
        }
        self.client = Some(client);
        // Last: who found no place has not used up a part of a rate.
        if let Some(rates) = &frontend.admission.rates {
            rates.take(client, now()).map_err(|exceeded| match exceeded {
                Exceeded::Total => Reason::RateFrontend,
                Exceeded::Client => Reason::RateClient,
            })?;
        }
        self.admission.totals.admit();
        self.frontend.admit();
        Ok(())
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.admission.clients.leave(client);
        }
        self.frontend.closed();
        self.admission.totals.closed();
    }
}

/// Nanoseconds since the first connection that was counted for a rate.
fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A server connection's places at its server and backend, taken before the connect so that limits hold during it too.
/// Given back when the server's side is over, at the latest by dropping it; the first who waits for one is woken.
#[derive(Debug)]
pub(crate) struct ServerPlace {
    server: Arc<ConnCounters>,
    backend: Arc<WaitQueue>,
    left: AtomicBool,
}

/// Whose places are all taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Server,
    Backend,
}

impl ServerPlace {
    /// Takes both places or none.
    pub fn try_take(backend: &Backend, server: &Server) -> Result<Self, Full> {
        if !server.counters.try_reserve(server.max_connections) {
            return Err(Full::Server);
        }
        if !backend.counters.try_reserve(backend.waiting.max_connections) {
            server.counters.closed();
            // Someone may have taken the server for full meanwhile.
            backend.queue.place_is_free();
            return Err(Full::Backend);
        }
        let (server, backend) = (server.counters.clone(), backend.queue.clone());
        Ok(Self { server, backend, left: AtomicBool::new(false) })
    }

    /// Counts the connection now that it is established.
    pub fn admit(&mut self) {
        self.server.admit();
        self.backend.counters().admit();
    }

    /// Gives the places back while the counters are still written to: the server has no connection any more.
    pub fn leave(&self) {
        if self.left.swap(true, Relaxed) {
            return;
        }
        self.server.closed();
        self.backend.counters().closed();
        self.backend.place_is_free();
    }

    pub fn server(&self) -> &ConnCounters {
        &self.server
    }

    pub fn backend(&self) -> &ConnCounters {
        self.backend.counters()
    }
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use convey_core::{BackendSpec, FrontendSpec, Mode, Protocol, Snapshot, SnapshotSpec};

    use super::*;

    #[test]
    fn a_client_address_is_forgotten_when_its_last_connection_ends() {
        let table = ClientTable::new();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(table.try_enter(client, 2) && table.try_enter(client, 2));
        assert!(!table.try_enter(client, 2));
        table.leave(client);
        assert!(table.try_enter(client, 2));
        table.leave(client);
        table.leave(client);
        assert_eq!(table.shards.iter().map(|s| s.lock().unwrap().len()).sum::<usize>(), 0);
    }

    #[test]
    fn a_table_that_was_full_once_gives_its_memory_back() {
        let table = ClientTable::new();
        let clients: Vec<IpAddr> = (0..100_000u32).map(|n| std::net::Ipv4Addr::from(n).into()).collect();
        clients.iter().for_each(|c| assert!(table.try_enter(*c, 0)));
        clients.iter().for_each(|c| table.leave(*c));
        let capacity: usize = table.shards.iter().map(|s| s.lock().unwrap().capacity()).sum();
        assert!(capacity <= SHARDS * 64, "{capacity} slots are left");
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_the_places_of_a_client() {
        let spec = SnapshotSpec {
            mode: Mode::Proxy,
            limits: Limits { max_connections_per_client: 1, ..Limits::default() },
            frontends: vec![FrontendSpec {
                listen_key: Default::default(),
                accept_proxy: None,
                hello_routes: None,
                udp: Default::default(),
                name: "web".into(),
                listen: vec!["[::1]:80".parse().unwrap()],
                protocol: Protocol::Tcp,
                backend: "pool".into(),
                max_connections: 0,
                sockets: Default::default(),
                admission: Default::default(),
            }],
            backends: vec![BackendSpec {
                eject_after: 0,
                source: Default::default(),
                name: "pool".into(),
                connect_timeout: Duration::from_secs(1),
                retries: 0,
                idle_timeout: Duration::ZERO,
                max_duration: Duration::ZERO,
                waiting: Default::default(),
                ends: Default::default(),
                balance: Default::default(),
                servers: Vec::new(),
            }],
        };
        let snapshot = Snapshot::first(spec, 1).unwrap();
        let admission = Arc::new(Admission::new(snapshot.totals.clone()));
        let enter = |ip: &str, client_ipv6_prefix| {
            let limits = Limits { client_ipv6_prefix, ..snapshot.limits };
            ClientPlace::take(&admission, limits, &snapshot.frontends[0], ip.parse().unwrap())
        };
        let first = enter("2001:db8::1", 64).unwrap();
        assert_eq!(enter("2001:db8::ffff:2", 64).unwrap_err(), Reason::LimitClient);
        assert!(enter("2001:db8:0:1::1", 64).is_ok() && enter("192.0.2.1", 64).is_ok());
        // The place is given back where it was taken, whatever makes a client meanwhile.
        assert!(enter("2001:db8::1", 128).is_ok());
        drop(first);
        assert!(enter("2001:db8::ffff:2", 64).is_ok());
        assert_eq!(snapshot.totals.open(), 0);
    }
}
