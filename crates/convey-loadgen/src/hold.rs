//! Opens connections, proves each with a request, and keeps them idle.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
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
    let from: Vec<IpAddr> = args.list("from")?;
    let opening = [args.file("hello")?.as_slice(), crate::requests::REQUEST].concat();
    let mut held = Vec::with_capacity(connections);
    let mut buffer = [0; 16 * 1024];
    for n in 0..connections {
        let what = || format!("open connection {n} of {connections} to {address}");
        let mut socket = connect(address, (!from.is_empty()).then(|| from[n % from.len()]))
            .map_err(Failure::io(what()))?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(Failure::io(what()))?;
        socket.write_all(&opening).map_err(Failure::io(what()))?;
        let mut answer = Answer::default();
        loop {
            let got = socket.read(&mut buffer).map_err(Failure::io(what()))?;
            match answer.take(&buffer[..got]) {
                Progress::Complete => break,
                Progress::Partial if got > 0 => {}
                _ => {
                    let error = std::io::Error::other("the answer ended early or is not HTTP");
                    return Err(Failure::io(what())(error));
                }
            }
        }
        held.push(socket);
    }
    println!("{{\"event\":\"ready\",\"connections\":{connections}}}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map_err(Failure::io("read stdin"))?;
    drop(held);
    Ok(())
}

fn connect(address: SocketAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(address) };
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}
