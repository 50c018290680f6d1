//! Puts raw frames on a link: for tests of malformed packets, and for floods of small ones.
//!
//! `inject <interface>` sends each line of its input, a frame in hexadecimal, and prints `sent N`.
//! `inject <interface> --flood <seconds> --flows <n> --to <mac>/<ip>:<port> --from <ip> [--segments <n>]
//! [--rate <packets per second>]` sends UDP packets of 60 bytes from `n` source ports in turn, and prints
//! `sent N in S s`: as fast as it can, or evenly at the rate. With `--segments` the kernel cuts that many packets of
//! a flow out of each frame it is handed, which is several times faster; turn `tx-udp-segmentation` of the interface
//! off, or the frame arrives uncut.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use convey_afpacket::raw::{Outgoing, PacketSocket, VNET_HEADER_BYTES};
use pnet_datalink::MacAddr;

const BATCH: usize = 32;
const PACED_BATCH: usize = 8;
const PAYLOAD_BYTES: u16 = 18;
/// Where the UDP header begins in a frame.
const UDP_AT: u16 = 34;
/// UDP_MAX_SEGMENTS of kernels before 6.10.
const MAX_SEGMENTS: u16 = 64;
// linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let device = args.next().ok_or("inject <interface> […]")?;
    let interface = pnet_datalink::interfaces()
        .into_iter()
        .find(|i| i.name == device)
        .ok_or_else(|| format!("there is no interface {device}"))?;
    let socket = PacketSocket::open(1 << 20)?;
    let mut flood =
        Flood { seconds: 0.0, flows: 1, segments: 1, rate: None, to: None, from: Ipv4Addr::UNSPECIFIED };
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--flood" => flood.seconds = value.parse()?,
            "--flows" => flood.flows = value.parse()?,
            "--segments" => flood.segments = value.parse()?,
            "--rate" => flood.rate = Some(value.parse()?),
            "--to" => {
                let (mac, address) = value.split_once('/').ok_or("--to takes mac/ip:port")?;
                flood.to = Some((mac.parse()?, address.parse()?));
            }
            "--from" => flood.from = value.parse()?,
            other => return Err(format!("{other} is no option").into()),
        }
    }
    let mac = interface.mac.unwrap_or_default();
    match flood.to {
        Some(to) => {
            let begin = Instant::now();
            let sent = flood.run(&socket, interface.index, mac, to)?;
            println!("sent {sent} in {:.6} s", begin.elapsed().as_secs_f64());
        }
        None => println!("sent {}", send_lines(&socket, interface.index)?),
    }
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
    segments: u16,
    /// Packets a second; `None`: as fast as it goes.
    rate: Option<f64>,
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
        let segments = self.segments.clamp(1, MAX_SEGMENTS);
        let frames: Vec<Vec<u8>> = (0..self.flows.max(1))
            .map(|flow| udp(own, mac, SocketAddrV4::new(self.from, 10_000 + flow), to, segments))
            .map(|frame| if segments == 1 { plain(&frame) } else { cut(&frame) })
            .collect();
        // At a rate a batch is one frame of segments or a few single ones: a longer burst overflows queues by itself.
        let batch = match self.rate {
            None => BATCH,
            Some(_) if segments > 1 => 1,
            Some(_) => PACED_BATCH,
        };
        let batches: Vec<Vec<Outgoing<'_>>> = (0..frames.len())
            .step_by(batch.min(frames.len()))
            .map(|at| {
                (0..batch).map(|i| Outgoing { ifindex, bytes: &frames[(at + i) % frames.len()] }).collect()
            })
            .collect();
        let begin = Instant::now();
        let end = begin + Duration::from_secs_f64(self.seconds);
        let gap = self.rate.map(|rate| batch as f64 * f64::from(segments) / rate);
        let gap = gap.map(Duration::try_from_secs_f64).transpose()?;
        let mut due = begin;
        let mut sent = 0;
        for batch in batches.iter().cycle() {
            if let Some(gap) = gap {
                let mut now = Instant::now();
                while now < due && now < end {
                    std::hint::spin_loop();
                    now = Instant::now();
                }
                // Time lost to a pause is not made up for by a burst: what was sent counts, not what was asked for.
                due = due.max(now - gap.min(now - begin)) + gap;
            }
            if Instant::now() >= end {
                break;
            }
            // A full queue is no failure: the flood goes as fast as the link takes it.
            sent += socket.send(batch).unwrap_or(0) as u64 * u64::from(segments);
        }
        Ok(sent)
    }
}

/// The frame behind an empty virtio_net_hdr.
fn plain(frame: &[u8]) -> Vec<u8> {
    [&[0; VNET_HEADER_BYTES], frame].concat()
}

/// The frame behind a virtio_net_hdr that has the kernel cut it into packets of [`PAYLOAD_BYTES`].
fn cut(frame: &[u8]) -> Vec<u8> {
    let words = [42, PAYLOAD_BYTES, UDP_AT, 6].map(u16::to_ne_bytes).concat();
    [&[NEEDS_CSUM, GSO_UDP_L4], &words[..], frame].concat()
}

/// 60 bytes on the wire for each segment; the UDP checksum holds the pseudo-header's sum, as [`cut`] wants it, or
/// nothing when there is only one segment.
fn udp(own: MacAddr, mac: MacAddr, from: SocketAddrV4, to: SocketAddrV4, segments: u16) -> Vec<u8> {
    let payload = PAYLOAD_BYTES * segments;
    let [a, b] = (28 + payload).to_be_bytes();
    let mut ip = vec![0x45, 0, a, b, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let checksum = !sum(&ip, 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let length = 8 + payload;
    let pseudo = if segments == 1 { 0 } else { sum(&ip[12..], 17 + u32::from(length)) };
    let header = [from.port(), to.port(), length, pseudo].map(u16::to_be_bytes).concat();
    [&mac.octets()[..], &own.octets(), &[8, 0], &ip, &header, &vec![0x78; payload.into()]].concat()
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum =
        bytes.chunks_exact(2).fold(start, |sum, c| sum + u32::from(u16::from_be_bytes([c[0], c[1]])));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
