//! Sessions of UDP, with real sockets on both sides.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{Event, FlowCursor, FlowFilter, FlowStage, Protocol, Reason, SnapshotSpec, UdpSessions};
use lab::{Lab, PATIENCE, run_in_child, server, wait_until};

/// Long enough for a datagram that must not come.
const SILENCE: Duration = Duration::from_millis(300);

fn spec(servers: &[SocketAddr]) -> SnapshotSpec {
    let mut spec = lab::spec(servers);
    spec.frontends[0].protocol = Protocol::Udp;
    spec
}

fn with(servers: &[SocketAddr], udp: UdpSessions) -> SnapshotSpec {
    let mut spec = spec(servers);
    spec.frontends[0].udp = udp;
    spec
}

fn socket(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A client that is connected to `addr`: it takes answers from there alone.
fn client(addr: SocketAddr) -> UdpSocket {
    let socket = socket(if addr.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
    socket.connect(addr).unwrap();
    socket
}

/// Runs `answer` for each datagram; what it gives is sent back.
fn serve(at: &str, mut answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(at).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            for datagram in answer(&buffer[..len]) {
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    addr
}

fn echo() -> SocketAddr {
    serve("127.0.0.1:0", |datagram| vec![datagram.to_vec()])
}

fn named(name: &'static str) -> SocketAddr {
    serve("127.0.0.1:0", move |_| vec![name.as_bytes().to_vec()])
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let len = socket.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

fn ask(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    socket.send(datagram).unwrap();
    receive(socket)
}

fn expect_silence(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 64];
    assert!(socket.recv(&mut buffer).is_err(), "a datagram came");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

fn sessions(lab: &Lab) -> Vec<convey_core::FlowRow> {
    lab.proxy.connections(&FlowFilter::default(), FlowCursor::default(), 1000).rows
}

#[test]
fn datagrams_of_every_length_arrive_whole_and_in_both_directions() {
    let lab = Lab::start(spec(&[echo()]));
    let client = client(lab.addr());
    let mut sum = 0;
    for len in [0, 1, 3, 512, 1472, 1473, 9000, 65_000, 65_507] {
        let datagram: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        assert_eq!(ask(&client, &datagram), datagram, "{len} bytes");
        sum += len as u64;
    }
    let s = lab.snapshot();
    wait_until("all bytes are counted", || s.totals.bytes_rx() == sum);
    assert_eq!([s.totals.bytes_tx(), s.frontends[0].counters.bytes_tx()], [sum; 2]);
    assert_eq!(s.backends[0].servers[0].counters.bytes_rx(), sum);
    assert_eq!(lab.totals(), [1; 4], "all in one session");
}

#[test]
fn each_client_has_a_session_of_its_own_and_servers_take_turns() {
    let lab = Lab::start(spec(&[named("a"), named("b")]));
    let clients: Vec<_> = (0..10).map(|_| client(lab.addr())).collect();
    let answers: Vec<_> = clients.iter().map(|client| ask(client, b"who?")).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == b"a").count(), 5);
    for (client, answer) in clients.iter().zip(&answers) {
        assert_eq!(&ask(client, b"again"), answer, "a client stays with its server");
    }
    assert_eq!(lab.gauges(), [10; 4]);
}

#[test]
fn several_workers_serve_many_clients_and_each_answer_finds_its_own() {
    let lab = Lab::start_with(spec(&[echo(), echo()]), 3);
    let clients: Vec<_> = (0..100).map(|_| client(lab.addr())).collect();
    for round in 0..5u8 {
        for (n, client) in clients.iter().enumerate() {
            client.send(&[n as u8, round]).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), [n as u8, round]);
        }
    }
    assert_eq!(lab.totals(), [100; 4]);
}

#[test]
fn a_session_without_datagrams_ends_after_the_idle_timeout_and_not_while_there_are_some() {
    let udp = UdpSessions { idle_timeout: Duration::from_millis(400), ..UdpSessions::default() };
    let lab = Lab::start(with(&[echo()], udp));
    let client = client(lab.addr());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1200) {
        ask(&client, b"alive");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(lab.totals()[0], 1);
    let last = Instant::now();
    lab.wait_idle();
    assert!(last.elapsed() >= Duration::from_millis(340), "it ended after {:?}", last.elapsed());
    assert_eq!(lab.count(Reason::NoAnswer), 0);
    ask(&client, b"anew");
    assert_eq!(lab.totals()[0], 2);
}

