//! Live counters. Bytes are sharded by worker so that two cores never write one cache line; gauges and
//! connection totals change once a connection and are plain atomics.
//!
//! Who writes what: in the packet modes a shard has one writer, the thread of its worker, which adds by a load and a
//! store ([`ConnCounters::add_tx_packet`], [`ConnCounters::add_rx_packet`]). In proxy mode, and for everything that is
//! not sharded (`total`, `open`, [`ReasonCounters`]), any thread may write, and additions are atomic. The two ways are
//! never mixed on one counter. Reading takes part in nothing: any thread may read at any time.
//!
//! Invariants: a gauge never goes below zero (every `opened` has exactly one `closed`); byte counters are
//! exact at every moment, not only when a connection ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    bytes_tx: AtomicU64,
    bytes_rx: AtomicU64,
    packets_tx: AtomicU64,
    packets_rx: AtomicU64,
}

/// Adds to a counter that one thread alone writes.
fn add_alone(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Connections and bytes of one frontend, backend or server, or of all together.
///
/// `tx` is client→server, `rx` is server→client.
#[derive(Debug)]
pub struct ConnCounters {
    total: AtomicU64,
    open: AtomicU64,
    shards: Box<[Shard]>,
    /// What programs in the kernel have counted; see [`ConnCounters::collect`].
    collected: Shard,
}

/// What was counted elsewhere since the last time: connections begun, and by how many more are open (negative: fewer);
/// bytes and packets from clients (`tx`) and from servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Collected {
    pub total: u64,
    pub open: i64,
    pub bytes_tx: u64,
    pub packets_tx: u64,
    pub bytes_rx: u64,
    pub packets_rx: u64,
}

impl ConnCounters {
    /// Counters for `workers` writers; at least one shard is made. In the packet modes there must be no more workers
    /// than that: two that share a shard would lose what the other adds.
    pub fn new(workers: usize) -> Self {
        Self {
            total: AtomicU64::new(0),
            open: AtomicU64::new(0),
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            collected: Shard::default(),
        }
    }

