//! The kernel programs at work: loading, attaching and filling their maps.
//!
//! - [`Guard`] keeps the kernel from answering what the user-space engine forwards.
//! - [`dsr`] attaches the egress program that a server needs for direct server return.
//! - [`netlink`] holds the few rtnetlink requests that these and the host set-up make.
//!
//! Everything acts in the network namespace of the calling thread.
#![deny(unsafe_code)]

pub mod dsr;
mod error;
mod filter;
pub mod guard;
pub mod kernel;
pub mod mapped;
pub mod netlink;
pub mod nft;
mod rules;

pub use error::XdpError;
pub use filter::next_handle;
pub use guard::{Guard, GuardDrops, GuardMethod};
pub use rules::{Endpoint, GuardRules, NatRange, protocol_name, protocol_number};