#[test]
fn a_session_ends_with_its_answers_and_without_waiting_where_none_is_expected() {
    for (responses, answers) in [(0, 0), (1, 1), (3, 3)] {
        let udp = UdpSessions { responses: Some(responses), ..UdpSessions::default() };
        let addr = serve("127.0.0.1:0", move |d| vec![d.to_vec(); answers]);
        let lab = Lab::start(with(&[addr], udp));
        let client = client(lab.addr());
        for round in 1..=3 {
            client.send(b"ask").unwrap();
            for _ in 0..answers {
                assert_eq!(receive(&client), b"ask");
            }
            wait_until("the session is counted", || lab.totals()[0] == round);
            lab.wait_idle();
        }
        expect_silence(&client);
        assert_eq!(lab.count(Reason::NoAnswer), 0);
    }
}

#[test]
fn a_session_that_lacks_an_expected_answer_ends_by_silence_and_counts_at_its_server() {
    let udp = UdpSessions {
        responses: Some(2),
        idle_timeout: Duration::from_millis(200),
        ..UdpSessions::default()
    };
    let lab = Lab::start(with(&[echo()], udp));
    let client = client(lab.addr());
    ask(&client, b"half");
    lab.wait_count(Reason::NoAnswer, 1);
    lab.wait_idle();
    assert_eq!(lab.snapshot().backends[0].servers[0].reasons.get(Reason::NoAnswer), 1);
}

#[test]
fn after_its_number_of_requests_a_client_gets_another_session() {
    let udp = UdpSessions { requests: 2, responses: Some(1), ..UdpSessions::default() };
    let lab = Lab::start(with(&[named("a"), named("b")], udp));
    let client = client(lab.addr());
    let answers: Vec<_> = (0..8).map(|_| ask(&client, b"?")[0]).collect();
    assert!(answers == *b"aabbaabb" || answers == *b"bbaabbaa", "{answers:?}");
    lab.wait_idle();
    assert_eq!(lab.totals(), [4; 4]);
    // More at once than one session takes.
    for _ in 0..6 {
        client.send(b"?").unwrap();
    }
    let mut answers: Vec<_> = (0..6).map(|_| receive(&client)[0]).collect();
    answers.sort_unstable();
    assert!(answers == *b"aaaabb" || answers == *b"aabbbb", "{answers:?}");
    lab.wait_idle();
    assert_eq!(lab.totals(), [7; 4]);
}

#[test]
fn a_server_that_refuses_is_told_of_and_the_clients_next_datagram_goes_to_another() {
    let dead = {
        let socket = socket("127.0.0.1:0");
        socket.local_addr().unwrap()
    };
    let lab = Lab::start(spec(&[dead, named("b"), dead]));
    for _ in 0..3 {
        let client = client(lab.addr());
        let start = Instant::now();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 8];
        while start.elapsed() < PATIENCE {
            client.send(b"?").unwrap();
            if client.recv(&mut buffer).is_ok() {
                break;
            }
        }
        assert_eq!(buffer[0], b'b');
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(ask(&client, b"?"), b"b", "it stays there");
    }
    let failed =
        |e: &Event| matches!(e, Event::ServerConnectFailed { cause, .. } if cause.contains("refused"));
    assert!(lab.events.lock().unwrap().iter().any(failed));
    assert!(lab.count(Reason::ConnectRefused) >= 2);
    assert_eq!(lab.gauges(), [3; 4]);
    assert_eq!(lab.totals()[0], 3, "a client that moves counts once");
}

#[test]
fn a_server_that_restarts_is_sent_to_again_where_there_is_no_other() {
    let first = socket("127.0.0.1:0");
    let addr = first.local_addr().unwrap();
    let lab = Lab::start(spec(&[addr]));
    let client = client(lab.addr());
    drop(first);
    client.send(b"lost").unwrap();
    lab.wait_count(Reason::ConnectRefused, 1);
    let _again = serve(&addr.to_string(), |_| vec![b"back".to_vec()]);
    assert_eq!(ask(&client, b"?"), b"back");
}

