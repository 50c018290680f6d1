//! DSR with minimal tracking: flows stay where they began though nobody remembers them.

mod common;

use common::Lab;
use common::world::{VIP, client, open, send, tuple};
use convey_core::{ServerSpec, SnapshotSpec};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, RST, SYN};
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;

fn server_of(out: &common::Out) -> String {
    tuple(&out.frame()).1
}

/// The server that a packet of an open connection goes to.
fn goes_on(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    server_of(&send(lab, P::tcp(&client(n), VIP), now_ms))
}

fn connect(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    let server = server_of(&send(lab, P::syn(&client(n), VIP), now_ms));
    assert_eq!(goes_on(lab, n, now_ms), server, "{n}");
    server
}

fn datagram(lab: &mut Lab, n: u32, now_ms: u64) -> String {
    server_of(&send(lab, P::udp(&client(n), VIP).payload(b"?"), now_ms))
}

fn server<'a>(spec: &'a mut SnapshotSpec, address: &str) -> &'a mut ServerSpec {
    let servers = &mut spec.backends[0].servers;
    servers.iter_mut().find(|s| s.addr.to_string() == address).expect("a server of that address")
}

fn remove(spec: &mut SnapshotSpec, address: &str) {
    spec.backends[0].servers.retain(|s| s.addr.to_string() != address);
}

#[test]
fn no_flow_is_remembered_and_no_connection_counted_while_no_server_changes() {
    let mut lab = Lab::minimal(3);
    for n in 0..200 {
        let server = connect(&mut lab, n, 1000);
        send(&mut lab, P::tcp(&client(n), VIP).flags(FIN | ACK), 1001);
        assert_eq!(goes_on(&mut lab, n, 1002), server);
        send(&mut lab, P::tcp(&client(n), VIP).flags(RST), 1003);
        let server = datagram(&mut lab, n, 1000);
        assert_eq!(datagram(&mut lab, n, 400_000), server);
    }
    assert_eq!((lab.worker.flows(), open(&lab)), (0, (0, 0)));
    assert_eq!(lab.worker.counters().noted(convey_engine::Note::HashRouted), 0);
}
