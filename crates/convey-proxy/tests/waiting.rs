//! Waiting for a place at a backend, and for a server that comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use convey_core::{QueueCounts, Reason, SnapshotSpec};
use lab::{Lab, PATIENCE, echo, handing_over, read_all, refusing, reset, serve, serve_on, spec, wait_until};

/// A backend whose servers take `places` connections each, and in whose queue `queue` may wait.
fn queueing(servers: &[SocketAddr], places: u64, queue: u64) -> SnapshotSpec {
    let mut spec = spec(servers);
    spec.backends[0].servers.iter_mut().for_each(|s| s.max_connections = places);
    spec.backends[0].waiting.queue = queue;
    spec.backends[0].waiting.queue_timeout = PATIENCE;
    spec
}

fn queue(lab: &Lab) -> QueueCounts {
    lab.snapshot().backends[0].queue.counts()
}

fn wait_waiting(lab: &Lab, waiting: u64) {
    wait_until(&format!("{waiting} wait"), || queue(lab).waiting == waiting);
}

/// Whether the client's byte comes back.
fn is_served(client: &mut TcpStream) -> bool {
    client.write_all(b"?").is_ok() && client.read_exact(&mut [0]).is_ok()
}

fn expect_closed(client: &mut TcpStream) {
    assert!(read_all(client).is_empty());
}

#[test]
fn clients_get_places_in_the_order_in_which_they_came_whichever_worker_has_them() {
    const CLIENTS: usize = 40;
    // Each says its number; the server notes it, answers and closes.
    let order: Arc<Mutex<Vec<u8>>> = Arc::default();
    let noted = order.clone();
    let server = serve(move |mut stream| {
        let mut number = [0];
        if stream.read_exact(&mut number).is_ok() {
            noted.lock().unwrap().push(number[0]);
            let _ = stream.read(&mut [0]);
        }
    });
    let lab = Lab::start_with(queueing(&[server], 1, 100), 4);
    let holder = lab.connect();
    (&holder).write_all(&[255]).unwrap();
    wait_until("the place is taken", || order.lock().unwrap().len() == 1);
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|number| {
            let client = lab.connect();
            (&client).write_all(&[number as u8]).unwrap();
            wait_waiting(&lab, number as u64 + 1);
            client
        })
        .collect();
    drop(holder);
    for (number, client) in clients.into_iter().enumerate() {
        wait_until("the next one has the place", || order.lock().unwrap().len() == number + 2);
        assert_eq!(queue(&lab).waiting as usize, CLIENTS - number - 1);
        drop(client);
    }
    let expected: Vec<u8> = std::iter::once(255).chain(0..CLIENTS as u8).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    lab.wait_idle();
    assert_eq!(queue(&lab), QueueCounts { waiting: 0, total: CLIENTS as u64, timed_out: 0, refused: 0 });
    assert_eq!(lab.totals(), [CLIENTS as u64 + 1; 4]);
}

#[test]
fn nobody_is_lost_when_many_come_and_go_at_once_and_the_limit_is_never_passed() {
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (count, max) = (inside.clone(), most.clone());
    let server = serve(move |stream| {
        max.fetch_max(count.fetch_add(1, SeqCst) + 1, SeqCst);
        let mut stream = stream;
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        count.fetch_sub(1, SeqCst);
    });
    let lab = Lab::start_with(queueing(&[server], 3, 1000), 3);
    let addr = lab.addr();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(move || {
                for _ in 0..25 {
                    let mut client = lab::connect(addr);
                    assert!(is_served(&mut client));
                }
            });
        }
    });
    lab.wait_idle();
    assert_eq!(queue(&lab).waiting, 0);
    assert!(queue(&lab).total > 0);
    assert_eq!(lab.totals(), [500; 4]);
    // The server may hear of an end later than the next beginning.
    assert!(most.load(SeqCst) <= 3 + 20, "{} at once", most.load(SeqCst));
}

#[test]
fn the_limit_of_a_backend_holds_over_all_its_servers() {
    let mut spec = spec(&[serve(echo), serve(echo)]);
    spec.backends[0].waiting.max_connections = 3;
    let lab = Lab::start(spec.clone());
    let mut inside: Vec<_> = (0..3).map(|_| lab.connect()).collect();
    inside.iter_mut().for_each(|client| assert!(is_served(client)));
    for refused in 1..=2 {
        expect_closed(&mut lab.connect());
        lab.wait_count(Reason::LimitBackend, refused);
    }
    assert_eq!(lab.gauges(), [3; 4]);
    spec.backends[0].waiting.queue = 1;
    spec.backends[0].waiting.queue_timeout = PATIENCE;
    lab.install(spec);
    let mut waiting = lab.connect();
    wait_waiting(&lab, 1);
    inside.pop();
    assert!(is_served(&mut waiting));
}

