//! The packet engine alone, without control plane: forwards what the command line says.
//!
//! `forward --mode passthrough|dsr|l2 [--workers 2] [--nat-ports 33768-61000] [--interfaces a,b]
//! tcp:10.0.0.1:80=10.0.0.11:80,10.0.0.12:80 [udp:…]`
//!
//! Prints `ready`, then the counters as a JSON line for each line it reads; ends with its input. Keeping the
//! kernel from answering is left to the caller.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use convey_afpacket::AfPacketEngine;
use convey_core::{BackendSpec, FrontendSpec, Limits, Mode, Protocol, ServerSpec, Snapshot, SnapshotSpec};
use convey_engine::{
    DsrMethod, EngineSetup, EngineStats, Keep, PacketEngine, PacketOptions, PacketSnapshot, PortRange,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = PacketOptions { workers: 2, ..PacketOptions::default() };
    let mut mode = Mode::Passthrough;
    let (mut frontends, mut backends) = (Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--mode" => {
                (mode, options.dsr) = match value()?.as_str() {
                    "passthrough" => (Mode::Passthrough, DsrMethod::Rewrite),
                    "dsr" => (Mode::Dsr, DsrMethod::Rewrite),
                    "l2" => (Mode::Dsr, DsrMethod::L2),
                    other => return Err(format!("--mode {other}: passthrough, dsr or l2").into()),
                }
            }
            "--workers" => options.workers = value()?.parse()?,
            "--nat-ports" => {
                let range = value()?;
                let (first, last) = range.split_once('-').ok_or("--nat-ports takes first-last")?;
                options.nat_ports = PortRange { first: first.parse()?, last: last.parse()? };
            }
            "--interfaces" => {
                options.interfaces = value()?.split(',').map(str::to_owned).collect();
            }
            frontend => {
                let name = format!("f{}", frontends.len());
                let (f, b) = parse_frontend(&name, frontend)?;
                frontends.push(f);
                backends.push(b);
            }
        }
    }
    let spec = SnapshotSpec { mode, limits: Limits::default(), frontends, backends };
    let snapshot = Snapshot::first(spec, options.workers)?;
    let packets = Arc::new(PacketSnapshot::build(&snapshot, &options, None)?);
    let events = Arc::new(|event| eprintln!("{event:?}"));
    let engine = AfPacketEngine::start(EngineSetup::new(packets, events), Vec::new(), &[])?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", json(&engine.stats()));
    }
    engine.close(Keep::Nothing);
    Ok(())
}

fn parse_frontend(name: &str, text: &str) -> Result<(FrontendSpec, BackendSpec), Box<dyn Error>> {
    let usage = || format!("{text}: expected tcp:address:port=address:port,…");
    let (protocol, rest) = text.split_once(':').ok_or_else(usage)?;
    let (listen, servers) = rest.split_once('=').ok_or_else(usage)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(usage().into()),
    };
    let mut members = Vec::new();
    for (i, addr) in servers.split(',').enumerate() {
        members.push(ServerSpec {
            name: format!("s{i}"),
            addr: addr.parse()?,
            weight: 1,
            max_connections: 0,
            up: true,
            draining: false,
        });
    }
    let frontend = FrontendSpec {
        name: name.to_owned(),
        listen: listen.parse()?,
        protocol,
        backend: name.to_owned(),
        max_connections: 0,
    };
    let backend = BackendSpec {
        name: name.to_owned(),
        connect_timeout: Duration::from_secs(3),
        retries: 0,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::ZERO,
        servers: members,
    };
    Ok((frontend, backend))
}

fn json(stats: &EngineStats) -> String {
    let object = |counts: &[(&str, u64)]| {
        counts.iter().filter(|(_, count)| *count > 0).fold(String::new(), |mut out, (name, count)| {
            let comma = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}\"{name}\":{count}");
            out
        })
    };
    format!(
        "{{\"forwarded\":{},\"flows\":{},\"panics\":{},\"replied\":{{{}}},\"passed\":{{{}}},\"dropped\":{{{}}}}}",
        stats.forwarded,
        stats.flows,
        stats.panics,
        object(&stats.replied),
        object(&stats.passed),
        object(&stats.dropped)
    )
}
