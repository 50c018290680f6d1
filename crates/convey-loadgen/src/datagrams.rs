//! Datagrams and their answers, and a server that sends back what it gets.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;
use crate::args::Args;
use crate::poll::{Poll, Ready};
use crate::report::{Failures, Report};
use crate::usage::{Usage, Watch};

/// Buffers asked for, so that bursts are lost by the balancer or not at all.
const BUFFER: usize = 4 << 20;

/// Sends each datagram back to where it came from, without end.
///
/// # Errors
/// The address cannot be bound.
pub fn echo(args: &Args) -> Result<(), Failure> {
    let address = args.address("listen")?;
    let socket = UdpSocket::bind(address).map_err(Failure::io(format!("bind {address}")))?;
    widen(&socket);
    let at = socket.local_addr().map_err(Failure::io("read the address"))?;
    println!("{{\"event\":\"ready\",\"address\":\"{at}\"}}");
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv_from(&mut buffer) {
            // One that cannot be sent is one that was lost.
            Ok((len, peer)) => drop(socket.send_to(&buffer[..len], peer)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::io("receive")(error)),
        }
    }
}

struct Client {
    socket: UdpSocket,
    outstanding: usize,
    since: Instant,
}

struct Clients {
    address: SocketAddr,
    poll: Poll,
    clients: Vec<Client>,
    datagram: Vec<u8>,
    outstanding: usize,
    fresh: bool,
    failures: Failures,
    latencies: Histogram<u64>,
    answers: u64,
}

/// Keeps datagrams outstanding at every client, and prints the report.
///
/// # Errors
/// A wrong argument, or the kernel refuses sockets. What was lost is part of the report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let number: usize = args.get("clients", 64)?;
    let timeout = args.seconds("timeout", 1.0)?;
    let (warmup, duration) = (args.seconds("warmup", 1.0)?, args.seconds("duration", 10.0)?);
    let watch = Watch::parse(args)?;
    let latencies = Histogram::new_with_bounds(1, 120_000_000_000, 3)
        .map_err(|e| Failure::Usage(format!("histogram: {e}")))?;
    let mut all = Clients {
        address: args.address("connect")?,
        poll: Poll::new()?,
        clients: Vec::new(),
        datagram: vec![7; args.get("bytes", 64)?],
        outstanding: args.get("outstanding", 1)?,
        fresh: args.flag("fresh"),
        failures: Failures::default(),
        latencies,
        answers: 0,
    };
    for at in 0..number {
        let client = all.open(at)?;
        all.clients.push(client);
        all.ask(at);
    }
    let start = Instant::now();
    let mut window: Option<(Instant, Usage)> = None;
    let (mut ready, mut swept) = (Vec::new(), start);
    loop {
        all.poll.wait(&mut ready, Some(Duration::from_millis(50)))?;
        for (at, _) in &ready {
            all.take(*at as usize)?;
        }
        let now = Instant::now();
        if now - swept > timeout / 4 {
            swept = now;
            all.give_up(now, timeout);
        }
        match &window {
            None if now - start >= warmup => {
                (all.answers, window) = (0, Some((now, Usage::now(&watch))));
                all.latencies.reset();
            }
            Some((began, before)) if now - *began >= duration => {
                let bytes = all.answers * 2 * all.datagram.len() as u64;
                let report = Report {
                    window: now - *began,
                    requests: all.answers,
                    all: all.answers,
                    bytes,
                    failures: all.failures,
                    latencies: Some(all.latencies),
                    usage: Usage::now(&watch).since(before),
                };
                report.print();
                return Ok(());
            }
            _ => {}
        }
    }
}

impl Clients {
    fn open(&self, at: usize) -> Result<Client, Failure> {
        let any = if self.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).map_err(Failure::io("open a socket"))?;
        let ready = || {
            socket.connect(self.address)?;
            socket.set_nonblocking(true)?;
            self.poll.add(&socket, at as u64, Ready::IN)
        };
        ready().map_err(Failure::io(format!("connect to {}", self.address)))?;
        widen(&socket);
        Ok(Client { socket, outstanding: 0, since: Instant::now() })
    }

    /// Sends until as many are outstanding as are to be.
    fn ask(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.since = Instant::now();
        while client.outstanding < self.outstanding {
            // One that is not taken is lost, and missed by the time-out.
            let _ = client.socket.send(&self.datagram);
            client.outstanding += 1;
        }
    }

    fn take(&mut self, at: usize) -> Result<(), Failure> {
        let mut buffer = [0; 1 << 16];
        let mut came = false;
        loop {
            let client = &mut self.clients[at];
            match client.socket.recv(&mut buffer) {
                Ok(len) => {
                    came = true;
                    self.failures.malformed += u64::from(len != self.datagram.len());
                    self.answers += 1;
                    client.outstanding = client.outstanding.saturating_sub(1);
                    self.latencies.saturating_record(client.since.elapsed().as_nanos() as u64);
                    if self.outstanding == 1 {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.failures.reset += 1,
            }
        }
        if came {
            if self.fresh {
                self.clients[at] = self.open(at)?;
            }
            self.ask(at);
        }
        Ok(())
    }

    fn give_up(&mut self, now: Instant, timeout: Duration) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if now - client.since > timeout {
                self.failures.timeout += client.outstanding as u64;
                client.outstanding = 0;
                self.ask(at);
            }
        }
    }
}

fn widen(socket: &UdpSocket) {
    // The kernel caps it; less loses earlier.
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
}
