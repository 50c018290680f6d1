//! What the sockets of frontends and backends are set to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{Event, Reason, SnapshotSpec};
use lab::{Lab, echo, handing_over, run_in_child, serve, serve_on, spec, wait_until};

/// Longer than any timeout set here and shorter than those not set.
const SOON: Duration = Duration::from_secs(20);

const OWN_NETWORK: [&str; 4] = ["unshare", "--user", "--map-root-user", "--net"];

/// A proxied connection: lab, client's side, server's side.
fn pair(change: impl FnOnce(&mut SnapshotSpec)) -> (Lab, TcpStream, TcpStream) {
    let (server, taken) = handing_over();
    let mut spec = spec(&[server]);
    change(&mut spec);
    let lab = Lab::start(spec);
    let client = lab.connect();
    let server = taken.recv_timeout(lab::PATIENCE).unwrap();
    wait_until("the connection stands", || lab.totals() == [1; 4]);
    (lab, client, server)
}

#[test]
fn a_side_that_is_silent_after_the_others_fin_is_closed_after_the_half_close_timeout() {
    for idle in [Duration::ZERO, Duration::from_secs(60)] {
        let (lab, client, mut server) = pair(|spec| {
            spec.backends[0].idle_timeout = idle;
            spec.backends[0].ends.half_close_timeout = Duration::from_millis(300);
        });
        thread::sleep(Duration::from_millis(600));
        assert_eq!(lab.gauges(), [1; 4], "it begins with the FIN");
        let began = Instant::now();
        client.shutdown(Shutdown::Write).unwrap();
        lab.wait_count(Reason::HalfCloseTimeout, 1);
        assert!((Duration::from_millis(250)..SOON).contains(&began.elapsed()), "{:?}", began.elapsed());
        lab.wait_idle();
        let _ = server.read(&mut [0]);
    }
}

#[test]
fn a_side_that_goes_on_sending_after_the_others_fin_is_not_closed() {
    let (lab, mut client, mut server) = pair(|spec| {
        spec.backends[0].ends.half_close_timeout = Duration::from_millis(800);
    });
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(lab::read_all(&mut server), b"question");
    for _ in 0..16 {
        thread::sleep(Duration::from_millis(100));
        server.write_all(b"a").unwrap();
    }
    drop(server);
    assert_eq!(lab::read_all(&mut client).len(), 16);
    lab.wait_idle();
    assert_eq!(lab.count(Reason::HalfCloseTimeout), 0);
}

/// How many segments, and how many with data, have come in through the server's end of a connection.
fn segments_in(server: &TcpStream) -> [u32; 2] {
    let (own, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
    let filter = format!("sport = :{} and dport = :{}", own.port(), peer.port());
    let ss = Command::new("ss").args(["-tinOH", &filter]).output().unwrap();
    let text = String::from_utf8_lossy(&ss.stdout).into_owned();
    [" segs_in:", " data_segs_in:"].map(|name| {
        let number = text.split_once(name).map_or("0", |(_, rest)| rest.split(' ').next().unwrap_or(""));
        number.trim().parse().unwrap_or_else(|_| panic!("{name} in {text}"))
    })
}

/// A connection whose client had sent `first` before its server was connected to.
fn spoken_first() -> (Lab, TcpStream, TcpStream) {
    let (addr, taken) = handing_over();
    let mut spec = spec(&[addr]);
    spec.backends[0].servers[0].max_connections = 1;
    spec.backends[0].waiting.queue = 1;
    spec.backends[0].waiting.queue_timeout = lab::PATIENCE;
    let lab = Lab::start(spec);
    let holder = lab.connect();
    let held = taken.recv_timeout(lab::PATIENCE).unwrap();
    let mut client = lab.connect();
    client.write_all(b"first").unwrap();
    wait_until("it waits for the place", || lab.snapshot().backends[0].queue.counts().waiting == 1);
    drop((holder, held));
    let mut server = taken.recv_timeout(lab::PATIENCE).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    (lab, client, server)
}

#[test]
#[ignore = "needs ss: reads what sockets have counted"]
fn the_request_of_a_client_that_spoke_first_comes_with_the_end_of_the_handshake() {
    let (_lab, _client, server) = spoken_first();
    assert_eq!(segments_in(&server), [2, 1], "SYN and request, those with data");
}

#[test]
fn the_first_of_two_small_writes_of_a_server_is_acknowledged_at_once() {
    // The least time for which a kernel holds an acknowledgement back.
    const HELD_BACK: Duration = Duration::from_millis(40);
    let is_prompt = || {
        let (_lab, mut client, mut server) = spoken_first();
        let began = Instant::now();
        server.write_all(b"head").unwrap();
        // Waits in the server's kernel for that.
        server.write_all(b"body").unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        began.elapsed() < HELD_BACK
    };
    // A busy machine may be as slow now and then.
    assert!((0..20).any(|_| is_prompt()));
}

#[test]
#[ignore = "needs ss: reads what sockets have counted"]
fn a_server_that_speaks_first_need_not_wait_for_the_end_of_the_handshake() {
    let (_lab, mut client, mut server) = pair(|_| ());
    assert_eq!(segments_in(&server), [2, 0], "SYN and acknowledgement, those with data");
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
}

/// Sends until nothing more is taken.
fn stuff(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while stream.write(&[0; 64 * 1024]).is_ok() {}
}

#[test]
fn a_server_that_takes_nothing_is_given_up_after_the_tcp_user_timeout() {
    let (lab, client, server) = pair(|spec| {
        spec.backends[0].ends.tcp_user_timeout = Duration::from_millis(500);
    });
    stuff(&client);
    wait_until("the server's side is given up", || lab.count(Reason::ServerReset) == 1);
    drop((client, server));
    lab.wait_idle();
}

#[test]
fn a_client_that_takes_nothing_is_given_up_after_the_tcp_user_timeout() {
    let (lab, client, server) = pair(|spec| {
        spec.frontends[0].sockets.tcp_user_timeout = Duration::from_millis(500);
    });
    stuff(&server);
    wait_until("the client's side is given up", || lab.count(Reason::ClientReset) == 1);
    drop((client, server));
    lab.wait_idle();
}

/// A counter of this network namespace.
fn netstat(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    lines
        .chunks(2)
        .find_map(|pair| pair[1].get(pair[0].iter().position(|head| *head == name)?)?.parse().ok())
        .unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn clients_of_multipath_tcp_and_of_plain_tcp_are_served_by_one_frontend() {
    let protocol = Some(socket2::Protocol::MPTCP);
    let client = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, protocol);
    if let Err(error) = client() {
        eprintln!("skipped: this kernel offers no Multipath TCP: {error}");
        return;
    }
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].sockets.mptcp = true;
    let lab = Lab::start_with(spec, 2);
    let before = netstat("MPCapableSYNRX");
    let multipath = client().unwrap();
    multipath.connect(&lab.addr().into()).unwrap();
    for mut client in [TcpStream::from(multipath), lab.connect()] {
        client.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        // Enough to be spliced.
        let mut sink = client.try_clone().unwrap();
        let sent = lab::Random::new(1).bytes(4 << 20);
        let reader = thread::spawn(move || lab::read_all(&mut sink));
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap() == sent);
    }
    assert!(netstat("MPCapableSYNRX") > before);
    assert!(lab.events.lock().unwrap().is_empty());
    lab.wait_idle();
}

