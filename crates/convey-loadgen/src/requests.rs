//! Requests over kept or fresh connections, as fast as possible or at a fixed rate.
//!
//! At a fixed rate a request is due by the clock, whether or not a connection is free, and its latency counts
//! from then: a stalled balancer cannot hide its stall by holding the generator back.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;
use crate::args::Args;
use crate::http::{Answer, Progress};
use crate::poll::{Poll, Ready};
use crate::report::{Failures, Report};
use crate::usage::{Usage, Watch};

/// What every client here sends.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

#[derive(Debug)]
struct Conn {
    socket: TcpStream,
    answer: Answer,
    /// When the outstanding request was due and when it was begun; `None`: idle.
    outstanding: Option<(Instant, Instant)>,
    connected: bool,
}

struct Client {
    address: SocketAddr,
    fresh: bool,
    /// Idle connections are used in turn, the one idle for longest first.
    rotate: bool,
    /// What a connection begins with, its first request included.
    opening: Vec<u8>,
    poll: Poll,
    conns: Vec<Option<Conn>>,
    idle: VecDeque<usize>,
    failures: Failures,
    latencies: Histogram<u64>,
    requests: u64,
    /// Answers before the window.
    warmup: u64,
    bytes: u64,
    scratch: Vec<u8>,
}

/// Runs and prints the report.
///
/// # Errors
/// A wrong argument, or epoll fails. Failed connections are part of the report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let slots: usize = args.get("connections", 64)?;
    let rate: Option<f64> = args.optional("rate")?;
    if rate.is_some_and(|r| !(r.is_finite() && r > 0.0)) {
        return Err(Failure::Usage("--rate must be above 0".to_owned()));
    }
    let timeout = args.seconds("timeout", 5.0)?;
    let warmup = args.seconds("warmup", 1.0)?;
    let duration = args.seconds("duration", 10.0)?;
    let watch = Watch::parse(args)?;
    // The default slack of 50 µs would be most of the latency measured.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
        .map_err(|e| Failure::io("set the timer slack")(e.into()))?;
    let latencies = Histogram::new_with_bounds(1, 120_000_000_000, 3)
        .map_err(|e| Failure::Usage(format!("histogram: {e}")))?;
    let mut client = Client {
        address: args.address("connect")?,
        fresh: args.flag("fresh"),
        rotate: args.flag("rotate"),
        opening: [args.file("hello")?.as_slice(), REQUEST].concat(),
        poll: Poll::new()?,
        conns: (0..slots).map(|_| None).collect(),
        idle: (0..slots).rev().collect(),
        failures: Failures::default(),
        latencies,
        requests: 0,
        warmup: 0,
        bytes: 0,
        scratch: vec![0; 64 * 1024],
    };

    let start = Instant::now();
    let mut window: Option<(Instant, Usage)> = None;
    let mut issued = 0_u64;
    let mut next_sweep = start + Duration::from_millis(100);
    let mut ready = Vec::new();
    loop {
        let now = Instant::now();
        match &window {
            None if now - start >= warmup => {
                client.latencies.reset();
                client.warmup = std::mem::take(&mut client.requests);
                client.bytes = 0;
                window = Some((now, Usage::now(&watch)));
            }
            Some((since, before)) if now - *since >= duration => {
                let usage = Usage::now(&watch).since(before);
                let window = since.elapsed();
                client.finish(start, issued, rate, timeout);
                Report {
                    window,
                    requests: client.requests,
                    all: client.warmup + client.requests,
                    bytes: client.bytes,
                    failures: client.failures,
                    latencies: Some(client.latencies),
                    usage,
                }
                .print();
                return Ok(());
            }
            _ => {}
        }
        if now >= next_sweep {
            client.sweep(now, timeout);
            next_sweep = now + Duration::from_millis(100);
        }
        let wait = client.issue(start, &mut issued, rate);
        client.poll.wait(&mut ready, Some(wait))?;
        for &(key, flags) in &ready {
            if let Ok(index) = usize::try_from(key) {
                client.step(index, flags);
            }
        }
    }
}

/// When request number `n` is due.
fn due(start: Instant, n: u64, rate: f64) -> Instant {
    start + Duration::from_secs_f64(n as f64 / rate)
}

impl Client {
    /// Begins every request that is due and finds a free slot; returns how long nothing needs doing.
    fn issue(&mut self, start: Instant, issued: &mut u64, rate: Option<f64>) -> Duration {
        const LONGEST: Duration = Duration::from_millis(20);
        let mut now = Instant::now();
        // Each slot at most once a turn, so that a refusing peer cannot keep the loop from its events.
        for _ in 0..self.conns.len() {
            let when = rate.map_or(now, |rate| due(start, *issued, rate));
            if when > now {
                return (when - now).min(LONGEST);
            }
            let next = if self.rotate { self.idle.pop_front() } else { self.idle.pop_back() };
            let Some(index) = next else { return LONGEST };
            *issued += 1;
            self.begin(index, when, now);
            now = Instant::now();
        }
        if self.idle.is_empty() { LONGEST } else { Duration::ZERO }
    }

