//! Packet builders, fixtures, configurations and network namespaces for the tests of every engine. Never part of a
//! release.
//!
//! The builders compute every checksum in full, with code of their own: they share nothing with the code
//! under test.
#![forbid(unsafe_code)]

pub mod build;
pub mod cases;
pub mod few;
pub mod fixture;
pub mod netns;
pub mod spec;

pub use build::{PacketBuilder, hex, unhex};
pub use few::{few, is_brief};
pub use fixture::{Case, FixtureFile, World};
