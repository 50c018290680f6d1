//! A proxy with real sockets around it, for tests.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{
    BackendSpec, Endpoint, Event, EventSink, FrontendSpec, Limits, Mode, Protocol, Reason, ServerSpec,
    Snapshot, SnapshotSpec,
};
use convey_proxy::Proxy;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One frontend "web" on a free loopback port, its backend "pool" with `servers` called s0, s1, …
pub fn spec(servers: &[SocketAddr]) -> SnapshotSpec {
    SnapshotSpec {
        mode: Mode::Proxy,
        limits: Limits::default(),
        frontends: vec![frontend("web", "127.0.0.1:0")],
        backends: vec![BackendSpec {
            name: "pool".to_owned(),
            connect_timeout: Duration::from_secs(5),
            retries: 2,
            idle_timeout: Duration::from_secs(60),
            max_duration: Duration::ZERO,
            waiting: Default::default(),
            ends: Default::default(),
            balance: convey_core::selection::Balance::RoundRobin,
            source: Default::default(),
            eject_after: 0,
            servers: servers.iter().enumerate().map(|(i, addr)| server(i, *addr)).collect(),
        }],
    }
}

pub fn frontend(name: &str, listen: &str) -> FrontendSpec {
    FrontendSpec {
        listen_key: Default::default(),
        name: name.to_owned(),
        listen: vec![listen.parse().unwrap()],
        protocol: Protocol::Tcp,
        backend: "pool".to_owned(),
        accept_proxy: None,
        max_connections: 0,
        hello_routes: None,
        sockets: Default::default(),
        admission: Default::default(),
        udp: Default::default(),
    }
}

pub fn server(number: usize, addr: impl Into<Endpoint>) -> ServerSpec {
    ServerSpec {
        name: format!("s{number}"),
        addr: addr.into(),
        weight: 1,
        max_connections: 0,
        up: true,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    }
}

/// A running proxy, its snapshot and the events it sent.
pub struct Lab {
    pub proxy: Proxy,
    pub events: Arc<Mutex<Vec<Event>>>,
    snapshot: Mutex<Arc<Snapshot>>,
}

impl Lab {
    pub fn start(spec: SnapshotSpec) -> Self {
        Self::start_with(spec, 2)
    }

    pub fn start_with(spec: SnapshotSpec, workers: usize) -> Self {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let sink: EventSink = {
            let events = events.clone();
            Arc::new(move |event| events.lock().unwrap().push(event))
        };
        let snapshot = Arc::new(Snapshot::first(spec, workers).unwrap());
        let proxy = Proxy::start(snapshot.clone(), workers, sink).unwrap();
        Self { proxy, events, snapshot: Mutex::new(snapshot) }
    }

    pub fn install(&self, spec: SnapshotSpec) {
        let mut snapshot = self.snapshot.lock().unwrap();
        let next = Arc::new(snapshot.next(spec).unwrap());
        self.proxy.install(next.clone()).unwrap();
        self.proxy.settle();
        *snapshot = next;
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap().clone()
    }

    pub fn addr(&self) -> SocketAddr {
        self.proxy.addresses()[0].1
    }

    pub fn addr_of(&self, frontend: &str) -> SocketAddr {
        self.proxy.addresses().into_iter().find(|(name, _)| &**name == frontend).unwrap().1
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.addr())
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.snapshot().reasons.get(reason)
    }

    /// Open connections: total, frontend 0, backend 0, all servers of backend 0.
    pub fn gauges(&self) -> [u64; 4] {
        let s = self.snapshot();
        let servers = s.backends[0].servers.iter().map(|s| s.counters.open()).sum();
        [s.totals.open(), s.frontends[0].counters.open(), s.backends[0].counters.open(), servers]
    }

    /// Connections so far: total, frontend 0, backend 0, all servers of backend 0.
    pub fn totals(&self) -> [u64; 4] {
        let s = self.snapshot();
        let servers = s.backends[0].servers.iter().map(|s| s.counters.total()).sum();
        [s.totals.total(), s.frontends[0].counters.total(), s.backends[0].counters.total(), servers]
    }

    pub fn wait_idle(&self) {
        wait_until("all gauges are zero", || self.gauges() == [0; 4]);
    }

    pub fn wait_at_least(&self, reason: Reason, count: u64) {
        wait_until(&format!("{} reaches {count}", reason.name()), || self.count(reason) >= count);
    }

    pub fn wait_count(&self, reason: Reason, count: u64) {
        wait_until(&format!("{} reaches {count}", reason.name()), || self.count(reason) >= count);
        assert_eq!(self.count(reason), count, "{}", reason.name());
    }
}

/// Runs the ignored test `name` of this binary in a process of its own, under `wrapper`.
pub fn run_in_child(wrapper: &[&str], name: &str) {
    let binary = std::env::current_exe().unwrap();
    let mut line: Vec<&str> = vec!["timeout", "60"];
    line.extend(wrapper);
    line.push(binary.to_str().unwrap());
    line.extend(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    let output = Command::new(line[0]).args(&line[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name} in a child process:\n{text}");
}

/// Waits for `condition`; fails the test after [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Connects with a receive buffer of about `bytes`.
pub fn connect_with_room(addr: SocketAddr, bytes: usize) -> TcpStream {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&addr.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs `serve` on a thread of its own for each connection to the returned address.
pub fn serve(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    serve_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
}

pub fn serve_on(
    listener: TcpListener,
    serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// A server that hands each connection to the test.
pub fn handing_over() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let (hand, taken) = mpsc::channel();
    // A test that has ended takes no more.
    (serve(move |stream| drop(hand.send(stream))), taken)
}

/// Sends back what it gets, then its FIN.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Sends `name`, then waits for the client's end.
pub fn named(name: &'static str) -> impl Fn(TcpStream) + Send + Sync + Clone + 'static {
    move |mut stream: TcpStream| {
        let _ = stream.write_all(name.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; 16]);
    }
}

/// An address where connects are refused at once.
pub fn refusing() -> SocketAddr {
    // Bound but not listening: nobody else gets the port meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    addr
}

/// An address that never answers: its accept queue is full, so the kernel drops what comes.
pub struct BlackHole {
    pub addr: SocketAddr,
    _listener: socket2::Socket,
    _filling: Vec<socket2::Socket>,
}

pub fn black_hole() -> BlackHole {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let filling = (0..8)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr);
            socket
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    BlackHole { addr: addr.as_socket().unwrap(), _listener: listener, _filling: filling }
}

/// Closes with a RST.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads to the end.
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// The peer must reset the connection; data before it is passed over.
pub fn expect_reset(stream: &mut TcpStream) {
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("a FIN came instead of a RST"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

/// Reproducible numbers (xorshift), one sequence a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}