    fn begin(&mut self, index: usize, due: Instant, now: Instant) {
        if let Some(conn) = self.conns[index].as_mut() {
            conn.outstanding = Some((due, now));
            if conn.socket.write(REQUEST).ok() != Some(REQUEST.len()) {
                self.failures.reset += 1;
                self.release(index, false);
            }
            return;
        }
        match connect(self.address) {
            Ok(socket) => {
                // Edge-triggered: one registration serves the connect, the answer and the end.
                let interest = Ready::IN | Ready::OUT | Ready::RDHUP | Ready::ET;
                if self.poll.add(&socket, index as u64, interest).is_err() {
                    self.failures.connect += 1;
                    self.idle.push_back(index);
                    return;
                }
                let outstanding = Some((due, now));
                self.conns[index] =
                    Some(Conn { socket, answer: Answer::default(), outstanding, connected: false });
            }
            Err(_) => {
                self.failures.connect += 1;
                self.idle.push_back(index);
            }
        }
    }

    fn step(&mut self, index: usize, flags: Ready) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        if !conn.connected {
            let refused = flags.intersects(Ready::ERR | Ready::HUP) || !flags.contains(Ready::OUT);
            if refused || conn.socket.write(&self.opening).ok() != Some(self.opening.len()) {
                self.failures.connect += 1;
                self.release(index, false);
                return;
            }
            conn.connected = true;
        }
        if !flags.intersects(Ready::IN | Ready::RDHUP | Ready::HUP | Ready::ERR) {
            return;
        }
        loop {
            let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
            match conn.socket.read(&mut self.scratch) {
                Ok(0) => {
                    if conn.outstanding.is_some() {
                        self.failures.closed_early += 1;
                        self.release(index, false);
                    } else {
                        // An idle connection may end; its slot is already free and opens a new one.
                        self.conns[index] = None;
                    }
                    return;
                }
                Ok(got) => {
                    self.bytes += got as u64;
                    let full = got == self.scratch.len();
                    match conn.answer.take(&self.scratch[..got]) {
                        Progress::Partial => {}
                        Progress::Malformed => {
                            self.failures.malformed += 1;
                            self.release(index, false);
                            return;
                        }
                        Progress::Complete => self.complete(index),
                    }
                    if !full && !flags.intersects(Ready::RDHUP | Ready::HUP) {
                        return;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    if conn.outstanding.is_some() {
                        self.failures.reset += 1;
                        self.release(index, false);
                    } else {
                        self.failures.reset += 1;
                        self.conns[index] = None;
                    }
                    return;
                }
            }
        }
    }

    fn complete(&mut self, index: usize) {
        let outstanding = self.conns[index].as_mut().and_then(|conn| conn.outstanding.take());
        if let Some((due, _)) = outstanding {
            self.requests += 1;
            self.latencies.saturating_record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
            self.release(index, !self.fresh);
        }
    }

    /// Frees the slot; its connection stays open when `keep`.
    fn release(&mut self, index: usize, keep: bool) {
        if !keep {
            self.conns[index] = None;
        }
        self.idle.push_back(index);
    }

    fn sweep(&mut self, now: Instant, timeout: Duration) {
        for index in 0..self.conns.len() {
            let begun = self.conns[index].as_ref().and_then(|conn| conn.outstanding).map(|(_, begun)| begun);
            if begun.is_some_and(|begun| now - begun > timeout) {
                self.failures.timeout += 1;
                self.release(index, false);
            }
        }
    }

    /// Counts what was due but never answered, so that a stall at the end is not left out.
    fn finish(&mut self, start: Instant, issued: u64, rate: Option<f64>, timeout: Duration) {
        let now = Instant::now();
        self.sweep(now, timeout);
        let Some(rate) = rate else { return };
        let waiting: Vec<Instant> =
            self.conns.iter().flatten().filter_map(|conn| conn.outstanding).map(|(due, _)| due).collect();
        let mut unsent = issued;
        while due(start, unsent, rate) < now {
            self.record(now - due(start, unsent, rate));
            unsent += 1;
        }
        for due in waiting {
            self.record(now - due);
        }
    }

    fn record(&mut self, latency: Duration) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift_with_the_number_of_requests() {
        let start = Instant::now();
        assert_eq!(due(start, 3_000_000, 30_000.0) - start, Duration::from_secs(100));
    }
}
