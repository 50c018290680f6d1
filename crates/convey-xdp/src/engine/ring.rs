//! Frames that the programs hand up, and where a worker's frames leave: the seam of the worker beside them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, PerCpuValues, RingBuf};
use convey_afpacket::workers::{BATCH, FrameIo, PacketSocket, Pieces, VNET_HEADER_BYTES, VnetHeader, lock};
use convey_bpf::tables::{CLIENT_HOP_BYTES, CLIENT_HOPS, Decided as Told, client_hop, client_of_hop};
use convey_core::Watches;
use convey_engine::{Decided, LiveDecision, Loss, NextHops, Path, REPLY_HEADROOM};
use convey_packet::{Addr, Ip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::partial;
use super::watched::Watched;
use crate::lower::hop_of;
use crate::netlink::interface_name;
use crate::told;

/// Bytes of `struct handed_up` before the frame.
const HEAD_BYTES: usize = 16;

/// Room for a frame: the longest that is handed up whole.
const FRAME_BYTES: usize = 9_728;

/// `DROP_NO_NEXT_HOP`: the program did not know where the packet goes.
const NO_NEXT_HOP: &str = "no_next_hop";

/// Next hops towards clients, as the programs remember them.
pub(super) struct ClientHops {
    map: PerCpuArray<MapData, [u8; CLIENT_HOP_BYTES]>,
    cpus: usize,
    /// That of the tables in force; `None`: nothing is to be remembered.
    pub(super) generation: Option<u32>,
    /// Interfaces by which the program cannot send.
    pub(super) mute: BTreeSet<u32>,
}

/// Packets that came with open checksums.
#[derive(Debug, Default)]
pub(super) struct OpenChecksums {
    count: AtomicU64,
    interfaces: Mutex<BTreeSet<u32>>,
}

impl OpenChecksums {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// By which they came.
    pub(super) fn interfaces(&self) -> Vec<String> {
        lock(&self.interfaces).iter().filter_map(|ifindex| interface_name(*ifindex).ok()).collect()
    }

    fn add(&self, ifindex: u32) {
        self.count.fetch_add(1, Relaxed);
        lock(&self.interfaces).insert(ifindex);
    }
}

impl ClientHops {
    pub(super) fn new(map: PerCpuArray<MapData, [u8; CLIENT_HOP_BYTES]>) -> Self {
        let cpus = map.get(&0, 0).map_or(1, |values| values.len());
        Self { map, cpus, generation: None, mute: BTreeSet::new() }
    }

    /// What is remembered of another generation is looked up anew: after a change of one neighbour the packets to all
    /// clients would be handed up otherwise, where long ones are lost.
    pub(super) fn renew(&mut self, next_hops: &NextHops, former: u32) {
        for at in 0..CLIENT_HOPS {
            let Ok(values) = self.map.get(&at, 0) else { return };
            let known = values.iter().map(client_of_hop).find(|(_, generation)| *generation == former);
            if let Some((client, _)) = known {
                self.remember(client, next_hops);
            }
        }
    }

    fn remember(&mut self, client: IpAddr, next_hops: &NextHops) {
        let Some(generation) = self.generation.filter(|_| next_hops.is_by_destination()) else { return };
        let Ok(hop) = next_hops.lookup(&Path::to(client)) else { return };
        if self.mute.contains(&hop.ifindex) {
            return;
        }
        let (at, value) = client_hop(client, hop_of(&hop), generation);
        if let Ok(values) = PerCpuValues::try_from(vec![value; self.cpus]) {
            // Otherwise the next packet is handed up as well.
            let _ = self.map.set(at, values, 0);
        }
    }
}

struct Frame {
    ifindex: u32,
    len: usize,
    /// Bytes of it that were handed up.
    there: usize,
    lacks_hop: bool,
    buffer: Box<[u8]>,
}

/// The ring of the programs, and a socket to send by.
pub(super) struct RingFrames {
    ring: RingBuf<MapData>,
    socket: PacketSocket,
    frames: Vec<Frame>,
    count: usize,
    client_hops: Arc<Mutex<ClientHops>>,
    open_checksums: Arc<OpenChecksums>,
    no_next_hop: u32,
    watched: Arc<Watched>,
    watches: Arc<Watches<LiveDecision>>,
    /// What the programs have told since it was taken.
    decided: Vec<Decided>,
}

impl RingFrames {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        socket: PacketSocket,
        client_hops: Arc<Mutex<ClientHops>>,
        open_checksums: Arc<OpenChecksums>,
        (watched, watches): (Arc<Watched>, Arc<Watches<LiveDecision>>),
    ) -> Self {
        let no_next_hop = convey_bpf::tables::REASONS.iter().position(|name| *name == NO_NEXT_HOP);
        Self {
            ring,
            socket,
            frames: (0..BATCH).map(|_| Frame::new()).collect(),
            count: 0,
            client_hops,
            open_checksums,
            no_next_hop: no_next_hop.map_or(u32::MAX, |at| at as u32),
            watched,
            watches,
            decided: Vec::new(),
        }
    }

    fn take(&mut self) -> usize {
        self.count = 0;
        while self.count < BATCH && self.decided.len() < BATCH {
            let Some(record) = self.ring.next() else { break };
            if Told::is_one(&record) {
                self.decided.extend(told::read(&record));
                continue;
            }
            if let Some(frame) = self.frames.get_mut(self.count)
                && frame.read(&record, self.no_next_hop)
            {
                self.count += 1;
                if frame.buffer[..VNET_HEADER_BYTES] != VnetHeader::plain() {
                    self.open_checksums.add(frame.ifindex);
                }
            }
        }
        self.count
    }
}