#[test]
fn sessions_of_a_server_that_went_down_move_at_the_next_datagram_and_those_of_a_drained_one_stay() {
    let lab = Lab::start(spec(&[named("a"), named("b")]));
    let clients: Vec<_> = (0..4).map(|_| client(lab.addr())).collect();
    let ask_all = || clients.iter().map(|client| ask(client, b"?")[0]).collect::<Vec<_>>();
    let before = ask_all();
    let mut spec = lab.snapshot().spec().clone();
    spec.backends[0].servers[0].draining = true;
    lab.install(spec.clone());
    assert_eq!(ask_all(), before);
    spec.backends[0].servers[0].draining = false;
    spec.backends[0].servers[0].up = false;
    lab.install(spec.clone());
    assert_eq!(ask_all(), b"bbbb");
    assert_eq!((lab.totals()[0], lab.gauges()), (4, [4; 4]));
    spec.backends[0].servers[0].up = true;
    spec.backends[0].servers.remove(1);
    lab.install(spec);
    assert_eq!(ask_all(), b"aaaa", "that of one that was removed, too");
}

#[test]
fn without_a_server_datagrams_are_dropped_and_counted() {
    let lab = Lab::start(spec(&[]));
    let client = client(lab.addr());
    for _ in 0..3 {
        client.send(b"?").unwrap();
    }
    lab.wait_count(Reason::NoServer, 3);
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::NoServer), 3);
    lab.wait_idle();
}

#[test]
fn strangers_make_room_for_each_other_and_never_take_the_place_of_a_conversation() {
    let udp = UdpSessions { max_sessions: 8, ..UdpSessions::default() };
    let lab = Lab::start_with(with(&[echo()], udp), 1);
    let talking: Vec<_> = (0..4).map(|_| client(lab.addr())).collect();
    for client in &talking {
        ask(client, b"one");
        ask(client, b"two");
    }
    let strangers: Vec<_> = (0..100).map(|_| client(lab.addr())).collect();
    for stranger in &strangers {
        ask(stranger, b"once");
        assert!(lab.gauges()[0] <= 8);
    }
    wait_until("strangers are evicted", || lab.count(Reason::SessionEvicted) > 90);
    for client in &talking {
        assert_eq!(ask(client, b"three"), b"three");
    }
    let of_three = || sessions(&lab).iter().filter(|row| row.packets == Some(6)).count();
    wait_until("the four are still in their first sessions", || of_three() == 4);
    for client in &strangers[96..] {
        ask(client, b"twice");
    }
    strangers[0].send(b"?").unwrap();
    lab.wait_count(Reason::LimitSessions, 1);
    assert_eq!(lab.snapshot().frontends[0].reasons.get(Reason::LimitSessions), 1);
}

#[test]
fn the_limits_of_connections_count_sessions() {
    let mut limited = spec(&[echo()]);
    limited.limits.max_connections_per_client = 2;
    let lab = Lab::start(limited.clone());
    let clients: Vec<_> = (0..3).map(|_| client(lab.addr())).collect();
    ask(&clients[0], b"?");
    ask(&clients[1], b"?");
    clients[2].send(b"?").unwrap();
    lab.wait_count(Reason::LimitClient, 1);

    limited.limits.max_connections_per_client = 0;
    for (reason, set) in [
        (Reason::LimitTotal, (|s: &mut SnapshotSpec| s.limits.max_connections = 2) as fn(&mut SnapshotSpec)),
        (Reason::LimitFrontend, |s| s.frontends[0].max_connections = 2),
        (Reason::LimitServer, |s| s.backends[0].servers[0].max_connections = 2),
    ] {
        let mut spec = limited.clone();
        set(&mut spec);
        let lab = Lab::start(spec);
        let clients: Vec<_> = (0..3).map(|_| client(lab.addr())).collect();
        ask(&clients[0], b"?");
        ask(&clients[1], b"?");
        clients[2].send(b"?").unwrap();
        lab.wait_count(reason, 1);
        assert_eq!(lab.gauges()[0], 2);
    }
}

