//! A line for each connection: what it says, where it goes, and what cannot hold it up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use convey_core::{FlowFilter, Limits, Protocol, SnapshotSpec, UdpSessions};
use convey_proxy::{LogSpec, Logged};
use lab::{Lab, echo, expect_reset, handing_over, named, read_all, refusing, reset, serve, spec, wait_until};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("convey-log-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("connections.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn logging(spec: SnapshotSpec, logged: Logged, file: &Path) -> Lab {
    let lab = Lab::start(spec);
    lab.proxy.log_connections(Some(&LogSpec { logged, file: Some(file.to_owned()) })).unwrap();
    lab
}

/// The lines of a file once it has so many.
fn lines(file: &Path, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(file).unwrap_or_default();
    wait_until("the lines are written", || read().lines().count() >= count);
    let text = read();
    assert!(text.ends_with('\n'), "whole lines: {text}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

/// The value of `key`, as written.
fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {line}"));
    rest.split([',', '}']).next().unwrap().trim_matches('"')
}

fn talk(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
}

const ALL: Logged = Logged::Share(1.0);

#[test]
fn a_connection_that_ends_well_says_who_where_how_long_and_who_closed_first() {
    let folder = Folder::new();
    let server = serve(echo);
    let lab = logging(spec(&[server]), ALL, &folder.file());
    let mut client = lab.connect();
    talk(&mut client);
    std::thread::sleep(Duration::from_millis(30));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), b"");
    let line = &lines(&folder.file(), 1)[0];
    for (key, expected) in [
        ("level", "info"),
        ("client", &client.local_addr().unwrap().to_string()),
        ("frontend", "web"),
        ("listen", &lab.addr().to_string()),
        ("backend", "pool"),
        ("server", "s0"),
        ("server_addr", &server.to_string()),
        ("attempts", "1"),
        ("bytes_tx", "5"),
        ("bytes_rx", "5"),
        ("closed_first", "client"),
        ("end", "closed"),
        ("flags", "--"),
        ("msg", "connection"),
    ] {
        assert_eq!(value(line, key), expected, "{key} in {line}");
    }
    assert!(value(line, "source").starts_with("127.0.0.1:"), "{line}");
    let ms = |key| value(line, key).parse::<f64>().unwrap();
    assert!(
        ms("total_ms") >= 30.0 && ms("wait_ms") + ms("connect_ms") + ms("first_byte_ms") <= ms("total_ms")
    );
}

#[test]
fn a_server_that_closes_first_is_named() {
    let folder = Folder::new();
    let lab = logging(spec(&[serve(named("bye"))]), ALL, &folder.file());
    let mut client = lab.connect();
    assert_eq!(read_all(&mut client), b"bye");
    drop(client);
    let line = &lines(&folder.file(), 1)[0];
    assert_eq!((value(line, "closed_first"), value(line, "flags")), ("server", "--"), "{line}");
}

#[test]
fn ends_are_told_apart() {
    let folder = Folder::new();
    let (addr, taken) = handing_over();
    let lab = logging(spec(&[addr]), Logged::Errors, &folder.file());
    let connected = || {
        let mut client = lab.connect();
        let mut server = taken.recv().unwrap();
        client.write_all(b"on").unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
        server.write_all(b"ok").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        (client, server)
    };
    let mut seen = 0;
    let mut next = |end: &str, flags: &str| {
        seen += 1;
        let line = lines(&folder.file(), seen).remove(seen - 1);
        assert_eq!(
            (value(&line, "end"), value(&line, "flags"), value(&line, "level")),
            (end, flags, "warn"),
            "{line}"
        );
    };
    let (client, mut server) = connected();
    reset(client);
    expect_reset(&mut server);
    next("client_reset", "CD");
    let (mut client, server) = connected();
    reset(server);
    expect_reset(&mut client);
    next("server_reset", "SD");
    let (mut client, _server) = connected();
    assert_eq!(lab.proxy.end_connections(&FlowFilter::default()), 1);
    expect_reset(&mut client);
    next("killed", "KD");
    // One that ends well is none of these.
    let (client, server) = connected();
    drop(client);
    drop(server);
    lab.wait_idle();
    let (mut client, _server) = connected();
    lab.proxy.close();
    expect_reset(&mut client);
    next("drain_deadline", "KD");
}

