//! The connections that are open, as an operator sees and ends them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use convey_core::{FlowCursor, FlowFilter, FlowRow, FlowStage, Net};
use lab::{Lab, black_hole, connect, echo, expect_reset, handing_over, serve, spec, wait_until};

fn all(lab: &Lab, filter: &FlowFilter, limit: usize) -> Vec<FlowRow> {
    let (mut rows, mut cursor) = (Vec::new(), Some(FlowCursor::default()));
    while let Some(at) = cursor {
        let page = lab.proxy.connections(filter, at, limit);
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        cursor = page.next;
    }
    rows
}

/// Sends and gets back a word.
fn talk(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
}

fn of(stream: &TcpStream) -> FlowFilter {
    let client = stream.local_addr().unwrap();
    FlowFilter {
        client: Some(Net { address: client.ip(), bits: 32 }),
        client_port: Some(client.port()),
        ..FlowFilter::default()
    }
}

#[test]
fn an_open_connection_is_listed_with_its_server_its_source_and_its_bytes_until_it_ends() {
    let server = serve(echo);
    let lab = Lab::start(spec(&[server]));
    let mut client = lab.connect();
    talk(&mut client);
    wait_until("both directions are counted", || {
        all(&lab, &FlowFilter::default(), 10).iter().all(|row| row.bytes == Some([5, 5]))
    });
    let rows = all(&lab, &FlowFilter::default(), 10);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.client, row.vip), (client.local_addr().unwrap(), lab.addr()));
    assert_eq!((&*row.frontend, row.stage), ("web", FlowStage::Established));
    assert_eq!(row.server, Some(("pool".into(), "s0".into(), server.into())));
    assert!(row.age.is_some() && row.nat.is_some_and(|source| source.ip() == server.ip()), "{row:?}");
    drop(client);
    wait_until("it is listed no more", || all(&lab, &FlowFilter::default(), 10).is_empty());
}

#[test]
fn a_connection_whose_server_is_being_connected_is_new_and_has_none() {
    let hole = black_hole();
    let lab = Lab::start(spec(&[hole.addr]));
    let client = lab.connect();
    wait_until("it is there", || all(&lab, &of(&client), 10).len() == 1);
    let rows = all(&lab, &FlowFilter { backend: Some("pool".into()), ..FlowFilter::default() }, 10);
    assert_eq!(
        rows.iter().map(|row| (row.stage, row.server.clone())).collect::<Vec<_>>(),
        [(FlowStage::New, None)]
    );
    let named = FlowFilter { server: Some("s0".into()), ..FlowFilter::default() };
    assert_eq!(all(&lab, &named, 10), []);
    assert_eq!(lab.proxy.end_connections(&of(&client)), 1);
    lab.wait_idle();
}

#[test]
fn a_connection_that_is_ended_is_reset_on_both_sides_once_and_others_go_on() {
    let (addr, taken) = handing_over();
    let lab = Lab::start(spec(&[addr]));
    let (mut one, mut other) = (lab.connect(), lab.connect());
    let servers = [taken.recv().unwrap(), taken.recv().unwrap()];
    let mut servers = servers.map(|server| (server.peer_addr().ok(), server));
    // The kernel hands a server its connection before the proxy hears of it.
    wait_until("both are connected through", || {
        let rows = all(&lab, &FlowFilter::default(), 10);
        rows.len() == 2 && rows.iter().all(|row| row.stage == FlowStage::Established && row.nat.is_some())
    });
    let row = all(&lab, &of(&one), 10).remove(0);
    assert_eq!(lab.proxy.end_connections(&of(&one)), 1);
    expect_reset(&mut one);
    let (mut ended, rest): (Vec<_>, Vec<_>) = servers.iter_mut().partition(|(peer, _)| *peer == row.nat);
    expect_reset(&mut ended[0].1);
    wait_until("its places are free", || lab.gauges() == [1; 4]);
    assert_eq!(lab.proxy.end_connections(&of(&one)), 0);
    for (_, server) in rest {
        other.write_all(b"on").unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
    }
}

#[test]
fn connections_that_come_and_go_beside_lists_and_kills_leave_nothing_behind() {
    let lab = Lab::start_with(spec(&[serve(echo)]), 2);
    let addr = lab.addr();
    let ends = AtomicBool::new(false);
    let mut stays: Vec<TcpStream> = (0..20).map(|_| connect(addr)).collect();
    stays.iter_mut().for_each(talk);
    let kept: Vec<FlowFilter> = stays.iter().map(of).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ends.load(Relaxed) {
                    let mut client = connect(addr);
                    // It may be cut at any moment.
                    let _ = client.write_all(b"hello");
                    let _ = client.read(&mut [0; 5]);
                }
            });
        }
        for round in 0..50 {
            let rows = all(&lab, &FlowFilter::default(), 7);
            for filter in &kept {
                let found = rows.iter().filter(|row| Some(row.client.port()) == filter.client_port).count();
                assert_eq!(found, 1, "round {round}: who stays is told once");
            }
            for row in rows.iter().filter(|row| kept.iter().all(|f| f.client_port != Some(row.client.port())))
            {
                lab.proxy.end_connections(&FlowFilter {
                    client_port: Some(row.client.port()),
                    ..FlowFilter::default()
                });
            }
        }
        ends.store(true, Relaxed);
    });
    stays.iter_mut().for_each(talk);
    assert_eq!(lab.proxy.end_connections(&FlowFilter::default()), 20);
    lab.wait_idle();
    assert_eq!(all(&lab, &FlowFilter::default(), 10), []);
}
