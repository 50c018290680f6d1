//! The bare data plane, for measuring: `relay [--workers N] [--udp] <listen> <server>…`.
//!
//! The environment's `RESPONSES` ends sessions of UDP with so many answers to each datagram; `LOG` names a file for a line
//! of each connection.
//! Prints its process id and address, events as they come, and the totals when standard input ends.

use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use convey_core::{
    BackendSpec, FrontendSpec, Limits, Mode, Protocol, Reason, ServerSpec, Snapshot, SnapshotSpec,
    UdpSessions,
};
use convey_proxy::{LogSpec, Logged, Proxy};

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}\nusage: relay [--workers N] [--udp] <listen> <server>…");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let mut workers = 1;
    if args.first().is_some_and(|a| a == "--workers") {
        workers = args.get(1).ok_or("--workers needs a number")?.parse()?;
        args.drain(..2);
    }
    let protocol = match args.first() {
        Some(first) if first == "--udp" => {
            args.remove(0);
            Protocol::Udp
        }
        _ => Protocol::Tcp,
    };
    let mut addrs = args.iter().map(|a| a.parse::<SocketAddr>());
    let listen = addrs.next().ok_or("no address to listen on")??;
    let servers: Vec<SocketAddr> = addrs.collect::<Result<_, _>>()?;
    let snapshot = Arc::new(Snapshot::first(spec(listen, &servers, protocol), workers)?);
    let proxy = Proxy::start(snapshot.clone(), workers, Arc::new(|event| eprintln!("{event:?}")))?;
    if let Some(file) = std::env::var_os("LOG") {
        proxy.log_connections(Some(&LogSpec { logged: Logged::Share(1.0), file: Some(file.into()) }))?;
    }
    for (_, addr) in proxy.addresses() {
        println!("pid {} listens on {addr}", std::process::id());
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    proxy.close();
    let totals = &snapshot.totals;
    if proxy.lost_log_lines() > 0 {
        println!("{} lines of the log were lost", proxy.lost_log_lines());
    }
    println!(
        "{} connections, {} bytes tx, {} bytes rx",
        totals.total(),
        totals.bytes_tx(),
        totals.bytes_rx()
    );
    for reason in Reason::ALL.iter().filter(|r| snapshot.reasons.get(**r) > 0) {
        println!("{}: {}", reason.name(), snapshot.reasons.get(*reason));
    }
    Ok(())
}

fn spec(listen: SocketAddr, servers: &[SocketAddr], protocol: Protocol) -> SnapshotSpec {
    let server = |(i, addr): (usize, &SocketAddr)| ServerSpec {
        name: format!("s{i}"),
        addr: (*addr).into(),
        weight: 1,
        max_connections: 0,
        up: true,
        draining: false,
        backup: false,
        share: convey_core::selection::SLOW_START_STEPS,
        send_proxy: None,
    };
    SnapshotSpec {
        mode: Mode::Proxy,
        limits: Limits::default(),
        frontends: vec![FrontendSpec {
            listen_key: Default::default(),
            name: "web".to_owned(),
            listen: vec![listen],
            protocol,
            backend: "pool".to_owned(),
            accept_proxy: None,
            max_connections: 0,
            hello_routes: None,
            sockets: Default::default(),
            admission: Default::default(),
            udp: UdpSessions {
                responses: std::env::var("RESPONSES").ok().and_then(|n| n.parse().ok()),
                ..UdpSessions::default()
            },
        }],
        backends: vec![BackendSpec {
            name: "pool".to_owned(),
            connect_timeout: Duration::from_secs(5),
            retries: 2,
            idle_timeout: Duration::from_secs(300),
            max_duration: Duration::ZERO,
            waiting: Default::default(),
            ends: Default::default(),
            balance: convey_core::selection::Balance::RoundRobin,
            source: Default::default(),
            eject_after: 0,
            servers: servers.iter().enumerate().map(server).collect(),
        }],
    }
}