#[test]
fn a_full_queue_refuses_and_the_time_in_it_is_bounded() {
    let mut spec = queueing(&[serve(echo)], 1, 2);
    spec.backends[0].waiting.queue_timeout = Duration::from_millis(300);
    let lab = Lab::start(spec);
    let mut holder = lab.connect();
    assert!(is_served(&mut holder));
    let began = Instant::now();
    let mut waiting = [lab.connect(), lab.connect()];
    wait_waiting(&lab, 2);
    expect_closed(&mut lab.connect());
    lab.wait_count(Reason::QueueFull, 1);
    waiting.iter_mut().for_each(expect_closed);
    assert!(began.elapsed() >= Duration::from_millis(300));
    lab.wait_count(Reason::QueueTimeout, 2);
    assert_eq!(queue(&lab), QueueCounts { waiting: 0, total: 2, timed_out: 2, refused: 1 });
    assert!(is_served(&mut holder));
    drop(holder);
    lab.wait_idle();
}

#[test]
fn a_client_that_is_gone_leaves_the_queue_and_one_that_has_spoken_stays() {
    let lab = Lab::start(queueing(&[serve(echo)], 1, 10));
    let mut holder = lab.connect();
    assert!(is_served(&mut holder));
    let closing = lab.connect();
    wait_waiting(&lab, 1);
    let resetting = lab.connect();
    wait_waiting(&lab, 2);
    // It has said all it wants to say and waits for the answer.
    let mut spoken = lab.connect();
    spoken.write_all(b"all").unwrap();
    spoken.shutdown(Shutdown::Write).unwrap();
    wait_waiting(&lab, 3);
    drop(closing);
    lab.wait_count(Reason::QueueAbandoned, 1);
    reset(resetting);
    lab.wait_count(Reason::ClientReset, 1);
    wait_waiting(&lab, 1);
    drop(holder);
    assert_eq!(read_all(&mut spoken), b"all");
    lab.wait_idle();
}

#[test]
fn a_server_that_comes_up_is_added_or_may_take_more_wakes_those_who_wait() {
    let mut spec = queueing(&[serve(echo)], 1, 10);
    spec.backends[0].servers[0].up = false;
    let lab = Lab::start(spec.clone());
    let mut first = lab.connect();
    wait_waiting(&lab, 1);
    let mut second = lab.connect();
    wait_waiting(&lab, 2);
    spec.backends[0].servers[0].up = true;
    lab.install(spec.clone());
    assert!(is_served(&mut first));
    wait_waiting(&lab, 1);
    spec.backends[0].servers[0].max_connections = 2;
    lab.install(spec.clone());
    assert!(is_served(&mut second));
    let mut third = lab.connect();
    wait_waiting(&lab, 1);
    spec.backends[0].servers.push(lab::server(1, serve(echo)));
    lab.install(spec);
    assert!(is_served(&mut third));
    assert_eq!(lab.snapshot().backends[0].servers[1].counters.open(), 1);
}

#[test]
fn those_who_wait_when_the_queue_is_taken_away_are_served_and_new_ones_are_refused() {
    let mut spec = queueing(&[serve(echo)], 1, 10);
    let lab = Lab::start(spec.clone());
    let mut holder = lab.connect();
    assert!(is_served(&mut holder));
    let mut waiting = lab.connect();
    wait_waiting(&lab, 1);
    spec.backends[0].waiting.queue = 0;
    lab.install(spec);
    expect_closed(&mut lab.connect());
    lab.wait_count(Reason::LimitBackend, 1);
    drop(holder);
    assert!(is_served(&mut waiting));
}

#[test]
fn those_who_wait_when_their_frontend_and_backend_are_removed_are_served() {
    let mut spec = queueing(&[serve(echo)], 1, 10);
    let lab = Lab::start(spec.clone());
    let mut holder = lab.connect();
    assert!(is_served(&mut holder));
    let mut waiting = lab.connect();
    wait_waiting(&lab, 1);
    spec.backends[0].name = "other".to_owned();
    spec.frontends[0] = lab::frontend("another", "127.0.0.1:0");
    spec.frontends[0].backend = "other".to_owned();
    lab.install(spec);
    drop(holder);
    assert!(is_served(&mut waiting));
}