impl Frame {
    fn new() -> Self {
        let bytes = VNET_HEADER_BYTES + FRAME_BYTES + REPLY_HEADROOM;
        let buffer = vec![0; bytes].into_boxed_slice();
        Self { ifindex: 0, len: 0, there: 0, lacks_hop: false, buffer }
    }

    /// Takes a record; tells whether it is one.
    fn read(&mut self, record: &[u8], no_next_hop: u32) -> bool {
        let word = |at: usize| record.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        let (Some(ifindex), Some(len), Some(gso_size), Some(reason)) = (word(0), word(4), word(8), word(12))
        else {
            return false;
        };
        let len = len as usize;
        let bytes = record.get(HEAD_BYTES..).unwrap_or_default();
        let there = len.min(bytes.len()).min(FRAME_BYTES);
        let frame = &bytes[..there];
        let header = partial::header(frame, len, u16::try_from(gso_size).unwrap_or(u16::MAX));
        self.buffer[..VNET_HEADER_BYTES].copy_from_slice(&header);
        self.buffer[VNET_HEADER_BYTES..VNET_HEADER_BYTES + there].copy_from_slice(frame);
        (self.ifindex, self.len, self.there) = (ifindex, len, there);
        self.lacks_hop = reason == no_next_hop;
        true
    }
}

impl FrameIo for RingFrames {
    fn receive(&mut self, timeout: Duration) -> io::Result<usize> {
        self.watched.renew(&self.watches);
        let taken = self.take();
        if taken > 0 || !self.decided.is_empty() {
            return Ok(taken);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let fd = self.ring.as_fd();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout))?;
        match self.take() {
            0 if self.decided.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn refill(&mut self, ifindex: u32, bytes: &[u8]) {
        let Some(frame) = self.frames.first_mut() else { return };
        let len = bytes.len().min(frame.buffer.len());
        frame.buffer[..len].copy_from_slice(&bytes[..len]);
        frame.ifindex = ifindex;
        frame.len = len.saturating_sub(VNET_HEADER_BYTES);
        frame.there = frame.len;
        self.count = 1;
    }

    fn arrival(&self, at: usize) -> Result<(u32, usize), Loss> {
        let frame = &self.frames[at];
        if frame.there < frame.len { Err(Loss::RxTooLong) } else { Ok((frame.ifindex, frame.len)) }
    }

    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        &mut self.frames[at].buffer
    }

    fn prepare_tx(&mut self, at: usize, vnet: [u8; VNET_HEADER_BYTES], len: usize) {
        let frame = &mut self.frames[at];
        frame.buffer[..VNET_HEADER_BYTES].copy_from_slice(&vnet);
        frame.len = len.min(frame.buffer.len() - VNET_HEADER_BYTES);
        frame.there = frame.len;
    }

    /// The next packet to this client does not need to be handed up.
    fn forwards(&mut self, at: usize, next_hops: &NextHops) {
        let frame = &self.frames[at];
        let bytes = &frame.buffer[VNET_HEADER_BYTES..VNET_HEADER_BYTES + frame.len];
        if frame.lacks_hop
            && let Ok(ip) = Ip::parse(bytes, false)
        {
            let to: Addr = ip.destination;
            lock(&self.client_hops).remember(to.into(), next_hops);
        }
    }

    fn take_decided(&mut self) -> Vec<Decided> {
        std::mem::take(&mut self.decided)
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let frame = &self.frames[at];
        frame.buffer.get(..VNET_HEADER_BYTES + frame.len).unwrap_or_default()
    }

    fn send(&self, frames: &[Pieces<'_>]) -> io::Result<usize> {
        self.socket.send_pieces(frames)
    }
}
