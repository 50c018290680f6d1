//! Servers on Unix sockets, by path and by abstract name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use convey_core::{Endpoint, FlowCursor, FlowFilter, Reason, SnapshotSpec};
use lab::{Lab, PATIENCE, wait_until};

/// A listener on a path that is removed with it.
struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    fn listen(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("convey-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn endpoint(&self) -> Endpoint {
        format!("unix:{}", self.path.display()).parse().unwrap()
    }

    /// Serves each connection on a thread of its own.
    fn serve(&self, each: impl Fn(UnixStream) + Send + Sync + 'static) {
        let (listener, each) = (self.listener.try_clone().unwrap(), Arc::new(each));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let each = each.clone();
                thread::spawn(move || each(stream));
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn spec(servers: Vec<Endpoint>) -> SnapshotSpec {
    let mut spec = lab::spec(&[]);
    spec.backends[0].servers =
        servers.into_iter().enumerate().map(|(i, addr)| lab::server(i, addr)).collect();
    spec
}

/// Echoes until the end of what comes, then ends.
fn echo(mut stream: UnixStream) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let _ = stream.write_all(&bytes);
}

#[test]
fn bytes_and_half_closes_go_through_both_ways() {
    let server = Server::listen("echo");
    server.serve(echo);
    let lab = Lab::start(spec(vec![server.endpoint()]));
    for size in [0, 1, 100_000, 8_000_000] {
        let sent: Vec<u8> = (0..size).map(|i: usize| ((i * 31) >> 3) as u8).collect();
        let mut client = lab.connect();
        let (mut writer, copy) = (client.try_clone().unwrap(), sent.clone());
        let writing = thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent, "{size} bytes came back as {}", received.len());
    }
    lab.wait_idle();
    assert_eq!(lab.totals(), [4; 4]);
    assert_eq!(lab.count(Reason::ServerReset) + lab.count(Reason::ClientReset), 0);
}

#[test]
fn an_abstract_name_is_a_server_and_the_list_names_it() {
    let name = format!("convey-test-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let lab = Lab::start(spec(vec![format!("unix:@{name}").parse().unwrap()]));
    let mut client = lab.connect();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let row = || lab.proxy.connections(&FlowFilter::default(), FlowCursor::default(), 9).rows.pop();
    wait_until("the list has it", || row().is_some_and(|row| row.server.is_some()));
    let row = row().unwrap();
    assert_eq!(row.server.unwrap().2.to_string(), format!("unix:@{name}"));
    assert_eq!(row.nat, None);
}

#[test]
fn a_socket_that_is_not_there_or_refuses_is_passed_over() {
    let server = Server::listen("good");
    server.serve(echo);
    let refusing = Server::listen("left");
    let stale = refusing.path.with_extension("stale");
    std::fs::rename(&refusing.path, &stale).unwrap();
    let left: Endpoint = format!("unix:{}", stale.display()).parse().unwrap();
    drop(refusing);
    let lab = Lab::start(spec(vec!["unix:/nowhere/at/all.sock".parse().unwrap(), left, server.endpoint()]));
    for _ in 0..3 {
        let mut client = lab.connect();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        assert_eq!(received, "hello");
    }
    std::fs::remove_file(stale).unwrap();
    assert!(lab.count(Reason::ConnectFailed) > 0 && lab.count(Reason::ConnectRefused) > 0);
}

#[test]
fn a_server_whose_queue_is_full_is_waited_for() {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let path = std::env::temp_dir().join(format!("convey-{}-full.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let held = UnixStream::connect(&path).unwrap();
    let lab = Lab::start(spec(vec![format!("unix:{}", path.display()).parse().unwrap()]));
    let mut client = lab.connect();
    client.write_all(b"hello").unwrap();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(lab.totals()[3], 0);
    let _first = socket.accept().unwrap();
    let (mut second, _) = socket.accept().unwrap();
    let mut bytes = [0; 5];
    second.read_exact(&mut bytes).unwrap();
    assert_eq!((&bytes, lab.count(Reason::ConnectFailed)), (b"hello", 0));
    drop(held);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_server_hears_the_end_when_its_client_resets_after_what_was_sent() {
    let server = Server::listen("reset");
    let lab = Lab::start(spec(vec![server.endpoint()]));
    let mut client = lab.connect();
    let (mut stream, _) = server.listener.accept().unwrap();
    client.write_all(&[7; 1000]).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    lab.wait_idle();
}

#[test]
fn a_client_gets_all_that_a_server_said_before_it_went() {
    let server = Server::listen("gone");
    server.serve(|mut stream| {
        let _ = stream.write_all(&[9; 300_000]);
        // With bytes unread, which makes the kernel tell of a reset.
    });
    let lab = Lab::start(spec(vec![server.endpoint()]));
    let mut client = lab.connect();
    client.write_all(&[1; 1000]).unwrap();
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    assert_eq!(received.len(), 300_000);
    lab.wait_idle();
}
