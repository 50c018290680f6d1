//! The sockets of the portable engine, of which each worker has one.

use std::io;
use std::sync::{Arc, Mutex};

use convey_engine::EngineError;

use crate::error;
use crate::filter;
use crate::rx_batch::RxBatch;
use crate::scope::Scope;
use crate::shared::{Intake, lock};
use crate::sys::PacketSocket;

/// Receive buffer of each worker.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// The part of it that is a ring of small frames, taken at once; the rest is taken as long ones come.
const RING_SHARE: usize = 4;

/// One socket a worker.
pub struct Sockets {
    sockets: Vec<PacketSocket>,
    /// What their filters let through.
    listening: Mutex<(Scope, Vec<u32>)>,
}

impl Sockets {
    /// Opens them, to receive nothing yet.
    pub fn open(workers: usize, scope: &Scope) -> Result<(Arc<Self>, Vec<RxBatch>), EngineError> {
        let (sockets, rx_batches) = open(workers, scope)?;
        Ok((Arc::new(Self { sockets, listening: Mutex::default() }), rx_batches))
    }

    /// That of worker `index`.
    pub fn of(&self, index: usize) -> &PacketSocket {
        &self.sockets[index]
    }
}

impl Intake for Sockets {
    fn listen(&self, scope: &Scope, interfaces: &[u32]) -> io::Result<()> {
        let set = |socket: &PacketSocket, scope: &Scope, interfaces: &[u32]| {
            let programs = filter::interest(&scope.interest(interfaces));
            filter::attach(&programs, |program| socket.filter(program))
        };
        let mut listening = lock(&self.listening);
        for (at, socket) in self.sockets.iter().enumerate() {
            if let Err(error) = set(socket, scope, interfaces) {
                for socket in &self.sockets[..at] {
                    // There was room for it a moment ago.
                    let _ = set(socket, &listening.0, &listening.1);
                }
                return Err(error);
            }
        }
        *listening = (scope.clone(), interfaces.to_vec());
        Ok(())
    }

    fn take_drops(&self, worker: usize) -> u64 {
        self.sockets.get(worker).map_or(0, PacketSocket::take_kernel_drops)
    }
}

fn open(workers: usize, scope: &Scope) -> Result<(Vec<PacketSocket>, Vec<RxBatch>), EngineError> {
    let failed = |what| move |source| error::socket(what, source);
    let mut sockets: Vec<PacketSocket> = Vec::with_capacity(workers);
    let mut rx_batches = Vec::with_capacity(workers);
    let mut group = None;
    for _ in 0..workers {
        let socket = PacketSocket::open(RECEIVE_BUFFER_BYTES).map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                error::permission(source)
            } else {
                error::socket("options", source)
            }
        })?;
        // Until the interfaces are known, and the group is whole, nothing may be received.
        socket.filter(&filter::nothing()).map_err(failed("filter"))?;
        let ring = socket.ring(RECEIVE_BUFFER_BYTES / RING_SHARE).map_err(failed("ring"))?;
        socket.bind_all().map_err(failed("bind"))?;
        if workers > 1 {
            match group {
                None => group = Some(socket.start_fanout().map_err(failed("fan-out"))?),
                Some(id) => socket.join_fanout(id).map_err(failed("fan-out"))?,
            }
        }
        sockets.push(socket);
        rx_batches.push(RxBatch::new(ring));
    }
    if let [first, _, ..] = sockets.as_slice() {
        let program = filter::steering(scope.nat_ports, workers);
        first.steer(&program).map_err(failed("fan-out program"))?;
    }
    Ok((sockets, rx_batches))
}
