//! The bench's baseline: a one-arm NAT forwarder that makes one call for each packet it reads and one for each it
//! writes, into a buffer of 4096 bytes, on one thread, with a map from ports to clients and checksums computed
//! afresh. It is not for use: its ports wrap without a look, and it knows IPv4 only.
//!
//! `one_call <interface> <vip:port> <server:port> <server-mac> <gateway-mac>`
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};

use pnet_datalink::{Channel, Config, MacAddr};

const ETHERNET: usize = 14;
const FIRST_PORT: u16 = 33768;
const LAST_PORT: u16 = 61000;

type Tuple = (u8, Ipv4Addr, u16);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, vip, server, server_mac, gateway_mac] = args.as_slice() else {
        return Err("one_call <interface> <vip:port> <server:port> <server-mac> <gateway-mac>".into());
    };
    let (vip, server): (SocketAddrV4, SocketAddrV4) = (vip.parse()?, server.parse()?);
    let (server_mac, gateway_mac): (MacAddr, MacAddr) = (server_mac.parse()?, gateway_mac.parse()?);
    let interface = pnet_datalink::interfaces()
        .into_iter()
        .find(|i| i.name == *device)
        .ok_or_else(|| format!("there is no interface {device}"))?;
    let own_mac = interface.mac.ok_or("the interface has no MAC address")?;
    let Channel::Ethernet(mut tx, mut rx) = pnet_datalink::channel(&interface, Config::default())? else {
        return Err("not an Ethernet interface".into());
    };

    let mut ports: HashMap<Tuple, u16> = HashMap::new();
    let mut clients: HashMap<(u8, u16), (Ipv4Addr, u16)> = HashMap::new();
    let mut next_port = FIRST_PORT;
    println!("ready");
    loop {
        let Ok(received) = rx.next() else { continue };
        let mut frame = received.to_vec();
        let Some(packet) = Packet::parse(&frame) else { continue };
        let Packet { protocol, source, destination, l4 } = packet;
        let (from, to, mac) = if destination == vip {
            let port = *ports.entry((protocol, *source.ip(), source.port())).or_insert_with(|| {
                let port = next_port;
                next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
                port
            });
            clients.insert((protocol, port), (*source.ip(), source.port()));
            (SocketAddrV4::new(*vip.ip(), port), server, server_mac)
        } else if source == server && destination.ip() == vip.ip() {
            let Some((ip, port)) = clients.get(&(protocol, destination.port())) else { continue };
            (vip, SocketAddrV4::new(*ip, *port), gateway_mac)
        } else {
            continue;
        };
        frame[..6].copy_from_slice(&mac.octets());
        frame[6..12].copy_from_slice(&own_mac.octets());
        rewrite(&mut frame, l4, protocol, from, to);
        // A frame too long for the link, as GRO makes them, fails here: that is the pattern's way.
        let _ = tx.send_to(&frame, None);
    }
}

struct Packet {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
    /// Where the layer-4 header begins.
    l4: usize,
}

impl Packet {
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        if frame.get(12..14)? != [8, 0] || ip.len() < 20 || !matches!(ip[9], 6 | 17) {
            return None;
        }
        let l4 = ETHERNET + usize::from(ip[0] & 15) * 4;
        let ports = frame.get(l4..l4 + if ip[9] == 6 { 20 } else { 8 })?;
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        Some(Self {
            protocol: ip[9],
            source: SocketAddrV4::new(address(12), port(0)),
            destination: SocketAddrV4::new(address(16), port(2)),
            l4,
        })
    }
}

fn rewrite(frame: &mut [u8], l4: usize, protocol: u8, from: SocketAddrV4, to: SocketAddrV4) {
    frame[26..30].copy_from_slice(&from.ip().octets());
    frame[30..34].copy_from_slice(&to.ip().octets());
    frame[l4..l4 + 2].copy_from_slice(&from.port().to_be_bytes());
    frame[l4 + 2..l4 + 4].copy_from_slice(&to.port().to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum(&frame[ETHERNET..l4], 0);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let end = (ETHERNET + usize::from(u16::from_be_bytes([frame[16], frame[17]]))).clamp(l4, frame.len());
    let field = l4 + if protocol == 6 { 16 } else { 6 };
    frame[field..field + 2].fill(0);
    let pseudo = from
        .ip()
        .octets()
        .chunks(2)
        .chain(to.ip().octets().chunks(2))
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum::<u32>()
        + u32::from(protocol)
        + (end - l4) as u32;
    let sum = checksum(&frame[l4..end], pseudo);
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
