//! The kernel programs at work: loading, attaching and filling their maps.
//!
//! - [`Guard`] keeps the kernel from answering what the user-space engine forwards.
//! - [`af_xdp`] is the engine that decides in user space about packets that XDP hands over.
//! - [`dsr`] attaches the egress program that a server needs for direct server return.
//! - [`netlink`] holds the few rtnetlink requests that these and the host set-up make.
//!
//! - [`KernelEngine`] forwards in the kernel, at tc ingress or XDP.
//!
//! Everything acts in the network namespace of the calling thread.
#![deny(unsafe_code)]

pub mod af_xdp;
pub mod dsr;
pub mod engine;
mod error;
mod filter;
pub mod guard;
mod inner_maps;
pub mod interface;
pub mod kernel;
pub mod lower;
pub mod mapped;
pub mod netlink;
pub mod nft;
mod ours;
pub mod pins;
mod rules;
pub mod told;

pub use engine::{KernelEngine, Pins};
pub use error::XdpError;
pub use filter::next_handle;
pub use guard::{Guard, GuardDrops, GuardMethod};
pub use rules::{Endpoint, GuardRules, NatRange, protocol_name, protocol_number};
