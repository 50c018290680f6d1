//! The portable packet engine: AF_PACKET sockets, fan-out, next hops and threads around
//! [`convey_engine::process`]. Needs CAP_NET_RAW (CAP_NET_ADMIN for large buffers and to ask for neighbours).
//!
//! Each worker owns a socket of a fan-out group and the flows that come by it; the kernel steers both directions
//! of a flow to the same worker. Frames travel with their virtio_net_hdr, so a super-frame of 64 KB with an open
//! checksum is forwarded whole. One more thread follows the kernel's links, routes and neighbours.
//!
//! Small frames are read, rewritten and sent from where the kernel put them, without a system call to receive them.
//! Neighbours of one flow in a batch leave as one super-frame (`coalesce` has the rules), so a run of small
//! packets pays the kernel's way to the link once. Without runs that way is nearly all the time there is.
//!
//! Refused: frames with a VLAN tag (the VLAN's own interface is listened on instead), interfaces that are not
//! Ethernet.
#![deny(unsafe_code)]

mod bpf;
mod clock;
mod coalesce;
mod engine;
mod error;
mod filter;
mod flow_list;
mod frames;
mod held;
mod jumbo;
mod misses;
mod pending_frames;
pub mod probe;
mod requests;
mod ring;
mod rx_batch;
mod scope;
mod send_loss;
mod shared;
mod shared_memory;
mod slot;
mod sockets;
mod supervise;
mod sys;
mod user_path;
mod vnet;
mod worker;

pub use clock::monotonic;
pub use engine::AfPacketEngine;
pub use shared_memory::{own_flows, share_flows};

/// Workers for engines whose frames come another way than by AF_PACKET sockets: a [`workers::FrameIo`] for each.
pub mod workers {
    pub use crate::frames::FrameIo;
    pub use crate::scope::Scope;
    pub use crate::shared::{Intake, Shared, lock};
    pub use crate::sys::{BATCH, PacketSocket, Pieces, VNET_HEADER_BYTES};
    pub use crate::user_path::UserPath;
    pub use crate::vnet::VnetHeader;
    pub use crate::worker::Runner;
}

/// The sockets by themselves, for tools that put frames on a link.
pub mod raw {
    pub use crate::sys::{Outgoing, PacketSocket, VNET_HEADER_BYTES};
}
