//! The AF_XDP engine: an XDP program hands the engine's packets to sockets, [`convey_engine::process`] decides about them
//! in user space. Needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, and a driver with native XDP.
//!
//! There is a socket for each queue of each interface ([`socket`]), its rings and frames shared with the kernel
//! ([`memory`]). One worker serves all of them ([`frames`]), so both directions of a flow meet whatever queue they come by.
//! Sockets and program come and go with the interfaces that are listened on ([`intake`]). The kernel does not see what is
//! handed over; what the packet path leaves to it goes back ([`give_back`]). Until a program is attached, and after a kill,
//! it is the guard that keeps the kernel from answering.
//!
//! Refused: interfaces that have an XDP program of somebody else, drivers without native XDP, frames longer than a page.

mod checksum;
mod engine;
mod frames;
mod give_back;
mod intake;
mod memory;
mod program;
mod refusal;
mod socket;

pub use engine::AfXdpEngine;
