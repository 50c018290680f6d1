//! The worker's side: frames of all sockets in batches, and out by the socket of the interface they leave by.

use std::cell::{Cell, RefCell};
use std::io;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use convey_afpacket::workers::{BATCH, FrameIo, PacketSocket, Pieces, VNET_HEADER_BYTES, VnetHeader};
use convey_engine::{Loss, REPLY_HEADROOM};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::checksum;
use super::give_back::GiveBack;
use super::intake::{Change, Handover};
#[cfg(test)]
use super::socket::Census;
use super::socket::{Received, Xsk};

/// How long to wait for frames while some could not be sent yet.
const SENDING_TIMEOUT: Duration = Duration::from_millis(1);

/// What a worker receives from and sends to.
pub struct Frames {
    handover: Arc<Handover>,
    give_back: GiveBack,
    /// For interfaces that have no socket of ours.
    packet_socket: PacketSocket,
    sockets: Vec<Served>,
    batch: Vec<Entry>,
    again: Again,
    /// Where the next batch begins, so that no socket waits for another.
    turn: usize,
    /// Sockets with frames queued by the call at hand.
    queued: RefCell<Vec<usize>>,
}

struct Served {
    ifindex: u32,
    has_open_checksums: bool,
    /// What was queued last could not leave: its link is down, or the interface is gone.
    is_stuck: Cell<bool>,
    socket: Xsk,
}

#[derive(Clone, Copy)]
enum Entry {
    /// By a socket, by its place among them.
    Received(usize, Received),
    /// In `again`.
    Again,
}

/// A frame that was received before, behind its virtio_net_hdr.
#[derive(Default)]
struct Again {
    ifindex: u32,
    len: usize,
    buffer: Vec<u8>,
}

impl Frames {
    /// Without sockets, which come by `handover`.
    pub fn new(handover: Arc<Handover>, give_back: GiveBack, packet_socket: PacketSocket) -> Self {
        Self {
            handover,
            give_back,
            packet_socket,
            sockets: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            again: Again::default(),
            turn: 0,
            queued: RefCell::default(),
        }
    }

    #[cfg(test)]
    /// Where the frames of all sockets are.
    pub fn census(&self) -> Vec<Census> {
        self.sockets.iter().map(|served| served.socket.census()).collect()
    }

    /// The batch is done with: its frames may be received into again.
    fn end_batch(&mut self) {
        for entry in self.batch.drain(..) {
            if let Entry::Received(at, received) = entry
                && let Some(served) = self.sockets.get_mut(at)
            {
                served.socket.give_back(received.address);
            }
        }
        for served in &self.sockets {
            served.socket.refill();
        }
    }

    /// Opens and closes sockets; no batch is at hand.
    fn follow_changes(&mut self) {
        let sockets = &mut self.sockets;
        self.handover.take(|change| match change {
            Change::Opened { ifindex, has_open_checksums, sockets: opened } => {
                sockets.extend(opened.into_iter().map(|socket| Served {
                    ifindex,
                    has_open_checksums,
                    is_stuck: Cell::new(false),
                    socket,
                }));
            }
            Change::Closed { ifindex } => sockets.retain(|served| served.ifindex != ifindex),
        });
    }

    /// Takes what has come, from each socket its share; how many frames.
    fn take(&mut self) -> usize {
        let count = self.sockets.len();
        self.turn = self.turn.checked_add(1).unwrap_or(0);
        for n in 0..count {
            let at = (self.turn + n) % count;
            let share = (BATCH - self.batch.len()).div_ceil(count - n);
            let Some(served) = self.sockets.get_mut(at) else { continue };
            for _ in 0..share {
                let Some(received) = served.socket.receive() else { break };
                let open = if served.has_open_checksums {
                    checksum::open(served.socket.bytes(received.address), received.len)
                } else {
                    None
                };
                let header = match open {
                    Some((start, offset)) => {
                        self.handover.open_checksums.fetch_add(1, Relaxed);
                        VnetHeader::with_open_checksum(start, offset)
                    }
                    None => VnetHeader::plain(),
                };
                let begin = received.address.saturating_sub(VNET_HEADER_BYTES);
                if let Some(bytes) = served.socket.bytes_mut(begin).first_chunk_mut() {
                    *bytes = header;
                }
                self.batch.push(Entry::Received(at, received));
            }
        }
        self.batch.len()
    }