#[test]
fn clients_that_get_no_server_are_told_with_the_reason_and_the_attempts() {
    let folder = Folder::new();
    let lab = logging(spec(&[refusing(), refusing()]), Logged::Errors, &folder.file());
    assert_eq!(read_all(&mut lab.connect()), b"");
    let line = &lines(&folder.file(), 1)[0];
    assert_eq!(
        (value(line, "end"), value(line, "flags"), value(line, "attempts")),
        ("retries_exhausted", "SC", "2")
    );
    assert_eq!((value(line, "server"), value(line, "connect_ms")), ("null", "null"), "{line}");
    let limited =
        SnapshotSpec { limits: Limits { max_connections: 1, ..Limits::default() }, ..spec(&[serve(echo)]) };
    lab.install(limited);
    let mut one = lab.connect();
    talk(&mut one);
    assert_eq!(read_all(&mut lab.connect()), b"");
    let line = &lines(&folder.file(), 2)[1];
    assert_eq!(
        (value(line, "end"), value(line, "flags"), value(line, "attempts")),
        ("limit_total", "PC", "0"),
        "{line}"
    );
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew_when_it_is_opened_again() {
    let folder = Folder::new();
    let lab = logging(spec(&[serve(echo)]), ALL, &folder.file());
    let once = || {
        let mut client = lab.connect();
        talk(&mut client);
        drop(client);
        lab.wait_idle();
    };
    once();
    lines(&folder.file(), 1);
    let moved = folder.0.join("connections.log.1");
    fs::rename(folder.file(), &moved).unwrap();
    once();
    lines(&moved, 2);
    lab.proxy.reopen_log().unwrap().unwrap();
    once();
    lines(&folder.file(), 1);
    lines(&moved, 2);
    assert_eq!(lab.proxy.lost_log_lines(), 0);
}

#[test]
fn a_full_disk_costs_lines_but_no_traffic_and_logging_goes_on_when_there_is_room() {
    let folder = Folder::new();
    symlink("/dev/full", folder.file()).unwrap();
    let lab = logging(spec(&[serve(echo)]), ALL, &folder.file());
    let begun = Instant::now();
    let mut one = lab.connect();
    for _ in 0..200 {
        let mut client = lab.connect();
        talk(&mut client);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    fs::remove_file(folder.file()).unwrap();
    lab.proxy.reopen_log().unwrap().unwrap();
    talk(&mut one);
    drop(one);
    // All were few enough to wait.
    lines(&folder.file(), 201);
    assert_eq!(lab.proxy.lost_log_lines(), 0);
}

#[test]
fn more_than_can_wait_is_lost_and_counted_and_said_once_there_is_room() {
    let folder = Folder::new();
    symlink("/dev/full", folder.file()).unwrap();
    // Refused at once, which makes many of them quickly.
    let limited =
        SnapshotSpec { limits: Limits { max_connections: 1, ..Limits::default() }, ..spec(&[serve(echo)]) };
    let lab = logging(limited, Logged::Errors, &folder.file());
    let mut one = lab.connect();
    talk(&mut one);
    let addr: SocketAddr = lab.addr();
    wait_until("lines are lost", || {
        for _ in 0..500 {
            let client = TcpStream::connect(addr).unwrap();
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        lab.proxy.lost_log_lines() > 0
    });
    talk(&mut one);
    fs::remove_file(folder.file()).unwrap();
    lab.proxy.reopen_log().unwrap().unwrap();
    wait_until("the loss is told", || {
        let text = fs::read_to_string(folder.file()).unwrap_or_default();
        text.lines().any(|line| line.contains("\"lost\":") && value(line, "lost") != "0")
    });
}

#[test]
fn a_file_that_cannot_be_opened_is_named_and_the_log_in_service_goes_on() {
    let folder = Folder::new();
    let lab = logging(spec(&[serve(echo)]), ALL, &folder.file());
    for (file, expected) in [(folder.0.join("no/such"), "No such file"), (folder.0.clone(), "Is a directory")]
    {
        let error =
            lab.proxy.log_connections(Some(&LogSpec { logged: ALL, file: Some(file.clone()) })).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&*file.to_string_lossy()) && error.contains(expected), "{error}");
    }
    let mut client = lab.connect();
    talk(&mut client);
    drop(client);
    lines(&folder.file(), 1);
    lab.wait_idle();
    lab.proxy.log_connections(None).unwrap();
    let mut client = lab.connect();
    talk(&mut client);
    drop(client);
    lab.wait_idle();
    lines(&folder.file(), 1);
    assert!(lab.proxy.reopen_log().is_none());
}

#[test]
fn sessions_of_udp_have_lines_that_say_how_they_ended() {
    let folder = Folder::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut of_udp = spec(&[server.local_addr().unwrap()]);
    of_udp.frontends[0].protocol = Protocol::Udp;
    of_udp.frontends[0].udp = UdpSessions {
        responses: Some(1),
        idle_timeout: Duration::from_millis(300),
        ..UdpSessions::default()
    };
    let lab = logging(of_udp, ALL, &folder.file());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(lab.addr()).unwrap();
    client.send(b"answered").unwrap();
    let mut buffer = [0; 16];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], from).unwrap();
    client.recv(&mut buffer).unwrap();
    let line = &lines(&folder.file(), 1)[0];
    let client_at = client.local_addr().unwrap().to_string();
    for (key, expected) in [
        ("client", &*client_at),
        ("source", &from.to_string()),
        ("attempts", "1"),
        ("bytes_tx", "8"),
        ("bytes_rx", "8"),
        ("end", "closed"),
        ("flags", "--"),
    ] {
        assert_eq!(value(line, key), expected, "{key} in {line}");
    }
    client.send(b"not answered").unwrap();
    let line = &lines(&folder.file(), 2)[1];
    assert_eq!((value(line, "end"), value(line, "flags")), ("no_answer", "sD"), "{line}");
    client.send(b"killed").unwrap();
    wait_until("it is ended", || lab.proxy.end_connections(&FlowFilter::default()) == 1);
    let line = &lines(&folder.file(), 3)[2];
    assert_eq!((value(line, "end"), value(line, "flags")), ("killed", "KD"), "{line}");
}