#[test]
#[ignore = "needs root: attaches socket filters, which kernels may refuse to others"]
fn a_reload_to_multipath_tcp_and_back_refuses_nobody() {
    let mut spec = spec(&[serve(echo)]);
    // A port of its own: with port 0 a new listener would get another one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    spec.frontends[0].listen = vec![port];
    let lab = Lab::start(spec.clone());
    let mut standing = lab.connect();
    standing.write_all(b"?").unwrap();
    standing.read_exact(&mut [0]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                expect_echo(port);
            }
        });
        for turn in 0..10 {
            spec.frontends[0].sockets.mptcp = turn % 2 == 0;
            lab.install(spec.clone());
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    standing.write_all(b"?").unwrap();
    standing.read_exact(&mut [0]).unwrap();
}

#[test]
#[ignore = "needs user-namespaces, ip: makes a namespace of its own"]
fn without_multipath_tcp_in_the_kernel_a_frontend_listens_for_plain_tcp_and_says_so() {
    run_in_child(&OWN_NETWORK, "child_without_multipath_tcp");
}

#[test]
#[ignore = "run in a namespace by without_multipath_tcp_in_the_kernel_a_frontend_listens_for_plain_tcp_and_says_so"]
fn child_without_multipath_tcp() {
    let sysctl = "/proc/sys/net/mptcp/enabled";
    // Absent where the kernel was built without.
    if fs::exists(sysctl).unwrap() {
        fs::write(sysctl, "0").unwrap();
    }
    loopback_up();
    let mut spec = spec(&[serve(echo)]);
    spec.frontends[0].sockets.mptcp = true;
    let lab = Lab::start(spec.clone());
    expect_echo(lab.addr());
    let warnings = || warnings(&lab);
    assert!(warnings()[0].contains("frontend web listens for plain TCP"), "{:?}", warnings());
    lab.install(spec);
    assert_eq!(warnings().len(), 1, "a reload that keeps the listener says nothing anew");
}

#[test]
#[ignore = "needs user-namespaces, ip, curl: makes a namespace of its own"]
fn a_frontend_with_fast_open_takes_the_data_of_a_syn() {
    run_in_child(&OWN_NETWORK, "child_with_fast_open");
}

#[test]
#[ignore = "run in a namespace by a_frontend_with_fast_open_takes_the_data_of_a_syn"]
fn child_with_fast_open() {
    loopback_up();
    let sysctl = "/proc/sys/net/ipv4/tcp_fastopen";
    fs::write(sysctl, "1").unwrap();
    let server = serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nok");
    });
    let mut spec = spec(&[server]);
    spec.frontends[0].sockets.fast_open = 16;
    let lab = Lab::start(spec.clone());
    assert!(warnings(&lab)[0].contains("sysctl -w net.ipv4.tcp_fastopen=3"), "{:?}", warnings(&lab));

    fs::write(sysctl, "3").unwrap();
    let curl = || {
        let url = format!("http://{}/", lab.addr());
        let output = Command::new("curl").args(["-sS", "--tcp-fastopen", "-m", "10", &url]).output().unwrap();
        assert_eq!(output.stdout, b"ok", "{}", String::from_utf8_lossy(&output.stderr));
    };
    // The first fetches the cookie.
    curl();
    curl();
    curl();
    let taken = netstat("TCPFastOpenPassive");
    assert!(taken >= 1, "no SYN with data was taken");
    spec.frontends[0].sockets.fast_open = 0;
    lab.install(spec);
    curl();
    curl();
    assert_eq!(netstat("TCPFastOpenPassive"), taken, "it was turned off by the reload");
}

fn warnings(lab: &Lab) -> Vec<String> {
    let events = lab.events.lock().unwrap();
    let warning = |event: &Event| match event {
        Event::Warning { message } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(warning).collect()
}

fn loopback_up() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

fn expect_echo(addr: SocketAddr) {
    let mut client = lab::connect(addr);
    client.write_all(b"?").unwrap();
    client.read_exact(&mut [0]).unwrap();
}