#[test]
fn a_listener_on_every_address_answers_from_the_one_that_was_asked() {
    let mut everywhere = spec(&[echo()]);
    everywhere.frontends[0].listen = vec!["0.0.0.0:0".parse().unwrap()];
    let lab = Lab::start_with(everywhere, 2);
    let port = lab.addr().port();
    // Each of them takes answers of the address it asked alone.
    let one = client(SocketAddr::from(([127, 0, 0, 1], port)));
    let two = socket("127.0.0.1:0");
    two.connect(SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
    for _ in 0..3 {
        assert_eq!((ask(&one, b"1"), ask(&two, b"2")), (b"1".to_vec(), b"2".to_vec()));
    }
    // One client's socket that asks both addresses has two sessions.
    let both = socket("127.0.0.1:0");
    for ip in [[127, 0, 0, 3], [127, 0, 0, 4]] {
        both.send_to(&ip, SocketAddr::from((ip, port))).unwrap();
        let mut buffer = [0; 8];
        let (len, from) = both.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&ip[..], SocketAddr::from((ip, port))));
    }
    assert_eq!(lab.totals(), [4; 4]);
}

#[test]
fn ipv6_clients_are_served_on_one_address_and_on_every_one_by_servers_of_both_families() {
    let six = serve("[::1]:0", |_| vec![b"six".to_vec()]);
    for listen in ["[::1]:0", "[::]:0"] {
        let mut spec = spec(&[six, named("four")]);
        spec.frontends[0].listen = vec![listen.parse().unwrap()];
        let lab = Lab::start(spec);
        let at = SocketAddr::new("::1".parse().unwrap(), lab.addr().port());
        let (a, b) = (client(at), client(at));
        let mut answers = [ask(&a, b"?"), ask(&b, b"?")];
        answers.sort();
        assert_eq!(answers, [b"four".to_vec(), b"six".to_vec()]);
    }
}

#[test]
fn a_datagram_that_its_server_cannot_be_sent_whole_is_dropped_and_counted() {
    let mut longer = spec(&[echo()]);
    longer.frontends[0].listen = vec!["[::1]:0".parse().unwrap()];
    let lab = Lab::start(longer);
    let client = client(lab.addr());
    // IPv6 carries 20 bytes more than IPv4.
    client.send(&vec![1; 65_527]).unwrap();
    lab.wait_count(Reason::DatagramTooLong, 1);
    assert_eq!(ask(&client, b"short"), b"short");
}

#[test]
fn a_session_is_listed_with_its_stage_and_datagrams_and_ends_when_it_is_killed() {
    let lab = Lab::start(spec(&[echo()]));
    let (one, other) = (client(lab.addr()), client(lab.addr()));
    ask(&one, b"hello");
    ask(&other, b"hello");
    let row_of = |client: &UdpSocket| {
        let client = client.local_addr().unwrap();
        sessions(&lab).into_iter().find(|row| row.client == client)
    };
    wait_until("the answer is listed", || row_of(&one).unwrap().packets == Some(2));
    let row = row_of(&one).unwrap();
    assert_eq!((row.protocol, row.vip, row.stage), (Protocol::Udp, lab.addr(), FlowStage::HalfOpen));
    assert_eq!((row.bytes, row.server.is_some(), row.nat.is_some()), (Some([5, 5]), true, true));
    assert!(row.expires_in.unwrap() > Duration::from_secs(30) && row.idle.is_some());
    ask(&one, b"again");
    wait_until("it is a conversation", || row_of(&one).unwrap().stage == FlowStage::Established);
    let tcp = FlowFilter { protocol: Some(Protocol::Tcp), ..FlowFilter::default() };
    assert_eq!(lab.proxy.end_connections(&tcp), 0);
    let port = one.local_addr().unwrap().port();
    let filter =
        FlowFilter { protocol: Some(Protocol::Udp), client_port: Some(port), ..FlowFilter::default() };
    assert_eq!(lab.proxy.end_connections(&filter), 1);
    wait_until("one is left", || lab.gauges() == [1; 4]);
    assert!(row_of(&one).is_none() && row_of(&other).is_some());
    ask(&one, b"anew");
    assert_eq!(lab.totals()[0], 3);
}

