//! Which server gets a new connection.

pub mod round_robin;

pub use round_robin::RoundRobin;