    /// Waits until a frame or a change has come.
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.handover.wake(), PollFlags::IN)];
        fds.extend(self.sockets.iter().map(|served| PollFd::new(served.socket.fd().as_ref(), PollFlags::IN)));
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lost = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if fds.iter().any(|fd| fd.revents().intersects(lost)) {
            // Whoever follows the network closes it; until then poll does not wait.
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    }

    fn queue(&self, frame: &Pieces<'_>) -> io::Result<()> {
        let header = frame.pieces.first().and_then(|piece| piece.first_chunk());
        let header = header.map(VnetHeader::parse).unwrap_or_default();
        let Some(at) = self.sockets.iter().position(|served| served.ifindex == frame.ifindex) else {
            return self.packet_socket.send_pieces(slice::from_ref(frame)).map(drop);
        };
        let Served { socket, is_stuck, .. } = &self.sockets[at];
        if header.is_super_frame() {
            if socket.is_zero_copy() {
                // The card sends frames as they lie in memory; the worker sends these one by one from now on.
                return Err(Errno::INVAL.into());
            }
            // It is copied either way, and as one frame only once. What was queued before goes first.
            self.kick();
            return self.packet_socket.send_pieces(slice::from_ref(frame)).map(drop);
        }
        if is_stuck.get() {
            socket.kick()?;
            is_stuck.set(false);
        }
        let queue = || socket.queue(VNET_HEADER_BYTES, frame.pieces, header.open_checksum());
        match queue() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.kick()?;
                queue()?;
            }
            result => result?,
        }
        let mut queued = self.queued.borrow_mut();
        if !queued.contains(&at) {
            queued.push(at);
        }
        Ok(())
    }

    /// Has what was queued leave. What cannot yet leaves with the next batch: it must not be sent twice, so it is no error.
    fn kick(&self) {
        for at in self.queued.borrow_mut().drain(..) {
            let Served { socket, is_stuck, .. } = &self.sockets[at];
            is_stuck.set(socket.kick().is_err());
        }
    }
}

impl FrameIo for Frames {
    fn receive(&mut self, timeout: Duration) -> io::Result<usize> {
        self.end_batch();
        self.follow_changes();
        let mut timeout = timeout;
        for served in &self.sockets {
            if served.socket.is_sending() {
                let _ = served.socket.kick();
                timeout = timeout.min(SENDING_TIMEOUT);
            }
        }
        if self.take() == 0 {
            self.wait(timeout)?;
            self.take();
        }
        if self.batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(self.batch.len()) }
    }

    fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        self.end_batch();
        let Again { buffer, .. } = &mut self.again;
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer.resize(bytes.len() + REPLY_HEADROOM, 0);
        self.again.ifindex = ifindex;
        self.again.len = bytes.len().saturating_sub(VNET_HEADER_BYTES);
        self.batch.push(Entry::Again);
    }

    fn arrival(&self, at: usize) -> Result<(u32, usize), Loss> {
        match self.batch.get(at) {
            Some(&Entry::Received(at, received)) => {
                let ifindex = self.sockets.get(at).map(|served| served.ifindex);
                ifindex.map(|ifindex| (ifindex, received.len)).ok_or(Loss::TxLinkDown)
            }
            _ => Ok((self.again.ifindex, self.again.len)),
        }
    }

    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        match self.batch.get(at) {
            Some(&Entry::Received(at, received)) => match self.sockets.get_mut(at) {
                Some(served) => served.socket.bytes_mut(received.address.saturating_sub(VNET_HEADER_BYTES)),
                None => &mut [],
            },
            _ => &mut self.again.buffer,
        }
    }

    fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], new_len: usize) {
        if let Some(header) = self.buffer_mut(at).first_chunk_mut() {
            *header = vnet;
        }
        match self.batch.get_mut(at) {
            Some(Entry::Received(_, received)) => received.len = new_len,
            _ => self.again.len = new_len,
        }
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let (bytes, len) = match self.batch.get(at) {
            Some(&Entry::Received(at, received)) => {
                let begin = received.address.saturating_sub(VNET_HEADER_BYTES);
                (self.sockets.get(at).map_or(&[][..], |served| served.socket.bytes(begin)), received.len)
            }
            _ => (&self.again.buffer[..], self.again.len),
        };
        bytes.get(..VNET_HEADER_BYTES + len).unwrap_or_default()
    }

    fn send(&self, frames: &[Pieces<'_>]) -> io::Result<usize> {
        let mut result = Ok(());
        let sent = frames.iter().take_while(|frame| {
            result = self.queue(frame);
            result.is_ok()
        });
        let sent = sent.count();
        self.kick();
        if sent > 0 { Ok(sent) } else { result.map(|()| 0) }
    }

    fn pass(&mut self, at: usize) {
        let Ok((ifindex, _)) = self.arrival(at) else { return };
        let Some((header, frame)) = self.bytes(at).split_first_chunk() else { return };
        // The kernel is not told that a checksum is open.
        let mut frame = frame.to_vec();
        if let Some((start, offset)) = VnetHeader::parse(header).open_checksum() {
            checksum::complete(&mut frame, start, offset);
        }
        if !self.give_back.give(ifindex, &frame) {
            self.handover.not_given_back.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.sockets.clear();
        self.handover.leave();
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
