//! Which server gets a new connection.

mod balance;
pub mod flow_hash;
pub mod maglev;
mod random;
pub mod round_robin;
mod selector;
#[cfg(test)]
mod selector_tests;
mod tier;

pub use balance::{Asker, Balance};
pub use flow_hash::{flow_hash, flow_words};
pub use maglev::{MaglevTable, Member, member_seed, moved_slots};
pub use round_robin::RoundRobin;
pub use selector::{Candidates, Part, SLOW_START_STEPS, Selector, Unseen};