#[test]
fn a_reload_keeps_sessions_and_a_frontend_that_goes_keeps_those_it_has_and_takes_no_other() {
    let lab = Lab::start(spec(&[echo()]));
    let addr = lab.addr();
    let known = client(addr);
    ask(&known, b"1");
    let mut changed = lab.snapshot().spec().clone();
    changed.frontends[0].udp.idle_timeout = Duration::from_millis(2500);
    lab.install(changed.clone());
    ask(&known, b"2");
    assert_eq!((lab.totals()[0], lab.addr()), (1, addr));
    let mut gone = changed.clone();
    gone.frontends[0].name = "other".to_owned();
    gone.frontends[0].listen = vec!["127.0.0.1:0".parse().unwrap()];
    lab.install(gone.clone());
    assert_ne!(lab.addr(), addr);
    assert_eq!(ask(&known, b"3"), b"3");
    let stranger = client(addr);
    stranger.send(b"?").unwrap();
    lab.wait_count(Reason::Leaving, 1);
    // It comes back while its sessions are still there.
    let mut back = gone.clone();
    back.frontends.push(changed.frontends[0].clone());
    back.frontends[1].listen = vec![addr];
    lab.install(back);
    assert_eq!((lab.addr_of("web"), ask(&known, b"4")), (addr, b"4".to_vec()));
    assert_eq!(ask(&stranger, b"?"), b"?");
    lab.install(gone);
    // With its last session the address is free.
    wait_until("the address is free", || UdpSocket::bind(addr).is_ok());
}

#[test]
fn an_address_is_moved_to_one_that_overlaps_and_one_that_is_taken_changes_nothing() {
    let lab = Lab::start(spec(&[echo()]));
    let addr = lab.addr();
    let known = client(addr);
    ask(&known, b"1");
    let taken = socket("127.0.0.1:0");
    let mut wrong = lab.snapshot().spec().clone();
    wrong.frontends[0].listen = vec![taken.local_addr().unwrap()];
    let next = std::sync::Arc::new(lab.snapshot().next(wrong).unwrap());
    let error = lab.proxy.install(next).unwrap_err().to_string();
    assert!(error.contains("cannot listen on") && error.contains("\"web\""), "{error}");
    assert_eq!(ask(&known, b"2"), b"2");
    let mut wider = lab.snapshot().spec().clone();
    wider.frontends[0].listen = vec![SocketAddr::from(([0, 0, 0, 0], addr.port()))];
    lab.install(wider);
    wait_until("the new one has the address", || {
        known.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        known.send(b"3").unwrap();
        known.recv(&mut [0; 8]).is_ok()
    });
}

#[test]
fn at_the_end_sessions_go_on_until_the_deadline_and_new_clients_get_none() {
    let lab = Lab::start(spec(&[echo()]));
    let addr = lab.addr();
    let known = client(addr);
    ask(&known, b"1");
    lab.proxy.stop_accepting();
    assert_eq!(ask(&known, b"2"), b"2");
    client(addr).send(b"?").unwrap();
    lab.wait_count(Reason::Leaving, 1);
    assert!(lab.proxy.addresses().is_empty());
    lab.proxy.settle();
    lab.proxy.close();
    assert_eq!((lab.count(Reason::DrainDeadline), lab.gauges()), (1, [0; 4]));
    assert!(UdpSocket::bind(addr).is_ok(), "the address is free");
}

#[test]
fn tcp_and_udp_share_an_address_and_a_backend() {
    // A port that UDP has free may be taken for TCP.
    let (udp, listener) = std::iter::repeat_with(|| serve("127.0.0.1:0", |_| vec![b"udp".to_vec()]))
        .take(20)
        .find_map(|udp| Some((udp, std::net::TcpListener::bind(udp).ok()?)))
        .unwrap();
    lab::serve_on(listener, lab::named("tcp"));
    let lab = Lab::start(lab::spec(&[udp]));
    let addr = lab.addr();
    let mut both = lab.snapshot().spec().clone();
    both.frontends.push(convey_core::FrontendSpec {
        listen_key: Default::default(),
        name: "web-udp".to_owned(),
        listen: vec![addr],
        protocol: Protocol::Udp,
        ..both.frontends[0].clone()
    });
    lab.install(both);
    assert_eq!(ask(&client(addr), b"?"), b"udp");
    assert_eq!(lab::read_all(&mut lab::connect(addr)), b"tcp");
}

#[test]
fn a_session_lasts_no_longer_than_the_maximum_duration() {
    let mut spec = spec(&[echo()]);
    spec.backends[0].max_duration = Duration::from_millis(300);
    let lab = Lab::start(spec);
    let (quiet, busy) = (client(lab.addr()), client(lab.addr()));
    ask(&quiet, b"?");
    wait_until("both have ended", || {
        ask(&busy, b"?");
        lab.count(Reason::MaxDuration) >= 2
    });
    assert!(lab.totals()[0] >= 3);
}