    /// How many workers may write at once in the packet modes.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// Counts a connection that has begun.
    pub fn opened(&self) {
        self.total.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// Counts a connection that has begun unless `limit` are open already (0: no limit). Exact across threads.
    pub fn try_opened(&self, limit: u64) -> bool {
        let admitted = self
            .open
            .fetch_update(Relaxed, Relaxed, |open| (limit == 0 || open < limit).then_some(open + 1))
            .is_ok();
        if admitted {
            self.total.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// Takes a place among the open connections unless `limit` are open already (0: no limit), without
    /// counting it in the total yet. Exact across threads. Follow with [`ConnCounters::admit`] or, in any
    /// case, [`ConnCounters::closed`]; the total therefore never goes down.
    pub fn try_reserve(&self, limit: u64) -> bool {
        if limit == 0 {
            self.open.fetch_add(1, Relaxed);
            return true;
        }
        self.open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1)).is_ok()
    }

    /// Counts a reserved connection in the total.
    pub fn admit(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    /// Counts a connection that has ended. Call once for each `opened`, or successful `try_opened` or
    /// `try_reserve`.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Undoes an `opened` of a connection that never carried a byte and went elsewhere.
    pub fn undo_opened(&self) {
        self.total.fetch_sub(1, Relaxed);
        self.open.fetch_sub(1, Relaxed);
    }

    /// Adds client→server bytes, written by `worker`.
    pub fn add_tx(&self, worker: usize, bytes: u64) {
        self.shards[worker % self.shards.len()].bytes_tx.fetch_add(bytes, Relaxed);
    }

    /// Adds server→client bytes, written by `worker`.
    pub fn add_rx(&self, worker: usize, bytes: u64) {
        self.shards[worker % self.shards.len()].bytes_rx.fetch_add(bytes, Relaxed);
    }

    /// Adds a client→server packet with `bytes` of payload (packet modes). Nobody but `worker` may write its
    /// shard: a locked addition for each of several counters a packet would cost as much as the table look-up.
    pub fn add_tx_packet(&self, worker: usize, bytes: u64) {
        let shard = &self.shards[worker % self.shards.len()];
        add_alone(&shard.packets_tx, 1);
        add_alone(&shard.bytes_tx, bytes);
    }

    /// Adds a server→client packet with `bytes` of payload (packet modes). As [`ConnCounters::add_tx_packet`].
    pub fn add_rx_packet(&self, worker: usize, bytes: u64) {
        let shard = &self.shards[worker % self.shards.len()];
        add_alone(&shard.packets_rx, 1);
        add_alone(&shard.bytes_rx, bytes);
    }

    /// Adds what was counted elsewhere. Any thread may call it.
    pub fn collect(&self, more: &Collected) {
        self.total.fetch_add(more.total, Relaxed);
        self.open.fetch_add(more.open.cast_unsigned(), Relaxed);
        self.collected.bytes_tx.fetch_add(more.bytes_tx, Relaxed);
        self.collected.packets_tx.fetch_add(more.packets_tx, Relaxed);
        self.collected.bytes_rx.fetch_add(more.bytes_rx, Relaxed);
        self.collected.packets_rx.fetch_add(more.packets_rx, Relaxed);
    }

    fn all_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().chain([&self.collected])
    }

    /// Client→server packets (packet modes; a coalesced frame counts once).
    pub fn packets_tx(&self) -> u64 {
        self.all_shards().map(|s| s.packets_tx.load(Relaxed)).sum()
    }

    /// Server→client packets (packet modes; a coalesced frame counts once).
    pub fn packets_rx(&self) -> u64 {
        self.all_shards().map(|s| s.packets_rx.load(Relaxed)).sum()
    }

    /// Connections since the name first appeared.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Client→server bytes.
    pub fn bytes_tx(&self) -> u64 {
        self.all_shards().map(|s| s.bytes_tx.load(Relaxed)).sum()
    }

    /// Server→client bytes.
    pub fn bytes_rx(&self) -> u64 {
        self.all_shards().map(|s| s.bytes_rx.load(Relaxed)).sum()
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a connection was refused, retried or ended early. Every refusal has one; every one is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The name under which `/stats` reports it.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// The frontend's lists of networks deny the client's address; the client was closed, its packet dropped.
    Denied = "denied",
    /// The total connection limit was reached; the client was closed.
    LimitTotal = "limit_total",
    /// The frontend's connection limit was reached; the client was closed.
    LimitFrontend = "limit_frontend",
    /// The client address had its limit of connections open; the client was closed.
    LimitClient = "limit_client",
    /// Every eligible server was at its own connection limit; the client was closed.
    LimitServer = "limit_server",
    /// The backend's connection limit was reached; the client was closed.
    LimitBackend = "limit_backend",
    /// As many connections as may were waiting for a place at the backend; the client was closed.
    QueueFull = "queue_full",
    /// No place at the backend became free within the queue timeout; the client was closed.
    QueueTimeout = "queue_timeout",
    /// The client closed its connection while it waited for a place or a server, before it had sent a byte.
    QueueAbandoned = "queue_abandoned",
    /// New connections came faster than the frontend takes them; the client was closed.
    RateFrontend = "rate_frontend",
    /// Connections of the client came faster than the frontend takes them of one; the client was closed.
    RateClient = "rate_client",
    /// No server of the backend was up with a weight above zero; the client was closed.
    NoServer = "no_server",
    /// A server refused the connection; another may have been tried.
    ConnectRefused = "connect_refused",
    /// A server did not answer within the connect timeout; another may have been tried.
    ConnectTimeout = "connect_timeout",
    /// A server could not be reached for another cause (no route, reset); another may have been tried.
    ConnectFailed = "connect_failed",
    /// The balancer had no free source port towards a server.
    PortsExhausted = "ports_exhausted",
    /// The process ran out of file descriptors; accepting backed off.
    FdsExhausted = "fds_exhausted",
    /// Accepting failed for another cause: the client was gone before, or the listening socket was closed from outside.
    AcceptFailed = "accept_failed",
    /// Every allowed attempt to reach a server failed; the client was closed.
    RetriesExhausted = "retries_exhausted",
    /// The ClientHello by which a backend is chosen had begun and was not whole in time; the client was closed.
    ClientHelloTimeout = "client_hello_timeout",
    /// The client ended its connection before its ClientHello was whole, or said nothing at all.
    ClientHelloMissing = "client_hello_missing",
    /// The ClientHello was longer than may be; the client was closed.
    ClientHelloTooLong = "client_hello_too_long",
    /// A peer that is not among those trusted connected where clients are told by PROXY headers; it was closed.
    ProxyUntrusted = "proxy_untrusted",
    /// The PROXY header did not come in time; the peer was closed.
    ProxyHeaderTimeout = "proxy_header_timeout",
    /// The peer ended its connection before its PROXY header was whole.
    ProxyHeaderMissing = "proxy_header_missing",
    /// What came first was no valid PROXY header; the peer was closed.
    ProxyHeaderInvalid = "proxy_header_invalid",
    /// The address that a connection to a server was to start from could not be had; another may have been tried.
    SourceUnavailable = "source_unavailable",
    /// Nothing moved in either direction for the idle timeout.
    IdleTimeout = "idle_timeout",
    /// After one side's FIN the other sent nothing for the half-close timeout.
    HalfCloseTimeout = "half_close_timeout",
    /// The connection reached its maximum duration.
    MaxDuration = "max_duration",
    /// The client reset the connection.
    ClientReset = "client_reset",
    /// The server reset the connection.
    ServerReset = "server_reset",
    /// The server reset or closed before its first byte to a client that had sent something; counted where failures are.
    ServerUnanswered = "server_unanswered",
    /// The drain deadline passed and the connection was cut.
    DrainDeadline = "drain_deadline",
    /// A UDP frontend had as many sessions as it may, all of them conversations; the new client's datagram was dropped.
    LimitSessions = "limit_sessions",
    /// A UDP session that was no conversation yet made room for a new one.
    SessionEvicted = "session_evicted",
    /// A UDP session ended with fewer answers of its server than were expected.
    NoAnswer = "no_answer",
    /// A UDP frontend was on its way out; a new client's datagram was dropped, or a session was ended.
    Leaving = "leaving",
    /// Datagrams found a listening socket's receive buffer full; the kernel dropped them.
    ReceiveBufferFull = "receive_buffer_full",
    /// A datagram found a send buffer full and was dropped.
    SendBufferFull = "send_buffer_full",
    /// A datagram was too long to be received or sent on whole and was dropped.
    DatagramTooLong = "datagram_too_long",
    /// The kernel refused to send a datagram on for another cause.
    DatagramUnsent = "datagram_unsent",
}

/// A counter for each [`Reason`].
#[derive(Debug)]
pub struct ReasonCounters(Box<[AtomicU64]>);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl ReasonCounters {
    /// Counts one occurrence.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts `more` occurrences.
    pub fn add(&self, reason: Reason, more: u64) {
        self.0[reason as usize].fetch_add(more, Relaxed);
    }

    /// Occurrences so far.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_held_exactly_and_a_refused_connection_is_not_counted() {
        let counters = ConnCounters::new(2);
        assert!(counters.try_opened(2) && counters.try_opened(2));
        assert!(!counters.try_opened(2));
        assert_eq!((counters.total(), counters.open()), (2, 2));
        counters.closed();
        assert!(counters.try_opened(2));
    }

    #[test]
    fn a_reserved_place_counts_against_the_limit_but_not_in_the_total_until_admitted() {
        let counters = ConnCounters::new(1);
        assert!(counters.try_reserve(1) && !counters.try_reserve(1));
        assert_eq!((counters.total(), counters.open()), (0, 1));
        counters.closed();
        assert!(counters.try_reserve(1));
        counters.admit();
        assert_eq!((counters.total(), counters.open()), (1, 1));
    }

    #[test]
    fn totals_of_workers_that_add_at_once_are_exact_and_never_go_down_for_a_reader() {
        const WORKERS: usize = 4;
        const PACKETS: u64 = 100_000;
        let counters = ConnCounters::new(WORKERS);
        let read = || {
            let c = &counters;
            [c.packets_tx(), c.packets_rx(), c.bytes_tx(), c.bytes_rx(), c.total()]
        };
        let writing = std::sync::atomic::AtomicUsize::new(WORKERS);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (counters, writing) = (&counters, &writing);
                scope.spawn(move || {
                    for n in 0..PACKETS {
                        counters.add_tx_packet(worker, n);
                        counters.add_rx_packet(worker, 1);
                        if n % 16 == 0 {
                            counters.opened();
                            counters.closed();
                        }
                    }
                    writing.fetch_sub(1, Relaxed);
                });
            }
            scope.spawn(|| {
                let mut last = read();
                while writing.load(Relaxed) > 0 {
                    let now = read();
                    assert!(last.iter().zip(now).all(|(last, now)| *last <= now), "{last:?}, then {now:?}");
                    last = now;
                }
            });
        });
        let workers = WORKERS as u64;
        let bytes = workers * (PACKETS * (PACKETS - 1) / 2);
        assert_eq!(
            read(),
            [workers * PACKETS, workers * PACKETS, bytes, workers * PACKETS, workers * PACKETS / 16]
        );
        assert_eq!(counters.open(), 0);
    }

    #[test]
    fn bytes_of_all_workers_add_up() {
        let counters = ConnCounters::new(2);
        counters.add_tx(0, 5);
        counters.add_tx(1, 7);
        counters.add_rx(9, 1);
        assert_eq!((counters.bytes_tx(), counters.bytes_rx()), (12, 1));
        counters.add_tx_packet(1, 3);
        counters.add_rx_packet(0, 0);
        assert_eq!((counters.packets_tx(), counters.packets_rx(), counters.bytes_tx()), (1, 1, 15));
    }
}
