//! What runs out or breaks inside: file descriptors, source ports, worker threads.
//!
//! Limits of the process and namespaces are tried in a child process: this test binary run again for one
//! ignored test, which cannot disturb the others there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::collections::VecDeque;
use std::io::{Read, Seek, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convey_core::{Event, Reason, Snapshot};
use convey_proxy::Proxy;
use lab::{Lab, echo, named, read_all, refusing, run_in_child, serve, spec, wait_until};

/// Environment variable that tells a child process where the server is.
const SERVER: &str = "CONVEY_TEST_SERVER";

/// CPU time of this process; opened early, for when no descriptor is left.
struct CpuTime(std::fs::File);

impl CpuTime {
    fn open() -> Self {
        Self(std::fs::File::open("/proc/self/stat").unwrap())
    }

    fn used(&mut self) -> Duration {
        let mut stat = String::new();
        self.0.rewind().unwrap();
        self.0.read_to_string(&mut stat).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // utime and stime, in ticks of 10 ms; the state letter before them does not parse.
        Duration::from_millis((fields[10] + fields[11]) * 10)
    }
}

#[test]
fn with_64_file_descriptors_accepting_backs_off_and_recovers() {
    // The server stays here, so that its descriptors are not taken from the same 64.
    let server = format!("{SERVER}={}", serve(echo));
    run_in_child(&["prlimit", "--nofile=64:64", "env", &server], "child_with_few_file_descriptors");
}

#[test]
#[ignore = "run in a child process by with_64_file_descriptors_accepting_backs_off_and_recovers"]
fn child_with_few_file_descriptors() {
    let mut cpu = CpuTime::open();
    let addr = std::env::var(SERVER).unwrap().parse().unwrap();
    let lab = Lab::start_with(spec(&[addr]), 1);
    let mut clients: Vec<TcpStream> = Vec::new();
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    // Client and balancer share the 64: clients connect as long as there are descriptors.
    while let Ok(client) = socket() {
        if client.connect_timeout(&lab.addr().into(), Duration::from_secs(1)).is_err() {
            break;
        }
        clients.push(client.into());
    }
    let backoffs =
        || lab.events.lock().unwrap().iter().filter(|e| matches!(e, Event::AcceptBackoff { .. })).count();
    wait_until("the shortage is noticed", || backoffs() > 0);
    let before = cpu.used();
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu.used() - before;
    assert!(used < Duration::from_millis(100), "{used:?} of CPU in 2 s of shortage");
    assert!((1..=3).contains(&backoffs()), "{} events", backoffs());
    // A start with so little room is worth a word.
    let first = lab.events.lock().unwrap()[0].clone();
    assert!(matches!(&first, Event::Warning { message } if message.contains("ulimit -n")), "{first:?}");

    clients.truncate(4);
    wait_until("descriptors are free again", || lab.gauges()[0] <= 4);
    for _ in 0..10 {
        let mut client = lab.connect();
        client.write_all(b"back").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    }
    drop(clients);
    lab.wait_idle();
}

#[test]
fn near_the_limit_on_open_files_clients_wait_to_be_accepted_and_none_is_closed() {
    let server = format!("{SERVER}={}", serve(echo));
    run_in_child(&["prlimit", "--nofile=4096:4096", "env", &server], "child_near_the_limit_on_open_files");
}

#[test]
#[ignore = "run in a child process by near_the_limit_on_open_files_clients_wait_to_be_accepted_and_none_is_closed"]
fn child_near_the_limit_on_open_files() {
    const CLIENTS: usize = 200;
    const LIMIT: u64 = 128;
    let mut cpu = CpuTime::open();
    let addr = std::env::var(SERVER).unwrap().parse().unwrap();
    let limit = |files| {
        let limit = rustix::process::Rlimit { current: Some(files), maximum: Some(4096) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    };
    limit(LIMIT);
    let lab = Lab::start_with(spec(&[addr]), 2);
    // The clients' descriptors lie beyond the limit, so that all below are the balancer's.
    limit(4096);
    let client = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        TcpStream::from(rustix::io::fcntl_dupfd_cloexec(socket, 1000).unwrap())
    };
    let mut clients: VecDeque<TcpStream> = (0..CLIENTS).map(client).collect();
    limit(LIMIT);
    for client in &mut clients {
        socket2::SockRef::from(&*client).connect(&lab.addr().into()).unwrap();
        client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        client.write_all(b"?").unwrap();
    }
    let open = || lab.gauges()[0] as usize;
    let settled = || {
        let before = open();
        std::thread::sleep(Duration::from_millis(500));
        before == open()
    };
    wait_until("nobody more is accepted", || open() > 20 && settled());
    assert!(open() < LIMIT as usize / 2, "{} of {LIMIT} descriptors are clients'", open());
    let used = cpu.used();
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu.used() - used;
    assert!(used < Duration::from_millis(200), "{used:?} of CPU in 2 s of shortage");
    // Health checks and statistics still get theirs.
    drop([(); 4].map(|()| std::fs::File::open("/dev/null").unwrap()));
    let backoffs =
        lab.events.lock().unwrap().iter().filter(|e| matches!(e, Event::AcceptBackoff { .. })).count();
    assert!((1..=4).contains(&backoffs), "{backoffs} events");

    // Whoever is accepted is served, until all have been, in an order of the kernel's.
    let mut served = 0;
    while served < CLIENTS {
        let mut waiting = VecDeque::new();
        for mut client in clients.drain(..) {
            client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            match client.read(&mut [0]) {
                Ok(1) => served += 1,
                Ok(_) => panic!("a client was closed"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => waiting.push_back(client),
                Err(error) => panic!("{error}; fds_exhausted {}", lab.count(Reason::FdsExhausted)),
            }
        }
        clients = waiting;
    }
    lab.wait_idle();
    assert!(Reason::ALL.iter().all(|reason| lab.count(*reason) == 0));
}

/// Runs `name` as [`run_in_child`] does, in a network of its own with the source ports `range`.
fn run_with_source_ports(range: &str, name: &str) {
    let script = format!(
        "ip link set lo up && echo '{range}' > /proc/sys/net/ipv4/ip_local_port_range && exec \"$@\""
    );
    run_in_child(&["unshare", "--user", "--map-root-user", "--net", "sh", "-c", &script, "sh"], name);
}

#[test]
#[ignore = "needs user-namespaces, ip: makes a namespace of its own"]
fn without_source_ports_the_client_is_closed_and_counted_and_recovers() {
    run_with_source_ports("40000 40009", "child_with_ten_source_ports");
}

#[test]
#[ignore = "run in a namespace by without_source_ports_the_client_is_closed_and_counted_and_recovers"]
fn child_with_ten_source_ports() {
    let mut cpu = CpuTime::open();
    let listener = std::net::TcpListener::bind("127.0.0.1:5000").unwrap();
    let server = lab::serve_on(listener, echo);
    let mut spec = spec(&[server]);
    spec.frontends[0].listen = vec!["127.0.0.1:5001".parse().unwrap()];
    let lab = Lab::start(spec);
    // Clients bind ports outside the range, so that all ten are left for the balancer.
    let connect = |port| connect_from(port, &lab);
    let inside: Vec<TcpStream> = (0..10).map(|n| connect(6000 + n)).collect();
    wait_until("ten connections stand", || lab.totals() == [10; 4]);
    let before = cpu.used();
    for n in 0..5 {
        assert_eq!(connect(6100 + n).read(&mut [0]).unwrap(), 0);
    }
    lab.wait_count(Reason::PortsExhausted, 5);
    assert_eq!(lab.snapshot().backends[0].servers[0].reasons.get(Reason::PortsExhausted), 5);
    assert!(cpu.used() - before < Duration::from_millis(500));
    let events = lab.events.lock().unwrap().clone();
    assert!(
        matches!(&events[..], [Event::Warning { message }, ..] if message.contains("port_range")),
        "{events:?}"
    );

    // A reset leaves no TIME_WAIT behind, so the ports are free at once.
    inside.into_iter().for_each(lab::reset);
    lab.wait_idle();
    let mut client = connect(6200);
    client.write_all(b"back").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

/// Connects to the first frontend from `port`.
fn connect_from(port: u16, lab: &Lab) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.connect(&lab.addr().into()).unwrap();
    TcpStream::from(socket)
}

#[test]
#[ignore = "needs user-namespaces, ip: makes a namespace of its own"]
fn a_server_port_that_the_kernel_chooses_as_source_port_counts_as_refused() {
    run_with_source_ports("40000 40000", "child_that_would_connect_to_itself");
}

#[test]
#[ignore = "run in a namespace by a_server_port_that_the_kernel_chooses_as_source_port_counts_as_refused"]
fn child_that_would_connect_to_itself() {
    let dead = std::net::SocketAddr::from(([127, 0, 0, 1], 40000));
    // The one source port there is leads back to its own socket: without a proxy too.
    let itself = TcpStream::connect(dead).unwrap();
    assert_eq!(itself.local_addr().unwrap(), itself.peer_addr().unwrap());
    lab::reset(itself);

    let mut spec = spec(&[dead]);
    spec.frontends[0].listen = vec!["127.0.0.1:5001".parse().unwrap()];
    let lab = Lab::start(spec.clone());
    for n in 0..3 {
        let mut client = connect_from(6000 + n, &lab);
        assert!(!matches!(client.read(&mut [0]), Ok(1..)));
        lab.wait_count(Reason::ConnectRefused, u64::from(n) + 1);
    }
    assert_eq!(lab.snapshot().backends[0].servers[0].reasons.get(Reason::ConnectRefused), 3);
    assert_eq!(lab.count(Reason::RetriesExhausted), 3);
    lab.wait_idle();

    // Another server is tried; nothing is left of the attempt, so that the one source port is free for it.
    let server = std::net::TcpListener::bind("127.0.0.1:5000").unwrap();
    spec.backends[0].servers.push(lab::server(1, lab::serve_on(server, echo)));
    lab.install(spec);
    for n in 0..4 {
        let mut client = connect_from(6100 + n, &lab);
        client.write_all(b"me?").unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
        // A reset frees the port at once.
        lab::reset(client);
        lab.wait_idle();
    }
    assert_eq!(lab.count(Reason::PortsExhausted), 0);
}

/// A sink that panics for every event of the data path once `armed`, and keeps the others.
fn panicking_sink(armed: &Arc<AtomicBool>, kept: &Arc<Mutex<Vec<Event>>>) -> convey_core::EventSink {
    let (armed, kept) = (armed.clone(), kept.clone());
    Arc::new(move |event| match event {
        Event::WorkerPanicked { .. } | Event::Warning { .. } => kept.lock().unwrap().push(event),
        _ if armed.load(SeqCst) => panic!("the sink broke"),
        _ => {}
    })
}

#[test]
fn a_panic_in_one_connection_is_reported_and_touches_no_other() {
    let (armed, kept) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let snapshot = Arc::new(Snapshot::first(spec(&[serve(echo), refusing()]), 1).unwrap());
    let proxy = Proxy::start(snapshot.clone(), 1, panicking_sink(&armed, &kept)).unwrap();
    let addr = proxy.addresses()[0].1;
    let mut survivor = lab::connect(addr);
    survivor.write_all(b"a").unwrap();
    survivor.read_exact(&mut [0]).unwrap();

    // The second server refuses, the report of it panics in the connection's task.
    assert!(!matches!(lab::connect(addr).read(&mut [0]), Ok(1..)));
    wait_until("the panic is reported", || !kept.lock().unwrap().is_empty());
    let Event::Warning { message } = kept.lock().unwrap()[0].clone() else { panic!("{kept:?}") };
    assert!(message.contains("the sink broke"), "{message}");

    survivor.write_all(b"b").unwrap();
    survivor.read_exact(&mut [0]).unwrap();
    assert_eq!(snapshot.totals.open(), 1);
    drop(survivor);
    wait_until("the gauge is zero", || snapshot.totals.open() == 0);
}

#[test]
fn a_worker_that_panics_is_reported_and_starts_again_with_its_listeners() {
    run_in_child(&["prlimit", "--nofile=48:48"], "child_whose_worker_panics");
}

#[test]
#[ignore = "run in a child process by a_worker_that_panics_is_reported_and_starts_again_with_its_listeners"]
fn child_whose_worker_panics() {
    let (armed, kept) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let snapshot = Arc::new(Snapshot::first(spec(&[serve(named("served"))]), 1).unwrap());
    let proxy = Proxy::start(snapshot.clone(), 1, panicking_sink(&armed, &kept)).unwrap();
    let addr = proxy.addresses()[0].1;
    assert_eq!(read_all(&mut lab::connect(addr)), b"served");

    // With every descriptor taken, accept fails in the worker's own loop, and its report panics there.
    armed.store(true, SeqCst);
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mut taken = Vec::new();
    // For a while: what the connection before had is given back only by and by.
    for _ in 0..50 {
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    client.connect(&addr.into()).unwrap();
    wait_until("the panic is reported", || {
        kept.lock().unwrap().iter().any(|e| matches!(e, Event::WorkerPanicked { restarted: true, .. }))
    });
    armed.store(false, SeqCst);
    drop(taken);
    let start = Instant::now();
    // The client that waited in the queue is served by the worker's next life.
    let mut client: TcpStream = client.into();
    client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    assert_eq!(read_all(&mut client), b"served");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(read_all(&mut lab::connect(addr)), b"served");
    drop(client);
    wait_until("the gauge is zero", || snapshot.totals.open() == 0);
    proxy.close();
}

#[test]
fn threads_carry_their_name() {
    let _lab = Lab::start_with(spec(&[serve(echo)]), 2);
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect();
    for name in ["convey-proxy-0\n", "convey-proxy-1\n"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
}

#[test]
#[ignore = "needs root, ss: closes sockets from outside"]
fn a_listener_that_is_closed_from_outside_listens_again_and_says_so() {
    for workers in [1, 3] {
        let lab = Lab::start_with(spec(&[serve(named("served"))]), workers);
        let addr = lab.addr();
        assert_eq!(read_all(&mut lab::connect(addr)), b"served");
        for _ in 0..3 {
            let failed = lab.count(Reason::AcceptFailed);
            lab.events.lock().unwrap().clear();
            let port = format!("sport = :{}", addr.port());
            let ss = Command::new("ss").args(["-K", "-t", "state", "listening", &port]).output().unwrap();
            assert!(String::from_utf8_lossy(&ss.stdout).contains(&addr.to_string()), "{ss:?}");
            wait_until("it is told", || {
                lab.events.lock().unwrap().iter().any(
                    |e| matches!(e, Event::Warning { message } if message.contains("closed from outside; it listens again")),
                )
            });
            assert!(lab.count(Reason::AcceptFailed) > failed, "and counted");
            let mut cpu = CpuTime::open();
            let before = cpu.used();
            for _ in 0..20 {
                wait_until("it serves", || std::net::TcpStream::connect(addr).is_ok());
                assert_eq!(read_all(&mut lab::connect(addr)), b"served", "{workers} workers");
            }
            std::thread::sleep(Duration::from_millis(500));
            let used = cpu.used() - before;
            assert!(used < Duration::from_millis(300), "{used:?} of CPU");
        }
        lab.wait_idle();
    }
}