#[test]
fn a_worker_with_many_answers_at_once_sends_each_where_it_belongs() {
    // Each client asks for more datagrams than a batch holds.
    let addr = serve("127.0.0.1:0", |d| (0..50u8).map(|n| [d, &[n]].concat()).collect());
    let lab = Lab::start_with(spec(&[addr]), 1);
    let clients: Vec<_> = (0..8).map(|_| client(lab.addr())).collect();
    for (n, client) in clients.iter().enumerate() {
        client.send(&[n as u8]).unwrap();
    }
    for (n, client) in clients.iter().enumerate() {
        let mut got: Vec<_> = (0..50).map(|_| receive(client)).collect();
        got.sort();
        assert_eq!(got, (0..50u8).map(|m| vec![n as u8, m]).collect::<Vec<_>>());
    }
}

#[test]
fn a_server_added_reached_through_its_name_takes_sessions_at_its_new_address() {
    let lab = Lab::start(spec(&[named("old")]));
    let client = client(lab.addr());
    assert_eq!(ask(&client, b"?"), b"old");
    let mut moved = lab.snapshot().spec().clone();
    moved.backends[0].servers = vec![server(0, named("new"))];
    lab.install(moved);
    assert_eq!(ask(&client, b"?"), b"new");
}

/// Where the server is that a child process is to use.
const SERVER: &str = "CONVEY_TEST_SERVER";

fn many_strangers_in_turn() {
    let lab = Lab::start_with(spec(&[std::env::var(SERVER).unwrap().parse().unwrap()]), 1);
    let talking = client(lab.addr());
    ask(&talking, b"one");
    ask(&talking, b"two");
    for _ in 0..200 {
        ask(&client(lab.addr()), b"once");
    }
    assert!(lab.count(Reason::SessionEvicted) > 100, "{}", lab.count(Reason::SessionEvicted));
    assert_eq!(ask(&talking, b"three"), b"three");
    let at = talking.local_addr().unwrap();
    let same = || sessions(&lab).iter().any(|row| row.client == at && row.packets == Some(6));
    wait_until("the conversation is listed as one session", same);
    // Others find descriptors.
    let sockets: Vec<_> = (0..10).map(|_| socket("127.0.0.1:0")).collect();
    assert_eq!(sockets.len(), 10);
}

#[test]
fn where_descriptors_are_few_sessions_leave_some_to_others_and_strangers_make_room_for_each_other() {
    let server = format!("{SERVER}={}", echo());
    run_in_child(&["prlimit", "--nofile=80:80", "env", &server], "child_with_few_descriptors");
}

#[test]
#[ignore = "run in a child process by where_descriptors_are_few_sessions_leave_some_to_others_and_strangers_make_room_for_each_other"]
fn child_with_few_descriptors() {
    many_strangers_in_turn();
}

#[test]
#[ignore = "needs user-namespaces, ip: makes a namespace of its own"]
fn where_ports_are_few_strangers_make_room_for_each_other() {
    let script =
        "ip link set lo up && echo '40000 40029' > /proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script, "sh"];
    run_in_child(&wrapper, "child_with_few_ports");
}

#[test]
#[ignore = "run in a namespace by where_ports_are_few_strangers_make_room_for_each_other"]
fn child_with_few_ports() {
    // Outside of the few.
    let listen = "127.0.0.1:39999";
    let server = serve("127.0.0.1:39998", |d| vec![d.to_vec()]);
    let mut few = spec(&[server]);
    few.frontends[0].listen = vec![listen.parse().unwrap()];
    let lab = Lab::start_with(few, 1);
    let client = |port: u16| {
        let socket = socket(&format!("127.0.0.1:{port}"));
        socket.connect(lab.addr()).unwrap();
        socket
    };
    let talking = client(50_000);
    ask(&talking, b"one");
    ask(&talking, b"two");
    for port in 0..100 {
        ask(&client(50_001 + port), b"once");
    }
    assert!(lab.count(Reason::SessionEvicted) >= 70, "{}", lab.count(Reason::SessionEvicted));
    assert_eq!(ask(&talking, b"three"), b"three");
    assert_eq!((lab.totals()[0], lab.count(Reason::PortsExhausted)), (101, 0));
}
