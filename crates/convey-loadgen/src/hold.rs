//! Opens connections, proves each with a request, and keeps them idle.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::Failure;
use crate::args::Args;
use crate::http::{Answer, Progress};

/// Runs until stdin ends.
///
/// # Errors
/// A connection fails or is not answered.
pub fn run(args: &Args) -> Result<(), Failure> {
    let address = args.address("connect")?;
    let connections: usize = args.get("connections", 1000)?;
    // Few by default: what a balancer needs for those at once it may keep, and is not what an idle one costs.
    let at_once = args.get("at-once", NonZeroUsize::MIN)?.get();
    let from: Vec<IpAddr> = args.list("from")?;
    let opening = [args.file("hello")?.as_slice(), crate::requests::REQUEST].concat();
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let first = held.len();
        let end = connections.min(first + at_once);
        let what = || format!("open connections {first} to {end} of {connections} to {address}");
        for n in first..end {
            let from = (!from.is_empty()).then(|| from[n % from.len()]);
            let mut socket = connect(address, from).map_err(Failure::io(what()))?;
            socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(Failure::io(what()))?;
            socket.write_all(&opening).map_err(Failure::io(what()))?;
            held.push(socket);
        }
        for socket in held.iter_mut().skip(first) {
            answered(socket).map_err(Failure::io(what()))?;
        }
    }
    println!("{{\"event\":\"ready\",\"connections\":{connections}}}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map_err(Failure::io("read stdin"))?;
    drop(held);
    Ok(())
}

fn answered(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut answer = Answer::default();
    loop {
        let got = socket.read(&mut buffer)?;
        match answer.take(&buffer[..got]) {
            Progress::Complete => return Ok(()),
            Progress::Partial if got > 0 => {}
            _ => return Err(std::io::Error::other("the answer ended early or is not HTTP")),
        }
    }
}

fn connect(address: SocketAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(address) };
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}
