//! Puts raw frames on a link: for tests of malformed packets, and for floods of small ones.
//!
//! `inject <interface>` sends each line of its input, a frame in hexadecimal, and prints `sent N`.
//! `inject <interface> --flood <seconds> --flows <n> --to <mac>/<ip>:<port> --from <ip>` sends UDP packets of 60
//! bytes from `n` source ports in turn, as fast as it can, and prints `sent N`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use convey_afpacket::raw::{Outgoing, PacketSocket, VNET_HEADER_BYTES};
use pnet_datalink::MacAddr;

const BATCH: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let device = args.next().ok_or("inject <interface> […]")?;
    let interface = pnet_datalink::interfaces()
        .into_iter()
        .find(|i| i.name == device)
        .ok_or_else(|| format!("there is no interface {device}"))?;
    let socket = PacketSocket::open(1 << 20, Duration::from_secs(1))?;
    let mut flood = Flood { seconds: 0.0, flows: 1, to: None, from: Ipv4Addr::UNSPECIFIED };
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--flood" => flood.seconds = value.parse()?,
            "--flows" => flood.flows = value.parse()?,
            "--to" => {
                let (mac, address) = value.split_once('/').ok_or("--to takes mac/ip:port")?;
                flood.to = Some((mac.parse()?, address.parse()?));
            }
            "--from" => flood.from = value.parse()?,
            other => return Err(format!("{other} is no option").into()),
        }
    }
    let mac = interface.mac.unwrap_or_default();
    let sent = match flood.to {
        Some(to) => flood.run(&socket, interface.index, mac, to)?,
        None => send_lines(&socket, interface.index)?,
    };
    println!("sent {sent}");
    Ok(())
}

fn send_lines(socket: &PacketSocket, ifindex: u32) -> Result<u64, Box<dyn Error>> {
    let mut sent = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let digits: Vec<u8> = line.bytes().filter(u8::is_ascii_hexdigit).collect();
        let frame = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16))
            .collect::<Result<Vec<u8>, _>>()?;
        if !frame.is_empty() {
            sent += socket.send(&[Outgoing { ifindex, bytes: &plain(&frame) }])? as u64;
        }
    }
    Ok(sent)
}

struct Flood {
    seconds: f64,
    flows: u16,
    to: Option<(MacAddr, SocketAddrV4)>,
    from: Ipv4Addr,
}

impl Flood {
    fn run(
        &self,
        socket: &PacketSocket,
        ifindex: u32,
        own: MacAddr,
        (mac, to): (MacAddr, SocketAddrV4),
    ) -> Result<u64, Box<dyn Error>> {
        let frames: Vec<Vec<u8>> =
            (0..self.flows.max(1)).map(|flow| plain(&udp(own, mac, self.from, 10_000 + flow, to))).collect();
        let batches: Vec<Vec<Outgoing<'_>>> = (0..frames.len())
            .step_by(BATCH.min(frames.len()))
            .map(|at| {
                (0..BATCH).map(|i| Outgoing { ifindex, bytes: &frames[(at + i) % frames.len()] }).collect()
            })
            .collect();
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut sent = 0;
        for batch in batches.iter().cycle() {
            // A full queue is no failure: the flood goes as fast as the link takes it.
            sent += socket.send(batch).unwrap_or(0) as u64;
            if sent % 1024 < BATCH as u64 && Instant::now() >= end {
                break;
            }
        }
        Ok(sent)
    }
}

/// The frame behind an empty virtio_net_hdr.
fn plain(frame: &[u8]) -> Vec<u8> {
    [&[0; VNET_HEADER_BYTES], frame].concat()
}

/// 60 bytes on the wire: 18 of payload, no UDP checksum.
fn udp(own: MacAddr, mac: MacAddr, from: Ipv4Addr, port: u16, to: SocketAddrV4) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.ip().octets());
    let mut sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let ports = [port.to_be_bytes(), to.port().to_be_bytes(), 26u16.to_be_bytes(), [0; 2]].concat();
    [&mac.octets()[..], &own.octets(), &[8, 0], &ip, &ports, &[0x78; 18]].concat()
}
