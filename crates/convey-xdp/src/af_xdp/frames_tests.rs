//! Frames of real sockets on a veth: each is in one place, whatever happens.
#![allow(clippy::unwrap_used)]

use std::io::IoSlice;

use convey_core::Protocol;
use convey_engine::PacketOptions;
use convey_testkit::PacketBuilder;
use convey_testkit::netns::{self, Netns, cable, until};
use rustix::io::Errno;

use super::super::intake::Ports;
use super::super::socket::FRAMES;
use super::*;
use crate::{Endpoint, GuardRules};

const VIP: &str = "10.9.0.1:53";

fn mac(ns: &Netns) -> [u8; 6] {
    let text = ns.exec("cat /sys/class/net/veth0/address");
    let bytes: Vec<u8> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A worker's frames on `veth0` of a namespace, where datagrams to [`VIP`] are ours.
fn frames(ifindex: u32) -> (Arc<Ports>, Frames) {
    let rules = GuardRules {
        vips: vec![Endpoint { protocol: Protocol::Udp, addr: VIP.parse().unwrap() }],
        ..GuardRules::default()
    };
    let ports = Arc::new(Ports::new(&rules, &PacketOptions::default(), Arc::new(|_| ())).unwrap());
    assert_eq!(ports.sink(None)(&[ifindex]), [ifindex]);
    assert!(ports.started().is_none());
    let socket = PacketSocket::open(1 << 20).unwrap();
    let mut frames = Frames::new(ports.handover().clone(), GiveBack::load().unwrap(), socket);
    frames.follow_changes();
    (ports, frames)
}

/// Sends datagrams from the other end; `count` of them, in batches.
fn flood(from: &Netns, to: [u8; 6], count: usize) -> std::thread::JoinHandle<()> {
    let (ifindex, source) = (from.ifindex("veth0"), mac(from));
    from.spawn(move || {
        let socket = PacketSocket::open(1 << 20).unwrap();
        let frame = PacketBuilder::udp("10.9.0.2:7777", VIP).macs(to, source).payload(&[7; 32]).build();
        let header = [0; VNET_HEADER_BYTES];
        let pieces = [IoSlice::new(&header), IoSlice::new(&frame)];
        for _ in 0..count.div_ceil(BATCH) {
            let _ = socket.send_pieces(&[Pieces { ifindex, pieces: &pieces }; BATCH]);
        }
    })
}

/// Of both halves of every socket, all frames there are.
fn assert_conserved(frames: &Frames) {
    for census in frames.census() {
        assert_eq!(census.receive.iter().sum::<usize>(), FRAMES, "{census:?}");
        assert_eq!(census.send.iter().sum::<usize>(), FRAMES, "{census:?}");
    }
    let in_batch: usize = frames.census().iter().map(|census| census.receive[1]).sum();
    assert_eq!(in_batch, frames.batch.iter().filter(|e| matches!(e, Entry::Received(..))).count());
}

/// Receives for as long as frames come; sends each back `copies` times. How many came.
fn echo(frames: &mut Frames, ifindex: u32, copies: usize) -> usize {
    let mut came = 0;
    while let Ok(received) = frames.receive(Duration::from_millis(300)) {
        came += received;
        for at in 0..received {
            let pieces = [IoSlice::new(frames.bytes(at))];
            for _ in 0..copies {
                let _ = frames.send(&[Pieces { ifindex, pieces: &pieces }]);
            }
        }
        assert_conserved(frames);
    }
    came
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn frames_are_conserved_while_rings_run_out_and_when_a_worker_gives_up_in_the_middle_of_a_batch() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    cable(&here, &there);
    let (ifindex, to) = (here.ifindex("veth0"), mac(&here));
    let (sender, done) = std::sync::mpsc::channel();
    let (go, begin) = std::sync::mpsc::channel::<usize>();
    let worker = here.spawn(move || {
        let (_ports, mut frames) = frames(ifindex);
        sender.send(0).unwrap();
        while let Ok(copies) = begin.recv() {
            if copies == usize::MAX {
                // The fill ring runs out: nobody receives.
                std::thread::sleep(Duration::from_millis(500));
                assert_conserved(&frames);
                continue;
            }
            let came = echo(&mut frames, ifindex, copies);
            assert_conserved(&frames);
            until("all that was sent is free again", || frames.census().iter().all(|c| c.send[0] == 0));
            // As after a panic: the batch at hand is never looked at.
            if frames.receive(Duration::ZERO).is_ok() {
                frames.receive(Duration::ZERO).ok();
            }
            assert_conserved(&frames);
            sender.send(came).unwrap();
        }
        drop(frames);
    });
    done.recv().unwrap();
    for (copies, count) in [(1, 5000), (40, 3000), (0, 100)] {
        if copies == 40 {
            go.send(usize::MAX).unwrap();
            flood(&there, to, 3 * FRAMES).join().unwrap();
        }
        flood(&there, to, count).join().unwrap();
        go.send(copies).unwrap();
        assert!(done.recv().unwrap() > 0, "{copies} copies");
    }
    drop(go);
    worker.join().unwrap();
}

#[test]
#[ignore = "needs root, ip: makes network namespaces"]
fn a_frame_that_is_too_long_or_leaves_by_an_interface_that_is_gone_is_an_error_and_costs_no_frame() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    cable(&here, &there);
    let ifindex = here.ifindex("veth0");
    let name = here.name.clone();
    here.enter(move || {
        let (ports, mut frames) = frames(ifindex);
        let long = vec![0; 4096];
        let pieces = [IoSlice::new(&long)];
        let error = frames.send(&[Pieces { ifindex, pieces: &pieces }]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
        assert_conserved(&frames);
        netns::run("ip", &["-n", &name, "link", "delete", "veth0"]);
        let short = vec![0; 80];
        let pieces = [IoSlice::new(&short)];
        let frame = [Pieces { ifindex, pieces: &pieces }];
        let lost = || frames.send(&frame).err().and_then(|error| error.raw_os_error());
        until("the socket tells that its interface is gone", || lost() == Some(Errno::NXIO.raw_os_error()));
        assert_conserved(&frames);
        assert_eq!(ports.sink(None)(&[]), [0; 0]);
        assert!(frames.receive(Duration::ZERO).is_err());
        assert!(frames.sockets.is_empty(), "its sockets are closed");
    });
}
