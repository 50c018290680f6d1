//! Floods a link from inside the kernel: frames leave by BPF_PROG_TEST_RUN with live frames (Linux 5.18 and later), several times
//! as fast as a socket sends them. The other end of a veth takes them when it has GRO on, or an XDP program.
//!
//! `generate <interface> --seconds <s> --to <mac>/<ip>:<port> --from <ip> [--flows <n>] [--run <n>] [--syn] [--rate
//! <packets per second>]` sends UDP packets of 60 bytes from `n` source ports in turn, `run` packets of each behind each
//! other; with `--syn` TCP SYNs of 60 bytes, each from another port and host of the source's /16. Prints
//! `sent N in S s`. What does not fit into the receiver's queue counts as sent.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use aya::maps::Array;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

const FRAME_BYTES: usize = 64;
const FLOOD_BYTES: usize = 120;
/// Where `sent` stands in `struct flood`.
const SENT: usize = 16;
/// Frames that the kernel sends at once.
const BATCH: u32 = 16;
/// Frames of a system call; most are given back where the rate is low.
const CALL: u32 = 1 << 17;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Options {
    seconds: f64,
    to: (String, SocketAddrV4),
    from: Ipv4Addr,
    flows: u16,
    run: u32,
    syn: bool,
    rate: Option<f64>,
}

fn options(mut args: impl Iterator<Item = String>) -> Outcome<Options> {
    let (mut seconds, mut to, mut from) = (0.0, None, Ipv4Addr::UNSPECIFIED);
    let (mut flows, mut run, mut syn, mut rate) = (1, 1, false, None);
    while let Some(arg) = args.next() {
        if arg == "--syn" {
            syn = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--seconds" => seconds = value.parse()?,
            "--flows" => flows = value.parse()?,
            "--run" => run = value.parse()?,
            "--rate" => rate = Some(value.parse()?),
            "--from" => from = value.parse()?,
            "--to" => {
                let (mac, address) = value.split_once('/').ok_or("--to takes mac/ip:port")?;
                to = Some((mac.to_owned(), address.parse()?));
            }
            other => return Err(format!("{other} is no option").into()),
        }
    }
    Ok(Options { seconds, to: to.ok_or("--to is missing")?, from, flows, run, syn, rate })
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let interface = args.next().ok_or("generate <interface> --seconds <s> --to <mac>/<ip>:<port> […]")?;
    let options = options(args)?;
    let file = |name: &str| std::fs::read_to_string(format!("/sys/class/net/{interface}/{name}"));
    let ifindex: u32 = file("ifindex")?.trim().parse()?;
    let own = mac(file("address")?.trim())?;

    let mut ebpf = EbpfLoader::new().btf(None).load(convey_bpf::generator())?;
    let program: &mut Xdp = ebpf.program_mut("generate").ok_or("no program")?.try_into()?;
    program.load()?;
    flood(&mut ebpf)?.set(0, start(&options, own)?, 0)?;

    let frame = [0; FRAME_BYTES];
    // struct xdp_md: where the frame begins and ends, no metadata, and the interface.
    let context = [0, FRAME_BYTES as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
    let begin = Instant::now();
    let end = begin + Duration::try_from_secs_f64(options.seconds)?;
    let program: &Xdp = ebpf.program("generate").ok_or("no program")?.try_into()?;
    while Instant::now() < end {
        program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: CALL,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let value = flood(&mut ebpf)?.get(&0, 0)?;
    let sent = value[SENT..SENT + 8].try_into().map_or(0, u64::from_ne_bytes);
    println!("sent {sent} in {seconds:.6} s");
    Ok(())
}

fn flood(ebpf: &mut Ebpf) -> Outcome<Array<&mut aya::maps::MapData, [u8; FLOOD_BYTES]>> {
    Ok(ebpf.map_mut("flood").ok_or("no map")?.try_into()?)
}

/// `struct flood` before the first frame.
fn start(options: &Options, own: [u8; 6]) -> Outcome<[u8; FLOOD_BYTES]> {
    let frame = frame(options, own)?;
    let gap = options.rate.map_or(0.0, |rate| (1024e9 / rate).round());
    let words = |range: std::ops::Range<usize>| {
        frame[range].chunks_exact(2).map(|w| u32::from(u16::from_ne_bytes([w[0], w[1]]))).sum::<u32>()
    };
    let ip_sum = words(14..24) + words(26..28) + words(30..34) + if options.syn { 0 } else { words(28..30) };
    // The pseudo-header, and the segment without its port and its sum.
    let length = u32::from(u16::to_be(24));
    let tcp_sum =
        words(26..28) + words(30..34) + u32::from(u16::to_be(6)) + length + words(36..50) + words(52..58);
    let mut value = [0; FLOOD_BYTES];
    value[..8].copy_from_slice(&0x1234_5678_9abc_def1_u64.to_ne_bytes());
    let kind = u32::from(options.syn);
    let numbers =
        [gap as u32, 0, kind, u32::from(options.flows.max(1)), options.run.max(1), 0, ip_sum, tcp_sum];
    for (to, number) in value[24..].chunks_exact_mut(4).zip(numbers) {
        to.copy_from_slice(&number.to_ne_bytes());
    }
    value[56..56 + FRAME_BYTES].copy_from_slice(&frame);
    if !options.syn {
        let at = 56 + 24;
        let folded = (ip_sum & 0xffff) + (ip_sum >> 16);
        let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
        value[at..at + 2].copy_from_slice(&folded.to_ne_bytes());
    }
    Ok(value)
}

/// 60 bytes and nothing behind them; the source's lower half and the sums of a SYN are the program's to fill in.
fn frame(options: &Options, own: [u8; 6]) -> Outcome<[u8; FRAME_BYTES]> {
    let (to_mac, to) = &options.to;
    let (length, protocol) = if options.syn { (44, 6) } else { (46, 17) };
    let mut bytes = [&mac(to_mac)?[..], &own, &[8, 0, 0x45, 0, 0, length, 0, 0, 0x40, 0, 64]].concat();
    bytes.extend([protocol, 0, 0]);
    bytes.extend(options.from.octets());
    bytes.extend(to.ip().octets());
    bytes.extend(10_000u16.to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    if options.syn {
        // Sequence number, no acknowledgement, 24 bytes of header, SYN, window, and an MSS of 1,460.
        bytes.extend([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
    } else {
        bytes.extend([0, 26, 0, 0]);
    }
    let mut frame = [0; FRAME_BYTES];
    frame[..bytes.len()].copy_from_slice(&bytes);
    Ok(frame)
}

fn mac(text: &str) -> Outcome<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    bytes?.try_into().map_err(|_| format!("{text} is no MAC address").into())
}
