//! Views over frames and rewriting in place, with RFC 1624 checksum arithmetic.
//!
//! Invariants: no I/O, no clock, no allocation on the packet path, no panic on any bytes.
#![forbid(unsafe_code)]