#[test]
fn a_drain_serves_those_who_wait_until_its_deadline_cuts_them() {
    let lab = Lab::start(queueing(&[serve(echo)], 1, 10));
    let mut holder = lab.connect();
    assert!(is_served(&mut holder));
    let mut first = lab.connect();
    wait_waiting(&lab, 1);
    let mut second = lab.connect();
    wait_waiting(&lab, 2);
    lab.proxy.stop_accepting();
    lab.proxy.settle();
    drop(holder);
    assert!(is_served(&mut first));
    assert_eq!(queue(&lab).waiting, 1);
    lab.proxy.close();
    assert_eq!(queue(&lab).waiting, 0);
    assert_eq!(lab.gauges(), [0; 4]);
    assert_eq!(lab.count(Reason::DrainDeadline), 2);
    let _ = second.read(&mut [0]);
}

#[test]
fn one_whose_server_fails_does_not_hold_up_those_behind_it() {
    // The first server takes connections up to its limit, the second refuses.
    let (server, taken) = handing_over();
    let lab = Lab::start(queueing(&[server, refusing()], 1, 10));
    let clients: Vec<TcpStream> = (0..4).map(|_| lab.connect()).collect();
    for _ in 0..clients.len() {
        reset(taken.recv_timeout(PATIENCE).unwrap());
    }
    // Bounded by the pauses: no server is hammered.
    let refused = lab.count(Reason::ConnectRefused);
    assert!(refused < 200, "{refused} connects were refused");
    // One that was reset before the proxy heard that it stands counts as a failed connect, and comes again.
    thread::spawn(move || taken.into_iter().for_each(reset));
    drop(clients);
    lab.wait_idle();
}

#[test]
fn a_single_server_that_is_away_for_a_moment_loses_no_client() {
    let addr = refusing_until_served();
    let mut spec = spec(&[addr.0]);
    spec.backends[0].waiting.retry_timeout = PATIENCE;
    let lab = Lab::start(spec);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| lab.connect()).collect();
    lab.wait_at_least(Reason::ConnectRefused, 60);
    (addr.1)();
    clients.iter_mut().for_each(|client| assert!(is_served(client)));
    drop(clients);
    lab.wait_idle();
    assert_eq!(lab.count(Reason::RetriesExhausted), 0);
}

#[test]
fn a_client_waits_for_a_server_no_longer_than_the_retry_timeout() {
    let mut refused = spec(&[refusing()]);
    refused.backends[0].waiting.retry_timeout = Duration::from_millis(400);
    let lab = Lab::start(refused);
    let began = Instant::now();
    expect_closed(&mut lab.connect());
    assert!(began.elapsed() >= Duration::from_millis(400));
    lab.wait_count(Reason::RetriesExhausted, 1);
    // 50, 100, 200 ms and what is left of the 400.
    assert!((2..=5).contains(&lab.count(Reason::ConnectRefused)), "{}", lab.count(Reason::ConnectRefused));

    let mut down = spec(&[serve(echo)]);
    down.backends[0].servers[0].up = false;
    down.backends[0].waiting.retry_timeout = Duration::from_millis(200);
    let lab = Lab::start(down.clone());
    expect_closed(&mut lab.connect());
    lab.wait_count(Reason::NoServer, 1);
    down.backends[0].waiting.retry_timeout = PATIENCE;
    lab.install(down.clone());
    let mut client = lab.connect();
    wait_until("it waits", || lab.gauges()[0] == 1);
    down.backends[0].servers[0].up = true;
    lab.install(down);
    assert!(is_served(&mut client));
}

/// An address where connects are refused until the function is called, when it begins to serve.
fn refusing_until_served() -> (SocketAddr, impl FnOnce()) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let begin = move || {
        socket.listen(128).unwrap();
        let listener: TcpListener = socket.into();
        serve_on(listener, echo);
    };
    (addr, begin)
}

#[test]
fn a_client_that_leaves_while_servers_are_tried_again_is_forgotten() {
    let mut spec = spec(&[refusing()]);
    spec.backends[0].waiting.retry_timeout = PATIENCE;
    let lab = Lab::start(spec);
    let client = lab.connect();
    lab.wait_at_least(Reason::ConnectRefused, 1);
    drop(client);
    lab.wait_count(Reason::QueueAbandoned, 1);
    lab.wait_idle();
}
