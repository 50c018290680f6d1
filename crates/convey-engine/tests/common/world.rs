//! Packets of clients and servers of the passthrough and DSR worlds, over time.

use super::{Lab, Out};
use convey_testkit::PacketBuilder as P;
use convey_testkit::build::{ACK, FIN, SYN};
use convey_testkit::fixture::Input;

pub const VIP: &str = "192.0.2.10:80";
const LB1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];

pub fn send(lab: &mut Lab, packet: P, now_ms: u64) -> Out {
    let frame = convey_testkit::hex(&packet.macs(LB1, GATEWAY).build());
    lab.run(&Input { frame, ingress: 1, now_ms, partial: None, gso: None })
}

pub fn client(n: u32) -> String {
    format!("198.51.{}.{}:{}", n / 200 % 200, n % 200 + 1, 1024 + n % 50_000)
}

/// Source and destination of an IPv4 packet, as `ip:port`.
pub fn tuple(frame: &[u8]) -> (String, String) {
    let at = |ip: usize, port: usize| {
        let b = &frame[ip..ip + 4];
        format!("{}.{}.{}.{}:{}", b[0], b[1], b[2], b[3], u16::from_be_bytes([frame[port], frame[port + 1]]))
    };
    (at(26, 34), at(30, 36))
}

/// Shakes hands; gives the flow's NAT address and server.
pub fn connect(lab: &mut Lab, client: &str, now_ms: u64) -> (String, String) {
    let out = send(lab, P::syn(client, VIP), now_ms);
    let (nat, server) = tuple(&out.frame());
    send(lab, P::tcp(&server, &nat).flags(SYN | ACK).seq(5000, 1001), now_ms);
    send(lab, P::tcp(client, VIP).seq(1001, 5001), now_ms);
    (nat, server)
}

pub fn connect_dsr(lab: &mut Lab, client: &str, now_ms: u64) -> String {
    send(lab, P::syn(client, VIP), now_ms);
    tuple(&send(lab, P::tcp(client, VIP), now_ms).frame()).1
}

pub fn close(lab: &mut Lab, client: &str, nat: &str, server: &str, now_ms: u64) {
    send(lab, P::tcp(client, VIP).flags(FIN | ACK).seq(1001, 5001), now_ms);
    send(lab, P::tcp(server, nat).flags(FIN | ACK).seq(5001, 1002), now_ms);
    send(lab, P::tcp(client, VIP).seq(1002, 5002), now_ms);
}

pub fn open(lab: &Lab) -> (u64, u64) {
    (lab.config.totals.total(), lab.config.totals.open())
}
