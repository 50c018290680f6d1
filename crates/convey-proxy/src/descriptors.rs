//! What a proxy needs of the limit on open files (RLIMIT_NOFILE), told before it is missing.

use std::fmt;

use rustix::process::{Resource, getrlimit};

/// epoll, its copy and the waker of a worker's runtime.
const PER_WORKER: u64 = 3;
/// Statistics, health checks, the file watch and the first connections.
const RESERVE: u64 = 16;
/// A client's socket and a server's.
const PER_CONNECTION: u64 = 2;
/// Fewer connections than this are worth a word when no limit was asked for.
const FEW_CONNECTIONS: u64 = 250;
/// What is open where the kernel does not tell.
const OPEN_UNKNOWN: u64 = 32;

/// How many file descriptors a proxy needs, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// Worker threads.
    pub workers: usize,
    /// Addresses to listen on.
    pub listeners: usize,
    /// Descriptors this process has open already.
    pub open: u64,
    /// The limit in force.
    pub limit: u64,
}

impl Descriptors {
    /// What `workers` and `listeners` mean for this process now.
    pub(crate) fn of(workers: usize, listeners: usize) -> Self {
        // The directory's own handle is among them.
        let open = std::fs::read_dir("/proc/self/fd").map_or(OPEN_UNKNOWN, |fds| fds.count() as u64 - 1);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self { workers, listeners, open, limit }
    }

    /// A handle and a socket for each worker, and the door.
    fn per_listener(&self) -> u64 {
        2 * self.workers as u64 + 1
    }

    fn needed(&self) -> u64 {
        PER_WORKER * self.workers as u64 + self.per_listener() * self.listeners as u64 + RESERVE
    }

    pub(crate) fn suffice(&self) -> bool {
        self.open + self.needed() <= self.limit
    }

    /// What there is to say where `max_connections` (0: as many as come) do not fit.
    pub(crate) fn warning(&self, max_connections: u64) -> Option<String> {
        let room = self.limit.saturating_sub(self.open + self.needed()) / PER_CONNECTION;
        let wanted = if max_connections == 0 { FEW_CONNECTIONS } else { max_connections };
        (room < wanted).then(|| {
            let asked = if max_connections == 0 {
                String::new()
            } else {
                format!(", limits.max_connections asks for {max_connections}")
            };
            format!(
                "the limit of {} open files leaves room for some {room} connections{asked}; beyond that, clients \
                 wait: {REMEDY}",
                self.limit
            )
        })
    }
}

/// Sockets of UDP sessions have lower numbers than this: a quarter of what may be open is left to everything else.
pub(crate) fn for_sessions() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - limit / 4
}

/// What there is to say before a start with so many workers and listening addresses, and whether it is refused.
pub fn descriptors_problem(workers: usize, listeners: usize, max_connections: u64) -> Option<(bool, String)> {
    let descriptors = Descriptors::of(workers, listeners);
    if descriptors.suffice() {
        return Some((false, descriptors.warning(max_connections)?));
    }
    Some((true, descriptors.to_string()))
}

/// For a message that says what is missing.
pub(crate) const REMEDY: &str =
    "raise the limit (ulimit -n, LimitNOFILE= in a systemd unit, --ulimit nofile= for a container)";

impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "too few file descriptors: {} worker(s) and {} listening address(es) need {} ({PER_WORKER} a worker, 2 x workers + 1 = \
             {} a listening address, {RESERVE} for checks, statistics and the first connections), {} are open already and the \
             limit is {}: {REMEDY}, or have fewer workers",
            self.workers,
            self.listeners,
            self.needed(),
            self.per_listener(),
            self.open,
            self.limit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_grows_with_workers_times_frontends() {
        let mut descriptors = Descriptors { workers: 2, listeners: 3, open: 20, limit: 57 };
        assert_eq!(descriptors.needed(), 6 + 15 + 16);
        assert!(descriptors.suffice());
        descriptors.limit = 56;
        assert!(!descriptors.suffice());
        let text = descriptors.to_string();
        assert!(
            text.contains("need 37") && text.contains("limit is 56") && text.contains("ulimit -n"),
            "{text}"
        );
    }

    #[test]
    fn room_for_few_connections_is_worth_a_warning() {
        let descriptors = Descriptors { workers: 1, listeners: 1, open: 20, limit: 242 };
        assert!(descriptors.warning(0).unwrap().contains("some 100 connections;"));
        assert_eq!(descriptors.warning(100), None);
        assert!(descriptors.warning(101).unwrap().contains("asks for 101"));
    }
}
