//! Which server gets a new connection.

pub mod flow_hash;
pub mod maglev;
pub mod round_robin;

pub use flow_hash::{flow_hash, flow_words};
pub use maglev::{MaglevTable, Member, member_seed, moved_slots};
pub use round_robin::RoundRobin;
